"""A node says of its executions what is worth a message, and watches them for that at little cost."""

import asyncio
from random import Random

from compute.reports import QUIET_LOOK_S, QUIET_S, Reporter
from protocol.clock import ManualClock
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import Report

MANY = 100
APART_S = 0.001


class CountingClock(ManualClock):
    """Counts how often anyone sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await super().sleep(seconds)


async def test_states_that_last_are_looked_for_together() -> None:
    """Executions that go through their states one after the other are each asked whether they stay in them, in the order
    in which they came, and not with a timer for each."""
    clock = CountingClock()
    asked: list[int] = []

    def newest(number: int) -> Report | None:
        asked.append(number)
        return None

    async def durable() -> None:
        """Nothing is sent that would have to be."""

    async with asyncio.TaskGroup() as tasks:
        reporter = Reporter(MemoryBus(MemoryHub()), clock, Random(1), tasks, durable, lambda *_: None)
        for number in range(MANY):
            reporter.send_later(lambda number=number: newest(number))  # type: ignore[misc]
            await clock.advance(APART_S)
        assert not asked
        await clock.advance(QUIET_S + QUIET_LOOK_S)

    assert asked == list(range(MANY))
    assert clock.sleeps <= (MANY * APART_S + QUIET_S) / QUIET_LOOK_S + 2
