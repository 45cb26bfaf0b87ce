"""The servers are lost and come back with a backup, while everybody else goes on: what was true then is true again.

Knows: what a backup holds, and what has to be forgotten together with it by those who judge. Must not know: when either
happens, or what requesters and nodes make of it.

What was accepted after the backup is lost, as ``docs/operations.md`` says. A program that goes on and that the restored log
has as well is not started a second time; any other may be.
"""

from collections.abc import Sequence
from copy import deepcopy

from msgspec import Struct

from protocol.ids import ExecutionId, JobKey
from protocol.memory_bus import Backup
from tests.simulation.checker import Checker, Seen
from tests.simulation.network import SimulatedHub
from tests.simulation.people import People
from tests.simulation.processes import Machines, NodeProcess
from tests.simulation.snapshots import Snapshots
from tests.simulation.words import Words


class _Kept(Struct, frozen=True):
    """A backup, with what the log meant then. `thinned` are the jobs whose earlier versions had been taken out of it."""

    servers: Backup
    seen: Seen
    thinned: frozenset[JobKey]


class Restoring:
    """Makes the backup of one simulation, and brings it back."""

    def __init__(
        self,
        hub: SimulatedHub,
        *,
        checker: Checker,
        snapshots: Snapshots,
        words: Words,
        people: People,
        machines: Machines,
        nodes: Sequence[NodeProcess],
    ) -> None:
        self._hub = hub
        self._checker = checker
        self._snapshots = snapshots
        self._words = words
        self._people = people
        self._machines = machines
        self._nodes = nodes
        self._kept: _Kept | None = None

    def back_up(self) -> None:
        """Keep all that the servers have."""
        self._kept = _Kept(self._hub.backup(), deepcopy(self._checker.seen()), frozenset(self._hub.thinned))

    def restore(self) -> None:
        """Have the servers as they were then, but for the log's name."""
        assert self._kept is not None
        kept = self._kept
        self._hub.restore(kept.servers)
        self._hub.thinned.clear()
        self._hub.thinned |= kept.thinned
        self._checker.begin_again(deepcopy(kept.seen))
        self._snapshots.begin_again(len(self._hub.entries))
        self._words.begin_again(kept.servers.cells.values())
        self._people.begin_again()
        self._machines.ordered = self._ordered
        for node in self._nodes:
            going_on = {name for name, program in node.world.programs.items() if not program.ended}
            known = set(self._words.work_on(node.node))
            node.world.may_start_again |= set(node.world.starts) - (going_on & known)

    def _ordered(self, execution: ExecutionId) -> bool:
        return any(execution in job.attempts for job in self._checker.jobs.values())
