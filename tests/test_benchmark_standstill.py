"""Where an event loop stands still, as benchmarks tell it."""

import asyncio
import signal
import sys
import threading
import time

import pytest

from benchmarks.standstill import MARK_S, STILL_S, TICK_S, Delay, Watcher, worst


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
