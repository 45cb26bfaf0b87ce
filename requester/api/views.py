"""How jobs, their executions and their history look over REST: Bacalhau's field names, state names and numbers.

Knows: the translation, as plain functions from records to JSON-ready objects. Must not know: HTTP, where records come from,
or nodes (`node_views`). Sources of the forms: the reference of the peer's API, sections 2.2, 2.3, 2.5 and 3.

Fields that Bacalhau does not have (``Attempt``, ``Stages``, ``Failure``, ``Inputs``, ``State``, …) are added beside its own:
its clients ignore what they do not know.
"""

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import msgspec

from protocol.errors import Failure
from protocol.ids import short, uuid4_text
from protocol.jobs import EVERYWHERE, Spec
from protocol.messages import InputRead, Progress, Written
from protocol.states import ExecutionState, JobState
from requester.core.model import ExecutionRecord, HistoryItem, JobRecord
from requester.verbs import QueuePlace

Json = dict[str, Any]

JOB_STATES: Final = {
    JobState.PENDING: "Pending",
    JobState.QUEUED: "Queued",
    JobState.RUNNING: "Running",
    JobState.COMPLETED: "Completed",
    JobState.FAILED: "Failed",
    JobState.STOPPED: "Stopped",
}

EXECUTION_STATES: Final = {
    ExecutionState.ASSIGNED: 5,
    ExecutionState.STAGING: 5,
    ExecutionState.RUNNING: 6,
    ExecutionState.PUBLISHING: 7,
    ExecutionState.COMPLETED: 9,
    ExecutionState.REFUSED: 4,
    ExecutionState.FAILED: 10,
    ExecutionState.CANCELLED: 11,
    ExecutionState.LOST: 10,
}
"""Bacalhau's numbers: 4 AskForBidRejected, 5 BidAccepted, 6 Running, 7 Publishing, 9 Completed, 10 Failed, 11 Cancelled."""

DESIRED_RUNNING: Final = 1
DESIRED_STOPPED: Final = 2


def nanoseconds(at: float) -> int:
    """Unix seconds as Bacalhau's CreateTime and ModifyTime."""
    return round(at * 1e6) * 1000


def timestamp(at: float) -> str:
    """Unix seconds as RFC 3339 in UTC with microseconds; the zero moment as Go prints its zero time."""
    if at <= 0:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def evaluation_id(job: str, version: int, revision: int) -> str:
    """Bacalhau's clients want an evaluation's id; ours follows from what was decided about."""
    digest = blake2b(f"{job}/{version}/{revision}".encode(), digest_size=16)
    return uuid4_text(digest.hexdigest())


def spec(value: Spec) -> Json:
    """A driver's spec; Params are left out when empty, as Bacalhau does."""
    return {"Type": value.type, "Params": value.params} if value.params else {"Type": value.type}


def result(record: ExecutionRecord, shown: Spec) -> Json:
    """A published result as it is shown; which execution it is of, and what it holds in all, stand beside what Bacalhau's
    clients read."""
    view = {**spec(shown), "ExecutionID": record.id}
    if wrote := record.written:
        view["Written"] = {"Count": wrote.count, "Size": wrote.size_bytes, "SHA256": wrote.sha256}
    return view


def failure(value: Failure) -> Json:
    """A failure as an object beside Bacalhau's own message strings."""
    return {
        "Code": value.code,
        "Message": value.message,
        "Hint": value.hint,
        "Retryable": value.retryable,
        "Details": value.details,
    }


def job(record: JobRecord) -> Json:
    """A job: its spec, and what became of it."""
    view: Json = {"ID": record.id, **msgspec.to_builtins(record.spec)}
    message = record.message
    if record.state is JobState.QUEUED and record.queued is not None:
        message = record.queued.message
    view |= {
        "State": {"StateType": JOB_STATES[record.state], "Message": message, "Details": _job_details(record)},
        "Version": record.version,
        "Revision": record.revision,
        "CreateTime": nanoseconds(record.created_at),
        "ModifyTime": nanoseconds(record.modified_at),
        "SubmitTime": nanoseconds(record.submitted_at),
    }
    cause = record.failure or record.queued
    if cause is not None:
        view["Failure"] = failure(cause)
    return view


def queue_place(place: QueuePlace) -> Json:
    """Where a job stands in the queue."""
    view: Json = {"Ahead": place.ahead, "Waiting": place.waiting, "Since": timestamp(place.since)}
    if place.kept is not None:
        view["KeptNode"] = place.kept
    return view


def execution(record: ExecutionRecord, job: JobRecord) -> Json:
    """One execution of a job, with the numbers of Bacalhau's states and our own name in ``State``.

    ``Name`` is empty in Bacalhau; here it says which attempt at what this is: at a partition, or on a node.
    """
    place = record.node if job.spec.type in EVERYWHERE else record.partition
    message = (
        record.failure.message if record.failure else (record.stages[-1].message if record.stages else "")
    )
    view: Json = {
        "ID": record.id,
        "Namespace": job.spec.namespace,
        "EvalID": evaluation_id(record.job, record.version, record.ordered),
        "Name": f"{short(record.job)}.{place}.{record.attempt}",
        "NodeID": record.node,
        "JobID": record.job,
        "JobVersion": record.version,
        "AllocatedResources": {"Tasks": {job.spec.task.name: msgspec.to_builtins(record.amounts)}},
        "DesiredState": {
            "StateType": DESIRED_RUNNING if record.open else DESIRED_STOPPED,
            "Message": record.why,
        },
        "ComputeState": {
            "StateType": EXECUTION_STATES[record.state],
            "Message": message,
            "Details": _failure_details(record.failure),
        },
        "PublishedResult": spec(record.result) if record.result else {"Type": ""},
        "RunOutput": msgspec.to_builtins(record.output) if record.output else None,
        "PreviousExecution": "",
        "NextExecution": "",
        "FollowupEvalID": "",
        "PartitionIndex": record.partition,
        "Revision": record.revision,
        "CreateTime": nanoseconds(record.created_at),
        "ModifyTime": nanoseconds(record.modified_at),
        "State": record.state.value,
        "Attempt": record.attempt,
        "Stages": [
            {"State": stage.state.value, "Time": timestamp(stage.at), "Message": stage.message}
            for stage in record.stages
        ],
        "Inputs": [_input_read(each) for each in record.inputs],
    }
    if record.written is not None:
        view["Written"] = written(record.written)
    if record.ports:
        view["Ports"] = record.ports
    if record.failure is not None:
        view["Failure"] = failure(record.failure)
    return view


def _input_read(read: InputRead) -> Json:
    return {
        "Target": read.target,
        "Type": read.type,
        "Identity": read.identity,
        "Size": read.size_bytes,
        "Cached": read.cached,
    }


def history_item(item: HistoryItem) -> Json:
    """One line of history. Details are left out when empty."""
    event: Json = {"Message": item.message, "Topic": item.topic, "Timestamp": timestamp(item.at)}
    if item.details:
        event["Details"] = item.details
    view: Json = {
        "SeqNum": item.seq,
        "Type": "ExecutionLevel" if item.execution else "JobLevel",
        "JobID": item.job,
        "JobVersion": item.version,
        "Event": event,
        "Time": timestamp(item.at),
    }
    if item.execution:
        view["ExecutionID"] = item.execution
    return view


def history_item_of_1_4(item: HistoryItem) -> Json:
    """One line of history for a client of 1.4: that looks, without asking whether it is there, into a change of state that
    later versions have not. An empty one, as the peer's later servers send it.
    """
    return history_item(item) | {"ExecutionState" if item.execution else "JobState": {}}


def progress(value: Progress) -> Json:
    """What an execution is busy with."""
    return {
        "ExecutionID": value.execution,
        "NodeID": value.node,
        "State": value.state.value,
        "What": value.what,
        "Done": value.done_bytes,
        "Total": value.total_bytes,
    }


def written(value: Written) -> Json:
    """What an execution wrote, file by file as far as the record names them."""
    return {
        "Count": value.count,
        "Size": value.size_bytes,
        "SHA256": value.sha256,
        "Files": [
            {"Path": each.path, "Size": each.size_bytes, "SHA256": each.sha256} for each in value.files
        ],
        "Others": value.others,
        "Links": [{"Path": each.path, "Target": each.target} for each in value.links],
        "Folders": value.folders,
    }


def _job_details(record: JobRecord) -> dict[str, str]:
    return _failure_details(record.failure or record.queued)


def _failure_details(value: Failure | None) -> dict[str, str]:
    """Bacalhau's Details: all values strings."""
    if value is None:
        return {}
    details = {"IsError": "true", "ErrorCode": value.code, "Retryable": str(value.retryable).lower()}
    if value.hint:
        details["Hint"] = value.hint
    return {**value.details, **details}
