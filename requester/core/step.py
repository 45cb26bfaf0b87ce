"""The step: what to write next about a job, given what came in, the nodes, and the time.

Knows: how a job goes on: schedule, try again, time out, stop, change version, close. Must not know: how the entry is
appended, how nodes are told, or who asked. A step's events are one entry; when they are folded, the same step again finds
nothing to do.

The order in which a version may end: a person stops it; all its partitions have completed; something failed that no other
attempt can mend; a partition used up its attempts; its time is over; no node could ever run it. Whatever is still open
then is cancelled in the same entry.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field

from protocol.entries import (
    Assigned,
    Cancelled,
    Closed,
    Event,
    Lost,
    Queued,
    Reported,
    StopRequested,
)
from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, NodeId, execution_id, short
from protocol.jobs import Amounts
from protocol.states import ExecutionState, JobState
from requester.core.attempts import (
    EVERYWHERE,
    LONG_RUNNING,
    NODE_REJECTED,
    Attempts,
    by_node,
    by_partition,
    failures_by_node,
    refusals,
)
from requester.core.fleet import Fleet
from requester.core.fold import accepts, fold_events
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.placement import NO_SUITABLE_NODE, Demand, Standing, choose, demand_of, explain
from requester.core.policy import Policy, lasting

S = ExecutionState


class View(Struct, frozen=True):
    """What a step sees beside the job.

    `gone` are the nodes given up for their silence, each with the seconds it has been silent. `running_since` says when
    executions were first seen running, in unix seconds. `settled` is False right after a start or a cut, when a node that
    was not heard of yet may still be there.
    """

    fleet: Fleet
    gone: Mapping[NodeId, float] = field(default_factory=dict)
    running_since: Mapping[ExecutionId, float] = field(default_factory=dict)
    settled: bool = True


class Decision(Struct, frozen=True):
    """The events of one entry, none if there is nothing to write, and the record as it will be.

    `more` says that the entry was cut at its bound: decide again once it is folded.
    """

    events: list[Event]
    after: JobRecord | None
    more: bool = False


class _Draft:
    """A job's record while a decision grows: each event is folded at once, so that the next sees its effect."""

    def __init__(self, record: JobRecord | None, job: JobId, now: float) -> None:
        self.record = record
        self.job = job
        self.now = now
        self.events: list[Event] = []
        self.more = False

    def write(self, events: Sequence[Event]) -> None:
        if events:
            self.events += events
            seq = self.record.revision if self.record is not None else 0
            self.record = fold_events(self.record, events, job=self.job, at=self.now, seq=seq)


def step(
    record: JobRecord | None,
    inputs: Sequence[Event],
    view: View,
    now: float,
    *,
    job: JobId,
    policy: Policy = Policy(),  # noqa: B008 - frozen
) -> Decision:
    """Decide about one job. `inputs` are submissions, stops and reports that wait to become facts."""
    draft = _Draft(record, job, now)
    draft.write([event for event in inputs if counts(record, event)])
    if draft.record is None or draft.record.closed:
        return Decision(draft.events, draft.record)
    given_up = _given_up(draft.record, view, now, policy)
    draft.write(given_up[: policy.events_max])
    if len(given_up) > policy.events_max:
        return Decision(draft.events, draft.record, more=True)
    end = _end(draft.record, now, policy)
    if end is None:
        end = _place(draft, view, policy)
    if end is not None:
        _close(draft, end, policy)
    return Decision(draft.events, draft.record, draft.more)


def _close(draft: _Draft, end: Closed, policy: Policy) -> None:
    """Cancel what is still open and close; if that is too much for one entry, the close comes with a later one."""
    assert draft.record is not None
    still_open = _open(draft.record)
    draft.write([Cancelled(execution.id, _reason(end)) for execution in still_open[: policy.events_max]])
    if len(still_open) > policy.events_max:
        draft.more = True
    else:
        draft.write([end])


def counts(record: JobRecord | None, event: Event) -> bool:
    """Whether an input would change anything: a report of an execution that is not current is dropped here."""
    if isinstance(event, Reported):
        execution = record.executions.get(event.report.execution) if record is not None else None
        return (
            execution is not None
            and execution.node == event.report.node
            and accepts(execution, event.report.state)
        )
    if isinstance(event, StopRequested):
        return record is not None and not record.closed
    return True


def _open(record: JobRecord) -> list[ExecutionRecord]:
    return [execution for execution in record.executions.values() if execution.open]


# Executions that are given up


def _given_up(record: JobRecord, view: View, now: float, policy: Policy) -> list[Event]:
    """Open executions that must not go on: of an older version, on a lost or rejected node, or over their time."""
    events: list[Event] = []
    limit = _execution_limit_s(record)
    for execution in _open(record):
        if execution.version != record.version:
            failure = Failure(code="Conflict.Superseded", message="Execution stopped for job update")
            events.append(Cancelled(execution.id, failure))
        elif execution.node in view.gone:
            events.append(
                Lost(execution.id, execution.node, _lost(execution.node, view.gone[execution.node]))
            )
        elif view.fleet.rejected(execution.node):
            message = "Execution stop requested because node has been rejected"
            events.append(
                Cancelled(execution.id, Failure(code=NODE_REJECTED, message=message, retryable=True))
            )
        elif limit and now >= view.running_since.get(execution.id, now) + limit + policy.execution_grace_s:
            events.append(Cancelled(execution.id, _too_long("Execution", limit, "TimedOut.Execution")))
    return events


def _execution_limit_s(record: JobRecord) -> int:
    """The time one execution may run, 0 for none."""
    timeouts = record.spec.task.timeouts
    return 0 if record.spec.type in LONG_RUNNING else timeouts.execution_timeout


def _lost(node: NodeId, silent_s: float) -> Failure:
    return Failure(
        code="Unavailable.NodeLost",
        message=f"Execution stop requested because node has disappeared: {short(node)} silent for {silent_s:.0f} s",
        retryable=True,
    )


def _too_long(what: str, limit_s: int, code: str) -> Failure:
    return Failure(
        code=code,
        message=f"{what} timed out. {what} took longer than {limit_s}s",
        hint="Try increasing the task timeout or allocating more resources",
    )


def _reason(end: Closed) -> Failure:
    """What the executions that a job's end cuts short are told."""
    if end.state is JobState.STOPPED:
        return Failure(
            code="Conflict.Stopped", message="Execution stop requested because job has been stopped"
        )
    if end.failure is not None and end.failure.code == "TimedOut.Total":
        return end.failure
    return Failure(code="Conflict.JobFailed", message="Execution stopped due to job failure")


# Ends


def _end(record: JobRecord, now: float, policy: Policy) -> Closed | None:
    """The version's end, if what has happened so far makes one."""
    if record.stopping is not None:
        return Closed(JobState.STOPPED, record.stopping)
    current = record.current()
    if record.spec.type == "batch" and _all_completed(record, current):
        return Closed(JobState.COMPLETED)
    for execution in current:
        if _fatal(record, execution):
            return _failed(execution.failure)
    if record.spec.type == "batch":
        for attempts in by_partition(record, policy).values():
            if attempts.failures >= policy.attempts_max and not attempts.open and not attempts.completed:
                return _exhausted(attempts)
    total = record.spec.task.timeouts.total_timeout
    if total and record.spec.type not in LONG_RUNNING and now >= record.submitted_at + total:
        return _failed(_too_long("Job", total, "TimedOut.Total"))
    return None


def _all_completed(record: JobRecord, current: Sequence[ExecutionRecord]) -> bool:
    if len(current) < record.spec.count:
        return False
    return len({each.partition for each in current if each.state is S.COMPLETED}) >= record.spec.count


def _fatal(record: JobRecord, execution: ExecutionRecord) -> bool:
    """Whether this end ends the job: no other attempt, on whatever node, could go otherwise.

    A refusal is one node's word, unless it is about the job itself. A service or daemon is restarted when its program
    fails; an ops job lets its other nodes finish.
    """
    failure = execution.failure
    if failure is None:
        return False
    if execution.state is S.REFUSED:
        return failure.code.partition(".")[0] == "Invalid" and not failure.retryable
    if execution.state not in (S.FAILED, S.CANCELLED) or not lasting(failure):
        return False
    return record.spec.type == "batch" or (
        record.spec.type in LONG_RUNNING and not failure.code.startswith("ProgramFailed")
    )


def _failed(failure: Failure | None) -> Closed:
    failure = failure or Failure(code="Broken", message="it failed without a reason")
    return Closed(JobState.FAILED, failure.message, failure)


def _exhausted(attempts: Attempts) -> Closed:
    """The headline is the last attempt's own failure; that it was tried several times is said in the message."""
    failure = attempts.last.failure if attempts.last is not None else None
    closed = _failed(failure)
    message = f"{closed.message} (tried {attempts.failures} times)"
    return Closed(JobState.FAILED, message, closed.failure)


# Placement


def _place(draft: _Draft, view: View, policy: Policy) -> Closed | None:
    """Assign what can be assigned; say why the rest waits; or find that it never can."""
    record = draft.record
    assert record is not None
    demand = demand_of(record.spec)
    standing = view.fleet.standing(demand)
    if record.spec.type in EVERYWHERE:
        assigned, short_of = _everywhere(record, standing, demand.amounts, view, draft.now, policy)
    else:
        assigned, short_of = _partitions(record, standing, demand, view, draft.now, policy)
    draft.more = len(assigned) >= policy.events_max
    draft.write(assigned)
    if draft.more:
        return None
    if not short_of:
        return _ops_end(draft.record) if record.spec.type == "ops" and view.settled else None
    return _queue(draft, standing, short_of, view, policy)


def _partitions(
    record: JobRecord, standing: Standing, demand: Demand, view: View, now: float, policy: Policy
) -> tuple[list[Assigned], int]:
    """The next attempt for each partition that has none, and how many of them find no node.

    A partition goes to the node that has failed this job least, so a second attempt is on another node if there is one.
    """
    attempts = by_partition(record, policy)
    restarts = record.spec.type in LONG_RUNNING
    current = record.current() if attempts else []
    failures = failures_by_node(current)
    excluded = frozenset(refusals(current))
    room = _Room(view.fleet)
    assigned: list[Assigned] = []
    short_of = 0
    for partition in range(record.spec.count):
        tried = attempts.get(partition)
        if tried is not None:
            if tried.open or (tried.completed and not restarts):
                continue
            if now < tried.ready_at(policy, restarts=restarts):
                continue
        if short_of:
            short_of += 1
            continue
        attempt = tried.count + 1 if tried else 1
        execution = execution_id(record.id, record.version, partition, attempt)
        node = choose(
            standing,
            demand.amounts,
            free=room.free,
            capacity=view.fleet.capacity,
            failures=failures,
            excluded=excluded,
            seed=int(execution[2:10], 16),
        )
        if node is None:
            short_of = 1
            continue
        room.take(node, demand.amounts)
        assigned.append(_assigned(execution, partition, attempt, node, demand.amounts, standing))
        if len(assigned) >= policy.events_max:
            break
    return assigned, short_of


def _everywhere(
    record: JobRecord, standing: Standing, wanted: Amounts, view: View, now: float, policy: Policy
) -> tuple[list[Assigned], int]:
    """One execution on each node that fits and has none, and how many such nodes have no room (or: that there is none)."""
    attempts = by_node(record, policy)
    restarts = record.spec.type in LONG_RUNNING
    excluded = refusals(record.current())
    assigned: list[Assigned] = []
    short_of = 0
    count = sum(tried.count for tried in attempts.values())
    for node, _ in standing.fitting:
        tried = attempts.get(node)
        if node in excluded or (tried is not None and (tried.open or not restarts)):
            continue
        if tried is not None and now < tried.ready_at(policy, restarts=True):
            continue
        if not wanted.fits(view.fleet.free(node)):
            short_of += 1
            continue
        attempt = count + len(assigned) + 1
        execution = execution_id(record.id, record.version, 0, attempt)
        assigned.append(_assigned(execution, 0, attempt, node, wanted, standing))
        if len(assigned) >= policy.events_max:
            break
    return assigned, short_of or int(not attempts and not assigned)


def _assigned(
    execution: ExecutionId, partition: int, attempt: int, node: NodeId, amounts: Amounts, standing: Standing
) -> Assigned:
    known = len(standing.fitting) + len(standing.away) + len(standing.unfit)
    why = f"{len(standing.fitting)} of {known} nodes fit"
    return Assigned(execution, partition, attempt, node, amounts, why)


class _Room:
    """What is free on each node, less what this decision has already taken."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._taken: dict[NodeId, Amounts] = {}
        self.free: Callable[[NodeId], Amounts] = fleet.free

    def take(self, node: NodeId, amounts: Amounts) -> None:
        self._taken[node] = self._taken.get(node, Amounts()) + amounts
        self.free = self._left

    def _left(self, node: NodeId) -> Amounts:
        free = self._fleet.free(node)
        taken = self._taken.get(node)
        return free if taken is None else free - taken


def _ops_end(record: JobRecord | None) -> Closed | None:
    """An ops job ends when no execution is open and no node that fits is without one; one failure fails it."""
    if record is None or _open(record):
        return None
    for execution in record.current():
        if execution.state is not S.COMPLETED:
            return _failed(execution.failure)
    return Closed(JobState.COMPLETED)


def _queue(draft: _Draft, standing: Standing, short_of: int, view: View, policy: Policy) -> Closed | None:
    """Let the job wait with its reason, or end it: its time in the queue is over, or no node could ever run it.

    Lack of room, and nodes that are away, only ever queue. That no node fits ends the job at once, unless it has a
    QueueTimeout; or after a grace, if nodes may still be about to come.
    """
    record, now = draft.record, draft.now
    assert record is not None
    refused = refusals(record.current())
    reason = explain(standing, refused, needed=short_of)
    since = record.queued_at if record.queued_at is not None else now
    limit = record.spec.task.timeouts.queue_timeout
    if limit and now >= since + limit:
        return _failed(_waited(reason, limit))
    if not limit and record.spec.type != "daemon" and not reason.retryable and view.settled:
        hasty = reason.code == NO_SUITABLE_NODE and (refused or not record.current())
        if hasty or now >= since + policy.join_grace_s:
            return _failed(_last_refusal(record) or reason)
    if record.queued is None or record.queued.code != reason.code:
        draft.write([Queued(reason)])
    return None


def _waited(reason: Failure, limit_s: int) -> Failure:
    code = reason.code if reason.code.startswith(NO_SUITABLE_NODE) else "TimedOut.Queue"
    return Failure(
        code=code,
        message=f"Job timed out. Job was queued for longer than {limit_s}s: {reason.message}",
        hint=reason.hint,
        details=reason.details,
    )


def _last_refusal(record: JobRecord) -> Failure | None:
    """When all that could run the job refused it, the newest refusal is the headline."""
    refused = [execution for execution in record.current() if execution.state is S.REFUSED]
    return refused[-1].failure if refused else None
