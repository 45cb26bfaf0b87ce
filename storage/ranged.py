"""What transfers over HTTP have in common: their limits, what a refusal is, whether an answer is the range asked for.

Knows: HTTP ranges, and how long a transfer may be silent. Must not know: S3, IPFS or signatures. A part that breaks off is
asked for again from the first byte that did not come, after a pause with jitter; only tries that bring (nearly) nothing
count, so a transfer that moves goes on, however bad the line. What comes is never more or less than what was asked for.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from msgspec import Struct

from protocol.errors import Broken, Exhausted, Fault

READ_BYTES: Final = 1 << 18
MOVED_BYTES: Final = 1 << 18
"""A try that brought at least this much is not counted."""
CRAWL_BYTES: Final = 1 << 12
"""Less than this within the limit on silence counts as silence: a body that trickles would otherwise never end."""
PAUSE_MAX_S: Final = 5.0
ERROR_MAX_BYTES: Final = 1 << 16

CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
"""What an answer says of its bytes: the first, the last, and how many there are in all."""


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
    found = CONTENT_RANGE.fullmatch(said)
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


class Crawl:
    """Notices a body that trickles."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()
        self._bytes = 0

    def check(self, size: int) -> None:
        """Some bytes came. Raises `TimeoutError` if they were too few for too long."""
        self._bytes += size
        if self._bytes >= CRAWL_BYTES:
            self._since, self._bytes = self._clock(), 0
        elif self._clock() - self._since > self._within_s:
            raise aiohttp.SocketTimeoutError
