"""The room a decision sees while it grows.

Knows: what it has taken and given back so far, and what is kept for others. Must not know: why.
"""

from collections.abc import Callable, Mapping

from protocol.ids import NodeId
from protocol.jobs import Amounts
from requester.core.fleet import Fleet
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
        self._ports: dict[NodeId, set[int]] = {}
        self.free: Callable[[NodeId], Amounts] = self._left if limits else fleet.free
        self.capacity = fleet.capacity
        self.inputs = fleet.inputs
        self.having = fleet.having
        self.troubles = fleet.troubles

    def take(self, node: NodeId, demand: Demand) -> None:
        """Promise what a task demands."""
        self._change(node, demand.amounts)
        if demand.ports:
            self._ports[node] = self.ports(node) | set(demand.ports)

    def give_back(self, execution: ExecutionRecord, demand: Demand) -> None:
        """Count on what an execution leaves, which had the same ports; its node waits until that is so."""
        self._change(execution.node, Amounts() - execution.amounts)
        if demand.ports:
            self._ports[execution.node] = self.ports(execution.node) - set(demand.ports)

    def take_again(self, execution: ExecutionRecord, demand: Demand) -> None:
        """Undo `give_back`."""
        self._change(execution.node, execution.amounts)
        if demand.ports:
            self._ports[execution.node] = self.ports(execution.node) | set(demand.ports)

    def ports(self, node: NodeId) -> set[int]:
        """The ports of the host that are promised to someone."""
        changed = self._ports.get(node)
        return self._fleet.ports(node) if changed is None else changed

    def unlimited(self, node: NodeId) -> Amounts:
        """What is free on a node, that which is kept for others included."""
        taken = self._taken.get(node)
        free = self._fleet.free(node)
        return free if taken is None else free - taken

    def _change(self, node: NodeId, amounts: Amounts) -> None:
        self._taken[node] = self._taken.get(node, Amounts()) + amounts
        self.free = self._left

    def _left(self, node: NodeId) -> Amounts:
        limit = self._limits.get(node)
        if limit is None:
            return self.unlimited(node)
        taken = self._taken.get(node)
        return smaller(self.unlimited(node), limit if taken is None else limit - taken)


def smaller(one: Amounts, other: Amounts) -> Amounts:
    """The lesser of each amount."""
    return Amounts(
        min(one.cpu, other.cpu),
        min(one.memory_bytes, other.memory_bytes),
        min(one.disk_bytes, other.disk_bytes),
        min(one.gpu, other.gpu),
    )
