"""An HTTP server that goes wrong on demand: real connections, real cuts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY = bytes(range(256)) * 8_000
"""What a healthy answer holds: about two megabytes."""


class FaultyServer:
    """Serves `files` with ETags, and under ``/faults/<name>`` goes wrong in that way. Counts requests by path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.root = ""
        self.requests: dict[str, int] = {}
        self.stalled = asyncio.Event()
        self.headers: list[dict[str, str]] = []

    def url(self, path: str) -> str:
        """The URL of a path of this server."""
        return self.root + path

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every request."""
        self.requests[request.path] = self.requests.get(request.path, 0) + 1
        self.headers.append(dict(request.headers))
        if request.path.startswith("/faults/"):
            fault: Handler = getattr(self, "fault_" + request.path.split("/")[2])
            return await fault(request)
        if request.raw_path.partition("?")[0] not in self.files:
            return web.Response(status=404, text="an error page")
        data = self.files[request.raw_path.partition("?")[0]]
        return web.Response(body=data, headers={"ETag": f'"{hash(data)}"'})

    async def fault_status(self, request: web.Request) -> web.StreamResponse:
        """``/faults/status/503``: that status with a page."""
        return web.Response(status=int(request.path.split("/")[3]), text="an error page")

    async def fault_flaky(self, request: web.Request) -> web.StreamResponse:
        """Status 500 at every first of two requests."""
        if self.requests[request.path] % 2:
            return web.Response(status=500)
        return web.Response(body=BODY, headers={"ETag": '"flaky"'})

    async def fault_cut(self, request: web.Request) -> web.StreamResponse:
        """The connection is cut half-way, with a length announced."""
        return await self._partial(request, len(BODY), cut=True)

    async def fault_cut_once(self, request: web.Request) -> web.StreamResponse:
        """Cut at the second request (the first resolves), whole and of other content before that cut afterwards."""
        if self.requests[request.path] == 2:
            return await self._partial(request, len(BODY), cut=True, data=b"?" * len(BODY))
        return web.Response(body=BODY)

    async def fault_cut_chunked(self, request: web.Request) -> web.StreamResponse:
        """The connection is cut half-way, without a length."""
        return await self._partial(request, None, cut=True)

    async def fault_stall(self, request: web.Request) -> web.StreamResponse:
        """Half of the body, and then silence."""
        return await self._partial(request, len(BODY), cut=False)

    async def fault_mute(self, request: web.Request) -> web.StreamResponse:
        """No answer at all."""
        await self._silence()
        return web.Response()

    async def fault_endless(self, request: web.Request) -> web.StreamResponse:
        """A body without end."""
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(65_536))
        return response

    async def fault_chunked(self, request: web.Request) -> web.StreamResponse:
        """A whole body without a length, a version or anything."""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(BODY)
        return response

    async def fault_circle(self, request: web.Request) -> web.StreamResponse:
        """A redirect to itself."""
        raise web.HTTPFound(request.path)

    async def fault_redirect(self, request: web.Request) -> web.StreamResponse:
        """A redirect to the query's ``to``."""
        raise web.HTTPTemporaryRedirect(request.query["to"])

    async def fault_partial(self, request: web.Request) -> web.StreamResponse:
        """Status 206 that nobody asked for."""
        return web.Response(status=206, body=b"part", headers={"Content-Range": "bytes 0-3/9"})

    async def fault_changing(self, request: web.Request) -> web.StreamResponse:
        """Another version at every request."""
        return web.Response(body=BODY, headers={"ETag": f'"{self.requests[request.path]}"'})

    async def fault_named(self, request: web.Request) -> web.StreamResponse:
        """A file whose name only the answer tells: the query's ``as``."""
        name = request.query.get("as", "")
        headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else {}
        return web.Response(body=b"named", headers=headers)

    async def fault_packed(self, request: web.Request) -> web.StreamResponse:
        """A body with a content encoding that was not asked for."""
        return web.Response(body=b"\x1f\x8b packed", headers={"Content-Encoding": "gzip"})

    async def _partial(
        self, request: web.Request, length: int | None, *, cut: bool, data: bytes = BODY
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = length
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        if not cut:
            await self._silence()
        assert request.transport is not None
        request.transport.close()
        return response

    async def _silence(self) -> None:
        self.stalled.set()
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def answering(head: bytes, body: bytes = b"") -> AsyncIterator[str]:
    """A server that answers with this very status line and these headers, whatever is asked; its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"%b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@contextlib.asynccontextmanager
async def faulty_server() -> AsyncIterator[FaultyServer]:
    """A server on a free port of loopback."""
    server = FaultyServer()
    app = web.Application()
    app.router.add_route("GET", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.root = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
