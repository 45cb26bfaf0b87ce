"""The `urlDownload` source keeps the contract of all sources, and says of a file which version it is."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.processes import free_ports
from storage.contract import Source
from storage.url import UrlParams
from tests.contracts.source import ServedSourceContract
from tests.contracts.trees import Tree
from tests.storage.faulty_http import BODY, FaultyServer
from tests.storage.url.conftest import ALL, bring


def closed_port() -> int:
    """A port on loopback where nobody listens."""
    (port,) = free_ports(1)
    return port


class TestUrl(ServedSourceContract):
    """A file on a healthy server."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"file.bin": BODY}

    @pytest.fixture
    def params(self, server: FaultyServer, content: Tree) -> UrlParams:
        server.files["/data/file.bin"] = BODY
        return UrlParams(server.url("/data/file.bin"))

    @pytest.fixture
    def hostile(self, server: FaultyServer) -> list[UrlParams]:
        names = [
            "/%2e%2e",
            "/x%2F..%2F..%2Fy",
            "/..%2F..%2Fevil",
            "/%00",
            "/" + "n" * 300,
            "/%2e",
            "/a%5c..%5cb",
        ]
        server.files.update(dict.fromkeys(names, b"sly"))
        named = [server.url(f"/faults/named/?as={name}") for name in ("../../evil", "..", "/etc/evil")]
        return [UrlParams(url) for url in [*map(server.url, names), *named]]

    @pytest.fixture
    def missing(self, server: FaultyServer) -> tuple[UrlParams, str]:
        return UrlParams(server.url("/nothing/here")), "/nothing/here"

    @pytest.fixture
    def change(self, server: FaultyServer, params: UrlParams) -> Callable[[], Awaitable[UrlParams]]:
        async def change() -> UrlParams:
            server.files["/data/file.bin"] = BODY[::-1]
            return params

        return change

    @pytest.fixture
    def vanish(self, server: FaultyServer, params: UrlParams) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            server.files.clear()

        return vanish

    @pytest.fixture
    def away(self, source: Source[UrlParams]) -> tuple[Source[Any], UrlParams]:
        return source, UrlParams(f"http://127.0.0.1:{closed_port()}/file")


class TestUrlEmpty(TestUrl):
    """An empty file is a file."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"file.bin": b""}

    @pytest.fixture
    def params(self, server: FaultyServer, content: Tree) -> UrlParams:
        server.files["/data/file.bin"] = b""
        return UrlParams(server.url("/data/file.bin"))


class TestVersions:
    """What makes an identity."""

    async def test_a_server_without_versions_is_never_taken_for_the_same(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """Without ETag and Last-Modified each answer is its own, and the file arrives all the same."""
        params = UrlParams(server.url("/faults/chunked"))

        assert (await source.resolve(params, ALL)).identity != (await source.resolve(params, ALL)).identity
        assert await bring(source, params.url, tmp_path) == {"chunked": BODY}

    async def test_another_query_is_another_identity(
        self, source: Source[UrlParams], server: FaultyServer
    ) -> None:
        """Two URLs never share an identity, though what may be secret in them is not shown."""
        server.files["/f"] = b"x"
        one, two = [
            await source.resolve(UrlParams(server.url(f"/f?key={key}")), ALL) for key in ("abc", "xyz")
        ]

        assert one.identity != two.identity
        assert "abc" not in one.identity

    async def test_packed_bodies_stay_packed(
        self, source: Source[UrlParams], server: FaultyServer, tmp_path: Path
    ) -> None:
        """We ask for the bytes as they are, and keep them as they come."""
        assert await bring(source, server.url("/faults/packed"), tmp_path) == {"packed": b"\x1f\x8b packed"}
        assert server.headers[0]["Accept-Encoding"] == "identity"
