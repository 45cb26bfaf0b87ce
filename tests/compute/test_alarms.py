"""Alarms ring once, in their order, unless they are taken back."""

import asyncio

from compute.alarms import CANCELLED_KEPT, Alarms
from protocol.clock import ManualClock


async def test_alarms_ring_in_the_order_of_their_times() -> None:
    """Whatever the order in which they were set; one that is taken back never rings."""
    clock = ManualClock()
    rung: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        alarms = Alarms(clock, tasks)
        alarms.set(3.0, lambda: rung.append("last"))
        alarms.set(1.0, lambda: rung.append("first"))
        alarms.set(2.0, lambda: rung.append("taken back")).cancel()
        await clock.advance(1.5)
        assert rung == ["first"]
        alarms.set(0.5, lambda: rung.append("second"))
        await clock.advance(5.0)
    assert rung == ["first", "second", "last"]


async def test_an_alarm_can_set_and_take_back_others() -> None:
    """Also while it rings."""
    clock = ManualClock()
    rung: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        alarms = Alarms(clock, tasks)
        other = alarms.set(1.0, lambda: rung.append("other"))

        def ring() -> None:
            other.cancel()
            other.cancel()
            alarms.set(1.0, lambda: rung.append("again"))

        alarms.set(0.5, ring)
        await clock.advance(10.0)
    assert rung == ["again"]


async def test_what_is_taken_back_takes_no_room() -> None:
    """However many are set and taken back before one rings, few are kept."""
    clock = ManualClock()
    async with asyncio.TaskGroup() as tasks:
        alarms = Alarms(clock, tasks)
        kept = alarms.set(3_600.0, lambda: None)
        for _ in range(10 * CANCELLED_KEPT):
            alarms.set(3_600.0, lambda: None).cancel()
        assert len(alarms._heap) <= 2 * CANCELLED_KEPT + 2
        kept.cancel()
        await clock.advance(3_600.0)
