"""A proxy before a real server that lets a transfer go wrong: real bytes, real cuts."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from storage.s3.signing import Signer
from tests.storage.s3_world import serving

Plan = Callable[[web.Request, int], str]
"""What happens to a request, by its number among those that the plan is asked about: a fault's name, or nothing."""

_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})


_SIGNATURE = ("authorization", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token")
_REFUSALS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "unvouched": (400, "MissingContentMD5"),
    "unknown": (400, "NotImplemented"),
    "archived": (403, "InvalidObjectState"),
    "unsummed": (400, "InvalidArgument"),
    "overtaken": (409, "ConditionalRequestConflict"),
}


class FaultProxy:
    """Passes everything on to `upstream`, except what `plan` names a fault for.

    Faults: ``cut``, ``stall``, ``trickle`` (a byte of the body at a time), ``short`` (half of it,
    announced as such), ``long`` (more than the range has), ``range`` (another range than asked), ``etag`` (another version),
    ``500``, ``503``, ``403`` (that status), ``expired``, ``unvouched``, ``unknown``, ``archived`` (S3's words for a session
    that is over, a body without its MD5, a request that it does not know, an object in an archive), ``unsummed`` (of a
    checksum, as Backblaze has it), ``overtaken`` (of a condition), ``mute`` (no answer),
    ``whole`` (status 200 to a range), ``xml`` (an error as status 200), ``lost`` (passed on, and the answer thrown
    away), ``held`` (passed on, and the answer kept back), ``flip``
    (one bit of the body is another, at `flip_at`), ``ended`` (half of the body in chunks, and a proper end, as Kubo does
    when it tells an error in a trailer), ``trailer`` (half of the body, and then, or behind the whole of it, ``behind``, the
    error `words` in a trailer as Kubo has it), ``garbage`` (status 200 and what nobody understands),
    ``drip`` (a head without end, a byte at a time). On what is sent: ``hangup`` (half of it is taken, then the connection is
    cut), ``deaf`` (half of it is taken, and then no more), ``sip`` (taken slowly), ``smudge`` (passed on with one bit that
    is another).

    With a `signer` what was signed is passed on as its account's, whoever signed it: the servers know no sessions.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.endpoint = ""
        self.plan: Plan = lambda request, number: ""
        self.count = 0
        self.stalled = asyncio.Event()
        self.ranges: list[str] = []
        self.paths: list[str] = []
        self.sent_bytes = 0
        self.flip_at = 0.5
        self.signer: Signer | None = None
        self.words = ""

    async def answer(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        """Every request."""
        fault = self.plan(request, self.count)
        self.count += 1
        self.paths.append(request.path_qs)
        if request.method == "GET":
            self.ranges.append(request.headers.get("Range", ""))
        if fault == "204":
            return web.Response(status=204)
        if fault in _REFUSALS:
            status, code = _REFUSALS[fault]
            # What is answered to a look has no body.
            said = "Unsupported header 'x-amz-checksum-…' received" if fault == "unsummed" else "no"
            text = f"<Error><Code>{code}</Code><Message>{said}</Message></Error>"
            return web.Response(status=status, text=text if request.method != "HEAD" else None)
        if fault == "xml":
            return web.Response(text="<Error><Code>InternalError</Code></Error>")
        if fault == "garbage":
            return web.Response(body=b"\x00garbage<" * 100, content_type="application/xml")
        if fault == "drip":
            await self._drip(request)
        taken = await self._take(request, fault) if fault in ("hangup", "deaf", "sip") else b""
        if fault == "mute":
            await self._silence()
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP
        )
        sent = taken + await request.read()
        if fault == "smudge":
            sent = sent[:-1] + bytes([sent[-1] ^ 1])
        body = io.BytesIO(sent) if sent or request.can_read_body else None
        target = request.raw_path
        if self.signer is not None and ("Authorization" in headers or "X-Amz-Signature" in request.query):
            target = self._signed(self.signer, request.method, target, headers)
        url = URL(self._upstream + target, encoded=True)
        async with session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as found:
            data = await found.read()
            if fault == "held":
                await self._silence()
            if fault == "lost":
                assert request.transport is not None
                request.transport.close()
            return await self._pass(request, found, data, fault)

    def _signed(self, signer: Signer, method: str, target: str, headers: CIMultiDict[str]) -> str:
        """The target without a signature, and the headers with ours."""
        for name in _SIGNATURE:
            headers.pop(name, None)
        path, _, query = target.partition("?")
        rest = "&".join(each for each in query.split("&") if not each.startswith("X-Amz-"))
        target = f"{path}?{rest}" if rest else path
        own = {name: value for name, value in headers.items() if name.lower().startswith("x-amz-")}
        headers.update(signer.signed(method, self._upstream.partition("//")[2], target, own))
        return target

    async def _pass(
        self, request: web.Request, found: aiohttp.ClientResponse, data: bytes, fault: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=200 if fault == "whole" else found.status)
        response.headers.extend(
            {name: value for name, value in found.headers.items() if name.lower() not in _HOP}
        )
        if fault == "range":
            data = data[:10]
            response.headers["Content-Range"] = (
                f"bytes 0-9/{found.headers['Content-Range'].rpartition('/')[2]}"
            )
        if fault == "etag":
            response.headers["ETag"] = '"another"'
        half = data[: len(data) // 2]
        if fault in ("trailer", "behind"):
            self._told_behind(request, half if fault == "trailer" else data)
        if fault == "trickle":
            await self._trickle(request, response, data)
            return response
        if fault == "ended":
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(half)
            return response
        if fault == "long":
            data += b"more"
        if fault == "flip" and data:
            place = min(int(len(data) * self.flip_at), len(data) - 1)
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        self.sent_bytes += len(data)
        response.content_length = len(half) if fault == "short" else len(data)
        if request.method == "HEAD":
            response.content_length = int(found.headers.get("Content-Length", 0))
        await response.prepare(request)
        if fault in ("cut", "stall", "short"):
            await response.write(half)
            if fault == "stall":
                await self._silence()
            if fault == "cut":
                assert request.transport is not None
                request.transport.close()
        elif request.method != "HEAD":
            await response.write(data)
        return response

    async def _take(self, request: web.Request, fault: str) -> bytes:
        """Take half of what is sent, and go wrong or give it back."""
        taken = b""
        while len(taken) < (request.content_length or 0) // 2:
            taken += await request.content.readany()
            if fault == "sip":
                await asyncio.sleep(0.02)
        if fault == "deaf":
            await self._silence()
        if fault == "hangup":
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        return taken

    async def _drip(self, request: web.Request) -> None:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\nx-drip: ")
        self.stalled.set()
        while not request.transport.is_closing():
            request.transport.write(b"x")
            await asyncio.sleep(0.02)
        raise asyncio.CancelledError

    async def _trickle(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        response.content_length = len(data)
        await response.prepare(request)
        for byte in data:
            await response.write(bytes([byte]))
            self.stalled.set()
            await asyncio.sleep(0.01)

    def _told_behind(self, request: web.Request, body: bytes) -> None:
        """Answer by hand: our server knows no trailers."""
        assert request.transport is not None
        head = b"HTTP/1.1 200 OK\r\nTrailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\n\r\n"
        words = b"0\r\nX-Stream-Error: %b\r\n\r\n" % self.words.encode()
        request.transport.write(head + b"%x\r\n%b\r\n" % (len(body), body) + words)
        request.transport.close()
        raise asyncio.CancelledError

    async def _silence(self) -> None:
        self.stalled.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy on a free port of loopback before the server at `upstream`."""
    proxy = FaultProxy(upstream)
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def answer(request: web.Request) -> web.StreamResponse:
            return await proxy.answer(request, session)

        async with serving(answer) as url:
            proxy.endpoint = url
            yield proxy
