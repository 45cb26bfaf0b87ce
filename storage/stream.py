"""What lies behind a URL as a stream, for programs that do one thing and may wait for it: blocking.

Knows: connections, and when reading can go on where it broke off. Must not know: what the bytes are.

All of it comes, or a fault: a body that ends before its announced end is one, and so is one that trickles. Where the server
says which version it has (a strong ETag) and how long it is, reading goes on behind the byte that came last, in that version
alone.
"""

import asyncio
import contextlib
import io
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar, cast
from urllib.parse import urlsplit

from msgspec.structs import replace

from protocol.errors import Broken, Fault, TimedOut, Unavailable
from storage.addresses import OWN_NETWORKS, read_policy
from storage.http_faults import FINAL, check_status
from storage.ranged import MOVED_BYTES, PAUSE_MAX_S, Limits, check_range
from storage.resolver import CheckedResolver
from storage.route import Route, find_route
from storage.tree import CHUNK_BYTES
from storage.wire import Garbled, Head, Line, LineFault, Lost, Silent, Untrusted

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

PARTIAL: Final = 206
CHANGED: Final = 412
LIMITS: Final = Limits()
HASTY: Final = Limits(connect_s=5.0, silence_s=5.0, tries=1)
"""Until the answer begins, where there is another way that can be taken at once."""


@contextlib.contextmanager
def opened(
    url: str, *, size_bytes: int | None = None, etag: str = "", hasty: bool = False
) -> Iterator[BinaryIO]:
    """What a URL answers with, exactly `size_bytes` of the version `etag` where they are known. `hasty`: what does not
    answer soon is not asked again. Raises `NotFound`, `Denied`, `Unavailable`, `TimedOut` and `Broken`, here and while it is
    read."""
    parts = urlsplit(url)
    policy = read_policy(OWN_NETWORKS)
    policy.check_host(parts.hostname or "", parts.port or 0)
    route = asyncio.run(find_route(url, LIMITS, CheckedResolver(policy)))
    with contextlib.closing(_Body(url, route, size_bytes, etag)) as body:
        body.begin(HASTY if hasty else LIMITS)
        yield cast(BinaryIO, io.BufferedReader(body, CHUNK_BYTES))


class _Body(io.RawIOBase):
    """A body from its first byte to its last, over as many connections as it takes."""

    def __init__(self, url: str, route: Route, size_bytes: int | None, wanted: str) -> None:
        parts = urlsplit(url)
        self._target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        self._what = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._route = route
        self._limits = LIMITS
        self._line: Line | None = None
        self._etag = ""
        self._wanted = {"If-Match": wanted} if wanted else {}
        self._size = size_bytes
        self._at = 0
        self._tries = self._silences = self._tried_at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Let go of the connection."""
        if self._line is not None:
            self._line.close()
        super().close()

    def begin(self, limits: Limits) -> None:
        """Have the answer begin."""
        self._limits = limits
        self._until_it_goes(lambda line: None)
        self._limits = LIMITS

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """The next bytes; 0 behind the last."""
        room = memoryview(buffer).cast("B")
        count = self._until_it_goes(lambda line: line.read_into(room))
        self._at += count
        return count

    def _until_it_goes(self, step: Callable[[Line], T]) -> T:
        """Do a step; where the connection breaks, ask for what is missing and do it again, as often as the limits say."""
        while True:
            try:
                if self._line is None:
                    self._line = Line(
                        replace(
                            self._route, connect_s=self._limits.connect_s, silence_s=self._limits.silence_s
                        )
                    )
                    self._ask(self._line)
                return step(self._line)
            except (LineFault, Unavailable) as error:
                fault = error if isinstance(error, Unavailable) else self._fault_of(error)
                if self._line is not None:
                    self._line.close()
                    self._line = None
                if self._is_last(fault):
                    raise fault from error
            time.sleep(min(self._limits.retry_s * 2.0**self._tries, PAUSE_MAX_S) * random.uniform(0.5, 1.0))

    def _ask(self, line: Line) -> None:
        """Ask for all that is missing, and look at what begins to come."""
        line.open()
        headers = {"Accept-Encoding": "identity", "User-Agent": "shoal", **self._wanted}
        if self._at:
            headers |= {"Range": f"bytes={self._at}-", "If-Range": self._etag}
        line.send("GET", self._target, headers)
        head = line.head()
        if self._wanted and head.status == CHANGED:
            raise Broken(f"{self._what} is not as it was published", kind="Changed")
        if not self._at:
            check_status(self._what, head.status, "", 200)
            self._note(head)
            return
        if head.status == 200:
            raise Broken(f"{self._what} was replaced while it was being read", kind="Changed")
        check_status(self._what, head.status, "", PARTIAL)
        if head.headers.get("etag", self._etag) != self._etag:
            # Not every server knows If-Range.
            raise Broken(f"{self._what} was replaced while it was being read", kind="Changed")
        assert self._size is not None
        check_range(self._what, self._size, self._at, self._size, head.headers, partial=True)

    def _note(self, head: Head) -> None:
        length = head.headers.get("content-length", "")
        if not length and "transfer-encoding" not in head.headers:
            raise Broken(f"{self._what} does not say where it ends", kind=FINAL)
        if length and self._size not in (None, int(length)):
            raise Broken(f"{self._what} has {length} bytes and was to have {self._size}", kind=FINAL)
        self._size = int(length) if length else None
        self._etag = head.headers.get("etag", "")

    def _is_last(self, fault: Fault) -> bool:
        """Whether it is to be told rather than tried again."""
        if self._at - self._tried_at >= MOVED_BYTES:
            self._tries = self._silences = 0
        self._tried_at = self._at
        self._tries += 1
        self._silences += isinstance(fault, TimedOut)
        spent = self._tries >= self._limits.tries or self._silences >= self._limits.silent_tries
        can_go_on = not self._at or (self._size is not None and self._etag.startswith('"'))
        return spent or not can_go_on or fault.kind == FINAL

    def _fault_of(self, error: LineFault) -> Fault:
        so_far = f"after {self._at} of {self._size} bytes" if self._size else f"after {self._at} bytes"
        match error:
            case Silent():
                return TimedOut(f"{self._what} was silent for {self._limits.silence_s:g} s, {so_far}")
            case Untrusted():
                return Unavailable(f"{self._what}: {error}", hint=error.hint, kind=FINAL)
            case Garbled():
                return Broken(f"{self._what}: {error}", kind=FINAL)
            case Lost() if self._at:
                return Broken(f"{self._what} ended early, {so_far}", kind="Cut")
        return Unavailable(
            f"{self._what} cannot be reached: {error}", hint="Is the server running, and reachable from here?"
        )
