"""A question that changes nothing, asked again when no answer comes.

Knows: that a question or its answer may be lost on its way: whoever had it was killed, or accounts changed meanwhile
(``docs/credentials.md``). Must not know: what is asked.
"""

from contextlib import suppress

from protocol.bus import Messages
from protocol.errors import TimedOut


async def ask(bus: Messages, subject: str, data: bytes, *, timeout_s: float, tries: int) -> bytes:
    """The answer to a question; each try has `timeout_s`. Raises `TimedOut` after the last, and `Unavailable`."""
    for _ in range(tries - 1):
        with suppress(TimedOut):
            return await bus.request(subject, data, timeout_s=timeout_s)
    return await bus.request(subject, data, timeout_s=timeout_s)
