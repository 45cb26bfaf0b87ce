"""Connections to a test's NATS server, closed at the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protocol.nats_bus import NatsBus, NatsMessages, connect


@asynccontextmanager
async def requester(url: str) -> AsyncIterator[NatsBus]:
    """A requester's bus."""
    bus = await connect(url, name="test requester", role="requester")
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def node(url: str) -> AsyncIterator[NatsMessages]:
    """A compute node's part of the bus."""
    bus = await connect(url, name="test node", role="node")
    try:
        yield bus
    finally:
        await bus.close()
