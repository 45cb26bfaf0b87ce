"""What the tests of the `urlDownload` source share: a server that goes wrong in every way, and a node of short patience."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stamina

from protocol.errors import Fault
from storage.addresses import read_policy
from storage.contract import Share, Source, silent
from storage.settings import StorageSettings
from storage.url import UrlParams, open_url
from tests.contracts.trees import Tree, snapshot
from tests.storage.faulty_http import FaultyServer, faulty_server

ALL = Share()


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Attempts follow each other at once; their number stays."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    """The server."""
    async with faulty_server() as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> StorageSettings:
    """A node with short patience."""
    return StorageSettings(
        tmp_path / "own", connect_s=2.0, silence_s=0.3, redirects=3, addresses=read_policy(["loopback"])
    )


@pytest.fixture
async def source(node: StorageSettings) -> AsyncIterator[Source[UrlParams]]:
    """The driver."""
    async with open_url(node) as drivers:
        yield drivers.sources["urldownload"]


def digest(data: bytes) -> str:
    """What `sha256sum` prints."""
    return hashlib.sha256(data).hexdigest()


async def bring(source: Source[UrlParams], url: str | UrlParams, tmp_path: Path) -> Tree:
    """Resolve and fetch; nothing is left on a fault."""
    room = tmp_path / "room"
    room.mkdir()
    params = UrlParams(url) if isinstance(url, str) else url
    try:
        await source.fetch(params, await source.resolve(params, ALL), room / "in", silent)
    except Fault:
        assert list(room.iterdir()) == []
        raise
    assert [path.name for path in room.iterdir()] == ["in"]
    return snapshot(room / "in")
