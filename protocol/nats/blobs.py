"""Blobs: bytes too large for a message, in pieces under their SHA-256.

Knows: how a blob is cut. Must not know: what the bytes are.

Each piece is one message, ``blobs.<digest>.<number>``, and says in a header how large the whole is. The first piece is
written last: where it is, the blob is whole. So its message says when the blob was put last.

**Put and remove at once.** A blob that is whole is put again by writing its first piece anew, under the guard of the one
that was seen. Who removes a blob takes its first piece only if it is still the one that was seen, and then the others only
if they are no newer. So either the first piece has been made new, and all stays; or it is gone, the guard fails, and
whoever puts the blob writes every piece anew, which the remover leaves.
"""

import asyncio
import secrets
from hashlib import sha256
from typing import Final

from protocol.bus import BlobLook, Refused, Stale
from protocol.errors import Broken, Exhausted, Invalid, NotFound, Unavailable
from protocol.ids import is_token
from protocol.nats.api import Done, Kept, call, subjects_of
from protocol.nats.frames import header, header_value
from protocol.nats.guarded import GuardedStream, Put
from protocol.nats.streams import PIECE_BYTES
from protocol.nats.wire import Wire
from protocol.subjects import BLOB_STREAM, BLOB_SUBJECTS, blob_piece, blob_pieces

SIZE: Final = "Shoal-Size"
"""The header with the whole blob's size in bytes."""
TOGETHER: Final = 8
"""Pieces on their way at once: 2 MiB."""
TRIES: Final = 10
"""How often a blob is written that others write or remove at the same moment."""


class Blobs:
    """The blobs of all requesters."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stream = GuardedStream(wire, BLOB_STREAM)

    async def put(self, data: bytes) -> str:
        """See `protocol.bus.Bus.put_blob`."""
        digest = (await asyncio.to_thread(sha256, data)).hexdigest()
        pieces = range(max(1, -(-len(data) // PIECE_BYTES)))
        for _ in range(TRIES):
            (first,) = await self._stream.newest([blob_piece(digest, 0)])
            guard = first.seq if first else 0
            if first is None:
                for low in range(1, len(pieces), TOGETHER):
                    await self._write(digest, data, dict.fromkeys(pieces[low : low + TOGETHER], 0))
            stale = await self._put(digest, data, {0: guard})
            # Somebody has put the same bytes since; or has removed them, and then all are written.
            if not stale or stale[0] > guard:
                return digest
        raise Unavailable(f"the blob {digest} was removed again and again while it was put")

    async def get(self, digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        """See `protocol.bus.Bus.get_blob`."""
        if not is_token(digest) or offset < 0 or limit_bytes < 0:
            raise Invalid(f"not a digest, or a negative offset or limit: {digest!r}, {offset}, {limit_bytes}")
        (first,) = await self._stream.newest([blob_piece(digest, 0)])
        if first is None:
            raise NotFound(f"there is no blob {digest}")
        size = _size_in(first, digest)
        end = min(size, offset + limit_bytes)
        if offset >= end:
            return size, b""
        data = b""
        numbers = range(offset // PIECE_BYTES, (end - 1) // PIECE_BYTES + 1)
        for low in range(numbers.start, numbers.stop, TOGETHER):
            data += await self._pieces(digest, range(low, min(low + TOGETHER, numbers.stop)), first)
        skip = offset - numbers.start * PIECE_BYTES
        return size, data[skip : skip + end - offset]

    async def all(self) -> list[str]:
        """See `protocol.bus.Bus.list_blobs`."""
        subjects = await subjects_of(self._wire, BLOB_STREAM, BLOB_SUBJECTS)
        return list(dict.fromkeys(subject.split(".")[1] for subject in subjects))

    async def look(self, digest: str) -> BlobLook | None:
        """See `protocol.bus.Bus.look_blob`. The newest piece tells: of a whole blob it is the first one."""
        (newest,) = await self._stream.newest([blob_pieces(digest)])
        return BlobLook(newest.at, newest.seq) if newest else None

    async def remove(self, digest: str, seen: BlobLook) -> bool:
        """See `protocol.bus.Bus.remove_blob`."""
        first = blob_piece(digest, 0)
        await self._purge(first, seen.revision)
        (left,) = await self._stream.newest([first])
        if left is not None:
            return False
        await self._purge(blob_pieces(digest), seen.revision)
        return True

    async def _purge(self, subject: str, upto: int) -> None:
        what = {"filter": subject, "seq": upto + 1}
        await call(self._wire, f"STREAM.PURGE.{BLOB_STREAM}", Done, what)

    async def _write(self, digest: str, data: bytes, guards: dict[int, int]) -> None:
        """Write pieces anew, whatever was there: what is old might be removed at this moment."""
        for _ in range(TRIES):
            guards = await self._put(digest, data, guards)
            if not guards:
                return
        raise Unavailable(f"others write the blob {digest} at the same time", hint="Try again.")

    async def _put(self, digest: str, data: bytes, guards: dict[int, int]) -> dict[int, int]:
        """Write pieces by number, each under its guard; those whose guard does not hold, with what is there instead."""
        size = header(SIZE, len(data))
        puts = [
            Put(
                blob_piece(digest, number),
                guard,
                secrets.token_hex(8),
                data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES],
                size,
            )
            for number, guard in guards.items()
        ]
        stale: dict[int, int] = {}
        for number, outcome in zip(guards, await self._stream.put(puts), strict=True):
            if isinstance(outcome, Stale):
                stale[number] = outcome.last
            elif isinstance(outcome, Refused):
                raise Exhausted(
                    f"{len(data)} bytes of inline data cannot be stored: {outcome.reason}",
                    hint="Put large data into S3 or IPFS, or give the stream BLOBS more room.",
                )
        return stale

    async def _pieces(self, digest: str, numbers: range, first: Kept) -> bytes:
        wanted = [blob_piece(digest, number) for number in numbers if number]
        pieces = list(await self._stream.newest(wanted)) if wanted else []
        if numbers.start == 0:
            pieces.insert(0, first)
        missing = [number for number, piece in zip(numbers, pieces, strict=True) if piece is None]
        if missing:
            raise Broken(f"the blob {digest} lacks its pieces {missing}")
        return b"".join(piece.data for piece in pieces if piece is not None)


def _size_in(piece: Kept, digest: str) -> int:
    size = header_value(piece.headers, SIZE)
    if not size.isdigit():
        raise Broken(f"the blob {digest} does not say how large it is: {size!r}")
    return int(size)
