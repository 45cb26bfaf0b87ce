"""Threads that are begun without waiting for them."""

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from protocol.process import run_loop
from protocol.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2)
    yield threads
    threads.shutdown()


@pytest.fixture
def no_turns() -> Iterator[None]:
    """Who has the interpreter keeps it until it waits for something."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("no_turns")
def test_who_gives_work_goes_on_before_its_thread_has_run(threads: Threads) -> None:
    """A busy machine lets a new thread wait long for its first turn; who begins it has other things to do."""
    ran: list[bool] = []
    done = threads.submit(ran.append, True)

    assert ran == []
    done.result()
    assert ran == [True]


def test_as_many_threads_work_as_are_allowed(threads: Threads) -> None:
    """Two are at work at once, and the third thing waits for one of them."""
    met, third = threading.Barrier(3), threading.Event()
    both = [threads.submit(met.wait) for _ in range(2)]
    later = threads.submit(third.set)

    assert not third.is_set()
    met.wait()
    later.result()
    assert third.is_set()
    assert len({each.result() for each in both}) == 2


def test_how_many_work_at_once_can_be_changed(threads: Threads) -> None:
    """One more may work while others are at it, also for what waits already; later again as few as before."""
    held = threading.Event()
    for _ in range(20):
        threads.submit(int)
    both = [threads.submit(held.wait) for _ in range(2)]
    waits = threads.submit(threading.get_ident)
    threads.allow(1)
    waits.result()
    threads.allow(-1)
    third = threads.submit(threading.get_ident)
    held.set()
    for each in both:
        each.result()
    third.result()
    # One of them, whichever, ends when it sees that it is not wanted any more.
    while threads._alive > 2:
        threads.submit(int).result()
    assert threads._alive == 2
    met = threading.Barrier(2)
    for _ in range(2):
        threads.submit(met.wait)


def test_idle_threads_are_used_again() -> None:
    """Things that are done one after another need not a thread each."""
    threads = Threads(64)
    used = {threads.submit(threading.get_ident).result() for _ in range(128)}
    threads.shutdown()

    assert len(used) < 64


def test_a_fault_is_raised_where_it_is_waited_for(threads: Threads) -> None:
    """The thread goes on with the next."""

    def fail() -> None:
        raise ValueError("told")

    with pytest.raises(ValueError, match="told"):
        threads.submit(fail).result()
    assert threads.submit(int).result() == 0


def test_a_fault_leaves_nothing_for_the_collector(threads: Threads) -> None:
    """What failed is let go of with its last holder, as what succeeded is."""

    def fail() -> None:
        raise ValueError

    gc.disable()
    try:
        failed = threads.submit(fail)
        failed.exception()
        threads.submit(int).result()
        gone = weakref.ref(failed)
        del failed
        assert gone() is None
    finally:
        gc.enable()


def test_what_was_given_before_the_end_is_done() -> None:
    """Shutting down waits for what is under way and what waits, takes nothing more, and is harmless when repeated."""
    threads = Threads(1)
    held = threading.Event()
    done = [threads.submit(held.wait), threads.submit(held.is_set)]
    held.set()
    threads.shutdown()
    threads.shutdown()

    assert [each.result(timeout=0) for each in done] == [True, True]
    with pytest.raises(RuntimeError):
        threads.submit(int)


def test_what_nobody_wants_any_more_is_not_begun() -> None:
    """Work that is cancelled while it waits is passed over."""
    threads = Threads(1)
    held = threading.Event()
    threads.submit(held.wait)
    ran: list[bool] = []
    waiting = threads.submit(ran.append, True)
    assert waiting.cancel()
    held.set()
    threads.shutdown()

    assert ran == []


def test_a_program_has_such_threads_beside_its_loop() -> None:
    """Names are looked up, and calls made beside the loop, by threads that it did not wait for."""

    async def main() -> int:
        # Python's own would be among those that it waits for at its end.
        return int(
            await asyncio.to_thread(threading.get_ident) in {each.ident for each in threading.enumerate()}
        )

    assert run_loop(main()) == 0
