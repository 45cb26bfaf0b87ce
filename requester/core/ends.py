"""How a job's version ends.

Knows: which attempts add up to an end, and which failure is its headline: the root cause of the last attempt. Must not
know: nodes, or the queue.
"""

from collections.abc import Collection, Sequence
from typing import Final

from protocol.entries import Closed
from protocol.errors import NO_SUITABLE_NODE, Failure
from protocol.ids import NodeId, short
from protocol.jobs import EVERYWHERE, LONG_RUNNING
from protocol.states import ExecutionState, JobState
from requester.core.attempts import Attempts, by_node, by_partition, rule_for, serves
from requester.core.giving_up import NODE_LOST, too_long
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.policy import Policy, mendable

S = ExecutionState
OVER_TOTAL: Final = "TimedOut.Total"
"""The job took longer than its TotalTimeout."""
OVER_QUEUE: Final = "TimedOut.Queue"
"""It waited longer than its QueueTimeout."""
TOLD_MAX: Final = 8
"""Parts, or nodes, that are named one by one."""
SPARE: Final = 20
"""One in so many of the entries that the log takes of a job is kept for its end, and for what people say of it."""


def end_of(record: JobRecord, now: float, policy: Policy) -> Closed | None:
    """The version's end, if what has happened so far makes one."""
    if record.stopping is not None:
        return Closed(JobState.STOPPED, record.stopping)
    spec = record.spec
    current = record.current()
    if spec.type == "batch" and _all_completed(record, current):
        return Closed(JobState.COMPLETED)
    if record.older():
        # A version that does not come up must not take down the one that runs; the update stands still.
        return None
    rule = rule_for(record, policy)
    for execution in current:
        if spec.type != "ops" and not mendable(execution, rule):
            return failed(execution.failure)
    if spec.type not in EVERYWHERE and (rule.attempts_max or rule.losses_max):
        for attempts in by_partition(record, rule).values():
            if attempts.over(rule) and not attempts.completed:
                return _exhausted(attempts)
    total = spec.task.timeouts.total_timeout
    if total and spec.type not in LONG_RUNNING and now >= record.submitted_at + total:
        return failed(too_long("Job", total, OVER_TOTAL))
    return None


def waited_out(record: JobRecord, now: float) -> bool:
    """Whether a job has waited for a place for longer than it wants to. What serves, or is to follow what does, bears it."""
    limit = record.spec.task.timeouts.queue_timeout
    waits = record.queued_at is not None and not record.older() and not serves(record)
    return bool(limit) and waits and now >= (record.queued_at or 0.0) + limit


def entries_left(record: JobRecord, entries_max: int) -> int | None:
    """How many more entries a job may have before it is ended for them, or None if the log takes any number of one job
    (`entries_max` 0).

    Once it had all that the log takes it could not even be stopped.
    """
    return max(entries_max - entries_max // SPARE - record.entries, 0) if entries_max else None


def used_up(record: JobRecord, entries_max: int) -> Failure | None:
    """Why a job cannot go on that has no `entries_left`, or None."""
    if entries_left(record, entries_max) != 0:
        return None
    return Failure(
        code="Exhausted.Entries",
        message=f"Job has {record.entries:,} entries in the log, which takes {entries_max:,} of one job: "
        f"{record.forgotten + len(record.executions):,} executions in all",
        hint="Delete it and submit it again under its name; if it is started again and again, give it longer rests "
        "(Retry.Backoff).",
    )


def waited_for(reason: Failure | None, record: JobRecord) -> Failure:
    """What a job is told that has waited too long: for what it waits now, else for what it began to wait."""
    limit_s = record.spec.task.timeouts.queue_timeout
    reason = reason or record.queued or Failure(code=OVER_QUEUE, message="for a node")
    code = reason.code if reason.code.startswith(NO_SUITABLE_NODE) else OVER_QUEUE
    return Failure(
        code=code,
        message=f"Job timed out. Job was queued for longer than {limit_s}s: {reason.message}",
        hint=reason.hint,
        details=reason.details,
    )


def _all_completed(record: JobRecord, current: Sequence[ExecutionRecord]) -> bool:
    if len(current) < record.spec.count:
        return False
    return len({each.partition for each in current if each.state is S.COMPLETED}) >= record.spec.count


def failed(failure: Failure | None) -> Closed:
    """A failed job with its cause as its headline."""
    failure = failure or Failure(code="Broken", message="it failed without a reason")
    return Closed(JobState.FAILED, failure.message, failure)


def _exhausted(attempts: Attempts) -> Closed:
    """The headline is the last attempt's own failure; that it was tried several times is said in the message."""
    closed = failed(attempts.last.failure if attempts.last is not None else None)
    tried = attempts.failures + attempts.losses
    message = f"{closed.message} (tried {tried} times)" if tried > 1 else closed.message
    return Closed(JobState.FAILED, message, closed.failure)


def ops_end(record: JobRecord, there: Collection[NodeId], policy: Policy) -> Closed | None:
    """An ops job ends when no execution is open and none is tried again on a node that is `there`; one failure fails it.

    A node that refused it is one that does not fit, as is known late: where others have done it that is said and no failure,
    unless a part of the inputs was meant for that node.
    """
    if record.open():
        return None
    rule = rule_for(record, policy)
    unfinished: ExecutionRecord | None = None
    refused: list[ExecutionRecord] = []
    completed = False
    for node, attempts in by_node(record, rule).items():
        if attempts.completed or attempts.last is None:
            completed = completed or attempts.completed is not None
            continue
        if attempts.last.state is S.REFUSED:
            refused.append(attempts.last)
            continue
        if node in there and not attempts.over(rule):
            return None
        unfinished = unfinished or attempts.last
    if unfinished is not None:
        return failed(unfinished.failure)
    unread = _unread(record)
    if refused and (unread is not None or not completed):
        return failed(refused[0].failure)
    return Closed(JobState.COMPLETED, _refused_by(refused)) if unread is None else failed(unread)


def _refused_by(refused: Sequence[ExecutionRecord]) -> str:
    """Where a job that runs on every node does not run, for people; empty if nobody refused it."""
    if not refused:
        return ""
    lines = [
        f"\n  {short(each.node)}  {each.failure.message if each.failure is not None else 'no reason given'}"
        for each in refused[:TOLD_MAX]
    ]
    more = f"\n  and {len(refused) - TOLD_MAX} more" if len(refused) > TOLD_MAX else ""
    nodes = "1 node" if len(refused) == 1 else f"{len(refused)} nodes"
    return f"refused by {nodes}, done on all others that fit:{''.join(lines)}{more}"


def _unread(record: JobRecord) -> Failure | None:
    """Why inputs that are shared out among nodes have not been read whole, or None."""
    current = record.current()
    parts = max((each.partitions for each in current), default=0)
    read = {each.partition for each in current if each.state is not S.REFUSED}
    unread = sorted(set(range(parts)).difference(read))
    if not unread:
        return None
    told = ", ".join(map(str, unread[:TOLD_MAX])) + (", …" if len(unread) > TOLD_MAX else "")
    return Failure(
        code=NODE_LOST,
        message=f"{len(unread)} of the {parts} parts of its inputs were read by nobody (part {told}): "
        "the nodes that they were meant for left before they could begin",
        hint="Run it again: job rerun",
    )


def reason_to_cancel(end: Closed) -> Failure:
    """What the executions that a job's end cuts short are told."""
    if end.state is JobState.STOPPED:
        return Failure(
            code="Conflict.Stopped", message="Execution stop requested because job has been stopped"
        )
    if end.failure is not None and end.failure.code == OVER_TOTAL:
        return end.failure
    return Failure(code="Conflict.JobFailed", message="Execution stopped due to job failure")
