"""Compares each beat with the fold: what a node lacks is ordered again, what it should not have is cancelled.

Knows: how long an order may be on its way before it counts as lost, and who repairs. Must not know: how commands travel. A
command that is lost between the log and the node is made good here, so is everything a restart forgot.
"""

from functools import partial

from protocol.clock import Clock
from protocol.ids import NodeId
from protocol.messages import Beat, Cancel, FullList, Replaced, Report
from protocol.states import ENDS
from requester.core.commands import extra, missing
from requester.core.model import NodeRecord
from requester.follower import Follower
from requester.jobs import Jobs
from requester.orchestrator import Orchestrator
from requester.presence import Presence


class Repair:
    """The comparison of beats with the fold. `after_s` is how long an order is given to arrive."""

    def __init__(
        self,
        clock: Clock,
        *,
        jobs: Jobs,
        orchestrator: Orchestrator,
        follower: Follower,
        presence: Presence,
        after_s: float,
    ) -> None:
        self._clock = clock
        self._jobs = jobs
        self._orchestrator = orchestrator
        self._dispatch = orchestrator.dispatch
        self._follower = follower
        self._presence = presence
        self._after_s = after_s
        self._listed: dict[NodeId, tuple[int, str]] = {}
        """The life of each node, and the log, of which it was told all that it should have."""

    def heard(self, beat: Beat) -> None:
        """Compare one beat. Everyone notes what it says; orders are repeated by the job's owner, the rest by the node's."""
        node = beat.node.id
        self._orchestrator.back(node)
        if not self._orchestrator.acting:
            return
        idle = not beat.executions and not self._jobs.fleet.holds(node)
        listed = self._listed.get(node) == (beat.incarnation, self._follower.created)
        if listed and idle:
            return
        mine = not self._presence.rank(node)
        if not listed and mine:
            self._list(beat)
        if idle:
            return
        self._note(beat)
        held = self._jobs.fleet.held(node)
        now = self._clock.elapsed()
        for execution in missing(held, beat.executions):
            key = self._jobs.key_of_execution.get(execution)
            told_at = self._jobs.told_at.get(execution, now)
            if key is not None and now - told_at >= self._after_s and not self._presence.rank(key):
                self._dispatch.repeat(key, execution)
        if mine:
            self._end_extra(beat)

    def unwanted(self, beat: Beat) -> None:
        """A node that a person rejected or deleted ends what was given to others: it is not heard otherwise, and its process
        may live for long.
        """
        if self._orchestrator.acting and beat.executions and not self._presence.rank(beat.node.id):
            self._end_extra(beat)

    def _end_extra(self, beat: Beat) -> None:
        """Cancel what a node goes on with though it is not assigned there."""
        node = beat.node.id
        if beat.upto > self._follower.position:
            return
        for execution in extra(self._jobs.fleet.held(node), beat.executions):
            cancel = Cancel(self._follower.position, node, execution, "it is not assigned to this node")
            self._dispatch.tell(node, cancel)

    def doubled(self, node: NodeRecord) -> None:
        """An earlier process speaks as this node too: it is told, wherever it is, that it counts no more."""
        id_ = node.info.id
        if self._orchestrator.acting and not self._presence.rank(id_):
            self._dispatch.tell(id_, Replaced(id_, node.incarnation))

    def forget(self, node: NodeId) -> None:
        """The node is not known any more; who comes under its name is told anew all it should have."""
        self._listed.pop(node, None)

    def _list(self, beat: Beat) -> None:
        """Tell a node that has just started, or that this requester hears for the first time, all it should have."""
        node = beat.node.id
        open_here = [each for each in self._jobs.fleet.held(node) if each in self._jobs.key_of_execution]
        command = FullList(self._follower.position, self._follower.created, node, open_here)
        told = beat.incarnation, command.created
        self._dispatch.tell(node, command, partial(self._listed.__setitem__, node, told))

    def _note(self, beat: Beat) -> None:
        """The states in a beat reach all requesters, those in a report only one."""
        for execution, state in beat.executions.items():
            key = self._jobs.key_of_execution.get(execution)
            live = self._jobs.open.get(key) if key is not None else None
            if live is None or live.record is None or state in ENDS:
                continue
            known = live.record.executions.get(execution)
            if known is not None and known.node == beat.node.id:
                self._jobs.note(
                    live,
                    Report(
                        node=beat.node.id,
                        incarnation=beat.incarnation,
                        seq=known.ordered,
                        job=live.record.id,
                        version=known.version,
                        execution=execution,
                        state=state,
                    ),
                )
