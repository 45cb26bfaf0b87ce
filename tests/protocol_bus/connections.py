"""Connections to a test's NATS server, closed at the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deploy.servers import NatsServer
from protocol.nats.streams import StreamSettings
from protocol.nats_bus import NatsBus, NatsMessages, connect
from tests.contracts.bus import LIMIT_S


@asynccontextmanager
async def requester(
    server: NatsServer, url: str = "", *, streams: StreamSettings | None = None
) -> AsyncIterator[NatsBus]:
    """A requester's bus, by another address of the server if one is given."""
    bus = await connect(
        url or server.url,
        name="test requester",
        role="requester",
        credentials=server.requester(),
        streams=streams,
        wait_s=LIMIT_S,
    )
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def node(server: NatsServer, url: str = "", *, name: str = "n1") -> AsyncIterator[NatsMessages]:
    """A compute node's part of the bus, by another address of the server if one is given."""
    bus = await connect(
        url or server.url, name="test node", role="node", credentials=server.node(name), wait_s=LIMIT_S
    )
    try:
        yield bus
    finally:
        await bus.close()
