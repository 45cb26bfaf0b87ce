"""What nodes are told: the orders that follow from an entry, and those that a node's beat shows to be missing.

Knows: which command says what of an execution. Must not know: how commands travel. A command is a level, not an edge, so
the same one follows from the entry that ordered it and from any later comparison.
"""

from collections.abc import Iterable, Iterator, Mapping

from protocol.entries import Assigned, Cancelled, Entry
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import LONG_RUNNING
from protocol.messages import Cancel, Run
from protocol.states import ENDS, ExecutionState
from requester.core.model import ExecutionRecord, JobRecord


def run(record: JobRecord, execution: ExecutionRecord) -> Run:
    """The order to run an execution as its version asked for, complete. A job's total time bounds its executions if nothing
    else does."""
    spec = record.spec_of(execution)
    timeouts = spec.task.timeouts
    limit = 0 if spec.type in LONG_RUNNING else timeouts.execution_timeout or timeouts.total_timeout
    return Run(
        seq=execution.ordered,
        node=execution.node,
        job=record.id,
        job_name=spec.name,
        namespace=spec.namespace,
        job_type=spec.type,
        version=execution.version,
        execution=execution.id,
        partition=execution.partition,
        partitions=execution.partitions or max(spec.count, 1),
        attempt=execution.attempt,
        task=spec.task,
        amounts=execution.amounts,
        priority=spec.priority,
        execution_timeout_s=limit,
        ordered_at=execution.created_at,
    )


def orders(record: JobRecord, entry: Entry, seq: int) -> Iterator[tuple[NodeId, Run | Cancel]]:
    """What an entry that has just been folded into `record` orders. A lost node is told when it comes back."""
    for event in entry.events:
        if isinstance(event, Assigned):
            execution = record.executions.get(event.execution)
            if execution is not None and execution.ordered == seq and execution.open:
                yield execution.node, run(record, execution)
        elif isinstance(event, Cancelled):
            execution = record.executions.get(event.execution)
            if execution is not None and execution.revision == seq:
                reason = event.failure.message
                yield execution.node, Cancel(seq, execution.node, execution.id, reason)


def missing(held: Iterable[ExecutionId], reported: Mapping[ExecutionId, ExecutionState]) -> list[ExecutionId]:
    """Executions that are promised on a node and that its beat does not name."""
    return [execution for execution in held if execution not in reported]


def extra(
    held: Mapping[ExecutionId, object], reported: Mapping[ExecutionId, ExecutionState]
) -> list[ExecutionId]:
    """Executions that a node goes on with though they are not, or no longer, promised there."""
    return [execution for execution, state in reported.items() if execution not in held and state not in ENDS]
