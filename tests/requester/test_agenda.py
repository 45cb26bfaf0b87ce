"""When jobs are looked at."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

from protocol.bus import BATCH_MAX, Append
from protocol.clock import ManualClock, SystemClock
from protocol.ids import JobKey
from protocol.memory_bus import MemoryBus, MemoryHub
from requester.agenda import BREATH, Agenda
from requester.committer import Committer

MINE, NEXT, LATER = JobKey("mine"), JobKey("next"), JobKey("later")
RANKS = {MINE: 0, NEXT: 1, LATER: 3}


def agenda(clock: ManualClock) -> Agenda:
    """One with a job of its own, and two at which others go first."""
    return Agenda(clock, lambda key: RANKS[key], takeover_s=2.0)


@contextlib.asynccontextmanager
async def looking(agenda: Agenda) -> AsyncIterator[list[JobKey]]:
    """The jobs that are looked at meanwhile."""
    seen: list[JobKey] = []
    task = asyncio.create_task(agenda.run(seen.append))
    try:
        yield seen
    finally:
        task.cancel()


async def test_the_owner_looks_at_once_and_once() -> None:
    """However often a job is said to need a look before it gets one, it is one look."""
    clock = ManualClock()
    there = agenda(clock)
    async with looking(there) as seen:
        there.attend(MINE)
        there.attend(MINE)
        assert len(there) == 1
        await clock.advance(0)

        assert seen == [MINE]
        there.attend(MINE)
        await clock.advance(0)

        assert seen == [MINE, MINE]
        assert not list(there.due())


async def test_the_others_look_later_each_in_turn() -> None:
    """Where others go first a job's time comes when they have had theirs, and then once."""
    clock = ManualClock()
    there = agenda(clock)
    there.attend(LATER)
    there.attend(NEXT)

    assert len(there) == 0
    await clock.advance(1.9)
    assert list(there.due()) == []
    await clock.advance(0.2)
    assert list(there.due()) == [NEXT]
    await clock.advance(4.0)
    assert list(there.due()) == [LATER]
    assert list(there.due()) == []


async def test_a_time_that_was_noted_is_everybodys() -> None:
    """A reminder comes at its time whoever owns the job; in turn, as much later as others go first."""
    clock = ManualClock()
    there = agenda(clock)
    there.remind(clock.now() + 1.0, LATER)
    there.remind_in_turn(clock.now() + 1.0, NEXT)

    await clock.advance(1.0)
    assert list(there.due()) == [LATER]
    await clock.advance(2.0)
    assert list(there.due()) == [NEXT]


async def steps(done: list[Any], count: int) -> list[int]:
    """By how much `done` has grown at each turn of another task, until so much is in it."""
    seen = [0]
    for _ in range(100_000):
        await asyncio.sleep(0)
        seen.append(len(done))
        if len(done) == count:
            break
    return [after - before for before, after in pairwise(seen)]


async def test_others_have_their_turn_while_many_are_looked_at() -> None:
    """However many jobs need a look at once, nobody waits for more than some of them."""
    keys = [JobKey(f"{number}") for number in range(200)]
    there = Agenda(ManualClock(), lambda key: 0, takeover_s=2.0)
    async with looking(there) as seen:
        for key in keys:
            there.attend(key)
        most = max(await steps(seen, len(keys)))

    assert seen == keys
    assert most <= BREATH


async def test_others_have_their_turn_while_many_outcomes_are_passed_on() -> None:
    """Nor for those of a full commit, whose outcomes lead to as many decisions."""
    hub = MemoryHub()
    committer = Committer(MemoryBus(hub), SystemClock(), waiting_max=BATCH_MAX)
    done: list[Any] = []
    committing = asyncio.create_task(committer.run())
    for number in range(BATCH_MAX):
        committer.put(Append(JobKey(f"{number}"), 0, f"op{number}", b"{}"), done.append, must=False)
    most = max(await steps(done, BATCH_MAX))
    committing.cancel()
    await hub.close()

    assert len(done) == BATCH_MAX
    assert most <= BREATH
