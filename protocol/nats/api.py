"""Calls to JetStream's API and what it answers, as far as we use it.

Knows: the API's subjects, requests, answers and error numbers. Must not know: which streams there are.
"""

import base64
from datetime import datetime
from math import inf
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from protocol.errors import Broken, Denied, Unavailable
from protocol.nats.frames import NO_RESPONDERS, OP, Answer, Request, header_value
from protocol.nats.wire import Wire

API: Final = "$JS.API"
CALL_S: Final = 5.0
"""How long a call may take; a cluster that has lost its leader answers nobody for some seconds."""
AGAIN_S: Final = 0.2
"""After which a question without an answer is repeated. What a leader was asked that died is never answered; the next one is
there after some seconds (4 to 7, measured)."""

NO_MESSAGE: Final = 10037
NO_STREAM: Final = 10059
STALE: Final = 10071
IN_FLIGHT: Final = 10164


class Error(Struct, frozen=True):
    """What JetStream refuses with; the numbers are those of the server's ``errors.json``."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Kept(Struct, frozen=True):
    """A message as the stream keeps it. The server sends the header block as base64."""

    subject: str
    seq: int
    data: bytes = b""
    hdrs: str = ""
    time: str = ""

    @property
    def at(self) -> float:
        """When it was stored, unix seconds by the server's clock."""
        return datetime.fromisoformat(self.time).timestamp()

    @property
    def headers(self) -> bytes:
        """The header block."""
        return base64.b64decode(self.hdrs)

    @property
    def op(self) -> str:
        """The operation id that our writes carry."""
        return header_value(self.headers, OP)


class StreamState(Struct, frozen=True):
    """How far a stream has come. `subjects` only if they were asked for."""

    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0
    subjects: dict[str, int] | None = None


class _Envelope(Struct, frozen=True):
    error: Error | None = None


class StreamInfo(_Envelope, frozen=True):
    """A stream. `total` counts all its subjects, an answer shows at most a page; `cluster` is where its copies are."""

    config: dict[str, Any] = field(default_factory=dict)
    cluster: dict[str, Any] | None = None
    created: str = ""
    state: StreamState = StreamState()
    total: int = 0

    @property
    def on_a_cluster(self) -> bool:
        """Whether other servers could have copies. One that stands alone names itself as the leader, and no cluster."""
        return self.cluster is not None and bool(self.cluster.get("name"))

    @property
    def leader(self) -> str:
        """Who decides about its writes, and since when."""
        cluster = self.cluster or {}
        return f"{cluster.get('leader', '')} {cluster.get('leader_since', '')}"


class _Found(_Envelope, frozen=True):
    message: Kept | None = None


class Done(_Envelope, frozen=True):
    """An answer of which only the error matters."""


A = TypeVar("A", bound=_Envelope)

_found = msgspec.json.Decoder(_Found)


class ApiError(Exception):
    """JetStream said no."""

    def __init__(self, call: str, error: Error) -> None:
        super().__init__(f"{call}: {error.description} ({error.err_code})")
        self.error = error


async def call(wire: Wire, name: str, form: type[A], body: object = None, *, again_s: float = inf) -> A:
    """Call `name` (``STREAM.INFO.JOBS``); every `again_s` once more, where twice is harmless, until it is answered.

    Raises `Unavailable`, `Denied` and `Broken`.
    """
    try:
        return await attempt(wire, name, form, body, again_s=again_s)
    except ApiError as error:
        raise unavailable(error) from error


async def attempt(wire: Wire, name: str, form: type[A], body: object = None, *, again_s: float = inf) -> A:
    """The same for who goes by the reason of a refusal, which is raised as `ApiError`."""
    data = msgspec.json.encode(body) if body is not None else b""
    (answer,) = await wire.ask([Request(f"{API}.{name}", data)], timeout_s=CALL_S, again_s=again_s)
    result = _read(name, answer, msgspec.json.Decoder(form))
    if result.error is not None:
        raise ApiError(name, result.error)
    return result


async def stream_info(wire: Wire, stream: str) -> StreamInfo:
    """How a stream is, told by its leader as soon as it has one. Raises as `call`."""
    return await call(wire, f"STREAM.INFO.{stream}", StreamInfo, again_s=AGAIN_S)


async def subjects_of(wire: Wire, stream: str, pattern: str) -> list[str]:
    """The subjects of a stream's messages that fit a pattern. The server tells them by pages. Raises as `call`."""
    found: list[str] = []
    while True:
        asked = {"subjects_filter": pattern, "offset": len(found)}
        info = await call(wire, f"STREAM.INFO.{stream}", StreamInfo, asked)
        more = info.state.subjects or {}
        found += more
        if not more or len(found) >= info.total:
            return found


def get_request(stream: str, **query: str | int) -> Request:
    """Ask the stream's leader for one message, by ``last_by_subj``, or by ``next_by_subj`` and ``seq``."""
    return Request(f"{API}.STREAM.MSG.GET.{stream}", msgspec.json.encode(query))


def read_get(answer: Answer | None) -> Kept | None:
    """The message in the answer to a `get_request`, or None if there is none. Raises `Unavailable` and `Broken`."""
    result = _read("STREAM.MSG.GET", answer, _found)
    if result.error is None:
        return result.message
    if result.error.err_code == NO_MESSAGE:
        return None
    raise unavailable(ApiError("STREAM.MSG.GET", result.error))


def unavailable(error: ApiError) -> Unavailable | Denied:
    """The fault for a refusal that no caller of ours can do anything about."""
    if error.error.code == 403:
        return Denied(f"JetStream refuses {error}")
    return Unavailable(f"JetStream cannot serve now: {error}")


def _read(name: str, answer: Answer | None, decoder: "msgspec.json.Decoder[A]") -> A:
    if answer is None:
        raise Unavailable(f"JetStream did not answer {name} within {CALL_S:g} s, or the connection was lost")
    if answer.status == NO_RESPONDERS:
        raise Unavailable(
            f"nobody answers {name}: the NATS server has no JetStream for this user, or the stream has no leader now",
            hint="Start the server with nats.conf; its accounts give requesters JetStream.",
        )
    try:
        return decoder.decode(answer.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Broken(f"JetStream's answer to {name} cannot be read: {error}") from error
