"""The real requester, and nodes that pretend to run, on real NATS servers: one, or a cluster."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from deploy.servers import NatsServer
from protocol.clock import SystemClock
from protocol.ids import RequesterId
from protocol.nats_bus import StreamSettings, connect
from requester.serve import running
from requester.service import Service
from tests.requester.cluster import QUICK, PretendNode

PATIENT: Final = replace(QUICK, silence_s=30.0, beat_s=0.2, submit_timeout_s=30.0)
"""A real server takes its time: silence means something only after a while."""
WAIT_S: Final = 30.0


@asynccontextmanager
async def a_requester(servers: Sequence[NatsServer], folder: Path, name: str) -> AsyncIterator[Service]:
    """A requester whose log has a copy on each of the servers."""
    bus = await connect(
        _urls(servers),
        name=name,
        role="requester",
        credentials=servers[0].requester(name),
        wait_s=WAIT_S,
        streams=StreamSettings(replicas=len(servers)),
    )
    try:
        settings = replace(PATIENT, id=RequesterId(name), data_dir=folder / name)
        async with running(bus, settings) as service:
            yield service
    finally:
        await bus.close()


@asynccontextmanager
async def a_node(servers: Sequence[NatsServer], name: str) -> AsyncIterator[PretendNode]:
    """A node at work."""
    credentials = servers[0].node(name)
    bus = await connect(_urls(servers), name=name, role="node", credentials=credentials, wait_s=WAIT_S)
    node = PretendNode(bus, name, clock=SystemClock(), cores=64, beat_s=0.2)
    task = asyncio.create_task(node.work())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


def _urls(servers: Sequence[NatsServer]) -> str:
    return ",".join(server.url for server in servers)
