"""One object from a stream of bytes whose length nobody knows before its end.

Knows: when a stream is one request and when it goes in parts, checksums, and that an upload which fails is taken back. Must
not know: what the bytes are. Memory holds `requests` parts and one more, the disk nothing.
"""

import asyncio
import base64
import hashlib
import io
import zlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from protocol.errors import Fault
from storage.ranged import together
from storage.s3.client import Connection
from storage.s3.faults import faults
from storage.threads import Stop, in_thread

PARTS_MAX: Final = 10_000
ABORT_S: Final = 20.0


class Target(Struct, frozen=True):
    """The object to be made. `own` says that nobody but this execution ever uploads to the key."""

    bucket: str
    key: str
    own: bool = False

    @property
    def url(self) -> str:
        """How messages name it."""
        return f"s3://{self.bucket}/{self.key}"


class Sent(Struct, frozen=True):
    """The object that was made. `sha256` is of all its bytes, in Base64; `version` empty where there are none."""

    size_bytes: int
    sha256: str
    version: str


class _Part(Struct):
    number: int
    data: bytes
    crc32: str
    etag: str = ""


class Stream:
    """A blocking stream, taken in parts of equal size in a thread; the last may be shorter, down to nothing."""

    def __init__(self, pieces: Iterator[bytes], part_bytes: int) -> None:
        self._pieces = pieces
        self._part_bytes = part_bytes
        self._rest = bytearray()
        self._digest = hashlib.sha256()
        self._lock = asyncio.Lock()
        self._number = 0
        self.size_bytes = 0
        self.ended = False

    @property
    def sha256(self) -> str:
        """Of all that was taken, in Base64."""
        return base64.b64encode(self._digest.digest()).decode()

    async def take(self) -> _Part | None:
        """The next part, or None behind the last; an empty stream has one empty part."""
        async with self._lock:
            if self.ended and self._number:
                return None
            data = await in_thread(self._fill)
            if not data and self._number:
                return None
            self._number += 1
            crc32 = base64.b64encode(zlib.crc32(data).to_bytes(4)).decode()
            return _Part(self._number, data, crc32)

    def _fill(self, stop: Stop) -> bytes:
        while len(self._rest) < self._part_bytes:
            stop()
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
                break
            self._rest += piece
        data = bytes(self._rest[: self._part_bytes])
        del self._rest[: self._part_bytes]
        self.ended = self.ended and not self._rest
        self._digest.update(data)
        self.size_bytes += len(data)
        return data


async def upload(
    connection: Connection, target: Target, stream: Stream, requests: int, moved: Callable[[int], None]
) -> Sent:
    """Make the object `target` from all of `stream`; `moved` is told of bytes that S3 has taken.

    Raises what reading the stream raises, `NotFound` (bucket), `Denied`, `Unavailable`, `TimedOut`, `Broken` (a checksum did
    not fit). On a fault or cancellation the object is not there, and no unfinished upload stays.
    """
    first = await stream.take()
    assert first is not None
    if stream.ended:
        return await _at_once(connection, target, first, stream, moved)
    return await _in_parts(connection, target, first, stream, requests, moved)


async def _at_once(
    connection: Connection, target: Target, only: _Part, stream: Stream, moved: Callable[[int], None]
) -> Sent:
    async def put() -> str:
        with faults(target.url, connection.endpoint, signed=connection.signed):
            answer = await connection.raw.put_object(
                Bucket=target.bucket, Key=target.key, Body=io.BytesIO(only.data), ChecksumSHA256=stream.sha256
            )
        return _version(answer)

    version = await _made(connection, target, put())
    moved(len(only.data))
    return Sent(stream.size_bytes, stream.sha256, version)


async def _in_parts(
    connection: Connection,
    target: Target,
    first: _Part,
    stream: Stream,
    requests: int,
    moved: Callable[[int], None],
) -> Sent:
    if target.own:
        await _abort_former(connection, target)
    upload_id = await _begun(connection, target)
    done: dict[int, _Part] = {}
    waiting: list[_Part] = [first]

    async def work() -> None:
        while part := waiting.pop() if waiting else await stream.take():
            part.etag = await _send(connection, target, upload_id, part)
            moved(len(part.data))
            part.data = b""
            done[part.number] = part

    try:
        await together(work() for _ in range(requests))
        parts = [done[number] for number in sorted(done)]
        version = await _made(connection, target, _complete(connection, target, upload_id, parts))
    except BaseException:
        await _abort(connection, target, upload_id)
        raise
    return Sent(stream.size_bytes, stream.sha256, version)


async def _made(connection: Connection, target: Target, making: Coroutine[Any, Any, str]) -> str:
    """Wait for the call that makes the object; answers with the version.

    The server may go on with it after we have hung up. So when cancelled meanwhile, the answer is awaited all the same, and
    the object is removed again.
    """
    made = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        await asyncio.wait([made], timeout=ABORT_S)
        made.cancel()
        with suppress(Fault, asyncio.CancelledError):
            await made
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(ABORT_S):
                with faults(target.url, connection.endpoint, signed=connection.signed):
                    await connection.raw.delete_object(Bucket=target.bucket, Key=target.key)
        raise


async def _begun(connection: Connection, target: Target) -> str:
    """Begin an upload. When cancelled meanwhile, the answer is awaited all the same, so that it can be aborted."""

    async def begin() -> str:
        with faults(target.url, connection.endpoint, signed=connection.signed):
            # With an algorithm named here, S3 checks each part and the whole.
            answer = await connection.raw.create_multipart_upload(
                Bucket=target.bucket, Key=target.key, ChecksumAlgorithm="CRC32"
            )
        return str(answer["UploadId"])

    begun = asyncio.ensure_future(begin())
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(ABORT_S):
                await _abort(connection, target, await begun)
        raise


async def _send(connection: Connection, target: Target, upload_id: str, part: _Part) -> str:
    with faults(f"{target.url} part {part.number}", connection.endpoint, signed=connection.signed):
        answer = await connection.raw.upload_part(
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload_id,
            PartNumber=part.number,
            Body=io.BytesIO(part.data),
            ChecksumCRC32=part.crc32,
        )
    return str(answer["ETag"])


async def _complete(connection: Connection, target: Target, upload_id: str, parts: list[_Part]) -> str:
    """Put the parts together; answers with the version. A completion whose answer was lost is found to have succeeded."""
    listed = [{"PartNumber": part.number, "ETag": part.etag, "ChecksumCRC32": part.crc32} for part in parts]
    try:
        with faults(target.url, connection.endpoint, signed=connection.signed):
            answer = await connection.raw.complete_multipart_upload(
                Bucket=target.bucket, Key=target.key, UploadId=upload_id, MultipartUpload={"Parts": listed}
            )
    except Fault as fault:
        found = None
        with suppress(Fault):
            found, _ = await connection.head(target.bucket, target.key)
        if found is None or found.etag.strip('"') != whole_etag([part.etag for part in parts]):
            raise fault from fault.__cause__
        return found.version
    return _version(answer)


def whole_etag(etags: list[str]) -> str:
    """The ETag that S3 gives to an object of such parts: the MD5 of their MD5s, and their number; empty if unknown."""
    try:
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"


async def _abort(connection: Connection, target: Target, upload_id: str) -> None:
    """Take an upload back. One that cannot be is left to the bucket's lifecycle rules."""
    with suppress(Fault, TimeoutError):
        async with asyncio.timeout(ABORT_S):
            with faults(target.url, connection.endpoint, signed=connection.signed):
                await connection.raw.abort_multipart_upload(
                    Bucket=target.bucket, Key=target.key, UploadId=upload_id
                )


async def _abort_former(connection: Connection, target: Target) -> None:
    """Take back what a process of this execution that was killed had begun; one that may not look leaves it."""
    with suppress(Fault, TimeoutError):
        async with asyncio.timeout(ABORT_S):
            with faults(target.url, connection.endpoint, signed=connection.signed):
                listed = await connection.raw.list_multipart_uploads(Bucket=target.bucket, Prefix=target.key)
            for each in listed.get("Uploads") or []:
                if each["Key"] == target.key:
                    await _abort(connection, target, each["UploadId"])


def _version(answer: dict[str, Any]) -> str:
    version = str(answer.get("VersionId") or "")
    return "" if version == "null" else version
