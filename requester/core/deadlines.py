"""When a job next needs a look though nothing came in.

Knows: every moment that follows from a job's record alone. Must not know: how anyone waits for it. What follows is decided
by `step` when the moment has come.
"""

from collections.abc import Mapping

from protocol.ids import ExecutionId
from protocol.jobs import EVERYWHERE, LONG_RUNNING
from protocol.states import ExecutionState
from requester.core.attempts import by_node, by_partition, rule_for, serves
from requester.core.model import JobRecord
from requester.core.policy import Policy, healthy_after_s


def next_deadline(
    record: JobRecord, running_since: Mapping[ExecutionId, float], since: float, policy: Policy
) -> float | None:
    """The next moment (unix seconds) at which `step` may find something to do that it did not find at `since`, or None."""
    if record.closed:
        return None
    timeouts = record.spec.task.timeouts
    moments: list[float] = []
    if record.spec.type not in LONG_RUNNING:
        if timeouts.total_timeout:
            moments.append(record.submitted_at + timeouts.total_timeout)
        if timeouts.execution_timeout:
            limit = timeouts.execution_timeout + policy.execution_grace_s
            moments += [
                running_since[execution.id] + limit
                for execution in record.executions.values()
                if execution.open and execution.id in running_since
            ]
    if record.queued is not None and record.queued_at is not None and not serves(record):
        if timeouts.queue_timeout:
            moments.append(record.queued_at + timeouts.queue_timeout)
        elif not record.queued.retryable:
            moments.append(record.queued_at + policy.join_grace_s)
    if record.spec.type in LONG_RUNNING:
        moments += _healthy(record, since, policy)
    if record.executions:
        moments += _rests(record, since, policy)
    return min(moments, default=None)


def next_attempt(record: JobRecord, now: float, policy: Policy) -> float | None:
    """When the rest of a job is over that waits to be tried or started again (unix seconds), or None."""
    return None if record.closed else min(_rests(record, now, policy), default=None)


def _healthy(record: JobRecord, since: float, policy: Policy) -> list[float]:
    """When those that have begun to run count as healthy, and the next may be replaced."""
    after_s = healthy_after_s(record.spec, policy)
    moments = (
        each.modified_at + after_s
        for each in record.executions.values()
        if each.state is ExecutionState.RUNNING and each.version == record.version
    )
    return [moment for moment in moments if moment > since]


def _rests(record: JobRecord, since: float, policy: Policy) -> list[float]:
    """The ends of the rests before next attempts."""
    rule = rule_for(record, policy)
    if not rule.restarts and all(execution.open for execution in record.executions.values()):
        return []
    attempts = by_node(record, rule) if record.spec.type in EVERYWHERE else by_partition(record, rule)
    ready = [each.ready_at(rule) for each in attempts.values() if not each.open and not each.over(rule)]
    return [moment for moment in ready if moment > since]
