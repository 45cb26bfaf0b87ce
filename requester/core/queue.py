"""The queue: jobs that wait for a node, by priority, then by age.

Knows: the order in which waiting jobs are looked at when room appears. Must not know: nodes, or whether a job fits one.

Jobs with equal demands stand in one line behind each other: if the first of a line finds no room, none behind it will. So
a look at the queue costs as many attempts as there are different demands, not as there are jobs.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from protocol.ids import JobKey
from requester.core.standing import Demand

Place = tuple[int, float, JobKey]
"""Minus the priority, when the wait began (unix seconds), and the job's key: the smallest goes first."""


class Queue:
    """All waiting jobs. A job stands in it once; putting it again moves it."""

    def __init__(self) -> None:
        self._places: dict[JobKey, tuple[Demand, Place]] = {}
        self._lines: dict[Demand, list[Place]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: JobKey) -> bool:
        return key in self._places

    def put(self, key: JobKey, demand: Demand, priority: int, since: float) -> None:
        """Let a job wait."""
        place = (-priority, since, key)
        if self._places.get(key) == (demand, place):
            return
        self.remove(key)
        self._places[key] = (demand, place)
        heappush(self._lines.setdefault(demand, []), place)

    def remove(self, key: JobKey) -> None:
        """Let a job wait no longer; harmless if it does not."""
        found = self._places.pop(key, None)
        if found is not None:
            self._trim(found[0])

    def heads(self, without: set[Demand]) -> tuple[JobKey, Demand] | None:
        """The first job of all lines but those of the demands in `without`, and its demand."""
        best: tuple[Place, Demand] | None = None
        for demand, line in self._lines.items():
            if demand not in without and (best is None or line[0] < best[0]):
                best = (line[0], demand)
        return (best[0][2], best[1]) if best is not None else None

    def keys(self) -> Iterator[JobKey]:
        """All waiting jobs, in no order."""
        return iter(self._places)

    def _trim(self, demand: Demand) -> None:
        """Take from the front what no longer waits, so that a line's head is always true."""
        line = self._lines[demand]
        while line and self._places.get(line[0][2]) != (demand, line[0]):
            heappop(line)
        if not line:
            del self._lines[demand]
        elif len(line) > 64 and len(line) > 2 * len(self._places):
            self._lines[demand] = [place for place in line if self._places.get(place[2]) == (demand, place)]
            heapify(self._lines[demand])
