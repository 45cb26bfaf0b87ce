"""Where an event loop stands still, as benchmarks tell it."""

import asyncio
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

import msgspec
import pytest

from benchmarks.standstill import MARK_S, STILL_S, TICK_S, Delay, ServedFirst, Watcher, worst

HELD_S = 2.5 * MARK_S
"""For so long something stands."""


def sleeps() -> None:
    """Holds up the loop in a call."""
    time.sleep(3 * STILL_S)


def reckons() -> None:
    """Holds up the loop without one."""
    until = time.thread_time() + 3 * STILL_S
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("name", ["sleeps", "reckons"])
async def test_what_holds_up_a_loop_is_named(name: str) -> None:
    """The function that a late tick waited for stands in what is told of it, and is forgotten by the next."""
    before = signal.getsignal(signal.SIGALRM)
    with Watcher() as watcher:
        asyncio.get_running_loop().call_soon(globals()[name])
        found = await watcher.delay()
        next_one = await watcher.delay()

    assert found.late_s > STILL_S
    assert name in found.where
    assert name not in next_one.where
    assert signal.getsignal(signal.SIGALRM) is before


def test_only_what_is_ours_counts() -> None:
    """Of two delays the worse is the one that its process made; who waits for a processor that the host has taken is not
    counted twice."""
    ours, queued = Delay(0.02, 0.001), Delay(0.5, 0.49, 0.49)

    assert worst([queued, ours]) is ours
    assert queued.own_s == pytest.approx(0.01)
    assert Delay(0.03, 0.0, 0.02).own_s == pytest.approx(0.01)
    assert Delay(0.01, 0.02).own_s == 0.0
    assert Delay(0.03, 0.0, behind_s=0.02).own_s == pytest.approx(0.01)
    assert Delay(0.03, 0.0, overslept_s=0.02).own_s == pytest.approx(0.01)
    assert Delay(0.03, 0.015, overslept_s=0.02).own_s == pytest.approx(0.01)


def keeps_the_lock(until: threading.Event) -> None:
    """Reckons in one call, as long as a loop must not stand, and again until it is told to end."""
    while not until.wait(2 * TICK_S):
        began = time.thread_time()
        while time.thread_time() - began < MARK_S:
            sum(range(200_000))


async def test_a_thread_that_keeps_the_lock_is_ours() -> None:
    """What a loop waits for another thread's work is counted, as far as that thread had a processor to do it with."""
    ended = threading.Event()
    before = sys.getswitchinterval()
    thread = threading.Thread(target=keeps_the_lock, args=(ended,))
    with Watcher() as watcher:
        sys.setswitchinterval(1)
        thread.start()
        try:
            found = worst([await watcher.delay() for _ in range(10)])
        finally:
            sys.setswitchinterval(before)
            ended.set()
            thread.join()

    assert found.own_s > STILL_S


def reads() -> None:
    """Waits on the loop for what another thread writes."""
    reader, writer = os.pipe()
    writing = threading.Timer(HELD_S, os.write, (writer, b"x"))
    writing.start()
    os.read(reader, 1)
    writing.join()
    os.close(reader)
    os.close(writer)


def is_told() -> None:
    """Sleeps when something can be read, as soon as the loop hears of it."""
    reader, writer = os.pipe()
    loop = asyncio.get_running_loop()

    def heard() -> None:
        loop.remove_reader(reader)
        os.close(reader)
        time.sleep(HELD_S)

    loop.add_reader(reader, heard)
    os.write(writer, b"x")
    os.close(writer)


@contextmanager
def decoding() -> Iterator[None]:
    """A thread that decodes, all the time, something that takes longer than a loop may stand, each time in one call."""
    ended, began = threading.Event(), time.thread_time()
    body = b"[" + b"1.5," * 100_000 + b"1]"
    while time.thread_time() - began < HELD_S:
        began = time.thread_time()
        msgspec.json.decode(body)
        body = b"[" + body[1:-1] + b"," + body[1:]

    def decode() -> None:
        while not ended.wait(5 * TICK_S):
            msgspec.json.decode(body)

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def on_uvloop(standing: Callable[[], object] | None, ticks: int = 2) -> Delay:
    """The worst tick of a loop as our programs run it, in which `standing` is called."""

    async def watch() -> Delay:
        with Watcher() as watcher:
            # What a first tick has to do is not what is looked for.
            await watcher.delay()
            if standing is not None:
                asyncio.get_running_loop().call_soon(standing)
            return worst([await watcher.delay() for _ in range(ticks)])

    with asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop) as runner:
        return runner.run(watch())


@pytest.mark.parametrize(
    "standing",
    [lambda: time.sleep(HELD_S), partial(time.sleep, HELD_S), reads, is_told],
    ids=["sleep", "sleep without a frame", "read", "sleep in a reader"],
)
def test_what_stands_on_a_loop_is_no_wait_of_it(standing: Callable[[], object]) -> None:
    """A call that sleeps or reads on the loop counts as ours, with a frame of Python or without."""
    assert on_uvloop(standing).own_s > MARK_S


def test_a_thread_that_decodes_is_no_wait_of_the_loop() -> None:
    """What another thread does in one call with the lock counts as ours, though the loop only wants its turn."""
    with decoding():
        assert on_uvloop(None, ticks=20).own_s > MARK_S


def stopped(told: Connection) -> None:
    """A process whose loop only waits; says what is worst of its ticks, and what is longest, once it is asked to."""
    ticking: list[Delay] = []

    async def watch() -> None:
        with Watcher() as watcher:
            ticking.append(await watcher.delay())
            told.send(os.getpid())
            while not told.poll():
                ticking.append(await watcher.delay())

    with asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop) as runner:
        runner.run(watch())
    told.send([(each.late_s, each.own_s) for each in ticking])


def test_an_idle_loop_that_is_not_woken_is_not_ours() -> None:
    """A loop that was in its own wait while the machine let its whole process rest has not stood still by its doing."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=stopped, args=(theirs,))
    process.start()
    pid = ours.recv()
    # It may be stopped in the moment between two waits; it hardly is each time.
    for _ in range(10):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(HELD_S)
        os.kill(pid, signal.SIGCONT)
        time.sleep(TICK_S * 5)
    ours.send(None)
    ticks = ours.recv()
    process.join()

    rests = [own_s for late_s, own_s in ticks if late_s > 0.9 * HELD_S]
    assert rests
    assert min(rests) < STILL_S


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a thread a real-time priority")
def test_a_process_is_served_first_and_what_it_starts_is_not() -> None:
    """The loop's thread is served at once, the others before all other programs, also those that begin later; what the
    process has started is served last, what it starts then as any, and afterwards everybody is."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    ask = "import os; print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))"

    def served_as(thread_id: int) -> tuple[int, int]:
        policy = os.sched_getscheduler(thread_id) & ~os.SCHED_RESET_ON_FORK
        return policy, os.getpriority(os.PRIO_PROCESS, thread_id)

    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with ServedFirst() as served:
        thread.start()
        served.look()
        assert thread.native_id is not None
        own, other, last = served_as(0), served_as(thread.native_id), served_as(started.pid)
        program = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    after = served_as(0), served_as(thread.native_id), served_as(started.pid)
    started.communicate()
    ended.set()
    thread.join()

    assert own[0] == os.SCHED_FIFO
    assert other == (os.SCHED_OTHER, -20)
    assert program.stdout.split() == [str(os.SCHED_OTHER), "0"]
    assert last[0] == os.SCHED_IDLE
    assert after == ((os.SCHED_OTHER, 0),) * 3
