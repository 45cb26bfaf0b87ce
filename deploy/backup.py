"""A cluster's streams in a folder, and back on a server that has none.

Knows: JetStream's way of taking a snapshot and of restoring one, chunk by chunk with flow control. Must not know: what is in
the streams. A snapshot keeps sequences, times and headers, so guards and read positions mean the same afterwards; the
restored log has another `created`, by which requesters and nodes see that it is another log than before.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from protocol.errors import Broken, Conflict, Denied, Exhausted, Fault, Invalid, NotFound, Unavailable
from protocol.nats.api import API, NO_STREAM, Error
from protocol.nats.credentials import Credentials
from protocol.nats.frames import Request, frame, status_of, status_text
from protocol.nats.streams import CELL_STREAM, NO_ACCOUNT_STORAGE, NO_STORAGE
from protocol.nats.wire import Wire
from protocol.subjects import BLOB_STREAM, LOG_STREAM

STREAMS: Final = (LOG_STREAM, BLOB_STREAM, CELL_STREAM)
"""In this order: a blob is stored before the job that names it, so a snapshot of blobs that is taken later has it."""
CONTENTS: Final = "contents.json"
CHUNK_BYTES: Final = 131_072
WAIT_S: Final = 30.0
"""Without a chunk, or the answer to one, for that long, the other side is given up."""
CONNECT_S: Final = 5.0
NAME_TAKEN: Final = 10058
NO_CLUSTER: Final = 10074
NO_PEERS: Final = 10005
_NUMBER: Final = re.compile(r"\((\d{5})\)")


class Part(Struct, frozen=True):
    """One stream of a backup: its settings and state as the server gave them, and its bytes in a file of that digest."""

    stream: str
    config: dict[str, Any]
    state: dict[str, Any]
    size_bytes: int
    sha256: str


class Contents(Struct, frozen=True):
    """What a backup holds."""

    format: int
    streams: list[Part]


class _Answer(Struct, frozen=True):
    error: Error | None = None
    config: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    deliver_subject: str = ""


async def backup(url: str, credentials: str, folder: Path) -> Contents:
    """Copy all streams of the servers at `url` into a new `folder`, while work goes on.

    Raises `Conflict` (the folder is there), `NotFound` (no streams), `Unavailable`, `Denied`, `Exhausted`.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError as error:
        raise Conflict(f"{folder} is there already", hint="Name a new folder.") from error
    try:
        async with _connected(url, credentials) as wire:
            contents = Contents(1, [await _save(wire, stream, folder) for stream in STREAMS])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # Last: a folder without it is no backup.
    await asyncio.to_thread(_write, folder / CONTENTS, msgspec.json.format(msgspec.json.encode(contents)))
    return contents


async def restore(url: str, credentials: str, folder: Path, replicas: int = 0) -> Contents:
    """Make the streams of a backup on the servers at `url`, with so many copies each (0: as they were).

    Raises `NotFound` or `Broken` (no whole backup), `Conflict` (the servers have such streams), `Exhausted` (no room, or not
    servers enough for the copies), `Unavailable`, `Denied`.
    """
    contents = await asyncio.to_thread(_checked, folder)
    async with _connected(url, credentials) as wire:
        # All before the first: a restore that stops half way leaves streams in the way of the next. And a server counts
        # room before it looks at names, so its own refusal would be about room.
        for part in contents.streams:
            await _check_missing(wire, part.stream)
        for part in contents.streams:
            await _load(wire, part, folder, replicas)
    return contents


@asynccontextmanager
async def _connected(url: str, credentials: str) -> AsyncIterator[Wire]:
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        path = Path(scratch) / "admin.creds"
        path.touch(mode=0o600)
        path.write_text(credentials)
        wire = Wire()
        proof = Credentials(path)
        await wire.open(url, name="shoal backup", inbox=proof.inbox, wait_s=CONNECT_S, credentials=proof)
        try:
            yield wire
        finally:
            await wire.shut()


async def _save(wire: Wire, stream: str, folder: Path) -> Part:
    chunks: asyncio.Queue[tuple[str, bytes, bytes]] = asyncio.Queue()
    inbox = wire.new_inbox()
    number = await wire.listen(
        inbox, lambda _, reply, data, headers: chunks.put_nowait((reply.decode(), data, headers))
    )
    body = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES}
    try:
        answer = await _ask(wire, f"{API}.STREAM.SNAPSHOT.{stream}", msgspec.json.encode(body))
        digest, size = hashlib.sha256(), 0
        with _opened(_file(folder, stream)) as file:
            while True:
                async with asyncio.timeout(WAIT_S):
                    reply, data, headers = await chunks.get()
                if not data:
                    _check_end(stream, headers)
                    break
                digest.update(data)
                size += len(data)
                await asyncio.to_thread(file.write, data)
                # The server sends more once it hears that this was taken.
                if reply:
                    wire.send(frame(reply, b""))
            await asyncio.to_thread(_flush, file)
    except TimeoutError as error:
        raise Unavailable(f"the server stopped sending the stream {stream} for {WAIT_S:g} s") from error
    except OSError as error:
        raise Exhausted(f"the backup cannot be written: {error}") from error
    finally:
        wire.unlisten(number)
    return Part(stream, answer.config, answer.state, size, digest.hexdigest())


def _check_end(stream: str, headers: bytes) -> None:
    """An empty message ends a snapshot; one with a status other than 204 says that it is not whole."""
    if status_of(headers) not in (0, 204):
        raise Unavailable(f"the server gave up sending the stream {stream}: {status_text(headers)}")


async def _check_missing(wire: Wire, stream: str) -> None:
    """Raises `Conflict` if the servers have this stream."""
    try:
        await _ask(wire, f"{API}.STREAM.INFO.{stream}", b"")
    except NotFound:
        return
    raise _taken(stream)


async def _load(wire: Wire, part: Part, folder: Path, replicas: int) -> None:
    config = {**part.config, **({"num_replicas": replicas} if replicas else {})}
    body = msgspec.json.encode({"config": config, "state": part.state})
    place = (await _ask(wire, f"{API}.STREAM.RESTORE.{part.stream}", body)).deliver_subject
    with _file(folder, part.stream).open("rb") as file:
        while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
            await _ask(wire, place, data)
    await _ask(wire, place, b"")


async def _ask(wire: Wire, subject: str, data: bytes) -> _Answer:
    (answer,) = await wire.ask([Request(subject, data)], timeout_s=WAIT_S)
    if answer is None:
        raise Unavailable(
            f"the server did not answer {subject} within {WAIT_S:g} s, or the connection was lost"
        )
    if answer.status:
        raise Unavailable(f"nobody answers {subject}", hint="Is JetStream on, and has the stream a leader?")
    read = msgspec.json.decode(answer.data, type=_Answer) if answer.data else _Answer()
    if read.error is not None:
        raise _fault(subject.rpartition(".")[2], read.error)
    return read


def _fault(stream: str, error: Error) -> Fault:
    if error.err_code == NO_STREAM:
        return NotFound(
            f"these servers have no stream {stream}", hint="Requesters make it when they first start."
        )
    if error.err_code == NAME_TAKEN:
        return _taken(stream)
    # What stops a restore at its end stands in the words of another error, with its number.
    numbers = {error.err_code, *map(int, _NUMBER.findall(error.description))}
    if numbers & {NO_CLUSTER, NO_PEERS}:
        return Exhausted(
            f"these servers are too few for the copies of the stream {stream} ({error.description})",
            hint="Ask for no more copies than there are servers, such as --replicas 1.",
        )
    if numbers & {NO_STORAGE, NO_ACCOUNT_STORAGE}:
        return Exhausted(
            f"these servers have no room for the stream {stream} ({error.description})",
            hint="Raise max_file_store in nats.conf; what a stream may grow to is reserved.",
        )
    return Unavailable(f"the server refuses: {error.description} ({error.err_code})")


def _taken(stream: str) -> Conflict:
    return Conflict(
        f"these servers have a stream {stream} already",
        hint="Restore into servers without streams: stop the requesters, and start the servers on an empty data folder.",
    )


def _checked(folder: Path) -> Contents:
    """What a folder holds, after a look at every byte of it."""
    try:
        contents = msgspec.json.decode((folder / CONTENTS).read_bytes(), type=Contents)
        for part in contents.streams:
            with _file(folder, part.stream).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != part.sha256:
                raise Broken(
                    f"{_file(folder, part.stream)} is not what was backed up: its digest differs",
                    hint="It was damaged since. Use another copy of the backup.",
                )
    except FileNotFoundError as error:
        raise NotFound(
            f"{folder} holds no whole backup: {error.filename} is missing",
            hint="Name the folder that `shoal cluster backup` filled.",
        ) from error
    except msgspec.DecodeError as error:
        raise Invalid(f"{folder / CONTENTS} cannot be read: {error}") from error
    except OSError as error:
        raise Denied(f"the backup in {folder} cannot be read: {error}") from error
    return contents


def _file(folder: Path, stream: str) -> Path:
    return folder / f"{stream}.snapshot"


def _opened(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write(path: Path, data: bytes) -> None:
    with _opened(path) as file:
        file.write(data)
        _flush(file)
