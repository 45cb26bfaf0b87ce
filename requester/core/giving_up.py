"""Which open executions must not go on, and why.

Knows: older versions, lost, rejected and drained nodes, and the time one execution may take. Must not know: what comes
after; what is replaced a few at a time is the business of `rolling`.
"""

from typing import Final

from msgspec import UnsetType

from protocol.entries import Cancelled, Event, Lost
from protocol.errors import OVER_TIME, Failure
from protocol.ids import ExecutionId, NodeId, short
from protocol.jobs import LONG_RUNNING, Job
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.policy import NODE_DRAINED, NODE_REJECTED, Policy
from requester.core.view import View

NODE_LOST: Final = "Unavailable.NodeLost"
NODE_FORGOT: Final = "Unavailable.NodeForgot"
SUPERSEDED: Final = Failure(code="Conflict.Superseded", message="Execution stopped for job update")
REJECTED: Final = Failure(
    code=NODE_REJECTED,
    message="Execution stop requested because node has been rejected",
    retryable=True,
)
DRAINED: Final = Failure(
    code=NODE_DRAINED,
    message="Execution stop requested because node is being drained",
    retryable=True,
)


def given_up(record: JobRecord, view: View, now: float, policy: Policy) -> list[Event]:
    """Open executions that must not go on, whatever comes after."""
    events: list[Event] = []
    if not record.executions:
        return events
    limit = _execution_limit_s(record)
    lost_after_s = lost_after(record.spec)
    nodes: dict[NodeId, Failure | None] = {}
    for execution in record.open():
        node = execution.node
        if node not in nodes:
            nodes[node] = _why_left(node, view, now, lost_after_s)
        failure = nodes[node]
        if execution.version != record.version and not _rolls(record, execution):
            events.append(Cancelled(execution.id, SUPERSEDED))
        elif failure is not None:
            lost = failure.code == NODE_LOST
            events.append(Lost(execution.id, node, failure) if lost else Cancelled(execution.id, failure))
        elif limit and now >= view.running_since.get(execution.id, now) + limit + policy.execution_grace_s:
            events.append(Cancelled(execution.id, too_long("Execution", limit, OVER_TIME)))
    return events


def done_with(execution: ExecutionId, node: NodeId) -> Lost:
    """What becomes of an open execution with which its node is done: its end was told, or the execution was ended, and the
    log has nothing of that. No order brings it back."""
    failure = Failure(
        code=NODE_FORGOT,
        message=f"Execution given up because node {short(node)} is done with it and the log does not know how it ended",
        hint="It was run; the log may have lost entries that it had acknowledged.",
        retryable=True,
    )
    return Lost(execution, node, failure)


def _why_left(node: NodeId, view: View, now: float, lost_after_s: float) -> Failure | None:
    """Why nothing may stay on a node, or None."""
    silent_s = view.gone.get(node)
    if silent_s is not None and silent_s >= lost_after_s:
        return _lost(node, silent_s)
    return taken_out(node, view, now)


def taken_out(node: NodeId, view: View, now: float) -> Failure | None:
    """Why people want nothing to stay on a node, or None."""
    if view.fleet.rejected(node):
        return REJECTED
    drain_by = view.fleet.drain_by(node)
    return DRAINED if drain_by is not None and now >= drain_by else None


def lost_after(spec: Job) -> float:
    """The silence in seconds that a job bears beyond the requester's own limit, or 0."""
    return 0.0 if isinstance(spec.disconnect, UnsetType) else spec.disconnect.lost_after


def _rolls(record: JobRecord, execution: ExecutionRecord) -> bool:
    """Whether an execution of an older version goes on until it is replaced."""
    spec = record.spec
    return spec.type == "daemon" or (spec.type == "service" and execution.partition < spec.count)


def _execution_limit_s(record: JobRecord) -> int:
    """The time one execution may run, 0 for none."""
    timeouts = record.spec.task.timeouts
    return 0 if record.spec.type in LONG_RUNNING else timeouts.execution_timeout


def _lost(node: NodeId, silent_s: float) -> Failure:
    return Failure(
        code=NODE_LOST,
        message=f"Execution stop requested because node has disappeared: {short(node)} silent for {silent_s:.0f} s",
        retryable=True,
    )


def too_long(what: str, limit_s: int, code: str) -> Failure:
    """Why something that passed its limit is ended."""
    return Failure(
        code=code,
        message=f"{what} timed out. {what} took longer than {limit_s}s",
        hint="Try increasing the task timeout or allocating more resources",
    )
