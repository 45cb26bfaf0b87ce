"""The bus over a real NATS server keeps the promises of every bus."""

from collections.abc import AsyncIterator

import pytest

from deploy.servers import NatsServer
from protocol.nats_bus import NatsBus, NatsMessages, connect
from tests.contracts.bus import BusContract, Buses


async def requester(server: NatsServer, **options: str) -> NatsBus:
    """A requester's bus to a server."""
    return await connect(options.get("url", server.url), name="test requester", role="requester")


async def node(server: NatsServer) -> NatsMessages:
    """A node's part of the bus."""
    return await connect(server.url, name="test node", role="node")


class TestNatsBus(BusContract):
    """Every promise of a bus."""

    @pytest.fixture
    async def buses(self, nats_server: NatsServer) -> AsyncIterator[Buses]:
        one, other = await requester(nats_server), await requester(nats_server)
        yield one, other
        await one.close()
        await other.close()
