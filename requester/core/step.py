"""The step: what to write next about a job, given what came in, the nodes, and the time.

Knows: how a job goes on: schedule, try again, time out, stop, change version, close. Must not know: how the entry is
appended, how nodes are told, or who asked. A step's events are one entry; when they are folded, the same step again finds
nothing to do.

The order in which a version may end: a person stops it; all its partitions have completed; something failed that no other
attempt can mend; a partition used up its attempts; its time is over; the log takes little more of it; no node could ever
run it. Whatever is still open then is cancelled in the same entry.
"""

from collections.abc import Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from protocol.entries import Cancelled, Closed, Event, Lost, Queued, Reported, StopRequested
from protocol.errors import NO_SUITABLE_NODE, Failure
from protocol.ids import JobId, NodeId
from protocol.jobs import EVERYWHERE
from protocol.states import ExecutionState
from requester.core.assigning import Assignment, Case, everywhere, partitions
from requester.core.attempts import serves
from requester.core.ends import (
    end_of,
    failed,
    ops_end,
    reason_to_cancel,
    used_up,
    waited_for,
    waited_out,
)
from requester.core.fold import accepts, fold_events, waiting
from requester.core.giving_up import given_up
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.policy import Policy
from requester.core.refusing import headline, refusals, unreadable
from requester.core.rolling import replaced
from requester.core.standing import Demand, Standing, demand_of
from requester.core.view import View
from requester.core.waiting import NO_ROOM, explain, reason_now, why_it_waits

S = ExecutionState


class Decision(Struct, frozen=True, gc=False):
    """The events of one entry of a job, none if there is nothing to write, and the record as it will be.

    `more` says that the entry was cut at its bound: decide again once it is folded. `full` are the nodes where a job that
    runs on every node has yet to find room: nothing but room there helps it. `blocked` is what a new job demands that waits
    for nothing but room, and behind nobody: its entry may be held back (`requester.core.blocked`).
    """

    job: JobId
    events: list[Event]
    after: JobRecord | None
    more: bool = False
    full: Collection[NodeId] = ()
    blocked: Demand | None = None


class _Draft:
    """A job's record while a decision grows: each event is folded at once, so that the next sees its effect."""

    def __init__(self, record: JobRecord | None, job: JobId, now: float) -> None:
        self.record = record
        self.is_new = record is None
        self.job = job
        self.now = now
        self.events: list[Event] = []
        self.more = False
        self.full: Collection[NodeId] = ()
        self.blocked: Demand | None = None

    def write(self, events: Sequence[Event]) -> None:
        if events:
            self.events += events
            seq = self.record.revision if self.record is not None else 0
            self.record = fold_events(self.record, events, job=self.job, at=self.now, seq=seq)

    def left(self) -> list[ExecutionRecord]:
        """The executions that this decision takes away from their nodes."""
        executions = self.record.executions if self.record is not None else {}
        return [executions[event.execution] for event in self.events if isinstance(event, Cancelled)]


def step(
    record: JobRecord | None,
    inputs: Sequence[Event],
    view: View,
    now: float,
    *,
    job: JobId,
    policy: Policy = Policy(),  # noqa: B008 - frozen
) -> Decision:
    """Decide about one job. `inputs` are submissions, stops, reports and losses that wait to become facts."""
    draft = _Draft(record, job, now)
    for event in inputs:
        # Each against what the ones before it left: the same report twice is one.
        if counts(draft.record, event):
            draft.write([event])
    if draft.record is None or draft.record.closed:
        return Decision(job, draft.events, draft.record)
    ending = given_up(draft.record, view, now, policy)
    draft.write(ending[: policy.events_max])
    if len(ending) > policy.events_max:
        return Decision(job, draft.events, draft.record, more=True)
    end = end_of(draft.record, now, policy)
    if end is None and waited_out(draft.record, now):
        end = failed(waited_for(reason_now(draft.record, view.fleet) if view.settled else None, draft.record))
    if end is None and (spent := used_up(draft.record, view.entries_max)) is not None:
        end = failed(spent)
    if end is None:
        end = _place(draft, view, policy)
    if end is not None:
        _close(draft, end, policy)
    return Decision(job, draft.events, draft.record, draft.more, draft.full, draft.blocked)


def _close(draft: _Draft, end: Closed, policy: Policy) -> None:
    """Cancel what is still open and close; if that is too much for one entry, the close comes with a later one."""
    assert draft.record is not None
    still_open = draft.record.open()
    draft.write(
        [Cancelled(execution.id, reason_to_cancel(end)) for execution in still_open[: policy.events_max]]
    )
    if len(still_open) > policy.events_max:
        draft.more = True
    else:
        draft.write([end])


def counts(record: JobRecord | None, event: Event) -> bool:
    """Whether an input would change anything: what is said of an execution that is not current is dropped here."""
    if isinstance(event, Reported):
        execution = record.executions.get(event.report.execution) if record is not None else None
        return (
            execution is not None
            and execution.node == event.report.node
            and accepts(execution, event.report.state)
        )
    if isinstance(event, Lost):
        execution = record.executions.get(event.execution) if record is not None else None
        return execution is not None and execution.node == event.node and execution.open
    if isinstance(event, StopRequested):
        return record is not None and not record.closed and record.stopping is None
    return True


def _place(draft: _Draft, view: View, policy: Policy) -> Closed | None:
    """Assign what can be assigned; say why the rest waits; or find that it never can."""
    record = draft.record
    assert record is not None
    demand = demand_of(record.spec)
    standing = view.fleet.standing(demand)
    turns = view.turns
    refused = refusals(record, view.fleet.nodes)
    may_end = not record.older() and not _has_been_read(record)
    if refused and view.settled and may_end and unreadable(standing, refused):
        reason = explain(standing, refused, needed=max(record.spec.count, 1))
        return failed(headline(record, view.fleet.nodes, reason))
    behind = turns is not None and turns.ahead(record, demand)
    # A job that stands behind others, and has nothing yet that could make way for it, gets no place whatever is kept where.
    only_waits = behind and not record.executions and record.spec.type not in EVERYWHERE
    limits = turns.limits(record.key, -record.spec.priority) if turns is not None and not only_waits else {}
    case = Case(record, demand, standing, view, draft.now, policy, refused, limits=limits, behind=behind)
    draft.write(replaced(case))
    if left := draft.left():
        case = replace(case, record=draft.record, left=left)
    placed = everywhere(case) if record.spec.type in EVERYWHERE else partitions(case)
    draft.more, draft.full = len(placed.events) >= policy.events_max, placed.full
    draft.write(placed.events)
    if draft.more:
        return None
    if not placed.short_of:
        return _ops_end(draft, standing, view, policy) if record.spec.type == "ops" and view.settled else None
    return _queue(draft, case, placed)


def _has_been_read(record: JobRecord) -> bool:
    """Whether a job goes on though nobody is left that could read it: it serves, or has been done somewhere."""
    if record.spec.type == "ops":
        return any(each.state is S.COMPLETED for each in record.current())
    return serves(record)


def _ops_end(draft: _Draft, standing: Standing, view: View, policy: Policy) -> Closed | None:
    """A node that a person keeps new work from is not waited for: nobody knows for how long that is."""
    assert draft.record is not None
    away = {each.node for each in standing.away if not view.fleet.cordoned(each.node)}
    return ops_end(draft.record, away.union(standing.fitting), policy)


def _queue(draft: _Draft, case: Case, placed: Assignment) -> Closed | None:
    """Let the job wait with its reason, or end it because no node could ever run it.

    Lack of room, and nodes that are away, only ever queue. That no node fits ends the job at once, unless it has a
    QueueTimeout; or after a grace, if nodes may still be about to come. A daemon, which goes wherever it can, waits; and
    what serves is not ended because its successor, or more of it, finds no place.
    """
    record, now, view = draft.record, draft.now, case.view
    assert record is not None
    reason = why_it_waits(
        record, case.demand, case.standing, case.refused, needed=placed.short_of, room=placed.room
    )
    since = record.queued_at if record.queued_at is not None else now
    limit = record.spec.task.timeouts.queue_timeout
    if not limit and not reason.retryable and view.settled:
        hasty = reason.code == NO_SUITABLE_NODE and (case.refused or not record.current())
        if hasty or now >= since + case.policy.join_grace_s:
            return failed(headline(record, view.fleet.nodes, reason))
    if waiting(record) and (record.queued is None or _may_wait_longer(record.queued, reason, view)):
        if draft.is_new and record.untried and reason.code == NO_ROOM and view.settled and not case.behind:
            draft.blocked = case.demand
        draft.write([Queued(reason)])
    return None


def _may_wait_longer(told: Failure, reason: Failure, view: View) -> bool:
    """Whether a job was to wait for a moment only, and now there is hope. All other changes of the reason are not written
    (`waiting`). A requester that has heard too little yet does not know better than what stands there.
    """
    return view.settled and reason.retryable and not told.retryable
