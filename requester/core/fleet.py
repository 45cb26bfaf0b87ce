"""The nodes as deciding sees them: their facts, and what is promised on each.

Knows: the newest facts of each node and the amounts that open executions and decisions in flight hold on it. Must not know:
jobs, beats or the log. Plain memory: the same calls in the same order give the same answers.
"""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Amounts
from requester.core.membership import DELETED, REJECTED
from requester.core.model import NodeRecord
from requester.core.placement import Demand, Standing, standing

_NOTHING: Final = Amounts()
_STANDINGS_MAX: Final = 512


class Fleet:
    """All nodes known. `hearing_since` is unix seconds from which on silence and absence mean anything."""

    def __init__(self, hearing_since: float = 0.0) -> None:
        self.hearing_since = hearing_since
        self.nodes: dict[NodeId, NodeRecord] = {}
        self._free: dict[NodeId, Amounts] = {}
        self._held: dict[NodeId, dict[ExecutionId, Amounts]] = {}
        self._standings: dict[Demand, Standing] = {}

    def put(self, node: NodeRecord) -> bool:
        """Take a node's newest record. True if that changes how it stands towards any demand."""
        known = self.nodes.get(node.info.id)
        self.nodes[node.info.id] = node
        if (
            known is not None
            and (known.info is node.info or known.info == node.info)
            and (known.connected, known.expected, known.membership)
            == (node.connected, node.expected, node.membership)
        ):
            return False
        self._standings.clear()
        self._count(node.info.id)
        return True

    def drop(self, node: NodeId) -> None:
        """Forget a node's facts; what is promised on it stays known until it ends."""
        if self.nodes.pop(node, None) is not None:
            self._standings.clear()
            self._free.pop(node, None)

    def hold(self, node: NodeId, execution: ExecutionId, amounts: Amounts) -> None:
        """Promise amounts on a node; the same execution again changes nothing."""
        held = self._held.setdefault(node, {})
        if execution not in held:
            held[execution] = amounts
            room = self._free.get(node)
            if room is not None:
                self._free[node] = room - amounts

    def release(self, node: NodeId, execution: ExecutionId) -> bool:
        """Give back what an execution held. True if it held anything."""
        held = self._held.get(node)
        amounts = held.pop(execution, None) if held else None
        if amounts is None:
            return False
        if not held:
            self._count(node)
        elif node in self._free:
            self._free[node] = self._free[node] + amounts
        return True

    def free(self, node: NodeId) -> Amounts:
        """What is not promised on a node."""
        return self._free.get(node, _NOTHING)

    def capacity(self, node: NodeId) -> Amounts:
        """What a node gives to jobs in all."""
        known = self.nodes.get(node)
        return known.info.capacity if known is not None else _NOTHING

    def held(self, node: NodeId) -> Mapping[ExecutionId, Amounts]:
        """What is promised on a node, by execution."""
        return self._held.get(node, {})

    def holders(self) -> list[NodeId]:
        """The nodes that hold anything."""
        return [node for node, held in self._held.items() if held]

    def standing(self, demand: Demand) -> Standing:
        """How all nodes stand towards a demand; worked out once until a node changes."""
        found = self._standings.get(demand)
        if found is None:
            if len(self._standings) >= _STANDINGS_MAX:
                self._standings.clear()
            found = self._standings[demand] = standing(demand, self.nodes.values())
        return found

    def rejected(self, node: NodeId) -> bool:
        """Whether a person has sent the node away."""
        known = self.nodes.get(node)
        return known is not None and known.membership in (REJECTED, DELETED)

    def told(self, node: NodeRecord) -> NodeRecord:
        """The node's record with what is free on it, for people."""
        return replace(node, free=self.free(node.info.id), running=len(self.held(node.info.id)))

    def _count(self, node: NodeId) -> None:
        """Add up from the beginning, so that sums of fractions never drift."""
        room = self.capacity(node)
        for amounts in self._held.get(node, {}).values():
            room = room - amounts
        self._free[node] = room
