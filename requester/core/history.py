"""A job's history as people read it: lines under Bacalhau's topics, made from entries when somebody asks.

Knows: what each event is called and which details programs look for. Must not know: where entries are kept. History is not
stored: it is another reading of the log, so it can never disagree with it.

Topics and messages: ``bacalhau.md`` section 2.5. Detail keys: ``IsError Hint Retryable FailsExecution NewState ErrorCode``,
all with string values.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from protocol.entries import (
    Assigned,
    Cancelled,
    Closed,
    Deleted,
    Entry,
    Lost,
    Queued,
    Reported,
    Snapshot,
    StopRequested,
    Submitted,
)
from protocol.errors import NO_SUITABLE_NODE, OVER_TIME, Failure
from protocol.ids import short
from protocol.messages import Report
from protocol.states import ENDS, ExecutionState, JobState
from requester.core.ends import OVER_QUEUE, OVER_TOTAL
from requester.core.fold import fold, fold_events, told_in
from requester.core.model import ExecutionRecord, HistoryItem, JobRecord
from requester.core.snapshots import follows

S = ExecutionState

SUBMISSION: Final = "Submission"
STATE: Final = "State Update"
SCHEDULING: Final = "Scheduling"
QUEUEING: Final = "Queueing"
EXECUTION_TIMEOUT: Final = "Exec Timeout"
JOB_TIMEOUT: Final = "Job Timeout"
SCANNING: Final = "Exec Scanning"

STAGES: Final = {
    S.ASSIGNED: SCANNING,
    S.STAGING: "Downloading Inputs",
    S.RUNNING: "Running Execution",
    S.PUBLISHING: "Publishing Results",
    S.COMPLETED: "Execution",
    S.REFUSED: SCANNING,
    S.FAILED: "Execution",
    S.CANCELLED: "Execution",
    S.LOST: SCHEDULING,
}
_STAGE_MESSAGES: Final = {
    S.STAGING: "Preparing inputs and program",
    S.RUNNING: "Running",
    S.PUBLISHING: "Publishing results",
    S.COMPLETED: "Completed successfully",
    S.REFUSED: "Refused by the node",
    S.FAILED: "Failed",
    S.CANCELLED: "Cancelled",
}
_STATE_NAMES: Final = {
    JobState.COMPLETED: "Completed",
    JobState.FAILED: "Failed",
    JobState.STOPPED: "Stopped",
}

_Told = Submitted | Queued | Assigned | StopRequested | Reported | Cancelled | Lost | Closed
Line = tuple[str, str, str, float, dict[str, str]]
"""Execution id (empty: the job), topic, message, time, details."""


def items(before: JobRecord | None, entry: Entry, seq: int) -> list[HistoryItem]:
    """The lines of one entry. Events that change nothing leave no line, nor does a snapshot of what was told before."""
    if entry.snapshot is not None:
        return []
    after = fold(before, entry, seq)
    if after is None or after is before:
        return []
    record = before if before is not None and before.id == entry.job else None
    found: list[HistoryItem] = []
    for event in entry.events:
        if isinstance(event, Deleted):
            continue
        changed = fold_events(record, [event], job=entry.job, at=entry.at, seq=seq)
        if changed is None:
            continue
        for execution, topic, message, at, details in _lines(record, changed, event, entry.at):
            index = len(found)
            found.append(
                HistoryItem(seq, index, changed.id, changed.version, at, topic, message, execution, details)
            )
        record = changed
    return found


def of_log(entries: Iterable[tuple[int, Entry]]) -> Iterator[tuple[JobRecord | None, list[HistoryItem]]]:
    """The record after each entry of a job's log, in order, with that entry's lines."""
    record: JobRecord | None = None
    for seq, entry in entries:
        if entry.snapshot is not None and (record is None or not follows(record, entry.snapshot)):
            yield from _of_snapshot(record, entry, seq, entry.snapshot)
        lines = items(record, entry, seq)
        record = fold(record, entry, seq)
        yield record, lines


def _of_snapshot(
    record: JobRecord | None, entry: Entry, seq: int, snapshot: Snapshot
) -> Iterator[tuple[JobRecord | None, list[HistoryItem]]]:
    """What a snapshot tells that is behind the record, where entries in between have gone unread; last, that they have.

    There is a record for who was away while they were taken out of the log.
    """
    behind = record.revision if record is not None else 0
    forgotten = snapshot.forgotten if record is None else 0
    unread = [each for each in told_in(entry, snapshot) if each.seq > behind]
    for moment, told in groupby(unread, key=lambda each: (each.seq, each.at)):
        at, events = moment[1], [each.event for each in told]
        part = Entry(entry.job, entry.op, entry.by, at, events)
        lines = items(record, part, moment[0])
        record = fold(record, part, moment[0])
        yield record, lines
    if record is not None:
        left_out = f": {forgotten:,} executions are left out" if forgotten else ""
        text = f"History up to here is kept in part{left_out}"
        yield record, [HistoryItem(seq, 0, record.id, record.version, entry.at, STATE, text)]


def _lines(before: JobRecord | None, after: JobRecord, event: _Told, at: float) -> Iterator[Line]:
    if isinstance(event, Submitted):
        yield "", SUBMISSION, _submission(event, first=before is None), at, {}
    elif isinstance(event, StopRequested):
        yield "", STATE, "Job stop requested" + (f": {event.reason}" if event.reason else ""), at, {}
    elif isinstance(event, Queued):
        yield "", QUEUEING, f"Job queued. {event.reason.message}", at, _details(event.reason, error=False)
    elif isinstance(event, Closed):
        if before is not None and not before.closed:
            yield _closed(event, at)
    else:
        yield from _of_execution(before, after, event, at)


def _submission(event: Submitted, *, first: bool) -> str:
    if event.rerun_of:
        return f"Job rerun requested (version {event.rerun_of})" + (
            f": {event.reason}" if event.reason else ""
        )
    return "Job submitted" if first else "Job updated"


def _closed(event: Closed, at: float) -> Line:
    details = {"NewState": _STATE_NAMES.get(event.state, event.state)}
    if event.state is JobState.COMPLETED:
        message = "Completed successfully" + (f", {event.message}" if event.message else "")
        return "", STATE, message, at, details
    if event.state is JobState.STOPPED:
        message = "Job stopped" + (f": {event.message}" if event.message else "")
        return "", STATE, message, at, details
    topic = STATE
    if event.failure is not None:
        details = {**details, **_details(event.failure)}
        if event.failure.code == OVER_TOTAL:
            topic = JOB_TIMEOUT
        elif event.failure.code.startswith((NO_SUITABLE_NODE, OVER_QUEUE)):
            topic = SCHEDULING
    return "", topic, event.message or "Failed", at, details


def _of_execution(
    before: JobRecord | None, after: JobRecord, event: Assigned | Reported | Cancelled | Lost, at: float
) -> Iterator[Line]:
    id_ = event.report.execution if isinstance(event, Reported) else event.execution
    execution = after.executions.get(id_)
    earlier = before.executions.get(id_) if before is not None else None
    if execution is None or execution == earlier:
        return
    if isinstance(event, Assigned):
        details = {"NodeID": event.node, "NewState": "New"}
        yield id_, SCHEDULING, f"Requested execution on {short(event.node)}", at, details
        if before is not None and before.state in (JobState.PENDING, JobState.QUEUED):
            yield "", STATE, "Running", at, {"NewState": "Running"}
    elif isinstance(event, Reported):
        yield from _reported(event.report, earlier, execution, at)
    else:
        topic = EXECUTION_TIMEOUT if event.failure.code == OVER_TIME else SCHEDULING
        error = isinstance(event, Lost) or topic is EXECUTION_TIMEOUT
        yield id_, topic, event.failure.message, at, _details(event.failure, error=error)


def _reported(
    report: Report, earlier: ExecutionRecord | None, execution: ExecutionRecord, at: float
) -> Iterator[Line]:
    """A line for each stage that earlier reports had not told, the end last."""
    told = len(earlier.stages) if earlier is not None else 0
    topic = SCANNING
    for number, stage in enumerate(report.stages):
        if stage.state in ENDS:
            continue
        topic = STAGES[stage.state]
        # The node's word that it has the order repeats what the assignment said.
        if number >= told and (stage.state is not S.ASSIGNED or stage.message):
            yield (
                execution.id,
                topic,
                stage.message or _STAGE_MESSAGES.get(stage.state, stage.state),
                stage.at,
                {},
            )
    if execution.state not in ENDS:
        return
    ended = next((stage for stage in reversed(report.stages) if stage.state is execution.state), None)
    when = ended.at if ended is not None else at
    if execution.failure is not None:
        if execution.failure.code == OVER_TIME:
            topic = EXECUTION_TIMEOUT
        details = {**_details(execution.failure), "FailsExecution": "true"}
        yield execution.id, topic, execution.failure.message, when, details
    else:
        message = (ended.message if ended is not None else "") or _STAGE_MESSAGES[execution.state]
        yield execution.id, STAGES[execution.state], message, when, {}


def _details(failure: Failure, *, error: bool = True) -> dict[str, str]:
    details = {"ErrorCode": failure.code} if failure.code else {}
    if error:
        details["IsError"] = "true"
    if failure.hint:
        details["Hint"] = failure.hint
    if failure.retryable:
        details["Retryable"] = "true"
    return {**failure.details, **details}
