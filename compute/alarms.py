"""Calls back when a time has passed, for all executions of a node with one sleeper.

Knows: a clock, and who waits for which moment. Must not know: what anyone waits for. Most alarms are taken back long before
they ring, so setting one and taking it back must cost next to nothing.
"""

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from protocol.clock import Clock

CANCELLED_KEPT: Final = 1_000
"""How many cancelled alarms may stay in the heap. If there are more, they are removed once they are more than half of it."""


class Alarm:
    """One call to come. `cancel` is harmless when repeated, and when it has rung."""

    __slots__ = ("_alarms", "ring")

    def __init__(self, alarms: "Alarms", ring: Callable[[], None]) -> None:
        self._alarms = alarms
        self.ring: Callable[[], None] | None = ring

    def cancel(self) -> None:
        """Take it back."""
        if self.ring is not None:
            self.ring = None
            self._alarms.one_less()


class Alarms:
    """One node's; the sleeper belongs to `tasks`."""

    def __init__(self, clock: Clock, tasks: asyncio.TaskGroup) -> None:
        self._clock = clock
        self._tasks = tasks
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._cancelled = 0
        self._sleeper: asyncio.Task[None] | None = None
        self._next = float("inf")
        """When (elapsed seconds) the sleeper wakes."""

    def set(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        """Call `ring` after `seconds`."""
        alarm = Alarm(self, ring)
        due = self._clock.elapsed() + seconds
        heappush(self._heap, (due, next(self._numbers), alarm))
        self._sleep_until(due)
        return alarm

    def one_less(self) -> None:
        """One of them was cancelled."""
        self._cancelled += 1
        if self._cancelled > max(CANCELLED_KEPT, len(self._heap) // 2):
            self._heap = [each for each in self._heap if each[2].ring is not None]
            heapify(self._heap)
            self._cancelled = 0

    def _sleep_until(self, due: float) -> None:
        """Wake for an alarm that is earlier than all before."""
        if due < self._next:
            if self._sleeper is not None:
                self._sleeper.cancel()
            self._next = due
            self._sleeper = self._tasks.create_task(self._sleep(due))

    async def _sleep(self, due: float) -> None:
        await self._clock.sleep(max(due - self._clock.elapsed(), 0))
        self._sleeper, self._next = None, float("inf")
        now = max(due, self._clock.elapsed())
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].ring is None):
            alarm = heappop(self._heap)[2]
            ring, alarm.ring = alarm.ring, None
            if ring is None:
                self._cancelled -= 1
            else:
                ring()
        if self._heap:
            self._sleep_until(self._heap[0][0])
