"""A queue that is longer than what is kept in memory: jobs that wait go to the read model and come back when it matters.

Nobody can tell: what is promised of jobs holds for these too.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.bus import Append
from protocol.entries import Entry, Submitted
from protocol.errors import Conflict, NotFound
from protocol.ids import job_id, job_key
from protocol.jobs import Timeouts
from protocol.messages import decode, encode
from protocol.states import JobState
from requester.service import Service
from requester.verbs import JobQuery
from tests.requester.cluster import (
    QUICK,
    Cluster,
    PretendNode,
    a_cluster,
    a_job,
    closed,
    complete,
    happens,
    hold,
    submit,
    until,
)

KEPT = 2
SHORT = replace(QUICK, keep_waiting=KEPT)
JOBS = 12


@asynccontextmanager
async def a_long_queue(tmp_path: Path) -> AsyncIterator[tuple[Cluster, Service, PretendNode]]:
    """One node, all of it taken, and a dozen jobs that wait for it, most of them not in memory."""
    async with a_cluster(tmp_path, settings=SHORT) as cluster:
        service = await cluster.requester("r1")
        node = await cluster.node("n1", cores=1, script=hold)
        await submit(service, a_job("first"))
        await node.until(lambda node: len(node.runs) == 1)
        for number in range(JOBS):
            await submit(service, a_job(f"job-{number:02}", priority=number % 3))
        await leave(service)
        yield cluster, service, node


async def leave(service: Service) -> None:
    """Let all leave that may, by letting others come after them."""
    for _ in range(KEPT):
        await submit(service, a_job(priority=-1))
    await happens(lambda: service._jobs.away >= JOBS)


async def test_all_get_their_turn(tmp_path: Path) -> None:
    """Jobs that have left memory run in the order of the queue, each once, and a requester that comes later knows them."""
    async with a_long_queue(tmp_path) as (cluster, service, node):
        other = await cluster.requester("r2")
        assert len(other._jobs) == len(service._jobs)
        await happens(lambda: other._jobs.away >= JOBS)
        node.script = complete
        node.finish(node.runs[0].execution)
        for number in range(JOBS):
            await closed(service, f"job-{number:02}")
        for each in (service, other):
            await happens(lambda each=each: not len(each._jobs))  # type: ignore[misc]

        names = [run.job_name for run in node.runs][1 : JOBS + 1]
        assert names == sorted(names, key=lambda name: (-(int(name[4:]) % 3), name))
        assert len({run.execution for run in node.runs}) == len(node.runs)


async def test_what_can_be_done_with_jobs(tmp_path: Path) -> None:
    """A job that has left memory is described, listed, stopped and updated as any other; its name is taken."""
    async with a_long_queue(tmp_path) as (_, service, _node):
        there = await service.job("job-03")
        listed, _ = await service.jobs(JobQuery(limit=100))
        assert there in [replace(each, executions={}) for each in listed]
        assert (await service.explain("job-03")).place is not None

        stopped = await service.stop("job-04", namespace="", reason="enough", client="")
        assert stopped.state is JobState.STOPPED
        again = await service.submit(a_job("job-05", priority=1), warnings=[], client="")
        assert again.version == 2
        with pytest.raises(Conflict, match="no changes"):
            await submit(service, a_job("job-06"))
        assert (await service.job("job-06")).version == 1


async def test_a_job_that_never_was_in_memory(tmp_path: Path) -> None:
    """Another requester's job that has to wait is known at once, also before it is in the read model: it is stopped,
    updated and described there as any other."""
    async with a_long_queue(tmp_path) as (cluster, service, _):
        other = await cluster.requester("r2")
        await happens(lambda: other._jobs.away >= JOBS)
        async with other._recorder._lock:
            # Nothing is written meanwhile.
            for name in ("one", "two", "three"):
                await submit(service, a_job(name))
            keys = [job_key("default", name) for name in ("one", "two", "three")]
            await happens(lambda: all(key in other._jobs.queue for key in keys))
            assert not other._jobs.open.keys() & set(keys)

            stopped = await other.stop("one", namespace="", reason="enough", client="")
            again = await other.submit(a_job("two", priority=1), warnings=[], client="")
            assert again.version == 2
            assert (await other.explain("three")).place is not None

        listed, _ = await other.jobs(JobQuery(limit=100))
        known = {record.spec.name: (record.state, record.version) for record in listed}
        assert stopped.state is JobState.STOPPED
        assert known["one"] == (JobState.STOPPED, 1)
        assert known["two"] == (JobState.QUEUED, 2)
        assert known["three"] == (JobState.QUEUED, 1)
        assert len(other._jobs) == len(service._jobs)


async def test_a_job_that_cannot_be_read(tmp_path: Path) -> None:
    """An entry that turns out not to be readable when its job is asked for is passed over: there is no such job, and all
    others are listed, get their turn, and are there after a new start."""
    async with a_long_queue(tmp_path) as (cluster, service, node):
        good, bad = job_key("default", "good"), job_key("default", "bad")
        for key, name, env in ((good, "good", b"{}"), (bad, "bad", b"5")):
            like = cluster.hub.at(cluster.hub.by_key[job_key("default", "job-11")][0]).record.data
            entry = decode(like, Entry)
            submitted, queued = entry.events
            assert isinstance(submitted, Submitted)
            spec = replace(submitted.spec, name=name, priority=9)
            events = [replace(submitted, spec=spec), queued]
            data = encode(replace(entry, job=job_id(key, 1), op=name, events=events))
            assert b'"Env":{}' in data
            await cluster.buses["n1"].append(
                [Append(key, 0, name, data.replace(b'"Env":{}', b'"Env":' + env))]
            )
        await happens(lambda: bad in service._jobs.queue)

        listed, _ = await service.jobs(JobQuery(limit=100))
        assert "good" in {each.spec.name for each in listed}
        assert "bad" not in {each.spec.name for each in listed}
        other = await cluster.requester("r2")
        with pytest.raises(NotFound):
            await other.job("bad")
        assert (await other.job("good")).spec.priority == 9
        assert bad not in other._jobs.queue

        node.script = complete
        node.finish(node.runs[0].execution)
        await closed(service, "good")
        for number in range(JOBS):
            await closed(service, f"job-{number:02}")
        await happens(lambda: not len(service._jobs))


async def test_what_is_no_longer_true_is_told(tmp_path: Path) -> None:
    """When the node that a job waits for goes, a job that has left memory is told so, and that it is back as well."""
    async with a_long_queue(tmp_path) as (cluster, service, node):
        await cluster.lose(node)
        away = await until(
            service, "job-00", lambda job: job.queued is not None and "Away" in job.queued.code
        )
        assert away.state is JobState.QUEUED

        await cluster.find(node)
        await until(service, "job-00", lambda job: job.queued is not None and "NoRoom" in job.queued.code)


async def test_deadlines_hold(tmp_path: Path) -> None:
    """A QueueTimeout ends a job that has left memory, also at a requester that found it in its read model."""
    async with a_long_queue(tmp_path) as (cluster, service, _):
        await submit(service, a_job("soon", timeouts=Timeouts(queue_timeout=2)))
        await leave(service)
        await cluster.kill("r1")
        service = await cluster.requester("r1")
        await happens(lambda: service._jobs.away >= JOBS - 1)

        record = await closed(service, "soon")
        assert record.failure is not None
        assert record.failure.code == "TimedOut.Queue"
