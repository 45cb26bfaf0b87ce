"""The API over a twin of the verbs, asked by a real HTTP client."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import test_utils, web

from requester.api.app import application
from tests.requester.twin import Twin


@pytest.fixture
async def twin() -> Twin:
    """The verbs behind the API."""
    return Twin()


@pytest.fixture
async def api(twin: Twin) -> AsyncIterator[test_utils.TestClient[web.Request, web.Application]]:
    """A client of the API."""
    async with test_utils.TestClient(test_utils.TestServer(application(twin, "0.1.0"))) as client:
        yield client
