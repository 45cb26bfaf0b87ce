"""Nodes as people see them, and what people decide about them.

Knows: how a node is named, and what is told of it. Must not know: how a decision reaches the other requesters
(`requester.words`), or what follows from it.
"""

from collections.abc import Callable

from msgspec.structs import replace

from protocol.clock import Clock
from protocol.errors import Conflict, Invalid, NotFound
from protocol.ids import NodeId
from protocol.spec.bounds import SECONDS_MAX
from requester.core.membership import APPROVED, DELETED, REJECTED
from requester.core.model import Cordon, NodeRecord
from requester.jobs import Jobs
from requester.words import Words


class Nodes:
    """All nodes. `attend` has the jobs looked at that have work on a node."""

    def __init__(self, clock: Clock, jobs: Jobs, words: Words, attend: Callable[[NodeId], None]) -> None:
        self._clock = clock
        self._jobs = jobs
        self._fleet = jobs.fleet
        self._words = words
        self._attend = attend

    def all(self) -> list[NodeRecord]:
        """All that are known, by id."""
        return [self._told(node) for _, node in sorted(self._fleet.nodes.items())]

    def one(self, ref: str) -> NodeRecord:
        """The node of that id or unique prefix. Raises `NotFound`, and `Conflict.MultipleNodesFound` with the candidates."""
        nodes = self._fleet.nodes
        exact = nodes.get(NodeId(ref))
        found = [exact] if exact is not None else [node for id_, node in nodes.items() if id_.startswith(ref)]
        if not ref or not found:
            raise NotFound(f"node {ref} not found", kind="Node", hint="List nodes with: node list")
        if len(found) > 1:
            raise Conflict(
                f"{ref} could be any of {len(found)} nodes",
                kind="MultipleNodesFound",
                hint="Use more of the id.",
                details={node.info.id: node.membership for node in found},
            )
        return self._told(found[0])

    def _told(self, node: NodeRecord) -> NodeRecord:
        """A node with what is free on it, and how many of its executions have not begun to run."""
        told = self._fleet.told(node)
        held = self._fleet.held(node.info.id)
        running = sum(execution in self._jobs.running_since for execution in held)
        return replace(told, running=running, waiting=len(held) - running)

    async def set_membership(self, ref: str, membership: str, message: str) -> NodeRecord:
        """See `requester.verbs.Verbs.set_membership`."""
        if membership not in (APPROVED, REJECTED, DELETED):
            raise Invalid(f"membership {membership!r} is not one of {APPROVED}, {REJECTED}, {DELETED}")
        node = self.one(ref)
        after = await self._words.set_membership(node.info.id, membership, message)
        self._attend(node.info.id)
        return self._told(after)

    async def cordon(self, ref: str, *, reason: str, drain_s: float | None = None) -> NodeRecord:
        """See `requester.verbs.Verbs.cordon`."""
        if drain_s is not None and not 0 <= drain_s <= SECONDS_MAX:
            raise Invalid(f"a deadline is between 0 and {SECONDS_MAX:,} seconds, and this is {drain_s:g}")
        node = self.one(ref)
        now = self._clock.now()
        cordon = Cordon(now, reason, now + drain_s if drain_s is not None else None)
        return self._told(await self._words.set_cordon(node.info.id, cordon))

    async def uncordon(self, ref: str) -> NodeRecord:
        """See `requester.verbs.Verbs.uncordon`."""
        node = self.one(ref)
        return self._told(await self._words.set_cordon(node.info.id, None))
