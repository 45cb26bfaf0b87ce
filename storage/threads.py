"""Blocking work beside the event loop: with an end that can be waited for, or such as may never end.

Knows: threads and cancellation. Must not know: what the work is.

Work on this machine's own disk shares one pool (`in_thread`), which is storage's alone: name look-ups and the web server
have asyncio's, and what must not wait for the disk has its own (`Pool`). Work on disks that may hang because they are
another machine's (`local` paths) is done apart (`Apart`).
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from protocol.threads import Threads, begin
from protocol.together import to_its_end

T = TypeVar("T")

THREADS: Final = min(32, (os.cpu_count() or 1) + 4)
"""In the pool: some for each core and a few that wait for the disk. Python lets one run at a time, and the event loop waits
behind all that want to, a millisecond each: more would be felt by everybody."""

Stop = Callable[[], None]
"""What work in a thread calls between its pieces; raises `Stopped` when nobody waits for it any more."""


class Stopped(Exception):
    """Raised inside a thread's work when its caller was cancelled."""


LONG_S: Final = 1.0
LONG_MAX: Final = 256
"""Pieces of work that a pool does not count; each has a thread as long as it goes on."""


class Pool:
    """At most `most` threads, for the life of this process. A forked child has none of its parent's, and begins anew.

    Work that has gone on for `long_s` is not counted among them (up to `LONG_MAX` pieces): who hashes or packs a terabyte
    holds up nobody.
    """

    def __init__(self, most: int, long_s: float = LONG_S) -> None:
        self.long_s = long_s
        self._most = most
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self.threads = Threads(self._most)
        self.long = 0


class _Place:
    """The place that a piece of work has among a pool's threads. `begun` is set when it has a thread."""

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.begun = False
        self._pool = pool
        self._loop = loop
        self._is_long = False
        self._look_later()

    def _look_later(self) -> None:
        self._alarm = self._loop.call_later(self._pool.long_s, self._look)

    def _look(self) -> None:
        if not self.begun or self._pool.long >= LONG_MAX:
            self._look_later()
            return
        self._is_long = True
        self._pool.long += 1
        self._pool.threads.allow(1)

    def end(self) -> None:
        """The work has ended."""
        self._alarm.cancel()
        if self._is_long:
            self._pool.long -= 1
            self._pool.threads.allow(-1)


_disk: Final = Pool(THREADS)


async def in_thread(work: Callable[[Stop], T], pool: Pool = _disk) -> T:
    """Run blocking `work` in a thread; it calls its argument between pieces, which raises when the work is to end.

    When the caller is cancelled, this returns only after the thread has ended: whoever cleans up has no rival.
    """
    stopping = threading.Event()

    def stop() -> None:
        if stopping.is_set():
            raise Stopped

    def act() -> T:
        place.begun = True
        return work(stop)

    loop = asyncio.get_running_loop()
    place = _Place(pool, loop)
    try:
        return await to_its_end(loop.run_in_executor(pool.threads, act), stopping.set)
    finally:
        place.end()


class Apart:
    """Work that may hang for as long as some other machine likes: at most `most` pieces at a time, each in its own thread.

    It has no part in `in_thread`'s pool. A caller that gives up leaves its thread behind, so the work must be such that
    nobody has to clean up after it; its place is free again when it ends. The process does not wait for it either.
    """

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    async def run(self, work: Callable[[Stop], T]) -> T:
        """What `work` returns or raises; it calls its argument between pieces, as with `in_thread`."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        stopping = threading.Event()

        def stop() -> None:
            if stopping.is_set():
                raise Stopped

        def ended(tell: Callable[[], None]) -> None:
            self._places.release()
            if not done.done():
                tell()

        def act() -> None:
            tell: Callable[[], None]
            try:
                tell = partial(done.set_result, work(stop))
            except BaseException as error:  # noqa: BLE001 (it is raised where it is waited for)
                tell = partial(done.set_exception, error)
            # Nobody is there to be told when the loop has been closed meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended, tell)

        try:
            begin(act)
        except RuntimeError:
            self._places.release()
            raise
        try:
            return await done
        finally:
            stopping.set()


def relayed(told: Callable[..., None]) -> Callable[..., None]:
    """`told`, callable from a thread: it runs on the loop that this was made on, in the order of the calls."""
    loop = asyncio.get_running_loop()

    def tell(*values: object) -> None:
        loop.call_soon_threadsafe(told, *values)

    return tell
