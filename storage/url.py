"""The `urlDownload` source: one file from an HTTP server.

Knows: HTTP, and how servers go wrong. Must not know: what the file is for.

The result is a folder that holds one file, because Bacalhau mounts ``<Target>/<name>``. Its name is the last element of the
path of the URL that was asked for; if that is empty, what Content-Disposition says; else ``download``.

Only a whole body under status 200 is data. A body that ends early or falls silent is fetched again from its beginning,
never continued: two attempts may be answered by two versions. What a server says of a version (ETag, Last-Modified,
length) is the identity; it is read from the headers of a GET that goes no further, because servers answer HEAD in ways of
their own. A server that says nothing of versions gets an identity that is used once, so that its data is never taken for
the same by mistake.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import unquote

import aiohttp
import stamina
from msgspec import Struct, field
from yarl import URL

from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, NotFound, TimedOut, Unavailable
from protocol.nodes import Offer
from storage.arrival import arriving, remove_tree
from storage.contract import Drivers, Fetched, Form, Progress, Resolved, Share
from storage.resolver import CheckedResolver
from storage.settings import StorageSettings
from storage.threads import Stop, in_thread
from storage.tree import CHUNK_BYTES, TreeWriter, safe_parts, write_all

if TYPE_CHECKING:
    from storage.contract import Source

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PLAIN: Final = re.compile(r"[!-~]+")
# Servers that pack what they send would make another length and another file of it.
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "shoal"}
_FINAL: Final = "Final"
"""Kind of a fault that another attempt would only repeat."""


class UrlParams(Struct, frozen=True):
    """Where the file is: an absolute ``http`` or ``https`` URL."""

    url: str = field(name="URL")

    def __post_init__(self) -> None:
        parse_url(self.url)


class Version(Struct, frozen=True):
    """What a server says of the bytes behind a URL."""

    etag: str = ""
    modified: str = ""
    size_bytes: int | None = None

    @property
    def told(self) -> bool:
        """Whether it tells one version from another at all."""
        return bool(self.etag or self.modified)


class UrlSource:
    """Files from HTTP servers, over a session that is its opener's to close."""

    type: ClassVar[str] = "urlDownload"
    params: ClassVar[Form] = UrlParams

    def __init__(self, session: aiohttp.ClientSession, settings: StorageSettings) -> None:
        self._session = session
        self._settings = settings
        self._retried = stamina.AsyncRetryingCaller(attempts=settings.attempts, timeout=None).on(_may_pass)

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def resolve(self, params: UrlParams, share: Share) -> Resolved:
        version = await self._retried(self._version, params)
        self._check_size(params, version.size_bytes or 0)
        # A weak ETag promises the same meaning, not the same bytes; a time of change, no more than a second.
        strong = bool(version.etag) and not version.etag.startswith("W/")
        return Resolved(identity(params, version), version.size_bytes, version, cacheable=strong)

    async def fetch(self, params: UrlParams, resolved: Resolved, into: Path, progress: Progress) -> Fetched:
        forward = _only_forward(progress)
        async with arriving(into) as beside:
            await self._retried(self._download, params, resolved.pinned, beside, forward)
        return Fetched(into)

    async def _version(self, params: UrlParams) -> Version:
        async with self._get(params) as answer:
            return version_of(answer)

    async def _download(self, params: UrlParams, version: Version, folder: Path, progress: Progress) -> None:
        """One attempt, from the first byte to the last."""
        async with self._get(params) as answer:
            found = version_of(answer)
            if found != version:
                message = f"{shown(params)} has changed since it was resolved"
                raise Broken(message, hint="Run the job again.", kind=_FINAL)
            await in_thread(lambda _: remove_tree(folder))
            with TreeWriter(folder) as writer:
                file = writer.open(file_name(params.url, answer))
            try:
                await self._copy(params, answer, file, progress)
            finally:
                os.close(file)

    async def _copy(
        self, params: UrlParams, answer: aiohttp.ClientResponse, file: int, progress: Progress
    ) -> None:
        total = answer.content_length
        done = 0
        async with contextlib.aclosing(self._body(params, answer)) as body:
            async for piece in body:
                done += len(piece)
                self._check_size(params, done)
                await in_thread(partial(_append, file, piece))
                progress(done, total)
        if total is not None and done != total:
            raise Broken(f"{shown(params)} ended after {done} of {total} bytes")

    async def _body(self, params: UrlParams, answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body in pieces of a mebibyte and more, so that each is worth its trip to a thread. Raises our faults."""
        pieces: list[bytes] = []
        size = done = 0
        try:
            async for piece in answer.content.iter_any():
                pieces.append(piece)
                size += len(piece)
                if size >= CHUNK_BYTES:
                    done += size
                    yield b"".join(pieces)
                    pieces, size = [], 0
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _fault(params, error, done + size, self._settings) from error
        if pieces:
            yield b"".join(pieces)

    @contextlib.asynccontextmanager
    async def _get(self, params: UrlParams) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer with status 200, at the end of all redirects; its body is not read yet. Raises our faults."""
        at = parse_url(params.url)
        for _ in range(self._settings.redirects + 1):
            answer = await self._ask(params, at)
            try:
                if answer.status not in REDIRECTS or "Location" not in answer.headers:
                    _check_status(params, answer)
                    yield answer
                    return
                at = _redirected(params, at, answer.headers["Location"])
            finally:
                answer.close()
        message = f"{shown(params)} redirects more than {self._settings.redirects} times"
        raise Broken(message, hint="The server sends clients in circles; use the final URL.", kind=_FINAL)

    async def _ask(self, params: UrlParams, at: URL) -> aiohttp.ClientResponse:
        self._settings.addresses.check_host(at.host or "", at.port or 0)
        try:
            return await self._session.get(at, headers=_HEADERS, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _fault(params, error, 0, self._settings) from error

    def _check_size(self, params: UrlParams, size_bytes: int) -> None:
        limit = self._settings.max_bytes
        if limit is not None and size_bytes > limit:
            message = f"{shown(params)} has more than {limit} bytes, the most this node takes"
            raise Exhausted(message, hint="Use a node with a higher limit.", kind="Size")


@contextlib.asynccontextmanager
async def open_url(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """The source with a session of its own. Proxies and ``.netrc`` of the environment are not used."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_s, sock_read=settings.silence_s)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=CheckedResolver(settings.addresses), limit=0),
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=CHUNK_BYTES,
    ) as session:
        yield Drivers(sources={"urldownload": UrlSource(session, settings)})


def parse_url(text: str) -> URL:
    """Read an ``http`` or ``https`` URL. One that is written in plain characters is sent as it is written: a signature may
    depend on every escape in it. Raises ``ValueError``.
    """
    url = URL(text, encoded=_PLAIN.fullmatch(text) is not None)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"URL {text[:200]!r} is not an absolute http or https URL")
    return url


def shown(params: UrlParams) -> str:
    """The URL for people: without password and query, which may hold secrets."""
    url = parse_url(params.url)
    return str(url.with_user(None).with_query(None).with_fragment(None)) + ("?…" if url.query_string else "")


def identity(params: UrlParams, version: Version) -> str:
    """A name for these bytes: the URL (what is not shown of it, by its digest) and the version, or a name used once."""
    whole = hashlib.sha256(params.url.encode()).hexdigest()[:16]
    mark = (
        f"{version.etag}|{version.modified}|{version.size_bytes}" if version.told else secrets.token_hex(16)
    )
    return f"url:{shown(params)}#{whole}|{mark}"


def version_of(answer: aiohttp.ClientResponse) -> Version:
    """The version that an answer's headers speak of."""
    headers = answer.headers
    return Version(headers.get("ETag", ""), headers.get("Last-Modified", ""), answer.content_length)


def file_name(url: str, answer: aiohttp.ClientResponse) -> str:
    """The name of the downloaded file: never a path, never empty."""
    last = unquote(parse_url(url).raw_path.rpartition("/")[2])
    disposition = answer.content_disposition
    for name in (last, (disposition.filename or "") if disposition else ""):
        with contextlib.suppress(Invalid):
            return safe_parts(name)[-1]
    return "download"


def _may_pass(error: Exception) -> bool:
    return isinstance(error, Fault) and error.retryable and error.kind != _FINAL


def _check_status(params: UrlParams, answer: aiohttp.ClientResponse) -> None:
    """Raise the fault that a status stands for, unless it is 200."""
    status = answer.status
    if status == 200:
        return
    message = f"{shown(params)} answers {status} {answer.reason or ''}".rstrip()
    if status in (404, 410):
        raise NotFound(message, hint="Check the URL.")
    if status in (401, 403, 407):
        raise Denied(message, hint="The server wants credentials, or the URL's signature has expired.")
    if status in (408, 425, 429) or status >= 500:
        raise Unavailable(message, hint="The server is ill or busy; try again later.")
    if 400 <= status < 500:
        raise Invalid(message, hint="Check the URL.")
    raise Broken(f"{message}, which is not the file", kind=_FINAL)


def _redirected(params: UrlParams, at: URL, location: str) -> URL:
    try:
        return parse_url(str(at.join(URL(location, encoded=_PLAIN.fullmatch(location) is not None))))
    except ValueError as error:
        raise Broken(f"{shown(params)} redirects to what is no http URL", kind=_FINAL) from error


def _fault(params: UrlParams, error: Exception, done: int, settings: StorageSettings) -> Fault:
    """Ours for an error of the HTTP client."""
    url = shown(params)
    match error:
        case aiohttp.ServerTimeoutError() | TimeoutError() if done or isinstance(
            error, aiohttp.SocketTimeoutError
        ):
            return TimedOut(f"{url} was silent for {settings.silence_s:g} s, after {done} bytes")
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return TimedOut(f"{url} could not be connected to within {settings.connect_s:g} s")
        case aiohttp.ClientPayloadError():
            return Broken(f"{url} ended early, after {done} bytes")
        case aiohttp.InvalidURL():
            return Invalid(f"{url} is not a URL that can be asked for")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return Unavailable(
                f"{url}: no secure connection: {error}", hint="Check the server's certificate."
            )
        case aiohttp.ClientConnectorError():
            hint = "Check the host and port, and that this node may reach it."
            return Unavailable(f"{url} cannot be reached: {error.os_error.strerror or error}", hint=hint)
        case aiohttp.ClientResponseError():
            return Broken(f"{url} answers what is not HTTP: {error.message}")
        case ValueError():
            return Invalid(f"{url} cannot be asked for: {error}")
        case _:
            return Unavailable(f"{url} broke off the connection, after {done} bytes: {error}")


def _append(file: int, piece: bytes, stop: Stop) -> None:
    write_all(file, piece)


def _only_forward(progress: Progress) -> Progress:
    """`progress` without the way back that a new attempt makes."""
    most = 0

    def tell(done_bytes: int, total_bytes: int | None) -> None:
        nonlocal most
        if done_bytes > most:
            most = done_bytes
            progress(done_bytes, total_bytes)

    return tell


if TYPE_CHECKING:

    def _fits(driver: UrlSource) -> Source[UrlParams]:
        return driver
