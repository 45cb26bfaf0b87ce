"""Our parser of the server's bytes against nats-py's own: the same bytes are the same messages, however they are cut."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from protocol.nats.parser import MessageParser

Heard = list[tuple[Any, ...]]


class Client:
    """What nats-py's parser asks of its client, written down."""

    def __init__(self) -> None:
        self.heard: Heard = []

    async def _process_msg(
        self, number: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        self.deliver(number, subject, reply, data, headers or b"")

    def deliver(self, number: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.heard.append(("message", number, subject, reply, data, headers))

    async def _process_ping(self) -> None:
        self.heard.append(("ping",))

    async def _process_pong(self) -> None:
        self.heard.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.heard.append(("error", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.heard.append(("info", info))


def message(subject: str, number: int, reply: str, headers: bytes, data: bytes) -> bytes:
    """A message as the server sends it."""
    address = f"{subject} {number} {reply}".strip().encode()
    if not headers:
        return b"MSG %b %d\r\n%b\r\n" % (address, len(data), data)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (address, len(headers), len(headers) + len(data), headers, data)


TOKENS = st.sampled_from(["job.0a1", "report.n-1.7", "_INBOX.x.12", "a"])
MESSAGES = st.builds(
    message,
    TOKENS,
    st.integers(1, 99_999),
    st.sampled_from(["", "_INBOX.y", "$JS.ACK.JOBS.c.1.2.3.4.5"]),
    st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0 503\r\n\r\n"]),
    st.binary(max_size=40) | st.sampled_from([b"\r\n", b"MSG a 1 3\r\nabc\r\n", b"PING\r\n", b"x" * 5_000]),
)
LINES = st.sampled_from(
    [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"a":1}\r\n', b"-ERR 'Permissions Violation'\r\n"]
)


async def heard_by(parser: Parser, client: Client, pieces: list[bytes]) -> Heard:
    for piece in pieces:
        await parser.parse(piece)
    return client.heard


@given(st.lists(MESSAGES | LINES, max_size=8), st.lists(st.integers(0, 6_000), max_size=12))
async def test_the_same_bytes_are_the_same_messages(parts: list[bytes], cuts: list[int]) -> None:
    """What the server sends arrives whole and in order, in whichever pieces the network brings it."""
    stream = b"".join(parts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[begin:end] for begin, end in pairwise(places)]
    ours, theirs = Client(), Client()
    assert await heard_by(MessageParser(ours, ours.deliver), ours, pieces) == await heard_by(
        Parser(theirs), theirs, [stream] if stream else []
    )


@pytest.mark.parametrize("line", [b"NONSENSE\r\n", b"MSG a\r\n", b"MSG a one 3\r\n", b"HMSG a 1 x 3\r\n"])
async def test_what_is_no_message_is_an_error(line: bytes) -> None:
    """Bytes that are none of NATS's end the connection; they are never taken for a message."""
    client = Client()
    with pytest.raises(ProtocolError):
        await MessageParser(client, client.deliver).parse(line)
    assert not client.heard


async def test_a_new_connection_begins_at_a_line() -> None:
    """What was half there when a connection was lost is not put before what the next one brings."""
    client = Client()
    parser = MessageParser(client, client.deliver)
    await parser.parse(b"MSG a 1 9\r\nhal")
    parser.reset()
    await parser.parse(b"MSG b 2 2\r\nok\r\n")
    assert client.heard == [("message", 2, b"b", b"", b"ok", b"")]
