"""The bytes of the NATS client protocol that we write and read ourselves.

Knows: frames, header blocks, status lines and reply subjects. Must not know: connections, or what the messages mean.
"""

from typing import Final

from msgspec import Struct

EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"
PENDING_MESSAGES: Final = "Nats-Pending-Messages"
OP: Final = "Shoal-Op"
"""Our own header: the operation id of a guarded write."""

NO_RESPONDERS: Final = 503

_VERSION: Final = b"NATS/1.0"


class Request(Struct, frozen=True, gc=False):
    """What to send; `headers` are whole lines (see `header`)."""

    subject: str
    data: bytes
    headers: bytes = b""


class Answer(Struct, frozen=True, gc=False):
    """What came back. `headers` is the whole block as it came, empty if there was none."""

    headers: bytes
    data: bytes

    @property
    def status(self) -> int:
        """The status the server put in the place of a message, 0 if this is a message."""
        return status_of(self.headers)


def header(name: str, value: str | int) -> bytes:
    """One header line. The value must not hold line breaks."""
    return f"{name}: {value}\r\n".encode()


def frame(subject: str, data: bytes, headers: bytes = b"", reply: str = "") -> bytes:
    """A message as it goes to the server."""
    head = f"{subject} {reply}" if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (head.encode(), len(data), data)
    size = len(_VERSION) + len(headers) + 4
    return b"HPUB %b %d %d\r\n%b\r\n%b\r\n%b\r\n" % (
        head.encode(),
        size,
        size + len(data),
        _VERSION,
        headers,
        data,
    )


def status_of(headers: bytes) -> int:
    """The status in a header block's first line (``NATS/1.0 503``), or 0."""
    if headers[8:9] != b" ":
        return 0
    code = headers[9:12]
    return int(code) if code.isdigit() else 0


def status_text(headers: bytes) -> str:
    """What the server says beside a status."""
    return headers[13:].partition(b"\r\n")[0].decode(errors="replace")


def header_value(headers: bytes, name: str) -> str:
    """The value of a header, or the empty string."""
    wanted = name.lower().encode()
    for line in headers.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == wanted:
            return value.strip().decode(errors="replace")
    return ""


def positions_in(reply: bytes) -> tuple[int, int]:
    """The stream's and the consumer's sequence in a delivered message's reply subject.

    ``$JS.ACK.<stream>.<consumer>.<times>.<stream seq>.<consumer seq>.<time>.<pending>``, or with domain and account hash
    before the stream. Raises ``ValueError`` if it is neither.
    """
    tokens = reply.split(b".")
    first = 5 if len(tokens) == 9 else 7
    if len(tokens) < first + 4:
        raise ValueError(f"not the reply subject of a delivered message: {reply!r}")
    return int(tokens[first]), int(tokens[first + 1])
