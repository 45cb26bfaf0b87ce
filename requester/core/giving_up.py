"""Which open executions must not go on, and why.

Knows: older versions, lost and rejected nodes, and the time one execution may take. Must not know: what comes after.
"""

from protocol.entries import Cancelled, Event, Lost
from protocol.errors import Failure
from protocol.ids import NodeId, short
from requester.core.model import LONG_RUNNING, JobRecord
from requester.core.policy import NODE_REJECTED, OVER_TIME, Policy
from requester.core.view import View


def given_up(record: JobRecord, view: View, now: float, policy: Policy) -> list[Event]:
    """Open executions that must not go on: of an older version, on a lost or rejected node, or over their time."""
    events: list[Event] = []
    limit = _execution_limit_s(record)
    for execution in record.open():
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
            events.append(Cancelled(execution.id, too_long("Execution", limit, OVER_TIME)))
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


def too_long(what: str, limit_s: int, code: str) -> Failure:
    """Why something that passed its limit is ended."""
    return Failure(
        code=code,
        message=f"{what} timed out. {what} took longer than {limit_s}s",
        hint="Try increasing the task timeout or allocating more resources",
    )
