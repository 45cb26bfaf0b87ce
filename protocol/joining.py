"""How a long-running program comes to its cluster: a new one is told at once that nobody is there, a known one waits.

Knows: connecting, and being asked to end. Must not know: what is connected to, or what a program does.

Machines that start together after a power cut start in any order, and a network may be away for an hour. A program that
was part of the cluster has work to look after (containers that go on, jobs that it owns): it comes back whenever the
cluster does. One that is new has more likely a wrong address, and whoever started it is still looking.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from protocol.errors import Unavailable

T = TypeVar("T")
PAUSE_S: Final = 1.0

_log = structlog.get_logger(__name__)


async def join(
    connect: Callable[[], Coroutine[Any, Any, T]], stopped: asyncio.Event, *, known: bool
) -> T | None:
    """Connect; None if `stopped` is set before. A program that was `known` to the cluster tries until it succeeds.

    Raises what `connect` raises, but `Unavailable` only for one that is new.
    """
    ending = asyncio.ensure_future(stopped.wait())
    try:
        while True:
            trying = asyncio.ensure_future(connect())
            try:
                await asyncio.wait((trying, ending), return_when=asyncio.FIRST_COMPLETED)
                if not trying.done():
                    return None
                return trying.result()
            except Unavailable as fault:
                if not known:
                    raise
                _log.warning("waiting for the cluster", reason=fault.message, hint=fault.hint)
                await asyncio.wait((ending,), timeout=PAUSE_S)
            finally:
                trying.cancel()
                await asyncio.gather(trying, return_exceptions=True)
    finally:
        ending.cancel()
