"""The queue: jobs that wait for a node, by priority, then by what their namespaces have, then by age.

Knows: the order in which waiting jobs are looked at when room appears. Must not know: nodes, or whether a job fits one.

Jobs with equal demands and one namespace stand in one line behind each other: if the first of a line finds no room, none
behind it will. So a look at the queue costs as many attempts as there are different demands, not as there are jobs.

There may be a million of them, and the rest of such a job is not in memory: what is kept of each here is what its turn
depends on, some 300 bytes, and what many have alike is kept once.
"""

from collections.abc import Callable, Collection, Iterator
from heapq import heapify, heappop, heappush
from sys import intern
from typing import Final

from msgspec import Struct

from protocol.ids import JobKey
from requester.core.model import JobRecord
from requester.core.standing import Demand

Place = tuple[int, float, JobKey]
"""Minus the priority, when the job's version was submitted (unix seconds), and the job's key: the smallest goes first."""
Share = Callable[[str], float]
"""How much of the cluster a namespace has, as a share of 1: of two jobs of one priority the poorer one's goes first."""

PLACES_MAX: Final = 20_000
"""With more jobs than this nobody's exact place is counted: it would hold up the others."""


class Waiting(Struct, frozen=True, gc=False):
    """A job that waits, since when (unix seconds), and where it stands.

    `hopes`: it is ended as soon as no node could ever run it; else what follows then depends on more than its demand.
    """

    demand: Demand
    namespace: str
    place: Place
    since: float
    hopes: bool = False


def hopes(record: JobRecord) -> bool:
    """Whether a job that waits is ended as soon as no node could ever run it, whatever else is known of it."""
    return record.untried and not record.spec.task.timeouts.queue_timeout


class Lines:
    """All that wait with one demand: a heap of places for each namespace, and how many of them hope."""

    __slots__ = ("by_namespace", "demand", "hoping")

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.by_namespace: dict[str, list[Place]] = {}
        self.hoping = 0


class Queue:
    """All waiting jobs. A job stands in it once; putting it again moves it."""

    def __init__(self) -> None:
        self._jobs: dict[JobKey, Waiting] = {}
        self._lines: dict[Demand, Lines] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, key: JobKey) -> bool:
        return key in self._jobs

    def put(
        self,
        key: JobKey,
        demand: Demand,
        *,
        priority: int = 0,
        namespace: str = "",
        age: float,
        since: float,
        hopes: bool = False,
    ) -> None:
        """Let a job wait: of a version that was submitted at `age`, for as long as it has waited `since`."""
        lines = self._lines.get(demand)
        place = (-priority, age, key)
        self.restore(
            key,
            Waiting(
                demand if lines is None else lines.demand,
                intern(namespace),
                place,
                age if since == age else since,
                hopes,
            ),
        )

    def restore(self, key: JobKey, waiting: Waiting) -> None:
        """Let a job wait as it did before."""
        known = self._jobs.get(key)
        if known is not None:
            if known == waiting:
                return
            self.remove(key)
        self._jobs[key] = waiting
        lines = self._lines.get(waiting.demand)
        if lines is None:
            lines = self._lines[waiting.demand] = Lines(waiting.demand)
        heappush(lines.by_namespace.setdefault(waiting.namespace, []), waiting.place)
        lines.hoping += waiting.hopes

    def remove(self, key: JobKey) -> None:
        """Let a job wait no longer; harmless if it does not."""
        found = self._jobs.pop(key, None)
        if found is not None:
            self._trim(found)

    def hopeless(self, hope: Callable[[Demand], bool]) -> list[JobKey]:
        """The jobs that hope though there is none for their demand; quick where there are none."""
        found: list[JobKey] = []
        for lines in self._lines.values():
            if not lines.hoping or hope(lines.demand):
                continue
            for namespace, line in lines.by_namespace.items():
                for place in line:
                    waiting = self._standing(place, lines.demand, namespace)
                    if waiting is not None and waiting.hopes:
                        found.append(place[2])
        return found

    def clear(self) -> None:
        """Nobody waits any more."""
        self._jobs.clear()
        self._lines.clear()

    def get(self, key: JobKey) -> Waiting | None:
        """How a job waits, or None."""
        return self._jobs.get(key)

    def round(self, share: Share) -> "Round":
        """One look at all that wait, in order."""
        return Round(self._jobs, self._lines, share)

    def ahead(
        self, key: JobKey, demand: Demand, *, priority: int, namespace: str, age: float, share: Share
    ) -> bool:
        """Whether another job with the same demand comes before one that may not stand in the queue yet."""
        lines = self._lines.get(demand)
        if lines is None:
            return False
        own = lines.by_namespace.get(namespace)
        if own and own[0][2] != key and own[0] < (-priority, age, key):
            # Of one namespace, whatever its share is.
            return True
        others = [each for each in lines.by_namespace.items() if each[0] != namespace]
        if not others:
            return False
        mine = (-priority, share(namespace), age, key)
        return any((line[0][0], share(each), line[0][1], line[0][2]) < mine for each, line in others)

    def place(self, key: JobKey, share: Share) -> int | None:
        """How many jobs come before this one as things stand; None if it does not wait, or too many do."""
        found = self._jobs.get(key)
        if found is None or len(self._jobs) > PLACES_MAX:
            return None
        shares = {each: share(each) for lines in self._lines.values() for each in lines.by_namespace}

        def order(waiting: Waiting) -> tuple[int, float, float, JobKey]:
            return (waiting.place[0], shares[waiting.namespace], *waiting.place[1:])

        mine = order(found)
        return sum(order(each) < mine for each in self._jobs.values())

    def keys(self) -> Iterator[JobKey]:
        """All waiting jobs, in no order."""
        return iter(self._jobs)

    def _trim(self, gone: Waiting) -> None:
        """Take from the front what no longer waits, so that a line's head is always true."""
        lines = self._lines[gone.demand]
        lines.hoping -= gone.hopes
        line = lines.by_namespace[gone.namespace]
        while line and self._standing(line[0], gone.demand, gone.namespace) is None:
            heappop(line)
        if not line:
            del lines.by_namespace[gone.namespace]
            if not lines.by_namespace:
                del self._lines[gone.demand]
        elif len(line) > 64 and len(line) > 2 * len(self._jobs):
            line[:] = [
                place for place in line if self._standing(place, gone.demand, gone.namespace) is not None
            ]
            heapify(line)

    def _standing(self, place: Place, demand: Demand, namespace: str) -> Waiting | None:
        """Who stands at a place in a line now."""
        now = self._jobs.get(place[2])
        if now is not None and (now.place, now.demand, now.namespace) == (place, demand, namespace):
            return now
        return None


class Round:
    """One look at the queue: the heads of its lines in their order, with what becomes of it meanwhile taken into account.

    Whoever takes a job removes it from the queue and holds its room before asking for the next; a namespace's share only
    grows by that, so an order that was worked out earlier is put right when its turn comes.
    """

    def __init__(self, jobs: dict[JobKey, Waiting], lines: dict[Demand, Lines], share: Share) -> None:
        self._jobs = jobs
        self._lines = lines
        self._share = share
        shares: dict[str, float] = {}
        self._heads: list[tuple[int, float, float, JobKey]] = []
        for each in lines.values():
            for namespace, line in each.by_namespace.items():
                if namespace not in shares:
                    shares[namespace] = share(namespace)
                negative, age, key = line[0]
                self._heads.append((negative, shares[namespace], age, key))
        heapify(self._heads)
        self._given: Waiting | None = None

    def next(self, without: Collection[Demand] = ()) -> tuple[JobKey, Waiting] | None:
        """The first job of all lines but those of the demands in `without`, or None."""
        if self._given is not None:
            self._put(self._given)
            self._given = None
        while self._heads:
            negative, held, age, key = heappop(self._heads)
            waiting = self._jobs.get(key)
            if waiting is None or waiting.place != (negative, age, key) or waiting.demand in without:
                continue
            now = self._share(waiting.namespace)
            if now > held:
                heappush(self._heads, (negative, now, age, key))
                continue
            self._given = waiting
            return key, waiting
        return None

    def _put(self, given: Waiting) -> None:
        """What stands first in a line whose head was given out, if that has left it."""
        lines = self._lines.get(given.demand)
        line = lines.by_namespace.get(given.namespace) if lines is not None else None
        if line and line[0] != given.place:
            negative, age, key = line[0]
            heappush(self._heads, (negative, self._share(given.namespace), age, key))
