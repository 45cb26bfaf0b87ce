"""Time as a value that is passed in: the real one, and one that a test moves by hand.

Knows: how to tell the time and to wait. Must not know: what anyone waits for.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Final, Protocol


class Clock(Protocol):
    """`now` is unix seconds, for people and for what crosses machines; `elapsed` never jumps, for measuring here."""

    def now(self) -> float:
        """Unix time in seconds."""

    def elapsed(self) -> float:
        """Seconds since some fixed moment, never going back."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""


CATCHING_UP: Final = 0.9
"""How fast `SystemClock.now` goes on while the machine's clock is behind it, as a share of real time."""


class SystemClock:
    """The machine's clocks. `now` never goes back: when the machine's clock is set back, it goes on, a little slower, until
    that has caught up. A deadline that was written a moment ago is then not an hour away.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._now = wall()
        self._at = steady()

    def now(self) -> float:
        at = self._steady()
        self._now = max(self._wall(), self._now + CATCHING_UP * (at - self._at))
        self._at = at
        return self._now

    def elapsed(self) -> float:
        return self._steady()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until `advance` moves it; sleepers wake in the order of their times."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now
        self._start = now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    def elapsed(self) -> float:
        return self._now - self._start

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + max(seconds, 0), self._count, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Move on by that many seconds, letting each sleeper run at its own moment.

        What is ready runs first: a task that was just made goes to sleep before time moves, not after.
        """
        await _settle()
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, waiter = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not waiter.done():
                waiter.set_result(None)
            await _settle()
        self._now = end
        await _settle()


async def _settle(rounds: int = 20) -> None:
    """Give every task that became ready the chance to run until it waits again."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def _fits(system: SystemClock, manual: ManualClock) -> list[Clock]:
    return [system, manual]
