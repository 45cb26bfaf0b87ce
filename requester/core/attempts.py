"""What a version's attempts add up to, partition by partition (or node by node).

Knows: how to read the executions of a job's present version. Must not know: what is decided from it (`step`), or nodes.
"""

from collections.abc import Iterable

from protocol.errors import Failure
from protocol.ids import NodeId
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.policy import Policy, backoff_s

LONG_RUNNING = frozenset({"service", "daemon"})
EVERYWHERE = frozenset({"ops", "daemon"})
"""Job types that run once on each node that fits, instead of in partitions."""

NODE_REJECTED = "Unavailable.NodeRejected"
"""Cancelled because a person sent the node away: no failure of the job."""

_FAILURES = frozenset({ExecutionState.FAILED, ExecutionState.CANCELLED})


class Attempts:
    """The attempts at one partition (or on one node): how many, how they ended, whether one is open or has succeeded.

    `failures` counts ends that were the work's own fault and would count against its limit; `streak` the newest ends in a
    row that came too soon, for work that is restarted whenever it ends.
    """

    __slots__ = ("completed", "count", "failures", "last", "open", "streak")

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0
        self.streak = 0
        self.open: ExecutionRecord | None = None
        self.completed: ExecutionRecord | None = None
        self.last: ExecutionRecord | None = None

    def add(self, execution: ExecutionRecord, policy: Policy) -> None:
        """Take the next attempt, in the order of assignment."""
        self.count += 1
        self.last = execution
        if execution.open:
            self.open = execution
            return
        if execution.state is ExecutionState.COMPLETED:
            self.completed = execution
        elif execution.state in _FAILURES and not _sent_away(execution.failure):
            self.failures += 1
        short_lived = execution.modified_at - execution.created_at < policy.restart_backoff_max_s
        self.streak = self.streak + 1 if short_lived else 0

    def ready_at(self, policy: Policy, *, restarts: bool) -> float:
        """When the next attempt may begin, in unix seconds: after a rest, unless the last one was lost or refused."""
        last = self.last
        if (
            last is None
            or last.state in (ExecutionState.LOST, ExecutionState.REFUSED)
            or _sent_away(last.failure)
        ):
            return 0.0
        rest = backoff_s(policy, self.streak if restarts else self.failures, restarts=restarts)
        return last.modified_at + rest


def by_partition(record: JobRecord, policy: Policy) -> dict[int, Attempts]:
    """The attempts of the present version by partition; partitions without any are absent."""
    found: dict[int, Attempts] = {}
    for execution in record.executions.values():
        if execution.version == record.version:
            attempts = found.get(execution.partition)
            if attempts is None:
                attempts = found[execution.partition] = Attempts()
            attempts.add(execution, policy)
    return found


def by_node(record: JobRecord, policy: Policy) -> dict[NodeId, Attempts]:
    """The attempts of the present version by node."""
    found: dict[NodeId, Attempts] = {}
    for execution in record.executions.values():
        if execution.version == record.version:
            found.setdefault(execution.node, Attempts()).add(execution, policy)
    return found


def failures_by_node(executions: Iterable[ExecutionRecord]) -> dict[NodeId, int]:
    """How often each node has failed or lost one of these executions."""
    counts: dict[NodeId, int] = {}
    for execution in executions:
        if execution.state in (ExecutionState.FAILED, ExecutionState.LOST, ExecutionState.CANCELLED):
            counts[execution.node] = counts.get(execution.node, 0) + 1
    return counts


def refusals(executions: Iterable[ExecutionRecord]) -> dict[NodeId, str]:
    """The nodes that have refused one of these executions for a lasting reason, with the reason."""
    return {
        execution.node: "refused: " + (execution.failure.message if execution.failure else "no reason given")
        for execution in executions
        if execution.state is ExecutionState.REFUSED
    }


def _sent_away(failure: Failure | None) -> bool:
    return failure is not None and failure.code == NODE_REJECTED
