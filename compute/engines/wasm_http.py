"""HTTP for WebAssembly modules: the function ``http_request`` of ``wasi:http/requests``, as Bacalhau has had it since 1.7.

Knows: the function's arguments, its results, and which hosts a run may reach. Must not know: wasmtime (a module's memory
comes as `Memory`), or jobs. It runs in a worker and blocks it, as a file would; stopping the program kills the worker.

    http_request(method, url, url_len, headers, headers_len, body, body_len,
                 answer_headers, answer_headers_len, answer_body, answer_body_len, status) -> result

All are 32-bit numbers; what is not a length or the method is an address in the module's memory. `answer_…_len` are addresses
of numbers: the room there is, and after the call how much of it was filled; what has no room is cut off. Headers are lines
``Name: value``. `status` may be 0. A request takes at most `WITHIN_S`, the look-up of a name not counted, which the system
bounds.
"""

import base64
import http.client
import socket
import ssl
import time
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple, Protocol
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from compute.engines.domains import named
from compute.engines.wasm_reach import Way
from protocol.errors import Denied
from storage.addresses import AddressPolicy, read_policy

WITHIN_S: Final = 30.0
REDIRECTS_MAX: Final = 10
ROOM_MAX_BYTES: Final = 100 << 20
PIECE_BYTES: Final = 65_536

_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_REPEATED: Final = (307, 308)
"""Redirects after which the same is asked again, with the same body."""
_PORTS: Final = {"http": 80, "https": 443}
_OURS: Final = ("host", "content-length", "transfer-encoding", "connection")
_OF_ONE_HOST: Final = ("authorization", "cookie", "www-authenticate")


class Result(IntEnum):
    """What the function returns."""

    OK = 0
    INVALID_URL = 1
    NETWORK = 2
    TIMED_OUT = 3
    NOT_ALLOWED = 4
    TOO_LARGE = 5
    BAD_INPUT = 6
    MEMORY = 7


class Memory(Protocol):
    """A module's memory. Both raise ``IndexError`` for a place that is not in it."""

    def read(self, start: int, length: int) -> bytes: ...
    def write(self, start: int, data: bytes) -> None: ...


class Request(NamedTuple):
    """What is asked for, and how many bytes of the answer's body are wanted."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    room_bytes: int


class Response(NamedTuple):
    """An answer; its body may go on."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Refused(Exception):
    """The request came to nothing."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.name)
        self.result = result


def answer(memory: Memory, way: Way | None, numbers: Iterable[int]) -> Result:
    """Carry out one call of the function. A run without a network (`way` is None) is told that it may not."""
    (method, *asked, headers_at, headers_room_at, body_at, body_room_at, status_at) = [
        each & 0xFFFF_FFFF for each in numbers
    ]
    if not (headers_at and headers_room_at and body_at and body_room_at):
        return Result.BAD_INPUT
    try:
        headers_room, body_room = _number(memory, headers_room_at), _number(memory, body_room_at)
        request = _request(memory, method, asked, min(body_room, ROOM_MAX_BYTES))
        response = fetch(request, way)
        head = "\n".join(f"{name}: {value}" for name, value in response.headers)
        told = head.encode("utf-8", "replace")[:headers_room]
        if status_at:
            memory.write(status_at, response.status.to_bytes(4, "little"))
        for at, room_at, data in (
            (headers_at, headers_room_at, told),
            (body_at, body_room_at, response.body),
        ):
            memory.write(room_at, len(data).to_bytes(4, "little"))
            memory.write(at, data)
    except Refused as refused:
        return refused.result
    except IndexError:
        return Result.MEMORY
    return Result.OK


def fetch(request: Request, way: Way | None) -> Response:
    """Ask, and follow redirects, each of which must lead where the run may go. Raises `Refused`."""
    if way is None:
        raise Refused(Result.NOT_ALLOWED)
    until = time.monotonic() + WITHIN_S
    for _ in range(REDIRECTS_MAX + 1):
        url = _split(request.url)
        try:
            response = _ask(request, url, way, until)
        except TimeoutError:
            raise Refused(Result.TIMED_OUT) from None
        except ValueError:
            raise Refused(Result.BAD_INPUT) from None
        except (OSError, http.client.HTTPException):
            raise Refused(Result.NETWORK) from None
        location = next((value for name, value in response.headers if name == "Location"), "")
        if response.status not in _REDIRECTS or not location:
            return response
        request = _redirected(request, url, urljoin(request.url, location), response.status)
    raise Refused(Result.NETWORK)


def _request(memory: Memory, method: int, asked: list[int], room_bytes: int) -> Request:
    url_at, url_length, headers_at, headers_length, body_at, body_length = asked
    try:
        url = memory.read(url_at, url_length).decode()
        lines = memory.read(headers_at, headers_length if headers_at else 0).decode("latin-1").split("\n")
    except (IndexError, UnicodeDecodeError):
        raise Refused(Result.INVALID_URL) from None
    try:
        body = memory.read(body_at, body_length if body_at else 0)
    except IndexError:
        raise Refused(Result.BAD_INPUT) from None
    pairs = [
        (name.strip(), value.strip())
        for name, colon, value in (each.partition(":") for each in lines)
        if colon
    ]
    headers = [(name, value) for name, value in pairs if name.lower() not in _OURS]
    return Request(_METHODS[method] if method < len(_METHODS) else "GET", url, headers, body, room_bytes)


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        if url.scheme in _PORTS and url.hostname and url.port != 0:
            return url
    except ValueError:
        # The port is no number.
        pass
    raise Refused(Result.INVALID_URL)


def _ask(request: Request, url: SplitResult, way: Way, until: float) -> Response:
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    connection = http.client.HTTPConnection(host, port)
    connection.sock = sock = _connected(host, port, way, tls=url.scheme == "https", until=until)
    try:
        target = quote(url.path or "/", safe="/%:@!$&'()*+,;=~") + (
            f"?{quote(url.query, safe=_QUERY)}" if url.query else ""
        )
        names = {name.lower() for name, _ in request.headers}
        connection.putrequest(request.method, target, skip_accept_encoding="accept-encoding" in names)
        if url.username is not None and "authorization" not in names:
            login = base64.b64encode(f"{url.username}:{url.password or ''}".encode()).decode()
            connection.putheader("Authorization", f"Basic {login}")
        for name, value in (*request.headers, *([] if "user-agent" in names else [("User-Agent", "shoal")])):
            connection.putheader(name, value)
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(request.body)))
        connection.putheader("Connection", "close")
        connection.endheaders(request.body or None)
        sock.settimeout(_left_s(until))
        response = connection.getresponse()
        headers = [(_spelt(name), value) for name, value in response.getheaders()]
        body = bytearray()
        while len(body) < request.room_bytes:
            sock.settimeout(_left_s(until))
            piece = response.read1(min(PIECE_BYTES, request.room_bytes - len(body)))
            if not piece:
                break
            body += piece
        return Response(response.status, headers, bytes(body))
    finally:
        sock.close()


_QUERY: Final = "/%:@!$&'()*+,;=~?-._"


def _connected(host: str, port: int, way: Way, *, tls: bool, until: float) -> socket.socket:
    """A connection to an address that was judged: a name that leads elsewhere a moment later gains nothing."""
    policy = _policy(tuple(way.allowed), tuple(way.denied))
    if way.domains is not None and not named(host, way.domains):
        raise Refused(Result.NOT_ALLOWED)
    try:
        policy.check_host(host, port)
        addresses = _allowed(policy, host, port)
    except Denied:
        raise Refused(Result.NOT_ALLOWED) from None
    for number, address in enumerate(addresses, 1):
        try:
            sock = socket.create_connection((address, port), _left_s(until))
            break
        except OSError:
            if number == len(addresses):
                raise
    else:
        raise Refused(Result.NETWORK)
    if not tls:
        return sock
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


@lru_cache(8)
def _policy(allowed: tuple[str, ...], denied: tuple[str, ...]) -> AddressPolicy:
    return read_policy(allowed, denied)


def _allowed(policy: AddressPolicy, host: str, port: int) -> list[str]:
    """The addresses of a host that may be connected to. Raises `Denied` where all of them may not."""
    denied: Denied | None = None
    found: list[str] = []
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            policy.check(host, str(address[0]), port)
            found.append(str(address[0]))
        except Denied as fault:
            denied = fault
    if denied is not None and not found:
        raise denied
    return found


def _redirected(request: Request, url: SplitResult, target: str, status: int) -> Request:
    """What is asked next, as browsers and Go do it."""
    headers = request.headers
    if urlsplit(target).netloc != url.netloc:
        headers = [(name, value) for name, value in headers if name.lower() not in _OF_ONE_HOST]
    if status in _REPEATED:
        return request._replace(url=target, headers=headers)
    method = request.method if request.method in ("GET", "HEAD") else "GET"
    return request._replace(method=method, url=target, headers=headers, body=b"")


def _left_s(until: float) -> float:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _number(memory: Memory, at: int) -> int:
    return int.from_bytes(memory.read(at, 4), "little")


def _spelt(name: str) -> str:
    """A header's name as Go spells it, which modules compare with."""
    return "-".join(part.capitalize() for part in name.split("-"))
