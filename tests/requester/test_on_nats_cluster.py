"""Requesters and nodes on three NATS servers, replicas 3: jobs flow while servers and requesters come and go."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import nats
import pytest

from deploy.servers import NatsServer
from protocol.errors import Conflict, Unavailable
from protocol.states import JobState
from protocol.subjects import LOG_STREAM
from requester.core.model import JobRecord
from requester.service import Service
from tests.conftest import Background
from tests.protocol_bus.servers import Cluster, nats_cluster
from tests.requester.cluster import a_job, closed
from tests.requester.on_servers import a_node, a_requester

NODES = ("n1", "n2")
JOBS_MIN = 20
"""Jobs that have to be through before the next fault, so that each meets a flow."""


@pytest.fixture(scope="module")
def servers(background: Background, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The three servers."""
    return background.enter(nats_cluster(tmp_path_factory.mktemp("flow")))


class Flow:
    """Jobs that are submitted one after the other, at whichever requester is there, until told to stop."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.accepted: list[str] = []
        self._number = 0

    async def run(self) -> None:
        while True:
            for service in list(self.services.values()):
                self._number += 1
                name = f"job-{self._number}"
                # Not answered is not known: under its name the job can be asked for again.
                while service in self.services.values():
                    with suppress(Unavailable):
                        try:
                            made = await service.submit(a_job(name, cpu="0.1"), warnings=[], client="test")
                        except Conflict:
                            made = await service.submit(
                                a_job(name, cpu="0.1"), warnings=[], client="test", force=True
                            )
                        self.accepted.append(made.job)
                        break
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.01)

    async def goes_on(self) -> None:
        """Wait until so many more jobs have been taken."""
        goal = len(self.accepted) + JOBS_MIN
        async with asyncio.timeout(60):
            while len(self.accepted) < goal:  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.02)


async def leader(servers: Cluster) -> NatsServer:
    """The server that decides about appends just now."""
    admin = await nats.connect(servers[0].url, user_credentials=str(servers[0].admin()))
    try:
        info = await admin.jsm().stream_info(LOG_STREAM)
        assert info.cluster is not None
        assert info.cluster.leader is not None
        return servers[int(info.cluster.leader.removeprefix("nats-"))]
    finally:
        await admin.close()


async def seen(service: Service, job: str) -> JobRecord:
    """The job when it is closed; asked for again while the cluster elects its leaders."""
    while True:
        try:
            return await closed(service, job)
        except Unavailable:
            await asyncio.sleep(0.2)


async def test_jobs_flow_while_servers_and_requesters_come_and_go(servers: Cluster, tmp_path: Path) -> None:
    """The log's leader is killed, every server is restarted in turn, one requester is killed and two others join: every job
    that was taken completes, each partition has one result, and every requester says the same of it."""
    flow = Flow()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        flow.services["r1"] = await first.enter_async_context(a_requester(servers, tmp_path, "r1"))
        flow.services["r2"] = await stack.enter_async_context(a_requester(servers, tmp_path, "r2"))
        nodes = [await stack.enter_async_context(a_node(servers, name)) for name in NODES]
        submitting = asyncio.create_task(flow.run())
        try:
            await flow.goes_on()
            deciding = await leader(servers)
            await deciding.kill()
            await flow.goes_on()
            await deciding.start()

            flow.services["r3"] = await stack.enter_async_context(a_requester(servers, tmp_path, "r3"))
            del flow.services["r1"]
            await first.aclose()
            for server in servers:
                await server.restart()
                await flow.goes_on()
        finally:
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)

        for service in flow.services.values():
            for job in flow.accepted:
                record = await seen(service, job)
                assert record.state is JobState.COMPLETED
                assert len(record.published() or record.current()) == 1
        ran = [run.execution for node in nodes for run in node.runs]
        assert len(ran) == len(set(ran))
