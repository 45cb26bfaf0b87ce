"""A name that leads elsewhere from one moment to the next: what was judged is what is connected to."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from protocol.errors import Denied
from storage.addresses import read_policy
from storage.contract import Share, Source, silent
from storage.resolver import CheckedResolver
from storage.s3 import S3Client, S3Settings, S3Source, SourceParams
from storage.settings import StorageSettings
from storage.url import UrlParams, UrlSource
from tests.contracts.trees import snapshot
from tests.storage.s3_world import OddS3

NAME = "rebinding.test"
OPEN, CLOSED = "127.0.0.2", "127.0.0.1"
POLICY = read_policy([OPEN])


class Places:
    """Two servers at one port: jobs may reach that at `OPEN`, and must not reach the other."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{NAME}:{port}"
        self.odd = OddS3()
        self.reached = 0
        self.asked = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request to the open one."""
        if request.path == "/redirect":
            return web.Response(status=302, headers={"Location": f"{self.url}/file"})
        if request.path == "/file":
            return web.Response(body=b"open")
        return await self.odd.answer(request)  # type: ignore[arg-type]

    async def intrude(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Every connection to the closed one."""
        self.reached += 1
        writer.close()


@pytest.fixture
async def places(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Places]:
    """With a name server whose every fifth answer is the closed one, none of them good for longer than a moment."""
    async with _served() as (places, port):
        turns = itertools.cycle([*[OPEN] * 4, CLOSED])
        system = socket.getaddrinfo

        def alternating(host: Any, *more: Any, **kwargs: Any) -> Any:
            if host != NAME:
                return system(host, *more, **kwargs)
            places.asked += 1
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(turns), port))]

        monkeypatch.setattr(socket, "getaddrinfo", alternating)
        yield places


@asynccontextmanager
async def _served() -> AsyncIterator[tuple[Places, int]]:
    open_socket = socket.create_server((OPEN, 0))
    port = open_socket.getsockname()[1]
    places = Places(port)
    runner = web.ServerRunner(web.Server(places.answer))
    await runner.setup()
    await web.SockSite(runner, open_socket).start()
    async with await asyncio.start_server(places.intrude, CLOSED, port):
        try:
            yield places, port
        finally:
            await runner.cleanup()


async def outcomes(source: Source[Any], params: Any, tmp_path: Path) -> list[str]:
    """What comes of bringing it a few times: bytes or a refusal."""
    found = []
    for number in range(6):
        try:
            resolved = await source.resolve(params, Share())
            fetched = await source.fetch(params, resolved, tmp_path / str(number), silent)
        except Denied as denied:
            found.append("refused" if CLOSED in denied.message else denied.message)
        else:
            assert set(snapshot(fetched.path).values()) == {b"open"}
            found.append("brought")
    return found


@pytest.mark.parametrize("path", ["file", "redirect"])
async def test_a_url_whose_name_alternates_never_leads_inside(
    path: str, places: Places, tmp_path: Path
) -> None:
    """With no cache of names and a new connection for each request, redirects included, each connection goes to the very
    address that was allowed: a job gets its file or a refusal, and the closed server never hears from it."""
    connector = aiohttp.TCPConnector(
        resolver=CheckedResolver(POLICY), use_dns_cache=False, force_close=True, limit=0
    )
    async with aiohttp.ClientSession(connector=connector) as session:
        source = UrlSource(session, StorageSettings(tmp_path / "own", addresses=POLICY, attempts=1))
        found = await outcomes(source, UrlParams(f"{places.url}/{path}"), tmp_path)

    assert set(found) == {"brought", "refused"}
    assert places.asked >= len(found)
    assert places.reached == 0


async def test_an_s3_endpoint_whose_name_alternates_never_leads_inside(
    places: Places, tmp_path: Path
) -> None:
    """The same holds for the endpoint that a job names, for botocore's calls and for what goes past it."""
    places.odd.objects = {"in/a": b"open"}
    params = SourceParams("odd", "in/", endpoint=places.url)
    async with S3Client(S3Settings(addresses=POLICY, tries=1, retry_s=0.01)) as client:
        found = await outcomes(S3Source(client=client), params, tmp_path)

    assert set(found) == {"brought", "refused"}
    assert places.asked >= len(found)
    assert places.reached == 0
