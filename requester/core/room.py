"""The room a decision sees while it grows.

Knows: what it has taken and given back so far, and what is kept for others. Must not know: why.
"""

from collections.abc import Iterable, Mapping

from protocol.ids import NodeId
from protocol.jobs import NOTHING, Amounts
from requester.core.fleet import Fleet
from requester.core.host import Host
from requester.core.model import ExecutionRecord
from requester.core.standing import Demand


class Remaining:
    """The fleet as a decision leaves it: less what it has already taken, with what it takes away from others.

    `limits` is the most that may be used of some nodes, because the rest is kept for others.
    """

    def __init__(self, fleet: Fleet, limits: Mapping[NodeId, Amounts] | None = None) -> None:
        self._fleet = fleet
        self._limits = limits or {}
        self._taken: dict[NodeId, Amounts] = {}
        self.changed: dict[NodeId, Host] = {}
        self.troubled = fleet.troubled
        self.having = fleet.having
        for node in self._limits:
            self._change(node, NOTHING)

    def take(self, node: NodeId, demand: Demand) -> None:
        """Promise what a task demands."""
        self._change(node, demand.amounts, taken=demand.ports)

    def give_back(self, execution: ExecutionRecord, demand: Demand) -> None:
        """Count on what an execution leaves, which had the same ports; its node waits until that is so."""
        self._change(execution.node, NOTHING - execution.amounts, given=demand.ports)

    def take_again(self, execution: ExecutionRecord, demand: Demand) -> None:
        """Undo `give_back`."""
        self._change(execution.node, execution.amounts, taken=demand.ports)

    def of(self, node: NodeId) -> Host:
        """What is left on a node."""
        return self.changed.get(node) or self._fleet.host(node)

    def unlimited(self, node: NodeId) -> Amounts:
        """What is free on a node, that which is kept for others included."""
        return self._fleet.host(node).free - self._taken.get(node, NOTHING)

    def _change(
        self, node: NodeId, amounts: Amounts, *, taken: Iterable[int] = (), given: Iterable[int] = ()
    ) -> None:
        host = self.of(node)
        in_all = self._taken[node] = self._taken.get(node, NOTHING) + amounts
        free, limit = self.unlimited(node), self._limits.get(node)
        if limit is not None:
            free = smaller(free, limit - in_all)
        self.changed[node] = host.left(free, host.ports.union(taken).difference(given))


def smaller(one: Amounts, other: Amounts) -> Amounts:
    """The lesser of each amount."""
    return Amounts(
        min(one.cpu, other.cpu),
        min(one.memory_bytes, other.memory_bytes),
        min(one.disk_bytes, other.disk_bytes),
        min(one.gpu, other.gpu),
    )
