"""Where an event loop stands still, as benchmarks tell it."""

import asyncio
import signal
import time

import pytest

from benchmarks.standstill import STILL_S, Delay, Watcher, worst


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
