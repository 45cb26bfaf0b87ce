"""HTTP for WebAssembly modules, against a real server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from compute.engines import wasm_http
from compute.engines.contract import Mount, Run
from compute.engines.wasm import WasmEngine
from compute.engines.wasm_http import Refused, Request, Result, answer, fetch
from compute.engines.wasm_order import way_of
from compute.engines.wasm_reach import Way
from protocol.jobs import Amounts, Network
from protocol.spec.engines import WasmParams
from tests.contracts.engine import NODE, begin, chunks_of, ended, fresh_execution, text

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
GET, POST = 0, 1
HERE = Way(allowed=["loopback"])


class Server:
    """What it was asked, and how it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.leads_to: dict[str, tuple[int, str]] = {}
        self.silent = threading.Event()
        self.silent.set()
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.command, request.path, headers, body))
        self.silent.wait(60)
        if request.path in self.leads_to:
            status, target = self.leads_to[request.path]
            request.send_response(status)
            request.send_header("Location", target)
            request.end_headers()
            return
        request.send_response(201)
        request.send_header("x-lower-case", "kept")
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(b"hello from there")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine, for the length of a test."""
    world = Server()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            world.answer(self)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = _answer  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing is printed."""

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    world.url = f"http://127.0.0.1:{serving.server_port}"
    yield world
    world.silent.set()
    serving.shutdown()
    thread.join()
    serving.server_close()


class Bytes:
    """A module's memory."""

    def __init__(self, size: int = 4096) -> None:
        self.data = bytearray(size)

    def read(self, start: int, length: int) -> bytes:
        if start + length > len(self.data):
            raise IndexError(start)
        return bytes(self.data[start : start + length])

    def write(self, start: int, data: bytes) -> None:
        self.read(start, len(data))
        self.data[start : start + len(data)] = data

    def number(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], "little")


URL_AT, HEADERS_AT, BODY_AT = 64, 512, 768
HEADERS_ROOM_AT, BODY_ROOM_AT, STATUS_AT = 16, 20, 24
HEADERS_IN, BODY_IN = 1024, 2048


def call(
    memory: Bytes,
    url: str,
    way: Way | None = HERE,
    *,
    method: int = GET,
    headers: str = "",
    body: str = "",
    room: int = 512,
) -> Result:
    """One call of the function, as a module makes it."""
    for at, said in ((URL_AT, url), (HEADERS_AT, headers), (BODY_AT, body)):
        memory.write(at, said.encode())
    for at in (HEADERS_ROOM_AT, BODY_ROOM_AT):
        memory.write(at, room.to_bytes(4, "little"))
    asked = (URL_AT, len(url.encode()), HEADERS_AT, len(headers), BODY_AT, len(body))
    return answer(
        memory, way, (method, *asked, HEADERS_IN, HEADERS_ROOM_AT, BODY_IN, BODY_ROOM_AT, STATUS_AT)
    )


def body_in(memory: Bytes) -> bytes:
    """What the function wrote for the body."""
    return memory.read(BODY_IN, memory.number(BODY_ROOM_AT))


def test_a_request_and_its_answer(server: Server) -> None:
    """Method, headers and body go out; status, headers (spelt as Go spells them) and body come back into the module."""
    memory = Bytes()

    assert (
        call(
            memory,
            f"{server.url}/a b?q=1",
            method=POST,
            headers="X-Who: me\nHost: other\nbad line",
            body="data",
        )
        == 0
    )

    [(command, path, headers, body)] = server.asked
    assert (command, path, body) == ("POST", "/a%20b?q=1", b"data")
    assert headers["x-who"] == "me"
    assert headers["host"] == server.url.removeprefix("http://")
    assert memory.number(STATUS_AT) == 201
    assert b"X-Lower-Case: kept" in memory.read(HEADERS_IN, memory.number(HEADERS_ROOM_AT))
    assert body_in(memory) == b"hello from there"


@pytest.mark.parametrize("method", METHODS)
def test_methods(server: Server, method: str) -> None:
    """The methods have Bacalhau's numbers."""
    assert call(Bytes(), server.url, method=METHODS.index(method)) == Result.OK
    assert server.asked[0][0] == method


def test_what_has_no_room_is_cut_off(server: Server) -> None:
    """No more is written than the module has room for."""
    memory = Bytes()
    assert call(memory, server.url, room=5) == Result.OK
    assert body_in(memory) == b"hello"
    assert memory.number(HEADERS_ROOM_AT) == 5


@pytest.mark.parametrize(
    ("network", "reach", "result"),
    [
        (Network("Default"), HERE, Result.OK),
        (Network("Host"), HERE, Result.OK),
        (Network("Bridge"), HERE, Result.OK),
        (Network("HTTP", domains=["127.0.0.1"]), HERE, Result.OK),
        (Network("HTTP", domains=["example.com"]), HERE, Result.NOT_ALLOWED),
        (Network("HTTP"), HERE, Result.NOT_ALLOWED),
        (Network("None"), HERE, Result.NOT_ALLOWED),
        (Network("Default"), Way(), Result.NOT_ALLOWED),
        (Network("Default"), Way(allowed=["loopback"], denied=["127.0.0.1"]), Result.NOT_ALLOWED),
        (Network("Default"), None, Result.NOT_ALLOWED),
    ],
)
def test_who_may_reach_what(server: Server, network: Network, reach: Way | None, result: Result) -> None:
    """A module reaches the hosts that its job names, or any if it names none; and of those what the node's owner lets jobs
    reach, so not the node itself. Nothing is sent to any other.
    """
    assert call(Bytes(), server.url, way_of(network, reach)) == result
    assert bool(server.asked) is (result == Result.OK)


def test_redirects_are_followed(server: Server) -> None:
    """A redirect is followed as browsers do it: what was posted is asked for with GET, unless the answer says otherwise."""
    server.leads_to = {"/once": (302, "/end"), "/again": (307, "/end")}
    for path in ("/once", "/again"):
        assert call(Bytes(), server.url + path, method=POST, body="data") == Result.OK
    assert [(each[0], each[1], each[3]) for each in server.asked] == [
        ("POST", "/once", b"data"),
        ("GET", "/end", b""),
        ("POST", "/again", b"data"),
        ("POST", "/end", b"data"),
    ]


def test_a_redirect_leads_nowhere_else(server: Server) -> None:
    """A redirect to a host that the job does not name is not followed, and neither is one without an end."""
    server.leads_to = {"/out": (302, server.url.replace("127.0.0.1", "localhost")), "/round": (302, "/round")}
    way = way_of(Network("HTTP", domains=["127.0.0.1"]), HERE)
    assert call(Bytes(), f"{server.url}/out", way) == Result.NOT_ALLOWED
    assert call(Bytes(), f"{server.url}/round", way) == Result.NETWORK
    assert len(server.asked) == 1 + 1 + wasm_http.REDIRECTS_MAX


def test_credentials_stay_with_their_host(server: Server) -> None:
    """What is for one host is not sent to another that it leads to."""
    server.leads_to = {"/": (302, server.url.replace("127.0.0.1", "localhost") + "/other")}
    headers = [("Authorization", "Bearer x"), ("X-Who", "me")]
    fetch(Request("GET", f"{server.url}/", headers, b"", 9), HERE)
    first, second = (each[2] for each in server.asked)
    assert (first["authorization"], second["x-who"]) == ("Bearer x", "me")
    assert "authorization" not in second


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("", Result.INVALID_URL),
        ("ftp://example.com", Result.INVALID_URL),
        ("http://", Result.INVALID_URL),
        ("http://h:99999/", Result.INVALID_URL),
        ("http://169.254.169.254/latest", Result.NOT_ALLOWED),
        ("http://127.0.0.1:1/", Result.NETWORK),
        ("https://no-such-host.invalid/", Result.NETWORK),
    ],
)
def test_what_comes_to_nothing(url: str, result: Result) -> None:
    """A module is told why a request came to nothing, in Bacalhau's numbers, and goes on."""
    assert call(Bytes(), url) == result


def test_a_server_that_says_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not answered in time ends."""
    monkeypatch.setattr(wasm_http, "WITHIN_S", 0.2)
    server.silent.clear()
    assert call(Bytes(), server.url) == Result.TIMED_OUT


def test_headers_that_cannot_be_sent(server: Server) -> None:
    """A header that would be two is not sent."""
    with pytest.raises(Refused) as caught:
        fetch(Request("GET", server.url, [("X", "a\r\nY: b")], b"", 9), HERE)
    assert caught.value.result == Result.BAD_INPUT
    assert not server.asked


@pytest.mark.parametrize("wrong", range(12))
def test_addresses_outside_of_the_memory(server: Server, wrong: int) -> None:
    """An address that is not in the module's memory is a result that says so, whichever argument it is."""
    memory = Bytes()
    url = server.url.encode()
    memory.write(URL_AT, url)
    numbers = [
        GET,
        URL_AT,
        len(url),
        HEADERS_AT,
        4,
        BODY_AT,
        4,
        HEADERS_IN,
        HEADERS_ROOM_AT,
        BODY_IN,
        BODY_ROOM_AT,
        24,
    ]
    memory.write(HEADERS_ROOM_AT, (64).to_bytes(4, "little"))
    memory.write(BODY_ROOM_AT, (64).to_bytes(4, "little"))
    assert answer(memory, HERE, numbers) == Result.OK
    numbers[wrong] = -1
    found = answer(memory, HERE, numbers)
    assert found == (Result.OK if wrong == 0 else found)
    assert wrong == 0 or found in (Result.INVALID_URL, Result.BAD_INPUT, Result.MEMORY)
    for at in (7, 8, 9, 10):
        assert (
            answer(memory, HERE, [0 if number == at else each for number, each in enumerate(numbers)])
            == Result.BAD_INPUT
        )


async def test_a_module_asks(server: Server, tmp_path: Path) -> None:
    """A module that imports ``http_request`` from ``wasi:http/requests``, as Bacalhau's do, runs and has the answer."""
    url = f"{server.url}/from-a-module"
    wasi = '(import "wasi_snapshot_preview1"'
    module = wat2wasm(f"""(module
      (import "wasi:http/requests" "http_request" (func $ask
        (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
      {wasi} "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      {wasi} "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 64) "{url}")
      (data (i32.const 16) "\\00\\01\\00\\00\\00\\01\\00\\00")
      (func (export "_start")
        (call $ask (i32.const 0) (i32.const 64) (i32.const {len(url)})
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 1024) (i32.const 16) (i32.const 2048) (i32.const 20) (i32.const 24))
        (i32.store (i32.const 32) (i32.const 2048))
        (i32.store (i32.const 36) (i32.load (i32.const 20)))
        (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40)))
        call $exit))""")
    (tmp_path / "own.wasm").write_bytes(module)
    (tmp_path / "compiled").mkdir()
    engine = WasmEngine(tmp_path / "compiled", HERE)
    ends = {}
    for kind in ("Default", "None"):
        job, execution = fresh_execution()
        (tmp_path / execution).mkdir()
        run = Run(
            execution,
            job,
            NODE,
            WasmParams(entry_module="/own.wasm"),
            tmp_path / execution,
            mounts=[Mount(tmp_path / "own.wasm", "/own.wasm")],
            amounts=Amounts(),
            network=Network(kind),
        )
        running = await begin(engine, run)
        ends[kind] = ((await ended(running)).code, text(await chunks_of(running), 1))
    await engine.close()

    assert ends["Default"] == (Result.OK, "hello from there")
    assert ends["None"][0] == Result.NOT_ALLOWED
    assert [path for _, path, _, _ in server.asked] == ["/from-a-module"]
