"""The nodes as deciding sees them: their facts, and what is promised on each.

Knows: the newest facts of each node, what open executions and decisions in flight hold on it (`host`), and the troubles it
has had. Must not know: jobs, beats or the log. Plain memory: the same calls in the same order give the same answers.
"""

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Final

from msgspec.structs import replace

from protocol.ids import ExecutionId, NodeId
from protocol.jobs import NOTHING, Amounts
from requester.core.health import Health, Trouble
from requester.core.hearing import Hearing
from requester.core.host import Host, Promise, told
from requester.core.membership import DELETED, REJECTED
from requester.core.model import NodeRecord
from requester.core.standing import Demand, Standing, standing

_STANDINGS_MAX: Final = 1_000_000
"""Nodes in all standings that are kept,"""
_DEMANDS_MIN: Final = 64
"""and how many are kept however many nodes there are."""
_HOLDERS_MAX: Final = 32
"""Nodes remembered for one input: a sample of them is enough."""
_INPUTS_MAX: Final = 100_000
"""Inputs whose holders are remembered; with more than that, nodes are found as if nobody had them."""


class News(Enum):
    """What is new about a node: nothing that concerns a job, more room for those that lack it, or how it stands towards
    demands, which concerns all.
    """

    NONE = "none"
    ROOM = "room"
    STANDING = "standing"


class _Hosts(dict[NodeId, Host]):
    """Hosts by node; one that is not known gives and holds nothing."""

    def __missing__(self, node: NodeId) -> Host:
        return Host(node)


class _Used:
    """What a namespace's work holds, and how many executions that are."""

    __slots__ = ("count", "cpu", "gpu", "memory_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.cpu = 0.0
        self.memory_bytes = 0
        self.gpu = 0

    def add(self, amounts: Amounts, sign: int) -> None:
        self.count += sign
        self.cpu += sign * amounts.cpu
        self.memory_bytes += sign * amounts.memory_bytes
        self.gpu += sign * amounts.gpu


class Fleet:
    """All nodes known. `hearing_since` is unix seconds from which on silence and absence mean anything."""

    def __init__(self, hearing_since: float = 0.0) -> None:
        self.hearing_since = hearing_since
        self.nodes: dict[NodeId, NodeRecord] = {}
        self.hearing = Hearing()
        self._hosts = _Hosts()
        self.host: Callable[[NodeId], Host] = self._hosts.__getitem__
        """What is promised on a node, and what is left."""
        self._holding: dict[NodeId, None] = {}
        """Those on which anything is promised: asked for ten times a second, and few of ten thousand."""
        self._holders: dict[str, dict[NodeId, None]] = {}
        self._standings: dict[Demand, Standing] = {}
        self._used: dict[str, _Used] = {}
        self._whole = NOTHING
        self.health = Health()
        self.troubled: Mapping[NodeId, Trouble] = self.health.troubled
        """The nodes on which work has failed lately for reasons around it."""
        self.changed: Mapping[NodeId, Host] = {}
        """Nothing: this is how nodes are. A decision sees some changed (`room`)."""
        self.kept_away: dict[NodeId, None] = {}
        """Nodes that are cordoned or set aside."""

    def put(self, node: NodeRecord) -> News:
        """Take a node's newest record, and say what that is news for."""
        known = self.nodes.get(node.info.id)
        self.nodes[node.info.id] = node
        self.hearing.place(node)
        if node.cordon is not None or node.aside is not None:
            self.kept_away[node.info.id] = None
        else:
            self.kept_away.pop(node.info.id, None)
        if known is None or known.held is not node.held:
            self._note_inputs(node.info.id, known.held if known is not None else {}, node.held)
        if (
            known is not None
            and (known.info is node.info or known.info == node.info)
            and (known.connected, known.expected, known.membership, known.cordon, known.aside)
            == (node.connected, node.expected, node.membership, node.cordon, node.aside)
        ):
            return self._note_ports(known, node)
        self._standings.clear()
        if known is None or known.info is not node.info:
            self._whole = self._whole + node.info.capacity - (known.info.capacity if known else NOTHING)
        host = self._host(node.info.id)
        host.resize(told(node.info.capacity, node.ports_lost))
        host.taken = frozenset(node.ports_taken)
        return News.STANDING

    def _note_ports(self, known: NodeRecord, node: NodeRecord) -> News:
        """Take which ports of a node others use, which each of its beats may change."""
        if (known.ports_lost, known.ports_taken) == (node.ports_lost, node.ports_taken):
            return News.NONE
        host = self._host(node.info.id)
        host.taken = frozenset(node.ports_taken)
        if known.ports_lost != node.ports_lost:
            host.resize(told(node.info.capacity, node.ports_lost))
        more = node.ports_lost < known.ports_lost or not host.taken.issuperset(known.ports_taken)
        return News.ROOM if more else News.NONE

    def drop(self, node: NodeId) -> None:
        """Forget a node's facts; what is promised on it stays known until it ends."""
        known = self.nodes.pop(node, None)
        self.hearing.drop(node)
        self.kept_away.pop(node, None)
        self.health.forget(node)
        if known is not None:
            self._note_inputs(node, known.held, {})
            self._whole = self._whole - known.info.capacity
            self._standings.clear()
            self._hosts[node].resize(NOTHING)
            self._let_go(node)

    def hold(
        self,
        node: NodeId,
        execution: ExecutionId,
        amounts: Amounts,
        ports: tuple[int, ...] = (),
        namespace: str = "",
        *,
        stays: bool = False,
    ) -> None:
        """Promise amounts and ports on a node to a namespace's work; the same execution again changes nothing.

        `stays`: it is a service's or daemon's, which is not meant to end.
        """
        host = self._host(node)
        if execution not in host.held:
            host.hold(execution, Promise(amounts, ports, namespace, stays))
            self._holding[node] = None
            used = self._used.get(namespace)
            if used is None:
                used = self._used[namespace] = _Used()
            used.add(amounts, 1)

    def release(self, node: NodeId, execution: ExecutionId) -> bool:
        """Give back what an execution held. True if it held anything."""
        host = self._hosts[node]
        promise = host.release(execution)
        if promise is None:
            return False
        used = self._used[promise.namespace]
        used.add(promise.amounts, -1)
        if not used.count:
            del self._used[promise.namespace]
        if not host.held:
            del self._holding[node]
        if node not in self.nodes:
            self._let_go(node)
        return True

    def share(self, namespace: str) -> float:
        """The share of all nodes that a namespace's work holds: of what it holds most of."""
        used, whole = self._used.get(namespace), self._whole
        if used is None:
            return 0.0
        return max(
            used.cpu / whole.cpu if whole.cpu > 0 else 0.0,
            used.memory_bytes / whole.memory_bytes if whole.memory_bytes > 0 else 0.0,
            used.gpu / whole.gpu if whole.gpu > 0 else 0.0,
        )

    def having(self, token: str) -> Collection[NodeId]:
        """Some nodes that have an input."""
        return self._holders.get(token, ())

    def held(self, node: NodeId) -> Mapping[ExecutionId, Promise]:
        """What is promised on a node, by execution."""
        return self.host(node).held

    def holds(self, node: NodeId) -> bool:
        """Whether anything is promised on a node."""
        return node in self._holding

    def holders(self) -> list[NodeId]:
        """The nodes that hold anything."""
        return list(self._holding)

    def standing(self, demand: Demand) -> Standing:
        """How all nodes stand towards a demand; worked out once until a node changes."""
        found = self._standings.get(demand)
        if found is None:
            if len(self._standings) >= max(_DEMANDS_MIN, _STANDINGS_MAX // max(1, len(self.nodes))):
                self._standings.clear()
            found = self._standings[demand] = standing(demand, self.nodes.values(), self.host)
        return found

    def rejected(self, node: NodeId) -> bool:
        """Whether a person has sent the node away."""
        known = self.nodes.get(node)
        return known is not None and known.membership in (REJECTED, DELETED)

    def cordoned(self, node: NodeId) -> bool:
        """Whether a person keeps new work from the node."""
        known = self.nodes.get(node)
        return known is not None and known.cordon is not None

    def drain_by(self, node: NodeId) -> float | None:
        """When the last work has to be off a node that is drained, in unix seconds."""
        known = self.nodes.get(node)
        return known.drain_by if known is not None else None

    def told(self, node: NodeRecord) -> NodeRecord:
        """The node's record with what is free on it and when it was last heard, for people."""
        id_ = node.info.id
        host = self.host(id_)
        return replace(node, free=host.free, running=len(host.held), last_beat_at=self.hearing.at(id_))

    def _note_inputs(self, node: NodeId, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        for token in before:
            if token not in now and token in self._holders:
                self._holders[token].pop(node, None)
                if not self._holders[token]:
                    del self._holders[token]
        self._host(node).inputs = now
        for token in now:
            holders = self._holders.get(token)
            if holders is None and len(self._holders) < _INPUTS_MAX:
                holders = self._holders[token] = {}
            if holders is not None and len(holders) < _HOLDERS_MAX:
                holders[node] = None

    def _host(self, node: NodeId) -> Host:
        host = self._hosts.get(node)
        if host is None:
            host = self._hosts[node] = Host(node)
        return host

    def _let_go(self, node: NodeId) -> None:
        """Forget a node that is not known any more, once nothing is promised on it."""
        if not self._hosts[node].held:
            self._hosts.pop(node, None)
