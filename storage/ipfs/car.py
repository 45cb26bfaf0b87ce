"""The CAR format: bytes as they come, to blocks with their CIDs (https://ipld.io/specs/transport/car/carv1).

Knows: the framing. Must not know: whether a block is right (`cid.check_block`) or wanted, or where the bytes come from.
"""

from collections.abc import Iterator
from typing import Final

import libipld

from protocol.errors import Broken
from storage.ipfs.cid import CID_MAX_BYTES, VARINT_MAX_BYTES, cid_end, varint

HEADER_MAX_BYTES: Final = 1 << 20
ROOM_BYTES: Final = 1 << 18
"""How much is read at once, as far as it has come."""
BLOCK_MAX_BYTES: Final = 4 << 20
"""No gateway or peer passes on a larger one; bitswap's own limit is half of it."""
GATEWAY_ERROR: Final = b"\n[Gateway "
"""How Kubo's gateway begins what it says where an error ends a stream that it had begun; a line's end before it reads as the
length of just this."""


class CarReader:
    """Given pieces of a CAR, answers with the blocks that are whole. What is not a CAR is `Broken`.

    Bytes come to lie where they are read: `room` says where, `came` how many. So a block is looked at where it came, and
    its bytes are there until `room` is asked for again.
    """

    def __init__(self) -> None:
        self._begun = False
        self._have(ROOM_BYTES)
        self._start = self._end = 0
        self._wanted = ROOM_BYTES

    def room(self) -> memoryview:
        """Where more bytes are to be put: never empty."""
        waiting = self._view[self._start : self._end]
        behind = len(self._buffer) - self._start
        if len(self._buffer) < self._wanted:
            self._have(self._wanted + ROOM_BYTES)
        if not waiting or behind < max(self._wanted, len(waiting) + ROOM_BYTES // 2):
            self._view[: len(waiting)] = waiting
            self._start, self._end = 0, len(waiting)
        return self._view[self._end :]

    def came(self, size_bytes: int) -> Iterator[tuple[bytes, memoryview]]:
        """So many bytes are in the room; all blocks that are whole now, as CID and bytes. The iterator is to be used up."""
        self._end += size_bytes
        while (frame := self._frame()) is not None:
            start, end = frame
            self._start = end
            if not self._begun:
                _check_header(bytes(self._view[start:end]))
                self._begun = True
                continue
            if self._buffer.startswith(GATEWAY_ERROR, start, end):
                raise Broken(_words(bytes(self._view[start : self._end])), kind="Cut")
            begin = cid_end(self._view[:end], start)
            yield bytes(self._view[start:begin]), self._view[begin:end]

    def close(self) -> None:
        """Say that no more comes. Raises `Broken` if that is in the middle of something."""
        if not self._begun or self._end > self._start:
            raise Broken("the CAR is cut short", kind="Cut")

    def _have(self, size_bytes: int) -> None:
        self._buffer = bytearray(size_bytes)
        self._view = memoryview(self._buffer)

    def _frame(self) -> tuple[int, int] | None:
        """Where the next frame's content begins and ends, or None while it is not whole."""
        head = self._view[self._start : min(self._end, self._start + VARINT_MAX_BYTES)]
        if len(head) < VARINT_MAX_BYTES and all(byte >= 0x80 for byte in head):
            return None
        size, taken = varint(head, 0)
        limit = BLOCK_MAX_BYTES + CID_MAX_BYTES if self._begun else HEADER_MAX_BYTES
        if not 0 < size <= limit:
            raise Broken(f"it is no CAR, or damaged: a frame of {size} bytes")
        self._wanted = taken + size
        whole = self._end - self._start >= self._wanted
        return (self._start + taken, self._start + self._wanted) if whole else None


def _check_header(header: bytes) -> None:
    try:
        read = libipld.decode_dag_cbor(header)
    except ValueError as error:
        raise Broken("it is no CAR: its header cannot be read") from error
    if not isinstance(read, dict) or read.get("version") != 1:
        raise Broken("it is no CAR of version 1")


def _words(data: bytes) -> str:
    """What a gateway said at the end of a stream, as people may read it."""
    text = data[:300].decode(errors="replace").strip().strip("[]")
    return f"the gateway broke off: {text!r}"
