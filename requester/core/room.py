"""The room a decision sees while it grows.

Knows: what it has taken and given back so far, and what is kept for others. Must not know: why.
"""

from collections.abc import Mapping

from protocol.ids import ExecutionId, NodeId
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
        self._ports: dict[NodeId, set[int]] = {}
        self._left: set[ExecutionId] = set()
        self.changed: dict[NodeId, Host] = {}
        self.troubled = fleet.troubled
        self.having = fleet.having
        for node in self._limits:
            self._change(node, NOTHING)

    def take(self, node: NodeId, demand: Demand) -> None:
        """Promise what a task demands."""
        if demand.ports:
            self._ports.setdefault(node, set()).update(demand.ports)
        self._change(node, demand.amounts)

    def give_back(self, execution: ExecutionRecord) -> None:
        """Count on what an execution leaves, the ports that it has among it; its node waits until that is so."""
        self._left.add(execution.id)
        self._change(execution.node, NOTHING - execution.amounts)

    def take_again(self, execution: ExecutionRecord) -> None:
        """Undo `give_back`."""
        self._left.discard(execution.id)
        self._change(execution.node, execution.amounts)

    def of(self, node: NodeId) -> Host:
        """What is left on a node."""
        return self.changed.get(node) or self._fleet.host(node)

    def unlimited(self, node: NodeId) -> Amounts:
        """What is free on a node, that which is kept for others included."""
        return self._fleet.host(node).free - self._taken.get(node, NOTHING)

    def _change(self, node: NodeId, amounts: Amounts) -> None:
        in_all = self._taken[node] = self._taken.get(node, NOTHING) + amounts
        free, limit = self.unlimited(node), self._limits.get(node)
        if limit is not None:
            free = smaller(free, limit - in_all)
        host = self._fleet.host(node)
        ports = host.ports
        if ports and self._left:
            kept = (promise.ports for each, promise in host.held.items() if each not in self._left)
            ports = frozenset(port for each in kept for port in each)
        self.changed[node] = host.left(free, ports.union(self._ports.get(node, ())))


def smaller(one: Amounts, other: Amounts) -> Amounts:
    """The lesser of each amount."""
    return Amounts(
        min(one.cpu, other.cpu),
        min(one.memory_bytes, other.memory_bytes),
        min(one.disk_bytes, other.disk_bytes),
        min(one.gpu, other.gpu),
        min(one.dynamic_ports, other.dynamic_ports),
    )
