"""Compares each beat with the fold: what a node lacks is ordered again, what it should not have is cancelled.

Knows: how long an order may be on its way before it counts as lost, and who repairs. Must not know: how commands travel. A
command that is lost between the log and the node is made good here, so is everything a restart forgot.
"""

from functools import partial

from msgspec import Struct

from protocol.clock import Clock
from protocol.ids import NodeId
from protocol.messages import Beat, Cancel, FullList, KeptOut, Replaced, Report
from protocol.states import ENDS
from requester.core.commands import extra, missing
from requester.core.membership import why_out
from requester.core.model import NodeRecord
from requester.follower import Follower
from requester.jobs import Jobs
from requester.orchestrator import Orchestrator
from requester.presence import Presence


class _Word(Struct, eq=False):
    """Why a life of a node gets no work, and whether it has heard that."""

    incarnation: int
    reason: str
    arrived: bool = False

    def arrive(self) -> None:
        """The node has it."""
        self.arrived = True


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
        self._kept_out: dict[NodeId, _Word] = {}
        """What each node that gets no work is told of that."""

    def heard(self, beat: Beat) -> None:
        """Compare one beat. Everyone notes what it says; orders are repeated by the job's owner, the rest by the node's."""
        node = beat.node.id
        self._orchestrator.back(node)
        self._kept_out.pop(node, None)
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

    def unwanted(self, beat: Beat, membership: str, message: str) -> None:
        """A node that a person rejected or deleted ends what was given to others: it is not heard otherwise, and its process
        may live for long. It is told why it gets no work; `message` is the person's.
        """
        if not self._orchestrator.acting or self._presence.rank(beat.node.id):
            return
        self._tell_why(beat, membership, message)
        if beat.executions:
            self._end_extra(beat)

    def _tell_why(self, beat: Beat, membership: str, message: str) -> None:
        node = beat.node.id
        reason, hint = why_out(node, membership, message)
        word = self._kept_out.get(node)
        if word is None or (word.incarnation, word.reason) != (beat.incarnation, reason):
            word = self._kept_out[node] = _Word(beat.incarnation, reason)
        if not word.arrived:
            self._dispatch.tell(node, KeptOut(node, reason, hint), word.arrive)

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
        self._kept_out.pop(node, None)

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
