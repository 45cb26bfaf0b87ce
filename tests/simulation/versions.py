"""What nodes of several versions make of one job: invariant I12.

Knows: which version reads what, and what a requester knows of its nodes when it decides. Must not know: how it decides.

A node of the version before does not know a field that jobs may have. No requester ends a job for that while it knows a node
of the present version that fits; nor an ops job that was done anywhere.
"""

from collections.abc import Callable

from protocol.bus import Append
from protocol.entries import Closed, read_entry
from requester.core.fleet import Fleet
from requester.core.standing import demand_of
from tests.simulation.checker import Checker

PRESENT = "simulated"
BEFORE = "simulated before"
UNREAD = "unknown field"


class Versions:
    """Looks at decisions and says what is `wrong`."""

    def __init__(self, wrong: Callable[[str], None], checker: Checker) -> None:
        self._wrong = wrong
        self._checker = checker
        self.unread = 0
        """Jobs that were ended because nobody could read them."""

    def decided(self, who: str, fleet: Fleet, append: Append) -> None:
        """A requester has decided upon an entry: by what it knows just now."""
        job = self._checker.jobs.get(append.key)
        if job is None or job.last != append.guard:
            # It is behind, and the log will not take this.
            return
        entry = read_entry(append.data)
        for event in entry.events if entry.snapshot is None else ():
            if isinstance(event, Closed) and event.failure is not None and UNREAD in event.message:
                self.unread += 1
                fitting = fleet.standing(demand_of(job.spec)).fitting
                readers = [node for node in fitting if fleet.nodes[node].info.version == PRESENT]
                if readers:
                    self._wrong(f"I12: {who} ends {job.id} as unread, and {readers[0]} could read it")
