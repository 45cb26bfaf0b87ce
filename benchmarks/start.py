"""How long a requester takes to be ready when the log holds a hundred thousand closed jobs.

Knows: how to fill a log as requesters do, and when a requester counts as ready: it has read the log to its end and acts.
Beside it stands what no requester can be faster than: reading that log and doing nothing with it.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.record import Figure, figure
from deploy.servers import NatsServer, nats_server
from protocol.bus import BATCH_MAX, Append, Bus, Stored
from protocol.entries import Assigned, Closed, Entry, Reported, Submitted
from protocol.ids import JobId, NodeId, RequesterId, execution_id, job_id, nameless_key
from protocol.jobs import Amounts, Job, ResultPath, Spec, Task
from protocol.messages import Report, RunOutput, Stage, encode
from protocol.nats_bus import connect
from protocol.states import ExecutionState, JobState
from requester.serve import running
from requester.settings import Settings

JOBS: Final = 100_000
STARTS: Final = 3
NODE: Final = NodeId("n1")


async def measure() -> list[Figure]:
    """All figures of this part."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        folder = Path(scratch)
        async with nats_server(folder / "nats") as server, connected(server) as bus:
            await fill(bus, JOBS)
            read = await _read(bus)
            filled = await _start(server, folder / "r1")
            again = [await _start(server, folder / "r1") for _ in range(STARTS)]
    peer = "reading the log and no more"
    return [
        figure(
            f"start with {JOBS:,} closed jobs",
            again,
            "s",
            peer=peer,
            peer_values=[read],
            mark="at most 3 s",
        ),
        figure(
            f"the same, its read model filled anew ({JOBS:,})", [filled], "s", peer=peer, peer_values=[read]
        ),
    ]


@asynccontextmanager
async def connected(server: NatsServer, name: str = "bench") -> AsyncIterator[Bus]:
    """A requester's connection to a server's bus."""
    bus = await connect(server.url, name=name, role="requester", credentials=server.requester(name))
    try:
        yield bus
    finally:
        await bus.close()


async def fill(bus: Bus, count: int) -> None:
    """Two entries for each of so many jobs, as a small job that found room at once leaves them."""
    for first in range(0, count, BATCH_MAX):
        jobs = [
            job_id(nameless_key(number), number) for number in range(first, min(first + BATCH_MAX, count))
        ]
        guards = [0] * len(jobs)
        for step in (_begun, _over):
            entries = [step(job) for job in jobs]
            outcomes = await bus.append(
                [
                    Append(nameless_key(first + index), guard, entry.op, encode(entry))
                    for index, (entry, guard) in enumerate(zip(entries, guards, strict=True))
                ]
            )
            guards = [each.seq for each in outcomes if isinstance(each, Stored)]


def _begun(job: JobId) -> Entry:
    task = Task(
        name="main",
        engine=Spec("docker", {"Image": "busybox:1.36", "Entrypoint": ["/bin/sh", "-c", "echo hello"]}),
        publisher=Spec("s3", {"Bucket": "results", "Key": "out/{jobID}/{executionID}"}),
        result_paths=[ResultPath("outputs", "/outputs")],
    )
    amounts = Amounts(1.0, 1 << 30, 0, 0)
    assigned = Assigned(execution_id(job, 1, 0, 1), 0, 1, NODE, amounts, "most room; 4 of 4 nodes fit")
    return Entry(job, f"{job[2:18]}a", "r-1", time.time(), [Submitted(Job(tasks=[task]), 1), assigned])


def _over(job: JobId) -> Entry:
    now = time.time()
    states = (
        ExecutionState.STAGING,
        ExecutionState.RUNNING,
        ExecutionState.PUBLISHING,
        ExecutionState.COMPLETED,
    )
    report = Report(
        NODE,
        1,
        1,
        job,
        1,
        execution_id(job, 1, 0, 1),
        ExecutionState.COMPLETED,
        stages=[Stage(state, now) for state in states],
        output=RunOutput(stdout="hello\n"),
        result=Spec("s3", {"Bucket": "results", "Key": f"out/{job}"}),
    )
    return Entry(job, f"{job[2:18]}b", "r-1", now, [Reported(report), Closed(JobState.COMPLETED)])


async def _read(bus: Bus) -> float:
    last, began = (await bus.log_state()).last, time.perf_counter()
    async with aclosing(bus.read(0)) as batches:
        async for batch in batches:
            if batch[-1].seq >= last:
                break
    return time.perf_counter() - began


async def _start(server: NatsServer, folder: Path) -> float:
    """From the connection to a requester that acts; left when its read model is written."""
    began = time.perf_counter()
    async with connected(server, "r1") as bus:
        settings = Settings(id=RequesterId("r1"), data_dir=folder)
        async with running(bus, settings) as service:
            ready = time.perf_counter() - began
            while service.facts()["recorded"] < service.facts()["folded"]:  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.05)
    return ready
