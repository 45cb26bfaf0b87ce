"""A stream of bytes in parts, each a request that sends it.

Knows: when a part is full, checksums, and what an answer to a part says. Must not know: whose link or signature a request
has: `ask` makes the request. Parts are made in the thread that sends them, one at a time, and are never joined: a part is
the pieces as the stream gave them, so memory holds as many parts as there are lanes.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from isal import isal_zlib

from protocol.errors import Broken
from storage.lanes import Lane, Request
from storage.ranged import Refusal
from storage.s3.faults import DIGEST
from storage.wire import Head, Line

PARTS_MAX: Final = 10_000
SLICE_BYTES: Final = 1 << 20


class Piece:
    """One part on its way: a `storage.lanes.Task`. `asked` says that it was sent once, `etag` and `version` what
    was answered."""

    def __init__(
        self,
        name: str,
        number: int,
        body: Sequence[memoryview],
        ask: "Callable[[Piece], Request]",
        refused: Callable[[str, int, bytes], Refusal],
    ) -> None:
        self.name = name
        self.number = number
        self.body = body
        self.size_bytes = sum(len(each) for each in body)
        self.moved_bytes = 0
        self.asked = False
        self.etag = ""
        self.version = ""
        self._ask = ask
        self._refused = refused

    @property
    def crc32(self) -> str:
        """The CRC32 of its bytes, as S3 writes it."""
        value = 0
        for each in self.body:
            value = isal_zlib.crc32(each, value)
        return base64.b64encode(value.to_bytes(4)).decode()

    @property
    def md5(self) -> str:
        """The MD5 of its bytes, as S3 writes it."""
        digest = hashlib.md5(usedforsecurity=False)
        for each in self.body:
            digest.update(each)
        return base64.b64encode(digest.digest()).decode()

    def request(self) -> Request:
        """Send all of it: half a part is of no use."""
        self.asked = True
        return self._ask(self)

    def refused(self, status: int, body: bytes) -> Refusal:
        """As S3 says; bytes that were damaged on their way are sent again."""
        refusal = self._refused(self.name, status, body)
        return Refusal(refusal.fault, again=True) if refusal.fault.kind == DIGEST else refusal

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Keep what the store calls it, and let its bytes go. Raises `Broken` for a success that names nothing: some
        server's page, or S3's error with status 200, and nothing was stored."""
        line.rest(SLICE_BYTES)
        etag = head.headers.get("etag", "")
        if not etag:
            raise Broken(f"{self.name}: status {head.status} without an ETag is not how S3 answers an upload")
        version = head.headers.get("x-amz-version-id", "")
        self.version = "" if version == "null" else version
        # Last: who sees it in another thread takes the rest for told.
        self.etag = etag
        lane.moved += self.size_bytes
        self.moved_bytes = self.size_bytes
        self.body = ()


class Stream:
    """A blocking stream of bytes, cut into parts of equal size; the last may be shorter, down to nothing."""

    def __init__(self, pieces: Iterator[bytes], part_bytes: int, *, digest: bool) -> None:
        self._pieces = pieces
        self._part_bytes = part_bytes
        self._rest = memoryview(b"")
        self._digest = hashlib.sha256() if digest else None
        self.size_bytes = 0
        self.ended = False

    @property
    def sha256(self) -> str:
        """Of all that was taken, in Base64; empty if it was not asked for."""
        return base64.b64encode(self._digest.digest()).decode() if self._digest else ""

    def take(self) -> list[memoryview]:
        """The next part's pieces; none behind the end. Afterwards `ended` says whether it was the last."""
        taken: list[memoryview] = []
        size = 0
        while size < self._part_bytes and self._fill():
            piece = self._rest[: self._part_bytes - size]
            self._rest = self._rest[len(piece) :]
            taken.append(piece)
            size += len(piece)
            if self._digest:
                self._digest.update(piece)
        self.size_bytes += size
        self.ended = not self._fill()
        return taken

    def _fill(self) -> bool:
        """Have something in `_rest`; False at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._rest = memoryview(piece)
        return True
