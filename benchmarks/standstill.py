"""How long an event loop stands still, how much of that its process can do anything about, and where it stood.

Knows: how late a timer of a millisecond comes, and what its thread did meanwhile. Must not know: what the loop is for.
"""

import asyncio
import faulthandler
import os
import signal
import time
from types import TracebackType
from typing import Final, Self

from msgspec import Struct

TICK_S: Final = 0.001
MARK_S: Final = 0.02
"""No loop may stand still for longer by its own doing."""
MARK: Final = f"at most {MARK_S * 1e3:g} ms"
STILL_S: Final = MARK_S / 2
"""A loop that is late by so much is looked at."""
_NS: Final = 1e-9


class Delay(Struct, frozen=True):
    """One tick's lateness, in seconds; for `queued_s` of it the loop could have run, and no processor was free.

    That is the kernel's run delay: other processes' turns, on a machine that has more to do than processors. What the loop
    itself does and what it waits for other threads of its process (the interpreter's lock) is not in it. `where` is what
    the loop's thread did when it was late by `STILL_S`, the last call first; empty for a loop that was not.
    """

    late_s: float
    queued_s: float
    where: str = ""

    @property
    def own_s(self) -> float:
        """The lateness that is our process's."""
        return max(self.late_s - self.queued_s, 0.0)


class Watcher:
    """Measures the ticks of the loop that it is used on; a context manager, one in a process.

    Where a loop stands can't be told by the loop, nor by another thread, if the interpreter's lock is what it waits for. So
    the kernel is asked for a signal, and its handler, which is faulthandler's, needs neither. It tells of the thread alone
    that it interrupts, the main one where that takes signals: the frames of others move while they are read, and reading
    them has ended a benchmark with a segmentation fault.
    """

    def __init__(self) -> None:
        self._told = -1

    def __enter__(self) -> Self:
        self._told = os.memfd_create("standstill")
        faulthandler.register(signal.SIGALRM, self._told, all_threads=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.unregister(signal.SIGALRM)
        os.close(self._told)

    async def delay(self) -> Delay:
        """Let one tick pass; to be awaited on the loop's own thread."""
        began, queued = time.perf_counter(), _queued_s()
        signal.setitimer(signal.ITIMER_REAL, TICK_S + STILL_S)
        await asyncio.sleep(TICK_S)
        late = time.perf_counter() - began - TICK_S
        signal.setitimer(signal.ITIMER_REAL, 0)
        return Delay(max(late, 0.0), _queued_s() - queued, self._where())

    def _where(self) -> str:
        """What was written down since the last look."""
        size = os.fstat(self._told).st_size
        if not size:
            return ""
        text = os.pread(self._told, size, 0).decode(errors="replace")
        os.lseek(self._told, 0, os.SEEK_SET)
        os.ftruncate(self._told, 0)
        return text


def show(own_s: float, where: str) -> None:
    """Print where a loop stood, if that was longer than we allow."""
    if own_s > MARK_S:
        print(f"the loop stood still for {own_s * 1e3:.1f} ms, here:\n{where}", flush=True)


def worst(delays: list[Delay]) -> Delay:
    """The one that is most of our own making."""
    return max(delays, key=lambda each: each.own_s, default=Delay(0.0, 0.0))


def _queued_s() -> float:
    """Seconds that this thread has ever waited for a processor (Linux, Documentation/scheduler/sched-stats.rst)."""
    with open("/proc/thread-self/schedstat", encoding="ascii") as counters:
        return int(counters.read().split()[1]) * _NS
