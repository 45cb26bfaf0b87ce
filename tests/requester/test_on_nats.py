"""The same requester on a real NATS server: what the twin of the bus promises has to hold there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from deploy.servers import NatsServer
from protocol.clock import SystemClock
from protocol.ids import RequesterId
from protocol.nats_bus import connect
from protocol.states import JobState
from requester.serve import running
from requester.service import Service
from tests.requester.cluster import QUICK, PretendNode, a_job, closed, hold, submit

PATIENT = replace(QUICK, silence_s=5.0, beat_s=0.2, submit_timeout_s=30.0)
"""A real server takes its time: silence means something only after a while."""


@asynccontextmanager
async def a_requester(server: NatsServer, folder: Path, name: str) -> AsyncIterator[Service]:
    bus = await connect(server.url, name=name, role="requester", credentials=server.requester(name))
    try:
        settings = replace(PATIENT, id=RequesterId(name), data_dir=folder / name)
        async with running(bus, settings) as service:
            yield service
    finally:
        await bus.close()


@asynccontextmanager
async def a_node(server: NatsServer, name: str) -> AsyncIterator[PretendNode]:
    bus = await connect(server.url, name=name, role="node", credentials=server.node(name))
    node = PretendNode(bus, name, clock=SystemClock(), cores=64, beat_s=0.2)
    task = asyncio.create_task(node.work())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


async def test_jobs_on_a_real_server(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Two hundred jobs taken by two requesters all complete, each run once, and both requesters say so."""
    async with (
        a_requester(own_nats_server, tmp_path, "r1") as one,
        a_requester(own_nats_server, tmp_path, "r2") as two,
        a_node(own_nats_server, "n1") as first,
        a_node(own_nats_server, "n2") as second,
    ):
        takers = [one, two] * 100
        jobs = await asyncio.gather(*(submit(taker, a_job()) for taker in takers))
        for service in (one, two):
            records = await asyncio.gather(*(closed(service, job) for job in jobs))
            assert {record.state for record in records} == {JobState.COMPLETED}

        assert len(first.runs) + len(second.runs) == 200


async def test_the_server_is_killed(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Killing the NATS server in the middle loses no job: what was answered is there, and everything goes on after."""
    async with (
        a_requester(own_nats_server, tmp_path, "r1") as service,
        a_node(own_nats_server, "n1") as node,
    ):
        node.script = hold
        before = [await submit(service, a_job()) for _ in range(20)]
        await node.until(lambda node: len(node.runs) == 20)

        await own_nats_server.kill()
        after = [asyncio.create_task(submit(service, a_job())) for _ in range(5)]
        for run in node.runs:
            node.finish(run.execution)
        await own_nats_server.restart()
        jobs = before + [await task for task in after]
        await node.until(lambda node: len(node.runs) == 25)
        for run in node.runs[20:]:
            node.finish(run.execution)

        records = [await closed(service, job) for job in jobs]
        assert {record.state for record in records} == {JobState.COMPLETED}
        assert all(len(record.executions) == 1 for record in records)
