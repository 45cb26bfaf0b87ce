"""A body that goes out as it lies, while what the other side answers meanwhile is taken in: blocking.

Knows: sockets. Must not know: HTTP. Without TLS the bytes of a file go from the system's cache to the connection and never
come into this process. Who answers a long body before its end, a line for each thing that came, waits for somebody to take
that; so both ways are looked after at once.
"""

import os
import select
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from protocol.errors import Broken

SEND_BYTES: Final = 1 << 20
HEAR_BYTES: Final = 1 << 16
HEARD_MAX_BYTES: Final = 1 << 28
"""No answer is longer; Kubo's has a hundred bytes for each folder."""


class Stretch(Struct, frozen=True):
    """Bytes of an open file, of which `name` is for messages."""

    fd: int
    start: int
    size_bytes: int
    name: str


Piece = memoryview | Stretch


def pour(connected: socket.socket, pieces: Iterable[Piece], heard: bytearray, silence_s: float) -> None:
    """Send all pieces; what comes meanwhile is added to `heard`.

    Raises `TimeoutError` when nothing was taken for `silence_s`, `OSError` when the connection breaks, `Broken` when a file
    became shorter than its stretch.
    """
    spout = _Spout(connected, heard, silence_s)
    connected.setblocking(False)
    try:
        for piece in pieces:
            spout.put(piece)
    finally:
        connected.settimeout(silence_s)


class _Spout:
    """A connection that does not block, and when it last took something."""

    def __init__(self, connected: socket.socket, heard: bytearray, silence_s: float) -> None:
        self._connected = connected
        self._heard = heard
        self._silence_s = silence_s
        self._plain = not isinstance(connected, ssl.SSLSocket)
        self._moved_at = time.monotonic()
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN | select.POLLOUT)

    def put(self, piece: Piece) -> None:
        """Send a piece."""
        self._moved_at = time.monotonic()
        size = piece.size_bytes if isinstance(piece, Stretch) else len(piece)
        at = 0
        while at < size:
            self._hear()
            try:
                at += self._some(piece, at)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self._wait()
            else:
                self._moved_at = time.monotonic()

    def _some(self, piece: Piece, at: int) -> int:
        """Send what is taken just now of the bytes from `at` on."""
        if not isinstance(piece, Stretch):
            return self._connected.send(piece[at : at + SEND_BYTES])
        start, size = piece.start + at, min(piece.size_bytes - at, SEND_BYTES)
        if self._plain:
            count = os.sendfile(self._connected.fileno(), piece.fd, start, size)
        else:
            data = os.pread(piece.fd, size, start)
            count = self._connected.send(data) if data else 0
        if not count:
            raise Broken(f"{piece.name!r} became shorter while it was being sent")
        return count

    def _hear(self) -> None:
        """Take in what has come."""
        try:
            data = self._connected.recv(HEAR_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        self._heard += data
        if len(self._heard) > HEARD_MAX_BYTES:
            raise Broken(f"more than {HEARD_MAX_BYTES} bytes were answered to what was sent")
        if not data:
            # The other side will say no more; it would be news for ever.
            self._poll.modify(self._connected, select.POLLOUT)

    def _wait(self) -> None:
        """Until something can be sent or has come."""
        left_s = self._moved_at + self._silence_s - time.monotonic()
        if left_s <= 0 or not self._poll.poll(left_s * 1000):
            raise TimeoutError
