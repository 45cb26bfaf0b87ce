"""What the node's tests share."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.memory_bus import MemoryBus, MemoryHub
from tests.compute.twins import FakeRequester, NodeOnTest


@pytest.fixture
def hub() -> MemoryHub:
    """The server's twin."""
    return MemoryHub(seed=1)


@pytest.fixture
async def requester(hub: MemoryHub) -> AsyncIterator[FakeRequester]:
    """A requester that listens."""
    async with FakeRequester(MemoryBus(hub)).listening() as requester:
        yield requester


@pytest.fixture
async def nodes(hub: MemoryHub, tmp_path: Path) -> AsyncIterator[Callable[..., NodeOnTest]]:
    """Makes nodes (not started yet), and ends them after the test."""
    made: list[NodeOnTest] = []

    def make(**given: Any) -> NodeOnTest:
        node = NodeOnTest(hub, tmp_path / "node", **given)
        made.append(node)
        return node

    yield make
    for node in made:
        await node.crash()
