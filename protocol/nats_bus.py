"""The bus over NATS.

Knows: who may do what on a connection, and which part of `protocol.nats` does it. Must not know: jobs.

`connect` gives a requester the whole `Bus`, and a compute node `Messages` alone: nodes have no JetStream rights.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, overload

from protocol.bus import (
    Append,
    BlobLook,
    Bus,
    Cell,
    Listening,
    LogState,
    Message,
    Messages,
    Outcome,
    Record,
    check_cell_name,
    check_message,
    check_pattern,
)
from protocol.errors import TimedOut, Unavailable
from protocol.ids import JobKey
from protocol.listener import Listener
from protocol.nats.blobs import Blobs
from protocol.nats.cells import Cells
from protocol.nats.credentials import Credentials
from protocol.nats.frames import NO_RESPONDERS, Request, frame
from protocol.nats.log import Log
from protocol.nats.reader import read
from protocol.nats.streams import StreamSettings, prepare
from protocol.nats.wire import Wire

__all__ = ["NatsBus", "NatsMessages", "StreamSettings", "connect"]

CONNECT_S: Final = 5.0


class NatsMessages:
    """Messages over one connection: `protocol.bus.Messages`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._closed = False
        self._listeners: set[Listener] = set()

    @property
    def connected(self) -> bool:
        return self._wire.connected

    async def publish(self, subject: str, data: bytes) -> None:
        check_message(subject, data)
        self._check_open()
        await self._send(subject, data)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        check_message(subject, data)
        self._check_open()
        losses = self._wire.losses
        (answer,) = await self._wire.ask([Request(subject, data)], timeout_s=timeout_s)
        if answer is None:
            if self._wire.losses != losses:
                raise Unavailable(f"the connection to NATS was lost while waiting for an answer on {subject}")
            raise TimedOut(f"no answer on {subject} within {timeout_s:g} s")
        if answer.status == NO_RESPONDERS:
            raise Unavailable(f"nobody listens on {subject}")
        return answer.data

    @asynccontextmanager
    async def subscribe(
        self, subject: str, *, group: str = "", pending: int = 65_536
    ) -> AsyncIterator[Listening]:
        check_pattern(subject, group)
        self._check_open()
        listener = Listener(subject, pending)
        self._listeners.add(listener)
        number = await self._wire.listen(subject, partial(self._offer, listener.offer), group)
        try:
            yield listener
        finally:
            self._wire.unlisten(number)
            self._listeners.discard(listener)
            listener.close()

    async def may_listen(self, subject: str) -> bool:
        """Whether this user may listen on a subject, as far as the server says: one that it refuses only stays silent."""
        check_pattern(subject, "")
        self._check_open()
        return await self._wire.may_listen(subject)

    async def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            listener.close()
        await self._wire.shut()

    def _offer(
        self, offer: Callable[[Message], bool], subject: bytes, reply: bytes, data: bytes, _headers: bytes
    ) -> None:
        respond: Callable[[bytes], Awaitable[None]] | None = None
        if reply:
            respond = partial(self._respond, reply.decode(), self._wire.losses)
        offer(Message(subject.decode(), data, respond))

    async def _respond(self, reply: str, losses: int, data: bytes) -> None:
        check_message(reply, data)
        # The right to answer is the connection's that brought the question; who asked is asking again.
        if self._wire.losses == losses:
            await self._send(reply, data)

    async def _send(self, subject: str, data: bytes) -> None:
        if self._wire.connected:
            self._wire.send(frame(subject, data))
            await self._wire.drain()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the bus is closed")


class NatsBus(NatsMessages):
    """The whole bus over one connection: `protocol.bus.Bus`."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._log = Log(wire)
        self._cells = Cells(wire)
        self._blobs = Blobs(wire)

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        return await self._log.append(entries)

    def read(self, after: int) -> AsyncGenerator[list[Record], None]:
        return read(self._wire, after)

    async def last(self, key: JobKey) -> Record | None:
        return await self._log.last(key)

    async def newest(self) -> int:
        return await self._log.newest()

    async def log_state(self) -> LogState:
        return await self._log.state()

    async def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        await self._log.purge(key, upto, log)

    async def get_cell(self, name: str) -> Cell | None:
        check_cell_name(name)
        return await self._cells.get(name)

    async def put_cell(self, name: str, data: bytes, *, revision: int) -> int | None:
        check_cell_name(name)
        return await self._cells.put(name, data, revision)

    async def list_cells(self) -> list[Cell]:
        return await self._cells.all()

    async def remove_cell(self, name: str, revision: int) -> None:
        check_cell_name(name)
        await self._cells.remove(name, revision)

    async def put_blob(self, data: bytes) -> str:
        return await self._blobs.put(data)

    async def get_blob(self, digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        return await self._blobs.get(digest, offset, limit_bytes)

    async def list_blobs(self) -> list[str]:
        return await self._blobs.all()

    async def look_blob(self, digest: str) -> BlobLook | None:
        return await self._blobs.look(digest)

    async def remove_blob(self, digest: str, seen: BlobLook) -> bool:
        return await self._blobs.remove(digest, seen)


@overload
async def connect(
    url: str,
    *,
    name: str,
    role: Literal["requester"],
    credentials: Path | None = None,
    password: str = "",
    wait_s: float = CONNECT_S,
    log_wait_s: float | None = None,
    streams: StreamSettings | None = None,
) -> NatsBus: ...


@overload
async def connect(
    url: str,
    *,
    name: str,
    role: Literal["node"],
    credentials: Path | None = None,
    password: str = "",
    wait_s: float = CONNECT_S,
) -> NatsMessages: ...


async def connect(
    url: str,
    *,
    name: str,
    role: Literal["requester", "node"],
    credentials: Path | None = None,
    password: str = "",
    wait_s: float = CONNECT_S,
    log_wait_s: float | None = None,
    streams: StreamSettings | None = None,
) -> NatsMessages:
    """Connect to the NATS server at `url` (``nats://host:port``, several separated by commas, ``tls://`` for TLS).

    It proves who it is by the file `credentials`; answers then arrive below ``_INBOX_<its name>``, which nobody else hears.
    Where NATS servers have users of another kind, the user is the one in the URL, or the role (``requester`` or ``node``)
    with `password`. `name` is shown in the server's monitoring. For a requester the streams are made as `streams` says if
    they are missing, and checked.

    `log_wait_s` (else `wait_s`) is how long the streams may have no leader: the election in a cluster takes some seconds.

    A connection that was made once is kept up for ever: see `connected`. Raises `Invalid` (the URL, or the file), `NotFound`
    (no such file), `Denied` (the servers refuse who this is), `Unavailable` (no server, or no JetStream, within `wait_s`
    seconds), `Broken` and `Exhausted` (the streams).
    """
    wire = Wire()
    proof = Credentials(credentials) if credentials else None
    await wire.open(
        url,
        name=name,
        inbox=proof.inbox if proof else "_INBOX",
        wait_s=wait_s,
        credentials=proof,
        user=role if password else None,
        password=password or None,
    )
    if role == "node":
        return NatsMessages(wire)
    try:
        await prepare(wire, streams or StreamSettings(), wait_s if log_wait_s is None else log_wait_s)
    except BaseException:
        await wire.shut()
        raise
    return NatsBus(wire)


if TYPE_CHECKING:

    def _fits(bus: NatsBus, messages: NatsMessages) -> tuple[Bus, Messages]:
        return bus, messages
