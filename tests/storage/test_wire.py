"""HTTP over our own sockets: right answers, wrong answers, and lines that die."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from protocol.errors import Broken
from storage.idle_lines import Lines
from storage.pour import Piece, Stretch
from storage.route import Route, basic
from storage.wire import INTERIM_MAX, Garbled, Line, LineFault, Lost, Silent, Unreached, Untrusted

Script = Callable[[socket.socket], None]
LOOPBACK: Final = Path(__file__).with_name("loopback.pem")
"""A key for 127.0.0.1 that everybody has, and its certificate."""


@contextmanager
def answering(*scripts: Script) -> Iterator[int]:
    """A server on loopback whose connections, in turn, are handled by the scripts; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for script in scripts:
                with server.accept()[0] as connection:
                    try:
                        script(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(5)


def route(port: int, **more: object) -> Route:
    """A way to loopback, impatient."""
    given = {
        "host": "127.0.0.1",
        "port": port,
        "address_port": port,
        "connect_s": 2.0,
        "silence_s": 0.3,
        **more,
    }
    return Route(addresses=((socket.AF_INET, "127.0.0.1"),), **given)  # type: ignore[arg-type]


def says(*pieces: bytes, pause_s: float = 0.0, stay: bool = False) -> Script:
    """Read a head, then say these."""

    def script(connection: socket.socket) -> None:
        heard = b""
        while b"\r\n\r\n" not in heard:
            heard += connection.recv(65_536)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        if stay:
            connection.recv(1)

    return script


def asked(port: int, **more: object) -> tuple[int, bytes, bool]:
    """Ask once: the status, the body, and whether the line could be used again."""
    line = Line(route(port, **more))
    try:
        line.open()
        line.send("GET", "/", {})
        head = line.head()
        return head.status, line.rest(1 << 20), line.reusable
    finally:
        line.close()


@pytest.mark.parametrize(
    ("answer", "body", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\nA\r\n, world!!!\r\n0\r\nT: 1\r\n\r\n",
            b"hello, world!!!",
            True,
        ),
    ],
)
@pytest.mark.parametrize("split", [1, 7, 100_000])
def test_bodies_end_where_their_heads_say(answer: bytes, body: bytes, reusable: bool, split: int) -> None:
    """A length, chunks, a status without a body, or the connection's end: in whatever pieces it comes."""
    pieces = [answer[at : at + split] for at in range(0, len(answer), split)]
    with answering(says(*pieces)) as port:
        status, found, again = asked(port)

    assert (status // 100, found, again) == (2, body, reusable)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", Garbled),
        (b"HTTP/1.1 2OO OK\r\n\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, Garbled),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * (INTERIM_MAX + 1) + b"HTTP/1.1 200 OK\r\n\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", Lost),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Lost),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Lost),
        (b"HTTP/1.1 200", Lost),
        (b"", Lost),
    ],
)
def test_what_is_no_answer_is_told(answer: bytes, fault: type[LineFault]) -> None:
    """An answer that is not HTTP, or ends early, is a fault and never a shorter body."""
    with answering(says(answer)) as port, pytest.raises(fault):
        asked(port)


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", *[b"."] * 20]])
def test_silence_and_a_trickle_end(pieces: list[bytes]) -> None:
    """A server that says nothing, or a byte now and then for ever, is not waited for longer than the limit."""
    with answering(says(*pieces, pause_s=0.1, stay=True)) as port, pytest.raises(Silent):
        asked(port)


def test_what_stands_behind_a_body_is_known() -> None:
    """Trailers are told as headers are, and belong to their answer alone."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
    answers = (chunked + b"X-Stream-Error: no: room\r\nT: 1\r\nt: 2\r\n\r\n", chunked + b"\r\n")

    def twice(connection: socket.socket) -> None:
        for answer in answers:
            says(answer)(connection)

    with answering(twice) as port:
        line = Line(route(port))
        line.open()
        found = []
        for _ in answers:
            line.send("GET", "/", {})
            line.head()
            line.rest(10)
            found.append(line.trailers)
        line.close()

    assert found == [{"x-stream-error": "no: room", "t": "1, 2"}, {}]


# A body that is poured.


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> tuple[ssl.SSLContext, ssl.SSLContext] | tuple[None, None]:
    """What a server and its client need to speak TLS, or that they do without."""
    if request.param == "plain":
        return None, None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(LOOPBACK)
    return server, ssl.create_default_context(cafile=str(LOOPBACK))


Tls = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


def poured(
    port: int, pieces: list[Piece], tls: ssl.SSLContext | None, silence_s: float = 30.0
) -> tuple[int, bytes]:
    """Send a body, and read the answer."""
    size = sum(each.size_bytes if isinstance(each, Stretch) else len(each) for each in pieces)
    line = Line(route(port, tls=tls, connect_s=30.0, silence_s=silence_s))
    try:
        line.open()
        line.pour("POST", "/", {}, pieces, size)
        return line.head().status, line.rest(1 << 30)
    finally:
        line.close()


def test_an_answer_that_comes_while_a_body_is_sent_is_taken(tls: Tls, tmp_path: Path) -> None:
    """A server that answers as it reads, and reads no more until its words are taken, gets all of a body, in order, and we
    all of its answer; pieces of files and of memory alike."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * (1 << 16))
    text = b"between" * 1000
    heard: list[bytes] = []

    def script(connection: socket.socket) -> None:
        with connection if tls[0] is None else tls[0].wrap_socket(connection, server_side=True) as each:
            got = b""
            while b"\r\n\r\n" not in got:
                got += each.recv(1)
            wanted = int(got.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            each.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % wanted)
            while sum(map(len, heard)) < wanted:
                heard.append(each.recv(1 << 20))
                each.sendall(b"." * len(heard[-1]))

    with (tmp_path / "file").open("rb") as file, answering(script) as port:
        size = 1 << 24
        pieces: list[Piece] = [
            Stretch(file.fileno(), 0, size, "file"),
            memoryview(text),
            Stretch(file.fileno(), 7, 9, "file"),
        ]
        status, body = poured(port, pieces, tls[1])

    data = (tmp_path / "file").read_bytes()
    assert b"".join(heard) == data + text + data[7:16]
    assert (status, len(body)) == (200, size + len(text) + 9)


@pytest.mark.parametrize("says_meanwhile", [b"", b"x"])
def test_who_takes_nothing_is_not_waited_for(says_meanwhile: bytes, tls: Tls) -> None:
    """A server that reads no more is silence, whatever it says meanwhile."""

    def script(connection: socket.socket) -> None:
        with connection if tls[0] is None else tls[0].wrap_socket(connection, server_side=True) as each:
            each.recv(10)
            for _ in range(20):
                each.sendall(says_meanwhile)
                time.sleep(0.05)

    with answering(script) as port, pytest.raises(Silent):
        poured(port, [memoryview(bytes(1 << 24))], tls[1], silence_s=0.3)


def test_a_file_that_became_shorter_is_told(tls: Tls, tmp_path: Path) -> None:
    """It is the file's fault and not the line's."""
    (tmp_path / "file").write_bytes(b"short")

    def script(connection: socket.socket) -> None:
        with connection if tls[0] is None else tls[0].wrap_socket(connection, server_side=True) as each:
            while each.recv(1 << 16):
                pass

    with (
        (tmp_path / "file").open("rb") as file,
        answering(script) as port,
        pytest.raises(Broken, match="'file' became shorter"),
    ):
        poured(port, [Stretch(file.fileno(), 0, 9, "file")], tls[1])


def test_a_line_is_cut_from_another_thread() -> None:
    """Who waits for a silent server stops at once when the line is cut."""
    with answering(says(stay=True)) as port:
        line = Line(route(port, silence_s=60.0))
        line.open()
        line.send("GET", "/", {})
        threading.Timer(0.05, line.cut).start()
        with pytest.raises(Lost):
            line.head()
        line.close()


def test_connections_are_kept_and_the_dead_are_noticed() -> None:
    """A line that was used comes back if another request may follow, and is dropped else."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def twice(connection: socket.socket) -> None:
        says(answer)(connection)
        says(answer)(connection)

    with answering(twice) as port:
        lines = Lines()
        way = route(port)
        line = lines.take(way)
        line.open()
        for _ in range(2):
            line.send("GET", "/", {})
            line.head()
            assert line.rest(10) == b"ok"
            lines.give(line)
            assert lines.take(way) is line
            assert not line.fresh
        lines.give(line)
        lines.close()
        assert lines.take(way) is not line


def test_nobody_there_and_nobody_trusted_are_told() -> None:
    """A closed port is `Unreached`; a server that speaks no TLS is `Untrusted`, and that is what is said of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreached, match=str(port)):
        Line(route(port)).open()
    no_tls = b"HTTP/1.1 400 Bad\r\n\r\n"
    with (
        answering(lambda connection: connection.sendall(no_tls)) as port,
        pytest.raises(Untrusted, match=f"127.0.0.1:{port} does not speak TLS") as caught,
    ):
        Line(route(port, tls=ssl.create_default_context())).open()
    assert "http://" in caught.value.hint


def test_a_proxy_is_asked_in_its_own_words() -> None:
    """A plain request names the whole URL and carries the proxy's password; a secure one asks for a tunnel first."""
    heard: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        heard.append(connection.recv(65_536))
        connection.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")

    way = {"host": "far.example", "proxy": basic("us%40er", "pw")}
    with answering(proxy, proxy) as port:
        assert asked(port, **way)[0] == 407
        with pytest.raises(Unreached):
            Line(route(port, tls=ssl.create_default_context(), **way)).open()

    plain, secure = heard
    assert plain.startswith(
        f"GET http://far.example:{port}/ HTTP/1.1\r\nHost: far.example:{port}\r\n".encode()
    )
    assert b"Proxy-Authorization: Basic dXNAZXI6cHc=" in plain
    assert secure.startswith(f"CONNECT far.example:{port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNAZXI6cHc=" in secure
