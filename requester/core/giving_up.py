"""Which open executions must not go on, and why.

Knows: older versions, lost, rejected and drained nodes, and the time one execution may take. Must not know: what comes
after; what is replaced a few at a time is the business of `rolling`.
"""

from msgspec import UnsetType

from protocol.entries import Cancelled, Event, Lost
from protocol.errors import Failure
from protocol.ids import NodeId, short
from protocol.jobs import Job
from requester.core.model import LONG_RUNNING, ExecutionRecord, JobRecord
from requester.core.policy import NODE_DRAINED, NODE_REJECTED, OVER_TIME, Policy
from requester.core.view import View

SUPERSEDED = Failure(code="Conflict.Superseded", message="Execution stopped for job update")
REJECTED = Failure(
    code=NODE_REJECTED,
    message="Execution stop requested because node has been rejected",
    retryable=True,
)
DRAINED = Failure(
    code=NODE_DRAINED,
    message="Execution stop requested because node is being drained",
    retryable=True,
)


def given_up(record: JobRecord, view: View, now: float, policy: Policy) -> list[Event]:
    """Open executions that must not go on, whatever comes after."""
    events: list[Event] = []
    limit = _execution_limit_s(record)
    lost_after_s = lost_after(record.spec)
    for execution in record.open():
        silent_s = view.gone.get(execution.node)
        drain_by = view.fleet.drain_by(execution.node)
        if execution.version != record.version and not _rolls(record, execution):
            events.append(Cancelled(execution.id, SUPERSEDED))
        elif silent_s is not None and silent_s >= lost_after_s:
            events.append(Lost(execution.id, execution.node, _lost(execution.node, silent_s)))
        elif view.fleet.rejected(execution.node):
            events.append(Cancelled(execution.id, REJECTED))
        elif drain_by is not None and now >= drain_by:
            events.append(Cancelled(execution.id, DRAINED))
        elif limit and now >= view.running_since.get(execution.id, now) + limit + policy.execution_grace_s:
            events.append(Cancelled(execution.id, too_long("Execution", limit, OVER_TIME)))
    return events


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
        code="Unavailable.NodeLost",
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
