"""HTTP/1.1 for bulk data: blocking, from a thread, bytes straight between the socket and where they belong.

Knows: connections (kept and used again), heads and bodies as RFC 9112 has them, how proxies are spoken to, TLS. Must not
know: where a connection leads (`storage.route`), what is asked for, or when to ask again. An event loop would carry each
byte through Python's hands; a thread leaves it to the system, which moves it while other threads run (docs/adr/0009).

All that goes wrong with a connection is a `LineFault`, so that nobody takes it for a fault of the disk.
"""

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from storage.pour import Piece, pour
from storage.route import Route, insecure

HEAD_MAX_BYTES: Final = 1 << 16
CHUNKS_BYTES: Final = 1 << 18
"""How much of a body in chunks is received at once: many chunks, as Kubo makes them of 2 to 32 KiB."""
SEND_BYTES: Final = 1 << 20
REST_BYTES: Final = 1 << 17
TRAILERS_MAX: Final = 100
INTERIM_MAX: Final = 16
"""Answers with a status below 200, before the one that counts."""
CRAWL_BYTES: Final = 1024
"""Fewer bytes than this within the limit on silence count as silence: a body that trickles would never end."""

_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}[ \t]*(;.*)?")


class LineFault(Exception):
    """A connection failed; see the kinds below."""


class Unreached(LineFault):
    """No connection could be made."""


class Untrusted(LineFault):
    """The other side has no certificate that we trust, or speaks no TLS at all; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Lost(LineFault):
    """The connection broke, or ended before its answer did."""


class Silent(LineFault):
    """Nothing, or next to nothing, came for as long as is allowed."""


class Garbled(LineFault):
    """What was answered is not HTTP/1.1, or not a body as its head announces."""


class Head(Struct, frozen=True):
    """An answer's status and headers, their names in lower case."""

    status: int
    headers: dict[str, str]


class Line:
    """One connection, used by one thread at a time; only `cut` may be called by others, at any time."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.fresh = True
        """Whether no answer has come on it yet: one that was used before may have been closed meanwhile."""
        self.idle_since = 0.0
        self._cut = False
        self._socket: socket.socket | None = None
        self.trailers: dict[str, str] = {}
        """What stood behind the body of the last answer, names in lower case; known when all of it was read."""
        self._start = self._end = 0
        self._buffer = bytearray(HEAD_MAX_BYTES)
        self._view = memoryview(self._buffer)
        self._heard = bytearray()
        self._left: int | None = 0
        self._chunked = False
        self._last = False
        self._window = (0.0, 0)

    def open(self) -> None:
        """Connect, by way of a proxy if there is one. Raises `Unreached` and `Untrusted`."""
        opened = False
        try:
            self._connect_to_any()
            connected = self._socket
            assert connected is not None
            if connected.family != socket.AF_UNIX:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.route.tls is not None:
                self._secure(connected, self.route.tls)
            assert self._socket is not None
            self._socket.settimeout(self.route.silence_s)
            opened = True
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise Unreached(f"{self.route.host}:{self.route.port} ends the connection at once") from error
        except ssl.SSLError as error:
            said, hint = insecure(error)
            raise Untrusted(f"{self.route.host}:{self.route.port} {said}", hint) from error
        except TimeoutError as error:
            raise Unreached(
                f"no connection to {self.route.authority} in {self.route.connect_s:g} s"
            ) from error
        except (OSError, LineFault) as error:
            raise Unreached(f"{self.route.host}:{self.route.port} cannot be reached") from error
        finally:
            if not opened:
                self.close()

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: Sequence[memoryview] = ()
    ) -> None:
        """Send a request; `target` is the path and query as they are to stand in it, `body` in pieces."""
        self._ask(method, target, headers, sum(len(piece) for piece in body))
        for piece in body:
            self._send(piece)

    def pour(
        self, method: str, target: str, headers: Mapping[str, str], body: Iterable[Piece], size_bytes: int
    ) -> None:
        """Send a request with a body of any size. The answer may begin meanwhile, and is kept until it is read."""
        self._ask(method, target, headers, size_bytes)
        assert self._socket is not None
        try:
            pour(self._socket, body, self._heard, self.route.silence_s)
        except TimeoutError as error:
            raise Silent from error
        except OSError as error:
            raise Lost("the connection broke") from error

    def _ask(self, method: str, target: str, headers: Mapping[str, str], size_bytes: int) -> None:
        if self.route.proxy is not None and self.route.tls is None:
            target = f"http://{self.route.authority}{target}"
            if self.route.proxy:
                headers = {**headers, "Proxy-Authorization": self.route.proxy}
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.route.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if size_bytes or method in ("PUT", "POST"):
            lines.append(f"Content-Length: {size_bytes}")
        self._send(memoryview(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")))

    def has_answer(self) -> bool:
        """After sending broke off: whether there is an answer all the same."""
        try:
            self._more()
        except LineFault:
            return False
        return True

    def head(self, method: str = "GET") -> Head:
        """Read the head of the answer to a request of that method."""
        for _ in range(INTERIM_MAX + 1):
            head = self._head()
            if head.status >= 200:
                break
        else:
            raise Garbled(f"the answer does not begin after {INTERIM_MAX} that say it will")
        self.fresh = False
        self._window = (time.monotonic(), 0)
        connection = head.headers.get("connection", "").lower()
        self._last = "close" in connection
        self._chunked = False
        self.trailers = {}
        if method == "HEAD" or head.status in (204, 304):
            self._left = 0
        elif "transfer-encoding" in head.headers:
            if head.headers["transfer-encoding"].lower() != "chunked":
                raise Garbled(f"the transfer encoding {head.headers['transfer-encoding'][:100]!r} is unknown")
            self._chunked = True
            if len(self._buffer) < CHUNKS_BYTES:
                self._have(CHUNKS_BYTES)
            self._left = self._next_chunk(first=True)
        elif "content-length" in head.headers:
            length = head.headers["content-length"]
            if not length.isdecimal():
                raise Garbled(f"the content length is {length[:100]!r}")
            self._left = int(length)
        else:
            self._left, self._last = None, True
        return head

    def read_into(self, room: memoryview) -> int:
        """Read some of the body into `room`; 0 at its end. Raises `Lost` where it ends before its announced end."""
        if self._left == 0:
            return 0
        if self._chunked:
            return self._chunks_into(room)
        if self._left is not None and len(room) > self._left:
            room = room[: self._left]
        count = self._buffered(room)
        if not count:
            count = self._receive(room)
        if not count:
            if self._left is None:
                self._left = 0
                return 0
            raise Lost("the connection ended within a body")
        if self._left is not None:
            self._left -= count
        return count

    def _chunks_into(self, room: memoryview) -> int:
        """Some of a body in chunks: of all that have come. Each by itself would cost more than what is in it."""
        size = 0
        while self._left and size < len(room):
            wanted = min(len(room) - size, self._left)
            count = self._buffered(room[size : size + wanted])
            if not count and size:
                break
            if not count and wanted < CHUNKS_BYTES:
                self._more()
                continue
            if not count:
                count = self._receive(room[:wanted])
            if not count:
                raise Lost("the connection ended within a body")
            size += count
            self._left -= count
            if not self._left:
                self._left = self._next_chunk(first=False)
        return size

    def rest(self, limit: int) -> bytes:
        """What is left of the body, at most `limit` bytes of it; the line is of no more use if there was more."""
        found = bytearray()
        room = memoryview(bytearray(min(limit, self._left or REST_BYTES, REST_BYTES)))
        while len(found) < limit and (count := self.read_into(room[: limit - len(found)])):
            found += room[:count]
        return bytes(found)

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        rest = self._end - self._start + len(self._heard)
        return self._socket is not None and self._left == 0 and not self._last and not rest

    def cut(self) -> None:
        """Break it off, so that whoever waits on it stops; from any thread."""
        self._cut = True
        connected = self._socket
        if connected is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        if self._socket is not None:
            self._socket.close()

    def _connect_to_any(self) -> None:
        failure: OSError | None = None
        for family, address in self.route.addresses:
            connected = self._socket = socket.socket(family, socket.SOCK_STREAM)
            connected.settimeout(self.route.connect_s)
            try:
                if not self._cut:
                    unix = family == socket.AF_UNIX
                    connected.connect(address if unix else (address, self.route.address_port))
                if not self._cut:
                    return
                failure = ConnectionAbortedError("given up")
            except OSError as error:
                failure = error
            connected.close()
        raise failure or ConnectionError("it has no address")

    def _secure(self, connected: socket.socket, tls: ssl.SSLContext) -> None:
        if self.route.proxy is not None:
            self._tunnel()
        # First ours, then shaking hands: so that it can be cut meanwhile.
        secured = tls.wrap_socket(connected, server_hostname=self.route.host, do_handshake_on_connect=False)
        self._socket = secured
        secured.do_handshake()

    def _tunnel(self) -> None:
        authority = f"{self.route.host}:{self.route.port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if self.route.proxy:
            lines.append(f"Proxy-Authorization: {self.route.proxy}")
        self._send(memoryview(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")))
        answer = self._head()
        if answer.status != 200:
            raise Unreached(f"the proxy answers {answer.status}")

    def _send(self, data: memoryview) -> None:
        assert self._socket is not None
        while data:
            try:
                data = data[self._socket.send(data[:SEND_BYTES]) :]
            except TimeoutError as error:
                raise Silent from error
            except OSError as error:
                raise Lost("the connection broke") from error

    def _receive(self, room: memoryview) -> int:
        assert self._socket is not None
        if self._heard:
            count = min(len(room), len(self._heard))
            room[:count] = self._heard[:count]
            del self._heard[:count]
            return count
        try:
            count = self._socket.recv_into(room)
        except TimeoutError as error:
            raise Silent from error
        except OSError as error:
            raise Lost("the connection broke") from error
        since, moved = self._window
        moved += count
        now = time.monotonic()
        if now - since > self.route.silence_s:
            if moved < CRAWL_BYTES and count:
                raise Silent
            since, moved = now, 0
        self._window = (since, moved)
        return count

    def _buffered(self, room: memoryview) -> int:
        start = self._start
        count = min(len(room), self._end - start)
        if count:
            room[:count] = self._view[start : start + count]
            self._start = start + count
        return count

    def _have(self, size_bytes: int) -> None:
        """A larger buffer, with what is in the one before."""
        kept = self._view
        self._buffer = bytearray(size_bytes)
        self._view = memoryview(self._buffer)
        self._view[: len(kept)] = kept

    def _more(self) -> None:
        """Have more in the buffer. Raises `Lost` if nothing follows."""
        if self._start:
            kept = self._end - self._start
            self._view[:kept] = self._view[self._start : self._end]
            self._start, self._end = 0, kept
        if self._end >= HEAD_MAX_BYTES:
            raise Garbled("the head of the answer is too long")
        count = self._receive(self._view[self._end :])
        if not count:
            raise Lost("the connection ended")
        self._end += count

    def _until(self, mark: bytes) -> bytes:
        """What stands before the mark, which is passed over."""
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            self._more()
        text = bytes(self._buffer[self._start : found])
        self._start = found + len(mark)
        return text

    def _head(self) -> Head:
        self._window = (time.monotonic(), CRAWL_BYTES)
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdecimal() or rest[3:4] not in ("", " "):
            raise Garbled(f"the answer begins with {first[:100]!r}")
        headers = _fields(lines)
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        return Head(int(rest[:3]), headers)

    def _next_chunk(self, *, first: bool) -> int:
        """The size of the next chunk; behind the last one, trailers are read."""
        while not first and self._end - self._start < 2:
            self._more()
        if not first:
            if not self._buffer.startswith(b"\r\n", self._start):
                raise Garbled("a chunk goes on behind its end")
            self._start += 2
        text = self._until(b"\r\n")
        if not _CHUNK_SIZE.fullmatch(text):
            raise Garbled(f"a chunk begins with {text[:100]!r}")
        size = int(text.partition(b";")[0], 16)
        if size == 0:
            lines = []
            while line := self._until(b"\r\n"):
                lines.append(line.decode("latin-1"))
                if len(lines) > TRAILERS_MAX:
                    raise Garbled(f"more than {TRAILERS_MAX} trailers follow the answer")
            self.trailers = _fields(lines)
        return size


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """Headers or trailers by their names in lower case; the values of equal ones are joined, as RFC 9110 has it."""
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Garbled(f"the answer has the header {line[:100]!r}")
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
