"""The `urlDownload` source: one file from an HTTP server.

Knows: HTTP, and how servers go wrong. Must not know: what the file is for.

The result is a folder that holds one file, because Bacalhau mounts ``<Target>/<name>``. Its name is the one in the params;
else the last element of the URL's path; if that is empty, what Content-Disposition says; else ``download``. After redirects
it is, as there, what Content-Disposition says, else the last element of the URL that they lead to.

Only a whole body under status 200 is data, or the rest of one under the 206 that was asked for. What is resolved is read
from the headers of a GET that goes no further, because servers answer HEAD in ways of their own. An attempt that got a good
part further than all before it begins a new round of attempts: a transfer that moves goes on.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import aiohttp
import stamina
from yarl import URL

from protocol.errors import Broken, Denied, Exhausted, Fault
from protocol.nodes import Offer
from storage.arrival import arriving
from storage.contract import Drivers, Fetched, Form, Progress, Resolved, Share
from storage.credentials import Credential
from storage.http_faults import FINAL, check_status, fault_for, may_pass
from storage.ranged import MOVED_BYTES, Crawl
from storage.resolver import CheckedResolver, environment_proxies
from storage.route import proxy_of
from storage.settings import StorageSettings
from storage.threads import in_thread
from storage.tree import CHUNK_BYTES
from storage.url.arrival import Arrival
from storage.url.params import (
    Pinned,
    UrlParams,
    check_size,
    file_name,
    identity,
    parse_url,
    redirected,
    shown,
    version_of,
)

if TYPE_CHECKING:
    from storage.contract import Source

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
HEADER_MAX_BYTES: Final = 1 << 16
"""Signed links and policies for browsers have tens of kilobytes."""
# Servers that pack what they send would make another length and another file of it.
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "shoal"}


class UrlSource:
    """Files from HTTP servers, over a session that is its opener's to close."""

    type: ClassVar[str] = "urlDownload"
    params: ClassVar[Form] = UrlParams

    def __init__(self, session: aiohttp.ClientSession, settings: StorageSettings) -> None:
        self._session = session
        self._settings = settings
        self._retried = stamina.AsyncRetryingCaller(attempts=settings.attempts, timeout=None).on(may_pass)

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def resolve(self, params: UrlParams, share: Share) -> Resolved:
        pinned = await self._retried(self._pinned, params)
        version = pinned.version
        check_size(params, version.size_bytes)
        size_bytes = params.size_bytes if version.size_bytes is None else version.size_bytes
        self._check_limit(params, size_bytes or 0)
        exact = bool(params.digest) or version.exact
        return Resolved(identity(params, pinned), size_bytes, pinned, cacheable=exact)

    async def fetch(self, params: UrlParams, resolved: Resolved, into: Path, progress: Progress) -> Fetched:
        async with arriving(into) as beside:
            with Arrival(params, resolved.pinned, beside, progress) as arrival:
                while True:
                    furthest = arrival.furthest
                    try:
                        await self._retried(self._download, arrival)
                        break
                    except Fault as fault:
                        if not may_pass(fault) or arrival.furthest - furthest < MOVED_BYTES:
                            raise
        return Fetched(into)

    async def _pinned(self, params: UrlParams) -> Pinned:
        async with self._get(params, {}) as answer:
            return Pinned(version_of(answer), file_name(params, answer))

    async def _download(self, arrival: "Arrival") -> None:
        """One attempt, from the first byte that is missing to the last."""
        params = arrival.params
        async with self._get(params, arrival.wanted()) as answer:
            if answer.status in (206, 416):
                arrival.check_rest(answer)
            else:
                arrival.check_version(version_of(answer))
                arrival.forget()
            total = arrival.total(answer)
            await self._copy(arrival, answer, total)
        arrival.check_whole(total, ended=total is not None or "Transfer-Encoding" in answer.headers)

    async def _copy(self, arrival: "Arrival", answer: aiohttp.ClientResponse, total: int | None) -> None:
        """Nothing is awaited before the body is: aiohttp drops what it holds when the server goes meanwhile."""
        async with contextlib.aclosing(self._body(arrival, answer)) as body:
            async for piece in body:
                self._check_limit(arrival.params, arrival.done + len(piece))
                check_size(arrival.params, arrival.done + len(piece), more=True)
                await in_thread(partial(arrival.append, piece))
                arrival.tell(total)
        await in_thread(partial(arrival.append, b""))

    async def _body(self, arrival: "Arrival", answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body in pieces of a mebibyte and more, so that each is worth its trip to a thread. Raises our faults.

        What came before a fault is given out before it is raised: it need not come again.
        """
        pieces: list[bytes] = []
        size = done = 0
        crawl = Crawl(self._settings.silence_s)
        fault: Fault | None = None
        try:
            while piece := await self._piece(answer):
                pieces.append(piece)
                size += len(piece)
                crawl.check(len(piece))
                if size >= CHUNK_BYTES:
                    done += size
                    yield b"".join(pieces)
                    pieces, size = [], 0
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            fault = self._fault(arrival.params, error, arrival.done + size)
            fault.__cause__ = error
        if pieces:
            yield b"".join(pieces)
        if fault is not None:
            raise fault

    async def _piece(self, answer: aiohttp.ClientResponse) -> bytes:
        """What has come of the body, empty at its end. The session takes for a sign of life what is no part of the body: the
        words around its chunks, and trailers, which may come for ever.
        """
        try:
            async with asyncio.timeout(self._settings.silence_s):
                return await answer.content.readany()
        except TimeoutError as error:
            raise aiohttp.SocketTimeoutError from error

    @contextlib.asynccontextmanager
    async def _get(
        self, params: UrlParams, wanted: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer with status 200 (or what there is to a range that is `wanted`), at the end of all redirects, unread."""
        credential = self._credential(params)
        at = parse_url(params.url)
        good = (200, 206, 416) if wanted else (200,)
        for _ in range(self._settings.redirects + 1):
            answer = await self._ask(params, at, wanted, credential)
            try:
                if answer.status not in REDIRECTS or "Location" not in answer.headers:
                    check_status(shown(params), answer.status, answer.reason or "", *good)
                    yield answer
                    return
                at = redirected(params, at, answer.headers["Location"])
            finally:
                answer.close()
        message = f"{shown(params)} redirects more than {self._settings.redirects} times"
        raise Broken(message, hint="The server sends clients in circles; use the final URL.", kind=FINAL)

    async def _ask(
        self, params: UrlParams, at: URL, wanted: Mapping[str, str], credential: Credential | None
    ) -> aiohttp.ClientResponse:
        self._settings.addresses.check_host(at.host or "", at.port or 0)
        headers = {**_HEADERS, **wanted}
        if credential is not None and credential.is_for(at):
            headers["Authorization"] = await in_thread(lambda _: credential.header())
        limit_s = self._settings.connect_s + self._settings.silence_s
        try:
            # Headers that trickle are not silence to the session.
            async with asyncio.timeout(limit_s):
                proxy = (self._settings.url_proxies and proxy_of(str(at))) or None
                return await self._session.get(at, headers=headers, allow_redirects=False, proxy=proxy)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._fault(params, error, 0) from error

    def _credential(self, params: UrlParams) -> Credential | None:
        """What the params name. Raises `Denied` if the node has none of that name, or has it for another server."""
        if not params.credentials:
            return None
        found = self._settings.url_credentials.get(params.credentials)
        if found is None:
            hint = "Ask the node's owner for InputSources.Types.URL.Credentials, or use another node."
            raise Denied(f"this node has no credentials named {params.credentials[:100]!r}", hint=hint)
        if not found.is_for(parse_url(params.url)):
            raise Denied(
                f"the credentials {found.name!r} of this node are for {found.where}, not for {shown(params)}",
                hint="Name those of that server, or leave Credentials out.",
            )
        return found

    def _fault(self, params: UrlParams, error: Exception, done: int) -> Fault:
        connect_s, silence_s = self._settings.connect_s, self._settings.silence_s
        return fault_for(shown(params), error, done, connect_s=connect_s, silence_s=silence_s)

    def _check_limit(self, params: UrlParams, size_bytes: int) -> None:
        limit = self._settings.max_bytes
        if limit is not None and size_bytes > limit:
            message = f"{shown(params)} has more than {limit} bytes, the most this node takes"
            raise Exhausted(message, hint="Use a node with a higher limit.", kind="Size")


@contextlib.asynccontextmanager
async def open_url(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """The source with a session of its own. The environment's proxies are used, its ``.netrc`` is not."""
    trusted = settings.addresses.trusting(environment_proxies())
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_s, sock_read=settings.silence_s)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=CheckedResolver(trusted), limit=0),
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=CHUNK_BYTES,
        max_line_size=HEADER_MAX_BYTES,
        max_field_size=HEADER_MAX_BYTES,
    ) as session:
        yield Drivers(sources={"urldownload": UrlSource(session, settings)})


if TYPE_CHECKING:

    def _fits(driver: UrlSource) -> Source[UrlParams]:
        return driver
