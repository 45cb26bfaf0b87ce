"""The CAR format: bytes as they come, to blocks with their CIDs (https://ipld.io/specs/transport/car/carv1).

Knows: the framing. Must not know: whether a block is right (`cid.check_block`) or wanted, or where the bytes come from.
"""

from collections.abc import Iterator
from typing import Final

import libipld

from protocol.errors import Broken
from storage.ipfs.cid import CID_MAX_BYTES, VARINT_MAX_BYTES, cid_end, varint

HEADER_MAX_BYTES: Final = 1 << 20
BLOCK_MAX_BYTES: Final = 4 << 20
"""No gateway or peer passes on a larger one; bitswap's own limit is half of it."""
GATEWAY_ERROR: Final = b"\n[Gateway "
"""How Kubo's gateway begins what it says where an error ends a stream that it had begun (its length before it)."""


class CarReader:
    """Fed with pieces of a CAR, answers with the blocks that are whole. What is not a CAR is `Broken`."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._begun = False

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[bytes, bytes]]:
        """Take more bytes; all blocks that are whole now, as CID and bytes. The iterator is to be used up."""
        waiting = self._waiting
        waiting += data
        at = 0
        try:
            while (frame := self._frame(at)) is not None:
                start, at = frame
                if not self._begun:
                    _check_header(bytes(waiting[start:at]))
                    self._begun = True
                    continue
                if waiting.startswith(GATEWAY_ERROR, start):
                    raise Broken(_words(waiting[start:]), kind="Cut")
                end = cid_end(waiting, start)
                if end > at:
                    raise Broken("a CID is cut short or too long")
                yield bytes(waiting[start:end]), bytes(memoryview(waiting)[end:at])
        finally:
            del waiting[:at]

    def close(self) -> None:
        """Say that no more comes. Raises `Broken` if that is in the middle of something."""
        if not self._begun or self._waiting:
            raise Broken("the CAR is cut short", kind="Cut")

    def _frame(self, at: int) -> tuple[int, int] | None:
        """Where the next frame's content begins and ends, or None while it is not whole."""
        waiting = self._waiting
        if len(waiting) - at < VARINT_MAX_BYTES and not any(byte < 0x80 for byte in waiting[at:]):
            return None
        size, start = varint(waiting, at)
        limit = BLOCK_MAX_BYTES + CID_MAX_BYTES if self._begun else HEADER_MAX_BYTES
        if not 0 < size <= limit:
            raise Broken(f"it is no CAR, or damaged: a frame of {size} bytes")
        return (start, start + size) if len(waiting) - start >= size else None


def _check_header(header: bytes) -> None:
    try:
        read = libipld.decode_dag_cbor(header)
    except ValueError as error:
        raise Broken("it is no CAR: its header cannot be read") from error
    if not isinstance(read, dict) or read.get("version") != 1:
        raise Broken("it is no CAR of version 1")


def _words(data: bytearray) -> str:
    """What a gateway said at the end of a stream, as people may read it."""
    text = bytes(data[:300]).decode(errors="replace").strip().strip("[]")
    return f"the gateway broke off: {text!r}"
