"""When jobs are looked at."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from protocol.clock import ManualClock
from protocol.ids import JobKey
from requester.agenda import Agenda

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
