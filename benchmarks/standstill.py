"""How long an event loop stands still, how much of that its process can do anything about, and where it stood.

Knows: how late a timer of a millisecond comes, what its thread did meanwhile, and whether it had a processor. Must not know:
what the loop is for.

A loop that is late has been held up by something that its own process does (a call that takes long or waits, another thread
that has the interpreter's lock), or it had no processor. The second has two forms, and the kernel counts both: the thread
could run and others were running (run delay), or the machine is a guest and its host let the processor rest (steal). What
is left is ours: processor time, system calls that wait, the interpreter's lock.

How much of a wait was the queue's can't be told to the end where other threads of the process run meanwhile: one may
stand in the queue with the lock, and another work without it. So a process that may (root) is also watched while all of its
threads are `ServedFirst`, the loop's before the rest, and the programs that it started last, so that the processors are
theirs as if no other program were there. What the loop is late by then, its process made.

That is not all that a machine can do. A guest whose host let it rest altogether sees neither queue nor steal: the loop slept
until a timer, and was woken late. It was in its own wait then (`benchmarks.own_wait`), which needs no lock and has no
callback in it, so what is longer than a tick of that is the machine's. A call that stands, on the loop or with the lock in a
thread, is never in it: a loop that has the lock, or wants it, has left its wait.

The lock needs a closer look. While the loop sleeps because a thread of its process has the lock, that thread may itself be
waiting for a processor, with the lock in its hand; on two cores that twenty processes want, ten milliseconds of work with
the lock are then a hundred of sleep. What our threads did is the processor time that they took meanwhile. Sleep beyond that
is put down to the machine, as far as one of them stood in the queue; all other sleep is a system call, and ours.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any, Final, Self

import psutil
from msgspec import Struct

from benchmarks.own_wait import OwnWait

TICK_S: Final = 0.001
MARK_S: Final = 0.02
"""No loop may stand still for longer by its own doing."""
MARK: Final = f"at most {MARK_S * 1e3:g} ms"
STILL_S: Final = MARK_S / 2
"""A loop that is late by so much is looked at."""
_NS: Final = 1e-9
_STOLEN_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_STAT_BYTES: Final = 1 << 16
_LINE_BYTES: Final = 100
_TASKS: Final = "/proc/self/task"
_STEAL: Final = 8
"""Which word of a processor's line in ``/proc/stat`` counts the ticks that the host took."""
_FIRST: Final = -20
"""The nice value that is served most."""
_libc: Final = ctypes.CDLL(None)


class Delay(Struct, frozen=True):
    """One tick's lateness, in seconds; for `queued_s` of it the loop could have run and no processor was free, for at least
    `stolen_s` the processor that it was on was not there, for at least `overslept_s` it was in its own wait though the tick
    was over; for `behind_s` it slept elsewhere, as did all threads of its process, though one of them stood in the queue for
    a processor.

    What the loop itself does, and what its other threads do with the lock that it waits for, is in none.
    `where` is what the loop's thread did when it was late by `STILL_S`, the last call first; empty for a loop that was not.
    """

    late_s: float
    queued_s: float
    stolen_s: float = 0.0
    behind_s: float = 0.0
    where: str = ""
    overslept_s: float = 0.0

    @property
    def own_s(self) -> float:
        """The lateness that is our process's, rather too much than too little: who waits for a processor that is not there
        is counted in both, and who was due in its own wait may have stood in the queue at the end of it."""
        machine_s = max(self.queued_s, self.stolen_s, self.overslept_s)
        return max(self.late_s - machine_s - self.behind_s, 0.0)


class ServedFirst:
    """Gives the threads of this process a processor before all other programs, and the caller's thread at once; the programs
    that it has started (the server that it is measured with) have one when nobody else wants it. A context manager. Threads
    that begin meanwhile are found by `look`; programs that are started then are served as any.

    Only the caller's is a real-time priority: from threads that work all the time with one, the kernel takes some 50 ms a
    second, so that others may run at all. Where the user may not ask for any, nothing changes.
    """

    def __init__(self) -> None:
        self._own = threading.get_native_id()
        self._lifted: set[int] = set()
        self._started: list[psutil.Process] = []

    def __enter__(self) -> Self:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(self._own, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            self._lifted.add(self._own)
            self._started = psutil.Process().children(recursive=True)
            _serve(self._started, os.SCHED_IDLE)
            self.look()
        return self

    def look(self) -> None:
        """Find threads that have begun."""
        if not self._lifted:
            return
        there = {int(each) for each in os.listdir(_TASKS)}
        for each in there - self._lifted:
            _be_nice(each, _FIRST)
        self._lifted = there

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        for each in self._lifted:
            _be_nice(each, 0)
        _serve(self._started, os.SCHED_OTHER)
        self._lifted.clear()


def _serve(programs: list[psutil.Process], policy: int) -> None:
    """Have all threads of these programs served so, and those that they begin later."""
    for program in programs:
        with contextlib.suppress(psutil.NoSuchProcess):
            for thread in program.threads():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(thread.id, policy, os.sched_param(0))


def _be_nice(thread: int, nice: int) -> None:
    # One may end at any moment.
    with contextlib.suppress(ProcessLookupError):
        os.sched_setscheduler(thread, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, thread, nice)


class Watcher:
    """Measures the ticks of the running loop; a context manager, one in a process, in its main thread.

    Where a loop stands can't be told by the loop, so a signal comes when it is late. Its handler is Python's: it runs when
    a call that stands ends, in the frame that made it. (One that reads frames at any moment, as faulthandler does, has ended
    two benchmarks with a segmentation fault.)
    """

    def __init__(self) -> None:
        self._stat = -1
        self._threads = _Threads()
        self._wait = OwnWait()
        self._where = ""
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        self._stat = os.open("/proc/stat", os.O_RDONLY | os.O_CLOEXEC)
        self._before = signal.signal(signal.SIGALRM, self._look)
        # What waits in a system call goes on waiting.
        signal.siginterrupt(signal.SIGALRM, False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        os.close(self._stat)
        self._threads.close()

    async def delay(self) -> Delay:
        """Let one tick pass; to be awaited on the loop's own thread."""
        processor, stolen = _libc.sched_getcpu(), self._stolen()
        others, worked = self._threads.queued_s(), time.process_time()
        waited, ran, queued = self._wait.total_s(), time.thread_time(), _queued_s()
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, TICK_S + STILL_S)
        await asyncio.sleep(TICK_S)
        late_s = max(time.perf_counter() - began - TICK_S, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        queued_s, ran_s = _queued_s() - queued, time.thread_time() - ran
        # Before it was due the loop can have waited for a tick at most.
        overslept_s = max(self._wait.total_s() - waited - TICK_S, 0.0)
        where, self._where = self._where, ""
        if late_s < STILL_S:
            return Delay(late_s, queued_s, overslept_s=overslept_s)
        now = self._stolen()
        ticks = max(now[each] - stolen[each] for each in {processor, _libc.sched_getcpu()})
        slept_s = late_s - overslept_s - queued_s - ran_s
        worked_s = time.process_time() - worked - ran_s
        waited_s = max(
            (s - others.get(each, 0.0) for each, s in self._threads.queued_s().items()), default=0.0
        )
        behind_s = min(max(slept_s - worked_s, 0.0), waited_s)
        # A tick is counted when it is full, so of those seen since one may have begun before.
        return Delay(late_s, queued_s, max(ticks - 1, 0) * _STOLEN_TICK_S, behind_s, where, overslept_s)

    def _stolen(self) -> dict[int, int]:
        """Ticks that the host has ever taken of each processor (proc_stat(5))."""
        found = {}
        for line in os.pread(self._stat, _STAT_BYTES, 0).split(b"\n"):
            words = line.split()
            if not line.startswith(b"cpu"):
                break
            if words[0] != b"cpu":
                found[int(words[0].removeprefix(b"cpu"))] = int(words[_STEAL])
        return found

    def _look(self, signal_number: int, frame: FrameType | None) -> None:
        self._where = "".join(traceback.format_stack(frame)[::-1])


@asynccontextmanager
async def watching(*, first: bool = False) -> AsyncIterator[list[Delay]]:
    """The delays of the running loop, as they come, until the context ends. `first`: its process is `ServedFirst` meanwhile,
    so what it does then is not to be timed."""
    delays: list[Delay] = []

    async def watch() -> None:
        with ServedFirst() if first else nullcontext() as served, Watcher() as watcher:
            while True:
                delays.append(await watcher.delay())
                if served is not None:
                    served.look()

    watch_task = asyncio.create_task(watch())
    # What the watching itself begins with is not what is looked for.
    await asyncio.sleep(STILL_S)
    delays.clear()
    try:
        yield delays
        await asyncio.sleep(STILL_S)
    finally:
        watch_task.cancel()
        await asyncio.wait([watch_task])


class _Threads:
    """All threads of this process but the one that asks."""

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}

    def queued_s(self) -> dict[str, float]:
        """Seconds that each has ever waited for a processor."""
        found = {}
        there = set(os.listdir(_TASKS)) - {str(threading.get_native_id())}
        for each in self._counters.keys() - there:
            os.close(self._counters.pop(each))
        for each in there:
            # One may end at any moment.
            with contextlib.suppress(OSError):
                if each not in self._counters:
                    self._counters[each] = os.open(f"{_TASKS}/{each}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
                found[each] = int(os.pread(self._counters[each], _LINE_BYTES, 0).split()[1]) * _NS
        return found

    def close(self) -> None:
        """Let go of what is open."""
        for each in self._counters.values():
            os.close(each)
        self._counters.clear()


def show(own_s: float, where: str) -> None:
    """Print where a loop stood, if that was longer than we allow."""
    if own_s > MARK_S:
        print(f"the loop stood still for {own_s * 1e3:.1f} ms, here:\n{where}", flush=True)


def latest_s(delays: list[Delay]) -> float:
    """The longest lateness, whoever made it."""
    return max((each.late_s for each in delays), default=0.0)


def worst(delays: list[Delay]) -> Delay:
    """The one that is most of our own making."""
    return max(delays, key=lambda each: each.own_s, default=Delay(0.0, 0.0))


def _queued_s() -> float:
    """Seconds that this thread has ever waited for a processor (Linux, Documentation/scheduler/sched-stats.rst)."""
    with open("/proc/thread-self/schedstat", encoding="ascii") as counters:
        return int(counters.read().split()[1]) * _NS
