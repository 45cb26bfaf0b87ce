"""Blobs: bytes too large for a message, in pieces under their SHA-256.

Knows: how a blob is cut. Must not know: what the bytes are.

Each piece is one message, ``blobs.<digest>.<number>``, and says in a header how large the whole is. All are written
under guard 0, so writing again changes nothing and finishes what was left half done. The first piece is written last:
where it is, the blob is whole.
"""

import asyncio
import secrets
from hashlib import sha256
from typing import Final

from protocol.bus import Refused
from protocol.errors import Broken, Exhausted, Invalid, NotFound
from protocol.ids import is_token
from protocol.nats.api import ApiError, Kept, StreamInfo, call, unavailable
from protocol.nats.frames import header, header_value
from protocol.nats.guarded import GuardedStream, Put
from protocol.nats.streams import PIECE_BYTES
from protocol.nats.wire import Wire
from protocol.subjects import BLOB_STREAM, blob_piece

SIZE: Final = "Shoal-Size"
"""The header with the whole blob's size in bytes."""
TOGETHER: Final = 8
"""Pieces on their way at once: 2 MiB."""


class Blobs:
    """The blobs of all requesters."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stream = GuardedStream(wire, BLOB_STREAM)

    async def put(self, data: bytes) -> str:
        """See `protocol.bus.Bus.put_blob`."""
        digest = (await asyncio.to_thread(sha256, data)).hexdigest()
        if not await self._is_whole(digest):
            pieces = range(max(1, -(-len(data) // PIECE_BYTES)))
            for first in range(1, len(pieces), TOGETHER):
                await self._put(digest, data, pieces[first : first + TOGETHER])
            await self._put(digest, data, pieces[:1])
        return digest

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

    async def _is_whole(self, digest: str) -> bool:
        subject = blob_piece(digest, 0)
        try:
            info = await call(
                self._wire, f"STREAM.INFO.{BLOB_STREAM}", StreamInfo, {"subjects_filter": subject}
            )
        except ApiError as error:
            raise unavailable(error) from error
        return bool(info.state.subjects)

    async def _put(self, digest: str, data: bytes, numbers: range) -> None:
        size = header(SIZE, len(data))
        puts = [
            Put(
                blob_piece(digest, number),
                0,
                secrets.token_hex(8),
                data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES],
                size,
            )
            for number in numbers
        ]
        for outcome in await self._stream.put(puts):
            # Stale is as good as stored: the same bytes are there already.
            if isinstance(outcome, Refused):
                raise Exhausted(
                    f"{len(data)} bytes of inline data cannot be stored: {outcome.reason}",
                    hint="Put large data into S3 or IPFS, or give the stream BLOBS more room.",
                )

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
