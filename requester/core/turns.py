"""Whose turn it is when room appears, and the room that is kept for large work that waits.

Knows: the queue's order, which waiting jobs news concern, and reservations. Must not know: how a job is decided (`step`) or
when anyone looks. Every requester works out the same from the same log, as nearly as it matters.

A job that has waited for a while at the head of its line gets a node **reserved**: the one that is nearest to having room
for it. Others that come after it may still use that node, but only as far as all that came since leave it room beside them:
once those who were there before are gone, it fits. So small work fills what a large job cannot use yet, and cannot starve
it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct, field

from protocol.ids import ExecutionId, JobKey, NodeId
from protocol.jobs import Amounts
from requester.core.fleet import Fleet
from requester.core.host import Host
from requester.core.model import JobRecord
from requester.core.placement import Attempt, choose
from requester.core.policy import Policy
from requester.core.queue import Queue, Waiting
from requester.core.room import Remaining
from requester.core.standing import Demand

RESERVE_EVERY_S: Final = 1.0
"""How often a node to keep is looked for: that goes through all of them."""


class Reservation(Struct, frozen=True):
    """A node that is kept for a job: what it wants, its rank (minus the priority), and who was there before."""

    key: JobKey
    node: NodeId
    rank: int
    amounts: Amounts
    before: frozenset[ExecutionId]


class Turn(Struct, frozen=True, gc=False):
    """A waiting job that has a place on this node now. It no longer stands in the queue."""

    key: JobKey
    waiting: Waiting
    node: NodeId


class News(Struct):
    """What has happened since the last look: nodes with more room, demands of jobs that came, or anything at all."""

    freed: dict[NodeId, None] = field(default_factory=dict)
    joined: dict[Demand, None] = field(default_factory=dict)
    everything: bool = False


class Turns:
    """The queue and what is kept for its jobs. News say for whom another look is worth it."""

    def __init__(self, queue: Queue, fleet: Fleet, policy: Policy) -> None:
        self.queue = queue
        self.reserved: dict[NodeId, Reservation] = {}
        self._fleet = fleet
        self._policy = policy
        self._news = News()
        self._reserve_at = 0.0
        self._offered: tuple[JobKey, NodeId] | None = None
        self._full: set[Demand] = set()
        """Those for which no node had room when all were looked at, and none was freed since that has."""

    def freed(self, nodes: Iterable[NodeId]) -> None:
        """These nodes have more room than before."""
        self._news.freed.update(dict.fromkeys(nodes))

    def joined(self, demand: Demand) -> None:
        """A job with this demand has come to the queue."""
        self._news.joined[demand] = None

    def offered_to(self, key: JobKey) -> NodeId | None:
        """The node that has room for a job, while it is this job's turn."""
        return self._offered[1] if self._offered is not None and self._offered[0] == key else None

    def everything(self) -> None:
        """Nodes came, went or changed: every waiting job may have a place."""
        self._news.everything = True

    def due(self, now: float) -> Iterator[Turn]:
        """The jobs that have a place, in their order. Whoever takes one holds its room before asking for the next."""
        known, self.reserved = self.reserved, {}
        news, self._news = self._news, News()
        look_for_nodes = now >= self._reserve_at
        if look_for_nodes:
            self._reserve_at = now + RESERVE_EVERY_S
        if look_for_nodes or news.everything:
            self._full.clear()
        keepers = {kept.key for kept in known.values()}
        blocked: set[Demand] = set()
        round_ = self.queue.round(self._fleet.share)
        while (head := round_.next(blocked)) is not None:
            key, waiting = head
            demand = waiting.demand
            node = self._place_for(key, waiting, news, kept=key in keepers)
            if node is not None:
                self.queue.remove(key)
                self._offered = key, node
                yield Turn(key, waiting, node)
                self._offered = None
                continue
            blocked.add(demand)
            long_enough = now - waiting.since >= self._policy.reserve_after_s
            if long_enough and (look_for_nodes or key in keepers):
                self._reserve(key, waiting, known, anew=look_for_nodes)
        if news.freed:
            # For whom nobody waited just now, there may be room on what was freed.
            self._full &= blocked
        if any(node not in self.reserved for node in known):
            # What was kept is free again: the next look is at all.
            self.everything()

    def limits(self, key: JobKey, rank: int) -> Mapping[NodeId, Amounts]:
        """The most that a job may use of each node that is kept for another one, unless its own priority is higher."""
        if not self.reserved:
            return {}
        return {
            node: self._beside(kept)
            for node, kept in self.reserved.items()
            if kept.key != key and kept.rank <= rank
        }

    def ahead(self, record: JobRecord, demand: Demand) -> bool:
        """Whether a job with the same demand waits that comes before this one."""
        spec = record.spec
        return self.queue.ahead(
            record.key,
            demand,
            priority=spec.priority,
            namespace=spec.namespace,
            age=record.submitted_at,
            share=self._fleet.share,
        )

    def _place_for(self, key: JobKey, waiting: Waiting, news: News, *, kept: bool) -> NodeId | None:
        """A node that has room for a waiting job: looked for if the news could have made some, or one is `kept` for it."""
        demand = waiting.demand
        standing = self._fleet.standing(demand)
        offered = next(
            (
                node
                for node in news.freed
                if self._fleet.host(node).has(demand.amounts, ()) and node in standing.fitting
            ),
            None,
        )
        joined = demand in news.joined and demand not in self._full
        if offered is None and not (kept or joined or news.everything):
            return None
        limits = self.limits(key, waiting.place[0])
        attempt = Attempt(demand, seed=int(key[:8], 16), offered=offered)
        node = choose(standing, attempt, Remaining(self._fleet, limits))
        if node is None and not limits:
            self._full.add(demand)
        return node

    def _reserve(
        self,
        key: JobKey,
        waiting: Waiting,
        known: Mapping[NodeId, Reservation],
        *,
        anew: bool,
    ) -> None:
        """Keep a node for a job, the one it had if that will do, or `anew`; no more than half of the nodes are kept."""
        wanted = waiting.demand.amounts
        standing = self._fleet.standing(waiting.demand)
        for kept in known.values():
            free = kept.node in standing.fitting and kept.node not in self.reserved
            if kept.key == key and free and wanted.fits(self._fleet.host(kept.node).passing):
                self.reserved[kept.node] = kept
                return
        if not anew or len(self.reserved) >= max(1, len(self._fleet.nodes) // 2):
            return
        node = self._nearest(waiting.demand, standing.order)
        if node is not None:
            before = frozenset(self._fleet.held(node))
            self.reserved[node] = Reservation(key, node, waiting.place[0], wanted, before)

    def _nearest(self, demand: Demand, hosts: Iterable[Host]) -> NodeId | None:
        """The node that lacks least of what is demanded, as a share of what it has in all."""
        best: tuple[float, NodeId] | None = None
        for host in hosts:
            # What a service holds is not given back: a node with too much of it would be kept for nothing.
            if host.id in self.reserved or not demand.amounts.fits(host.passing):
                continue
            lacks = (_lack(demand.amounts, host.free, host.capacity), host.id)
            if best is None or lacks < best:
                best = lacks
        return best[1] if best is not None else None

    def _beside(self, kept: Reservation) -> Amounts:
        """What is left beside a job on the node that is kept for it, once those who were there before are gone."""
        host = self._fleet.host(kept.node)
        left = host.capacity - kept.amounts
        for execution, promise in host.held.items():
            if execution not in kept.before:
                left = left - promise.amounts
        return left


def _lack(wanted: Amounts, free: Amounts, whole: Amounts) -> float:
    return max(
        (wanted.cpu - free.cpu) / whole.cpu if whole.cpu else 0.0,
        (wanted.memory_bytes - free.memory_bytes) / whole.memory_bytes if whole.memory_bytes else 0.0,
        (wanted.disk_bytes - free.disk_bytes) / whole.disk_bytes if whole.disk_bytes else 0.0,
        (wanted.gpu - free.gpu) / whole.gpu if whole.gpu else 0.0,
        (wanted.dynamic_ports - free.dynamic_ports) / whole.dynamic_ports if whole.dynamic_ports else 0.0,
    )
