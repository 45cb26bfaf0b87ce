"""Leave to upload to the managed bucket: asked over the bus by the node that runs the execution, and by nobody else."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from compute.uploads import BusGrants
from protocol.errors import Denied, Fault, NotFound, Unavailable
from protocol.ids import NodeId, execution_id, job_id, job_key
from protocol.jobs import Amounts, Job, Spec, Task
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.states import ExecutionState, JobState
from requester.core.model import ExecutionRecord, JobRecord
from requester.uploads import serve_uploads

KEY = job_key("default", "managed")
JOB = job_id(KEY, 7)
EXECUTION = execution_id(JOB, 1, 0, 1)
NODE = NodeId("n1")


class Kept:
    """A managed bucket that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.prepared = asyncio.Event()
        self.fault: Fault | None = None

    async def prepare(self) -> None:
        self.prepared.set()
        if self.fault is not None:
            raise self.fault

    async def put(self, job: str, execution: str) -> str:
        self.asked.append(("put", job, execution))
        return "http://store/link"

    async def begin(self, job: str, execution: str) -> str:
        self.asked.append(("begin", job, execution))
        return "upload-1"

    async def parts(self, job: str, execution: str, upload: str, first: int, count: int) -> list[str]:
        self.asked.append(("parts", upload, first, count))
        return [f"http://store/{number}" for number in range(first, first + count)]

    async def complete(self, job: str, execution: str, upload: str, etags: list[str]) -> None:
        self.asked.append(("complete", upload, etags))

    async def abort(self, job: str, execution: str, upload: str) -> None:
        raise NotFound("there is no such upload")


class World:
    """A requester that knows one execution of a job that publishes to the managed bucket."""

    def __init__(self) -> None:
        self.bucket = Kept()
        self.publisher = "s3managed"
        self.node = NODE
        self.state = ExecutionState.PUBLISHING

    def get(self, key: str) -> Any:
        """The job in memory."""
        if key != KEY:
            return None
        spec = Job(name="managed", tasks=[Task(engine=Spec("noop"), publisher=Spec(self.publisher))])
        execution = ExecutionRecord(EXECUTION, JOB, 1, 0, 1, self.node, Amounts(), self.state, 0, 0, 1, 1)
        record = JobRecord(JOB, KEY, spec, 1, JobState.RUNNING, 0, 0, 0, 1, executions={EXECUTION: execution})
        return SimpleNamespace(record=record)


@pytest.fixture
async def hub() -> AsyncIterator[MemoryHub]:
    hub = MemoryHub()
    yield hub
    await hub.close()


@pytest.fixture
async def world(hub: MemoryHub) -> AsyncIterator[World]:
    world = World()
    jobs: Any = world
    serving = asyncio.create_task(serve_uploads(MemoryBus(hub), jobs, world.bucket))
    await asyncio.sleep(0)
    yield world
    serving.cancel()
    await asyncio.wait([serving])


async def test_the_node_that_runs_it_is_given_leave(hub: MemoryHub, world: World) -> None:
    """Each question of a publishing reaches the bucket and comes back; a fault of the store comes back as it is."""
    grants = BusGrants(MemoryBus(hub), NODE)

    assert await grants.put(JOB, EXECUTION) == "http://store/link"
    assert await grants.begin(JOB, EXECUTION) == "upload-1"
    assert await grants.parts(JOB, EXECUTION, "upload-1", 17, 2) == ["http://store/17", "http://store/18"]
    await grants.complete(JOB, EXECUTION, "upload-1", ['"e"'])
    with pytest.raises(NotFound, match="no such upload"):
        await grants.abort(JOB, EXECUTION, "upload-1")

    assert [each[0] for each in world.bucket.asked] == ["put", "begin", "parts", "complete"]


async def test_a_bucket_is_ready_before_a_job_needs_it(hub: MemoryHub) -> None:
    """A requester prepares its managed bucket as it starts; one that cannot be used now is tried again when it is needed."""
    world = World()
    world.bucket.fault = Denied("the requester has no account for the managed bucket")
    jobs: Any = world
    serving = asyncio.create_task(serve_uploads(MemoryBus(hub), jobs, world.bucket))

    await asyncio.wait_for(world.bucket.prepared.wait(), 5)
    assert await BusGrants(MemoryBus(hub), NODE).put(JOB, EXECUTION) == "http://store/link"

    serving.cancel()
    await asyncio.wait([serving])


@pytest.mark.parametrize("wrong", ["node", "ended", "publisher"])
async def test_nobody_else_is_given_leave(wrong: str, hub: MemoryHub, world: World) -> None:
    """Another node, a node whose execution was given up, and a job with another publisher are `Denied`, and the bucket is
    asked nothing."""
    if wrong == "node":
        world.node = NodeId("n2")
    elif wrong == "ended":
        world.state = ExecutionState.LOST
    else:
        world.publisher = "s3"

    with pytest.raises(Denied):
        await BusGrants(MemoryBus(hub), NODE).put(JOB, EXECUTION)

    assert world.bucket.asked == []


async def test_what_nobody_knows_is_asked_again_and_then_told(
    hub: MemoryHub, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A requester that has not read of the execution yet is asked a few times more."""
    monkeypatch.setattr("compute.uploads.PATIENCE_S", 0.5)
    other = job_id(job_key("default", "other"), 7)

    with pytest.raises(Fault, match="not known"):
        await BusGrants(MemoryBus(hub), NODE).put(other, execution_id(other, 1, 0, 1))


async def test_a_store_that_does_not_answer_keeps_no_other_waiting(
    hub: MemoryHub, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many uploads hang on the managed bucket's server, links are made meanwhile; who hangs is told so in time."""
    hung = asyncio.Barrier(65)

    async def begin(job: str, execution: str) -> str:
        await hung.wait()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(world.bucket, "begin", begin)
    grants = BusGrants(MemoryBus(hub), NODE)
    monkeypatch.setattr("requester.uploads.ANSWER_S", 60.0)
    begun = [asyncio.create_task(grants.begin(JOB, EXECUTION)) for _ in range(64)]
    await hung.wait()
    assert await grants.put(JOB, EXECUTION) == "http://store/link"
    for each in begun:
        each.cancel()

    monkeypatch.setattr("requester.uploads.ANSWER_S", 0.05)
    monkeypatch.setattr("compute.uploads.PATIENCE_S", 0.0)
    with pytest.raises(Unavailable, match="managed bucket's server"):
        await grants.begin(JOB, EXECUTION)
