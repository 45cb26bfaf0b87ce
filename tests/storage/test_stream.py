"""What lies behind a URL, read as a stream: every byte of one version, or a fault."""

import random
from collections.abc import Iterator

import pytest
from aiohttp import web

import storage.stream
from protocol.errors import Broken
from storage.ranged import Limits
from storage.stream import opened
from tests.conftest import Background
from tests.storage.s3_world import serving

DATA = random.Random(1).randbytes(3 << 20)


class Careless:
    """Cuts the first answer in half, and answers a range whatever the client says of the version that it has."""

    def __init__(self) -> None:
        self.url = ""
        self.later = '"1"'

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every request."""
        asked = request.headers.get("Range", "")
        if asked:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"}
            return web.Response(status=206, body=DATA[start:], headers=headers | self._etag(self.later))
        response = web.StreamResponse(headers=self._etag('"1"'))
        response.content_length = len(DATA)
        await response.prepare(request)
        await response.write(DATA[: len(DATA) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    def _etag(self, etag: str) -> dict[str, str]:
        return {"ETag": etag} if etag else {}


@pytest.fixture
def careless(background: Background, monkeypatch: pytest.MonkeyPatch) -> Iterator[Careless]:
    monkeypatch.setattr(storage.stream, "LIMITS", Limits(retry_s=0.01))
    server = Careless()
    context = serving(server.answer)
    server.url = background.run(context.__aenter__())
    yield server
    background.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize("etag", ['"1"', ""])
def test_reading_goes_on_where_it_broke_off(etag: str, careless: Careless) -> None:
    """Every byte comes once, also if the server does not say again which version the rest is of."""
    careless.later = etag
    with opened(f"{careless.url}/f") as file:
        assert file.read() == DATA


def test_the_rest_of_another_version_is_not_taken(careless: Careless) -> None:
    """A server that answers a range of what has taken the place of the file since is found out by its ETag."""
    careless.later = '"2"'
    with opened(f"{careless.url}/f") as file, pytest.raises(Broken, match="was replaced while"):
        file.read()
