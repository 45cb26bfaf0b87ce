"""What a requester tells of its jobs: one by any reference, lists, histories."""

from pathlib import Path

import pytest

from protocol.errors import Conflict, Failure, Invalid, NotFound
from protocol.jobs import Retry
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.lookup import MANY
from requester.read_queries import FOUND_MAX
from requester.verbs import HistoryQuery, JobQuery
from tests.requester.cluster import a_cluster, a_job, closed, hold, submit, until


async def test_references(tmp_path: Path) -> None:
    """A job is found by name, by id and by the beginning of its id; an ambiguous one names its candidates, or the first of
    them."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node()
        job = await submit(service, a_job("named"))
        other = await submit(service, a_job("named", namespace="elsewhere"))

        assert {(await service.job(ref)).id for ref in ("named", job, job[:10])} == {job}
        assert (await service.job("named", namespace="elsewhere")).id == other
        with pytest.raises(NotFound):
            await service.job("nobody")
        with pytest.raises(Conflict) as ambiguous:
            await service.job("j-")
        assert set(ambiguous.value.details) == {job, other}
        assert ambiguous.value.message == "j- could be any of 2 jobs"
        for number in range(FOUND_MAX):
            await submit(service, a_job(f"another-{number}"))
        with pytest.raises(Conflict, match="any of 20 or more jobs"):
            await service.job("j-")


async def test_lists(tmp_path: Path) -> None:
    """Lists show what was just submitted, filtered by namespace, labels and state, in pages."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node(script=hold)
        for number in range(5):
            await submit(service, a_job(f"job-{number}", cpu="100m", labels={"odd": str(number % 2)}))
        await submit(service, a_job("other", cpu="100m", namespace="elsewhere"))

        async def names(**query: object) -> tuple[list[str], bool]:
            records, more = await service.jobs(JobQuery(**query))  # type: ignore[arg-type]
            return [record.spec.name for record in records], more

        assert await names(limit=2) == (["job-0", "job-1"], True)
        assert await names(limit=2, offset=4) == (["job-4", "other"], False)
        assert await names(reverse=True, limit=1) == (["other"], True)
        assert await names(namespace="elsewhere") == (["other"], False)
        assert await names(labels=["odd=1"]) == (["job-1", "job-3"], False)
        assert await names(state="completed") == ([], False)
        with pytest.raises(Invalid):
            await names(order_by="nothing")


async def test_history(tmp_path: Path) -> None:
    """A job's history has every step under Bacalhau's topics, in order, and ends when the job has."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node()
        await node.until(lambda node: bool(node.lists))
        job = await submit(service, a_job())
        await closed(service, job)

        page = await service.history(job, HistoryQuery())
        rest = await service.history(job, HistoryQuery(after=(page.items[1].seq, page.items[1].index)))
        only = await service.history(job, HistoryQuery(kind="execution"))

        assert [(item.topic, item.message) for item in page.items] == [
            ("Submission", "Job submitted"),
            ("Scheduling", "Requested execution on n1"),
            ("State Update", "Running"),
            ("Running Execution", "Running"),
            ("Execution", "Completed successfully"),
            ("State Update", "Completed successfully"),
        ]
        assert page.ended
        assert rest.items == page.items[2:]
        assert all(item.execution for item in only.items)


async def test_noted_state(tmp_path: Path) -> None:
    """That an execution runs is visible at once, though it costs no entry in the log."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        await node.until(lambda node: bool(node.lists))
        job = await submit(service, a_job())

        record = await until(
            service, job, lambda record: any(e.state is S.RUNNING for e in record.executions.values())
        )

        assert record.state is JobState.RUNNING
        assert len(cluster.hub.entries) == 1
        assert (await service.nodes())[0].running == 1


async def test_the_newest_of_a_long_history(tmp_path: Path) -> None:
    """What happened last to a job that has been started again very often is told with it, and that there is more; a page
    from the beginning says the same as before."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=lambda _: Failure("ProgramFailed", "exit code 1"))
        quick = Retry(backoff=0.001, backoff_max=0.001)
        job = await submit(service, a_job(type="service", retry=quick))
        await node.until(lambda node: len(node.runs) > MANY // 2)
        await service.stop(job, namespace="", reason="enough", client="test")

        whole = await service.history(job, HistoryQuery(limit=0))
        first = await service.history(job, HistoryQuery(limit=10))
        last = await service.history(job, HistoryQuery(limit=10, newest=True))

        assert len(whole.items) > MANY
        assert (whole.ended, first.ended, last.more) == (True, False, True)
        assert (first.items, last.items) == (whole.items[:10], whole.items[-10:])
        assert last.items[-1].message == "Job stopped: enough"
