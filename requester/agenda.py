"""When each job is looked at: at once, or at a time that has been noted.

Knows: keys, times, and which requester goes first. Must not know: jobs, or what a look comes to.

What calls for a look (room that was freed, a node that fell silent) is the business of the job's owner; the requester of
rank k looks k times `takeover_s` later and usually finds it done.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Final

from protocol.clock import Clock
from protocol.ids import JobKey

LOOKS: Final = 100
"""How many jobs may be waiting to be looked at, or committed, before more are put there: there may be a million of them."""
BREATH: Final = 16
"""Jobs looked at, or told what became of their entries, before others get their turn on the loop. With each may go a
decision, of half a millisecond."""
DUE_MAX: Final = 1_000
"""Jobs whose time has come that are looked at in one tick."""


class Agenda:
    """One requester's. `rank` says how many go before it at a job, 0 for its owner."""

    def __init__(self, clock: Clock, rank: Callable[[JobKey], int], *, takeover_s: float) -> None:
        self._clock = clock
        self._rank = rank
        self._takeover_s = takeover_s
        self._looks: deque[JobKey] = deque()
        self._to_look: set[JobKey] = set()
        self._news = asyncio.Event()
        self._due: list[tuple[float, int, JobKey]] = []
        self._numbers = count()

    def __len__(self) -> int:
        """How many jobs wait to be looked at now."""
        return len(self._looks)

    def attend(self, key: JobKey) -> None:
        """A job may need a look: its owner looks now, the others later."""
        if self._rank(key):
            self.remind_in_turn(self._clock.now(), key)
        elif key not in self._to_look:
            self._to_look.add(key)
            self._looks.append(key)
            self._news.set()

    def remind(self, at: float, key: JobKey) -> None:
        """Look at a job at that time (unix seconds), whoever owns it."""
        heappush(self._due, (at, next(self._numbers), key))

    def remind_in_turn(self, at: float, key: JobKey) -> None:
        """Look at a job at that time, or as much later as others go first."""
        self.remind(at + self._rank(key) * self._takeover_s, key)

    def due(self) -> Iterator[JobKey]:
        """The jobs whose time has come, each taken off when it is told; some of very many."""
        now = self._clock.now()
        for _ in range(DUE_MAX):
            if not self._due or self._due[0][0] > now:
                break
            yield heappop(self._due)[2]

    async def run(self, look: Callable[[JobKey], None]) -> None:
        """Look at the jobs that wait for it, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._looks:
                for _ in range(min(BREATH, len(self._looks))):
                    key = self._looks.popleft()
                    self._to_look.discard(key)
                    look(key)
                await asyncio.sleep(0)
