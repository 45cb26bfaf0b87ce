"""Files brought over HTTP in ranges: several at once, each tried again by itself, memory bounded.

Knows: HTTP ranges, what a broken transfer looks like, and writing at a place in a file. Must not know: S3, IPFS or
signatures: a `Remote` says where its bytes are, and what an answer other than them means.

Each part is asked for with its exact range, and read with a limit on silence. A part that breaks off is asked for again
from the first byte that did not come, after a pause with jitter; only tries that bring (nearly) nothing count, so a
transfer that moves goes on, however bad the line. What comes is never more or less than what was asked for.
"""

import asyncio
import os
import random
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from protocol.errors import Broken, Exhausted, Fault, TimedOut, Unavailable
from storage.threads import Stop, in_thread

READ_BYTES: Final = 1 << 18
WRITE_BYTES: Final = 1 << 20
"""More at once costs more: the memory then comes fresh from the system, page by page, each time (measured)."""
SMALL_BYTES: Final = 1 << 16
"""So much is written without a thread, which would cost more than the writing."""
MOVED_BYTES: Final = 1 << 18
"""A try that brought at least so much is not counted."""
PAUSE_MAX_S: Final = 5.0
ERROR_MAX_BYTES: Final = 1 << 16

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Limits(Struct, frozen=True):
    """How a transfer behaves: see the module. Times in seconds.

    A part is given up after `tries` in a row that brought nothing, or `silent_tries` that ended in silence.
    """

    connect_s: float = 10.0
    silence_s: float = 30.0
    retry_s: float = 0.2
    tries: int = 5
    silent_tries: int = 3
    part_bytes: int = 16 << 20


class Refusal(Struct, frozen=True):
    """What an answer means that is not the bytes asked for, and whether to ask again."""

    fault: Fault
    again: bool


class Ask(Struct, frozen=True):
    """A request for some bytes: a URL as it stands (already quoted). `partial` if they are to come as status 206."""

    url: str
    headers: Mapping[str, str]
    partial: bool
    method: str = "GET"


class Remote(Protocol):
    """One file's bytes somewhere else."""

    @property
    def name(self) -> str:
        """How messages name it."""

    @property
    def size_bytes(self) -> int:
        """Exactly how many bytes it has."""

    async def ask(self, start: int, end: int) -> Ask:
        """What to ask for the bytes from `start` up to, not with, `end`."""

    def check(self, ask: Ask, headers: Mapping[str, str]) -> None:
        """Raise `Broken` if an answer to `ask` with these headers is not of this file."""

    def refusal(self, ask: Ask, status: int, body: bytes) -> Refusal:
        """What an answer to `ask` of that status means."""


class Item(Struct, frozen=True):
    """One file to bring: `open` answers with a new descriptor to write to, which is closed when the last byte is there."""

    remote: Remote
    open: Callable[[], int]


def open_session(
    limits: Limits,
    *,
    resolver: AbstractResolver | None = None,
    trust_env: bool = False,
    connector: aiohttp.BaseConnector | None = None,
) -> aiohttp.ClientSession:
    """A session fit for bulk reading: bytes as they are stored, no cookies, a limit on silence and none on length.

    `connector` is for what is not reached as `resolver` would; the session closes it.
    """
    return aiohttp.ClientSession(
        connector=connector or aiohttp.TCPConnector(limit=0, resolver=resolver),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s),
        read_bufsize=READ_BYTES,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        trust_env=trust_env,
    )


class Reader:
    """Brings files over one session."""

    def __init__(self, session: aiohttp.ClientSession, limits: Limits) -> None:
        self._session = session
        self._limits = limits

    async def bring(self, items: Iterable[Item], moved: Callable[[int], None], requests: int) -> None:
        """Bring all files, their parts in order, `requests` at once; `moved` is told of bytes as they are written.

        Raises the first fault (of `Remote.refusal`, `TimedOut`, `Unavailable`, `Broken`); then, as when cancelled, all
        descriptors are closed and nobody writes any more.
        """
        opened: set[_File] = set()
        parts = _parts(items, self._limits.part_bytes, opened)

        async def work() -> None:
            for part in parts:
                await self._part(part, moved)
                if part.file.has_one_part_less():
                    opened.discard(part.file)

        try:
            await together(work() for _ in range(requests))
        finally:
            for file in opened:
                file.close()

    async def _part(self, part: "_Part", moved: Callable[[int], None]) -> None:
        tries = silences = 0
        while True:
            before = part.at
            try:
                return await self._try(part, moved)
            except _Again as again:
                if part.at - before >= MOVED_BYTES:
                    tries = silences = 0
                else:
                    tries += 1
                    silences += isinstance(again.fault, TimedOut)
                if tries >= self._limits.tries or silences >= self._limits.silent_tries:
                    raise again.fault from again.__cause__
            pause = min(self._limits.retry_s * 2.0**tries, PAUSE_MAX_S)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _try(self, part: "_Part", moved: Callable[[int], None]) -> None:
        """Ask once for what is still missing of a part. Raises `_Again` where another try may help."""
        remote = part.file.remote
        ask = await remote.ask(part.at, part.end)
        try:
            async with self._session.request(
                ask.method, URL(ask.url, encoded=True), headers=ask.headers, allow_redirects=False
            ) as response:
                if response.status != (206 if ask.partial else 200):
                    await self._refuse(remote, ask, response)
                remote.check(ask, response.headers)
                try:
                    check_range(
                        remote.name, remote.size_bytes, part.at, part.end, response.headers, ask.partial
                    )
                except Broken as fault:
                    if fault.kind == "Cut":
                        raise _Again(fault) from fault
                    raise
                await self._read(part, response, moved)
        except aiohttp.ClientConnectorError as error:
            raise _Again(
                Unavailable(f"{remote.name}: {error.host}:{error.port} cannot be reached")
            ) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise _Again(
                Unavailable(f"{remote.name}: no connection in {self._limits.connect_s:g} s")
            ) from error
        except TimeoutError as error:
            silence = f"no byte for {self._limits.silence_s:g} s, after {part.at} of {remote.size_bytes}"
            hint = "Try again later, or allow a longer silence."
            raise _Again(TimedOut(f"{remote.name}: {silence}", hint=hint)) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            cut = f"{remote.name}: the connection broke after {part.at} of {remote.size_bytes} bytes"
            raise _Again(Broken(cut, kind="Cut")) from error

    async def _refuse(self, remote: Remote, ask: Ask, response: aiohttp.ClientResponse) -> None:
        if 200 <= response.status < 300:
            raise Broken(f"{remote.name}: status {response.status} was answered to a request for a range")
        body = await response.content.read(ERROR_MAX_BYTES)
        refusal = remote.refusal(ask, response.status, body)
        if refusal.again:
            raise _Again(refusal.fault)
        raise refusal.fault

    async def _read(
        self, part: "_Part", response: aiohttp.ClientResponse, moved: Callable[[int], None]
    ) -> None:
        """Write a body to the part's place; what came is written even if the rest does not."""
        waiting: list[bytes] = []
        size = 0
        try:
            async for piece in response.content.iter_any():
                size += len(piece)
                if size > part.end - part.at:
                    raise Broken(f"{part.file.remote.name}: more bytes came than were asked for")
                waiting.append(piece)
                if size >= WRITE_BYTES:
                    await part.write(waiting, size, moved)
                    waiting, size = [], 0
        finally:
            if size and size <= part.end - part.at:
                await part.write(waiting, size, moved)
        if part.at < part.end:
            raise _Again(
                Broken(
                    f"{part.file.remote.name}: the body ended after {part.at} of {part.end} bytes", kind="Cut"
                )
            )


class _Again(Exception):
    """A try failed in a way that another may not."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class _File:
    """A file being written: open while any of its parts is under way or to come."""

    def __init__(self, item: Item, parts: int) -> None:
        self.remote: Remote = item.remote
        self.fd = item.open()
        self._left = parts

    def has_one_part_less(self) -> bool:
        """Say that a part is written. After the last one the file is closed, and the answer is True."""
        self._left -= 1
        if self._left <= 0:
            self.close()
        return self._left <= 0

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


class _Part:
    """A range of a file, of which all bytes before `at` are written."""

    def __init__(self, file: _File, at: int, end: int) -> None:
        self.file = file
        self.at = at
        self.end = end

    async def write(self, pieces: list[bytes], size: int, moved: Callable[[int], None]) -> None:
        """Write pieces of `size` bytes together at the part's place, beside the event loop if they are many."""
        fd, at = self.file.fd, self.at
        if size <= SMALL_BYTES:
            _write(fd, pieces, at)
        else:

            def work(stop: Stop) -> None:
                _write(fd, pieces, at)

            await in_thread(work)
        self.at += size
        moved(size)


def _write(fd: int, pieces: list[bytes], at: int) -> None:
    rest: list[bytes | memoryview] = list(pieces)
    while rest:
        # The system takes a bounded number of pieces at once.
        written = os.pwritev(fd, rest[:512], at)
        at += written
        while rest and written >= len(rest[0]):
            written -= len(rest[0])
            rest.pop(0)
        if written:
            rest[0] = memoryview(rest[0])[written:]


def _parts(items: Iterable[Item], part_bytes: int, opened: set[_File]) -> Iterator[_Part]:
    """The parts of all files in order; a file is opened when its first part is taken. Empty files need no request."""
    for item in items:
        size = item.remote.size_bytes
        starts = range(0, size, part_bytes)
        file = _File(item, len(starts))
        if not starts:
            file.close()
            continue
        opened.add(file)
        for start in starts:
            yield _Part(file, start, min(start + part_bytes, size))


def ranged_get(url: str, headers: Mapping[str, str], start: int, end: int, size_bytes: int) -> Ask:
    """A plain HTTP request for a range; a whole file is asked for without one, which every server understands."""
    if start == 0 and end == size_bytes:
        return Ask(url, headers, partial=False)
    return Ask(url, {**headers, "Range": f"bytes={start}-{end - 1}"}, partial=True)


def check_range(
    name: str, size_bytes: int, start: int, end: int, headers: Mapping[str, str], partial: bool
) -> None:
    """Raise `Broken` if the headers of an answer are not of the bytes from `start` to `end`; kind ``Cut`` if it is short."""
    length = headers.get("Content-Length") or headers.get("content-length", "")
    if length.isdecimal() and int(length) != end - start:
        raise Broken(f"{name}: {length} bytes were answered where {end - start} were asked for", kind="Cut")
    if not partial:
        return
    said = headers.get("Content-Range") or headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(said)
    if (
        found is None
        or (int(found[1]), int(found[2])) != (start, end - 1)
        or found[3] not in ("*", str(size_bytes))
    ):
        raise Broken(
            f"{name}: the range {said!r} was answered where bytes {start}-{end - 1}/{size_bytes} were asked for"
        )


def check_size(what: str, size_bytes: int, max_bytes: int | None) -> None:
    """Raise `Exhausted` if an input is larger than its node takes (None: as large as it likes)."""
    if max_bytes is not None and size_bytes > max_bytes:
        hint = "Read less, or let the node's owner raise its limit."
        raise Exhausted(f"{what} has {size_bytes} bytes and the node's limit is {max_bytes}", hint=hint)


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines side by side; the first fault ends the others and is raised as itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as faults:
        raise _first(faults) from None


def _first(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    first: BaseException = faults
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
