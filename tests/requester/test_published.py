"""Which published results count."""

from msgspec.structs import replace

from protocol.ids import NodeId, execution_id, job_id, job_key
from protocol.jobs import Amounts, Job, Spec
from protocol.states import ExecutionState, JobState
from requester.core.model import ExecutionRecord, JobRecord

KEY = job_key("default", "published")
JOB = job_id(KEY, 1)
S = ExecutionState


def attempt(
    partition: int, number: int, state: ExecutionState, *, node: str = "n1", type: str = "ipfs"
) -> ExecutionRecord:
    """An attempt that has published, unless `type` is empty."""
    execution = execution_id(JOB, 1, partition, number)
    made = ExecutionRecord(execution, JOB, 1, partition, number, NodeId(node), Amounts(), state, 0, 0, 1, 1)
    return replace(made, result=Spec(type, {"CID": f"{partition}.{number}"}))


def counted(*attempts: ExecutionRecord, type: str = "batch") -> list[ExecutionRecord]:
    """What counts of a job with these attempts, in this order."""
    record = JobRecord(JOB, KEY, Job(name="published", type=type), 1, JobState.FAILED, 0, 0, 0, 1)
    return replace(record, executions={each.id: each for each in attempts}).published()


def test_the_completed_attempt_counts() -> None:
    """Of a partition's attempts the completed one's result counts, also when another one's came later."""
    completed, late = attempt(0, 1, S.COMPLETED), attempt(0, 2, S.FAILED)
    assert counted(completed, late) == [completed]


def test_else_the_newest_counts() -> None:
    """Where no attempt completed, what the newest failed program wrote can be had."""
    first, second = attempt(0, 1, S.FAILED), attempt(0, 2, S.FAILED)
    assert counted(first, second) == [second]


def test_in_the_order_of_partitions() -> None:
    """One result for each partition that published one, in their order."""
    second, first, none = (
        attempt(1, 1, S.COMPLETED),
        attempt(0, 1, S.COMPLETED),
        attempt(2, 1, S.COMPLETED, type=""),
    )
    assert counted(second, first, none) == [first, second]


def test_every_node_of_an_ops_job_counts() -> None:
    """An ops job has one partition and a result from each of its nodes."""
    here, there = attempt(0, 1, S.COMPLETED, node="n1"), attempt(0, 2, S.COMPLETED, node="n2")
    assert counted(here, there, type="ops") == [here, there]
