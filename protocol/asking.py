"""A question that may be asked again at will, asked again when no answer comes.

Knows: that a question or its answer may be lost on its way (whoever had it was killed, or accounts changed meanwhile:
``docs/credentials.md``), and that who could answer may only be starting. Must not know: what is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from protocol.bus import Messages
from protocol.errors import TimedOut, Unavailable

T = TypeVar("T")

PAUSE_S: Final = 0.3
PAUSE_MAX_S: Final = 3.0
"""The rests of who asks until somebody can answer: each twice the one before."""


async def ask(bus: Messages, subject: str, data: bytes, *, timeout_s: float, tries: int) -> bytes:
    """The answer to a question; each try has `timeout_s`. Raises `TimedOut` after the last, and `Unavailable`."""
    for _ in range(tries - 1):
        with suppress(TimedOut):
            return await bus.request(subject, data, timeout_s=timeout_s)
    return await bus.request(subject, data, timeout_s=timeout_s)


async def ask_until_answered(question: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """What `question` comes to, asked for that long while it raises `Unavailable` or `TimedOut`; then it raises the last of
    them, and all other faults at once."""
    now = asyncio.get_running_loop().time
    until, pause_s = now() + patience_s, PAUSE_S
    while True:
        try:
            return await question()
        except (Unavailable, TimedOut):
            if now() + pause_s > until:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, PAUSE_MAX_S)
