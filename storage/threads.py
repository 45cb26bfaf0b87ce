"""Blocking work beside the event loop, with an end that can be waited for.

Knows: threads and cancellation. Must not know: what the work is.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

Stop = Callable[[], None]
"""What work in a thread calls between its pieces; raises `Stopped` when nobody waits for it any more."""


class Stopped(Exception):
    """Raised inside a thread's work when its caller was cancelled."""


async def in_thread(work: Callable[[Stop], T]) -> T:
    """Run blocking `work` in a thread; it calls its argument between pieces, which raises when the work shall end.

    When the caller is cancelled, this returns only after the thread has ended: whoever cleans up has no rival.
    """
    stopping = threading.Event()

    def stop() -> None:
        if stopping.is_set():
            raise Stopped

    done = asyncio.get_running_loop().run_in_executor(None, work, stop)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stopping.set()
        while not done.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([done])
        if not done.cancelled():
            done.exception()
        raise


def relayed(told: Callable[..., None]) -> Callable[..., None]:
    """`told`, callable from a thread: it runs on the loop that this was made on, in the order of the calls."""
    loop = asyncio.get_running_loop()

    def tell(*values: object) -> None:
        loop.call_soon_threadsafe(told, *values)

    return tell
