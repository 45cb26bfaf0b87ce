"""One requester: jobs from submission to their end."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.errors import Conflict, Exhausted, Failure, NotFound
from protocol.jobs import Retry, Spec, Timeouts
from protocol.messages import Run
from protocol.states import ExecutionState as S
from protocol.states import JobState
from tests.requester.cluster import BUSY, QUICK, a_cluster, a_job, closed, happens, hold, submit, until


async def test_one_job(tmp_path: Path) -> None:
    """A job that finds room is assigned, run and closed, with its result and the beginning of its output."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node()
        await node.until(lambda node: bool(node.lists))

        job = await submit(service, a_job())
        record = await closed(service, job)

        assert record.state is JobState.COMPLETED
        (execution,) = record.executions.values()
        assert (execution.state, execution.node, execution.attempt) == (S.COMPLETED, "n1", 1)
        assert execution.output is not None
        assert execution.output.stdout == "hello\n"
        assert [each.result for each in await service.results(job)] == [Spec("ipfs", {"CID": "cid-0"})]
        assert len(cluster.hub.entries) == 2


async def test_five_hundred_jobs(tmp_path: Path) -> None:
    """Five hundred jobs at once all complete, each run once, on nodes that never hold more than they can."""
    most = Counter[str]()

    async with a_cluster(tmp_path, settings=BUSY) as cluster:
        service = await cluster.requester()
        nodes = [await cluster.node(f"n{number}", cores=8) for number in range(3)]

        def measured(run: Run) -> S:
            node = next(node for node in nodes if node.id == run.node)
            most[node.id] = max(most[node.id], 1 + len([s for s in node.states.values() if s is S.RUNNING]))
            return S.COMPLETED

        for node in nodes:
            node.script = measured
        async with asyncio.timeout(60):
            jobs = await asyncio.gather(*(submit(service, a_job()) for _ in range(500)))
            records = await asyncio.gather(*(closed(service, job) for job in jobs))

        assert {record.state for record in records} == {JobState.COMPLETED}
        assert sum(len(node.runs) for node in nodes) == 500
        assert max(most.values()) <= 8
        assert len(set(jobs)) == 500


async def test_partitions(tmp_path: Path) -> None:
    """A job with a Count runs each partition once; several share a node when there are more partitions than nodes."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        nodes = [await cluster.node(f"n{number}", cores=2) for number in range(2)]

        job = await submit(service, a_job(count=10))
        record = await closed(service, job)

        assert record.state is JobState.COMPLETED
        assert sorted(run.partition for node in nodes for run in node.runs) == list(range(10))
        assert len(await service.results(job)) == 10


async def test_a_count_beyond_one_entry(tmp_path: Path) -> None:
    """A Count too large for one entry is assigned over several, and stopped over several."""
    async with a_cluster(tmp_path, settings=BUSY) as cluster:
        service = await cluster.requester()
        node = await cluster.node(cores=1_000, script=hold)

        job = await submit(service, a_job(count=350))
        await node.until(lambda node: len(node.runs) == 350)
        record = await service.stop(job, namespace="", reason="enough", client="test")

        assert record.state is JobState.STOPPED
        assert {execution.state for execution in record.executions.values()} == {S.CANCELLED}
        await node.until(lambda node: len(set(node.cancelled)) == 350)


@pytest.mark.parametrize("earlier", [False, True])
async def test_commands_together(tmp_path: Path, earlier: bool) -> None:
    """What one entry orders of a node reaches it at once, also one of an earlier version that takes each alone."""
    async with a_cluster(tmp_path, settings=BUSY) as cluster:
        service = await cluster.requester()
        node = await cluster.node(cores=100)
        node.earlier = earlier
        record = await closed(service, await submit(service, a_job(count=40)))

        assert record.state is JobState.COMPLETED
        assert [run.partition for run in node.runs] == list(range(40))


async def test_program_failed(tmp_path: Path) -> None:
    """A program that exits with another code than 0 fails its job at once, with that failure as the headline."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=lambda _: Failure("ProgramFailed", "the program exited with code 3"))

        record = await closed(service, await submit(service, a_job()))

        assert record.state is JobState.FAILED
        assert record.failure is not None
        assert (record.failure.code, record.message) == ("ProgramFailed", "the program exited with code 3")
        assert len(node.runs) == 1


async def test_retry_elsewhere(tmp_path: Path) -> None:
    """What the system is to blame for is tried again on another node, and the job completes there."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        ill = Failure("Unavailable.Engine", "the engine is ill", retryable=True)
        tried: list[str] = []

        def once(run: Run) -> S | Failure:
            tried.append(run.node)
            return ill if len(tried) == 1 else S.COMPLETED

        for name in ("n1", "n2"):
            await cluster.node(name, script=once)
        record = await closed(service, await submit(service, a_job()))

        assert record.state is JobState.COMPLETED
        assert len(set(tried)) == 2
        assert [each.attempt for each in record.executions.values()] == [1, 2]


async def test_attempts_end(tmp_path: Path) -> None:
    """A job whose every attempt fails ends after three, and its headline is the last attempt's own failure."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(
            script=lambda _: Failure("Unavailable.Source", "S3 is down", retryable=True)
        )

        record = await closed(service, await submit(service, a_job()))

        assert record.state is JobState.FAILED
        assert record.failure is not None
        assert record.failure.message == "S3 is down"
        assert len(node.runs) == 3


async def test_one_failed_partition_ends_the_others(tmp_path: Path) -> None:
    """When one partition fails for good the job fails, and its other executions are cancelled on their nodes."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()

        def second_fails(run: Run) -> S | Failure:
            return Failure("NotFound.Image", "no such image") if run.partition == 1 else S.RUNNING

        node = await cluster.node(script=second_fails)
        record = await closed(service, await submit(service, a_job(count=3)))

        assert record.state is JobState.FAILED
        assert Counter(each.state for each in record.executions.values()) == {S.FAILED: 1, S.CANCELLED: 2}
        await node.until(lambda node: len(node.cancelled) == 2)


async def test_stop(tmp_path: Path) -> None:
    """A stopped job is closed at once, its execution is cancelled on the node, and stopping again is harmless."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job("to-stop"))
        await node.until(lambda node: bool(node.runs))

        record = await service.stop(job, namespace="", reason="enough", client="test")
        again = await service.stop("to-stop", namespace="", reason="", client="test")

        assert record.state is again.state is JobState.STOPPED
        await node.until(lambda node: node.cancelled == [node.runs[0].execution])


async def test_stop_of_an_ended_job(tmp_path: Path) -> None:
    """Stopping a job that has completed is refused, and says in which state it is."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node()
        job = await submit(service, a_job())
        await closed(service, job)

        with pytest.raises(Conflict, match="cannot stop job in state Completed"):
            await service.stop(job, namespace="", reason="", client="test")


async def test_late_report(tmp_path: Path) -> None:
    """What a node reports after its execution was given up is answered drop, and changes nothing."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))
        before = await service.stop(job, namespace="", reason="", client="test")
        (run,) = node.runs
        await node.until(lambda node: bool(node.cancelled))

        node.finish(run.execution)
        await node.until(lambda node: "drop" in node.verdicts.get(run.execution, []))

        assert await service.job(job) == before


async def test_a_repeated_report(tmp_path: Path) -> None:
    """A report whose answer was lost is answered stored again, so that the node can let go of it."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node()
        job = await submit(service, a_job())
        before = await closed(service, job)
        (run,) = node.runs
        await node.until(lambda node: node.verdicts.get(run.execution) == ["stored"])

        node.finish(run.execution)
        await node.until(lambda node: node.verdicts[run.execution] == ["stored", "stored"])

        assert await service.job(job) == before


async def test_full_cluster(tmp_path: Path) -> None:
    """A full cluster queues and says so; freed room goes to the job of higher priority first, then to the older."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(cores=1, script=hold)
        first = await submit(service, a_job("first"))
        await node.until(lambda node: len(node.runs) == 1)
        for name, priority in (("second", 0), ("third", 0), ("urgent", 5)):
            await submit(service, a_job(name, priority=priority))

        waiting = await service.job("second")
        for number in range(4):
            await node.until(lambda node, number=number: len(node.runs) == number + 1)  # type: ignore[misc]
            node.finish(node.runs[number].execution)
        await closed(service, "third")

        assert waiting.state is JobState.QUEUED
        assert waiting.queued is not None
        assert waiting.queued.code == "Exhausted.NoRoom"
        assert [run.job_name for run in node.runs] == ["first", "urgent", "second", "third"]
        assert first == node.runs[0].job


async def test_no_suitable_node(tmp_path: Path) -> None:
    """A job that no node could ever run fails, with a reason for each node."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node("n1", cores=2)
        await cluster.node("n2", engines=("docker",))

        record = await closed(service, await submit(service, a_job(cpu="3")))

        assert record.state is JobState.FAILED
        assert record.failure is not None
        assert record.failure.code == "NoSuitableNode"
        assert "needs 3 cores, offers 2" in record.failure.details["n1"]
        assert record.failure.details["n2"].startswith("has no engine noop")


async def test_queue_timeout(tmp_path: Path) -> None:
    """With a QueueTimeout a job waits for a node that fits, as long as that says and no longer."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node("n1", cores=1)
        patient = await submit(service, a_job(cpu="2", timeouts=Timeouts(queue_timeout=60)))
        hasty = await submit(service, a_job(cpu="3", timeouts=Timeouts(queue_timeout=1)))
        await until(service, patient, lambda record: record.state is JobState.QUEUED)

        await cluster.node("n2", cores=2)

        assert (await closed(service, patient)).state is JobState.COMPLETED
        record = await closed(service, hasty)
        assert record.state is JobState.FAILED
        assert "queued for longer than 1s" in record.message


async def test_total_timeout(tmp_path: Path) -> None:
    """A job that takes longer than its TotalTimeout fails, and what runs is cancelled."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)

        record = await closed(service, await submit(service, a_job(timeouts=Timeouts(total_timeout=1))))

        assert record.state is JobState.FAILED
        assert record.message == "Job timed out. Job took longer than 1s"
        await node.until(lambda node: bool(node.cancelled))


async def test_new_version(tmp_path: Path) -> None:
    """The same name again is a new version: the old executions are cancelled, and the id stays."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        first = await service.submit(a_job("named"), warnings=[], client="test")
        await node.until(lambda node: len(node.runs) == 1)

        second = await service.submit(a_job("named", cpu="2"), warnings=[], client="test")
        await node.until(lambda node: len(node.runs) == 2)
        node.finish(node.runs[1].execution)
        record = await closed(service, "named")

        assert (first.job, first.version, second.version) == (second.job, 1, 2)
        assert [each.state for each in record.executions.values()] == [S.CANCELLED, S.COMPLETED]
        assert len(await service.executions("named")) == 1
        assert len(await service.executions("named", all_versions=True)) == 2
        assert (await service.job("named", version=1)).spec.task.resources.cpu == "1"


async def test_rerun(tmp_path: Path) -> None:
    """A job is run again as any of its versions was; its time in the queue and in all begins anew."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node(cores=2)
        job = await submit(service, a_job("name", count=2, timeouts=Timeouts(total_timeout=60)))
        first = await closed(service, job)
        await submit(service, a_job("name"))
        await closed(service, job)

        await service.rerun("name", namespace="", version=1, reason="again", client="test")
        record = await closed(service, job)

        assert (record.id, record.version, record.spec) == (first.id, 3, first.spec)
        assert (record.state, len(record.current())) == (JobState.COMPLETED, 2)
        assert record.submitted_at > first.submitted_at == first.created_at
        versions = await service.versions("name")
        assert [(each.version, each.spec.count, each.state) for each in versions] == [
            (1, 2, JobState.COMPLETED),
            (2, 1, JobState.COMPLETED),
            (3, 2, JobState.COMPLETED),
        ]
        assert await service.changes(a_job("name")) != ""
        with pytest.raises(NotFound):
            await service.rerun("name", namespace="", version=7, reason="", client="test")


async def test_unchanged_version(tmp_path: Path) -> None:
    """The same spec under the same name is refused unless it is forced."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node()
        await submit(service, a_job("named"))

        with pytest.raises(Conflict, match="no changes detected"):
            await submit(service, a_job("named"))
        forced = await service.submit(a_job("named"), warnings=[], client="test", force=True)
        assert forced.version == 2


async def test_two_at_once(tmp_path: Path) -> None:
    """Two submissions of one name at the same moment become two versions of one job."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node()

        both = await asyncio.gather(
            service.submit(a_job("named"), warnings=[], client="a"),
            service.submit(a_job("named", cpu="2"), warnings=[], client="b"),
        )

        assert len({each.job for each in both}) == 1
        assert sorted(each.version for each in both) == [1, 2]


async def test_service_restarts(tmp_path: Path) -> None:
    """A service whose program ends is started again, until it is stopped."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node()

        job = await submit(service, a_job(type="service"))
        await node.until(lambda node: len(node.runs) >= 2)
        record = await service.stop(job, namespace="", reason="", client="test")

        assert record.state is JobState.STOPPED


async def test_a_job_with_as_many_entries_as_the_log_takes(tmp_path: Path) -> None:
    """A job that is started again and again ends, and says why, before the log takes no more of it: it can be stopped until
    then, has no new version after, and when it is deleted its name is free again."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        cluster.hub.entries_max = 200
        await happens(lambda: service._orchestrator.entries_max == 200)
        node = await cluster.node()

        quick = Retry(backoff=0.001, backoff_max=0.001)
        job = await submit(service, a_job("loop", type="service", retry=quick))
        record = await closed(service, job)

        assert (record.state, record.failure and record.failure.code) == (
            JobState.FAILED,
            "Exhausted.Entries",
        )
        await happens(lambda: not node.states)
        for again in (
            service.submit(a_job("loop", type="service", count=2), warnings=[], client="test"),
            service.rerun(job, namespace="", version=0, reason="", client="test"),
        ):
            with pytest.raises(Exhausted, match="takes 200 of one job") as refused:
                await again
            assert "Delete it" in refused.value.hint
        await service.delete(job, namespace="", reason="", client="test")
        assert (await closed(service, await submit(service, a_job("loop")))).state is JobState.COMPLETED


async def test_ops_and_daemon(tmp_path: Path) -> None:
    """An ops job runs once on every node that fits and completes; a daemon runs on nodes that come later too."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1")
        second = await cluster.node("n2")
        ops = await submit(service, a_job(type="ops", count=0))
        record = await closed(service, ops)
        first.script = second.script = hold
        await submit(service, a_job(type="daemon", count=0))
        third = await cluster.node("n3", script=hold)
        await third.until(lambda node: bool(node.runs))

        assert record.state is JobState.COMPLETED
        assert {each.node for each in record.executions.values()} == {"n1", "n2"}
        assert [len(node.runs) for node in (first, second, third)] == [2, 2, 1]


async def test_a_deadline_that_nothing_follows_from(tmp_path: Path) -> None:
    """A requester that is started beside a job no node fits waits until it has heard enough, and serves meanwhile."""
    settings = replace(QUICK, policy=replace(QUICK.policy, join_grace_s=1.0))
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester()
        job = await submit(service, a_job(engine="nowhere"))
        await until(service, job, lambda record: record.state is JobState.QUEUED)
        await cluster.kill("r1")
        await asyncio.sleep(1.0)  # The job's own grace passes while nobody is there.

        service = await cluster.requester()
        assert (await service.job(job)).state is JobState.QUEUED
        assert (await closed(service, job)).state is JobState.FAILED


async def test_whose_version(tmp_path: Path) -> None:
    """Who submits is told the version of their own submission, also when another's was written right behind it."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        first = asyncio.create_task(service.submit(a_job("shared"), warnings=[], client="one"))
        second = asyncio.create_task(service.submit(a_job("shared", count=2), warnings=[], client="two"))
        assert [(await first).version, (await second).version] == [1, 2]


async def test_how_many_entries_the_log_takes_is_known_from_the_start(tmp_path: Path) -> None:
    """A requester that has just started ends a job before the log takes no more of it, as the one before it would have."""
    async with a_cluster(tmp_path) as cluster:
        cluster.hub.entries_max = 200
        service = await cluster.requester()
        assert service._orchestrator.entries_max == 200
