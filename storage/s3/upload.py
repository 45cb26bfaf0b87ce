"""One object from a stream of bytes whose length nobody knows before its end.

Knows: when a stream is one request and when it goes in parts, and that an upload which fails is taken back. Must not know:
what the bytes are. Memory holds a part for each lane, the disk nothing.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field, structs

from protocol.errors import Broken, Fault, Invalid
from storage.lanes import Request
from storage.s3.bulk import Bulk
from storage.s3.connection import Connection
from storage.s3.faults import SUMS, faults
from storage.s3.pieces import Piece, Stream
from storage.threads import in_thread

ABORT_S: Final = 20.0
FINISH_S: Final = 5.0
"""How long parts under way may take to be answered when an upload fails: one that S3 stores after the upload was aborted
brings the upload back."""
OCTETS: Final = "application/octet-stream"
OPTIONS: Final = {
    "StorageClass": "x-amz-storage-class",
    "ACL": "x-amz-acl",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
"""What S3 can be told about an object when it is made, and in which header."""
NOT_THERE: Final = {"If-None-Match": "*"}
"""Make the object only if there is none: S3 refuses it else, whoever made the other."""


class Target(Struct, frozen=True):
    """The object to be made. `own` says that nobody but this execution ever uploads to the key.

    `condition` is under which header it may be made (`NOT_THERE`, ``If-Match``, none); `meta` is kept with it, `options` are
    some of `OPTIONS`. In `notes`, if there is such a folder, stands which upload has been begun. `stays`: what was made is
    not removed again, because somebody else may have put the same there.
    """

    bucket: str
    key: str
    own: bool = False
    condition: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    notes: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    stays: bool = False

    @property
    def url(self) -> str:
        """How messages name it."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def content_type(self) -> str:
        """What its name says that it is, as other clients of S3 tell it: a browser shows what it knows."""
        # Behind a slash nothing is taken for a URL's scheme.
        found, packed = _names().guess_type("/" + self.key)
        if packed:
            return "application/gzip" if packed == "gzip" else OCTETS
        return found or OCTETS

    @property
    def headers(self) -> dict[str, str]:
        """What is kept with it, as headers."""
        meta = {f"x-amz-meta-{name}": value for name, value in self.meta.items()}
        options = {OPTIONS[name]: value for name, value in self.options.items()}
        return {"content-type": self.content_type, **options, **meta}


@cache
def _names() -> MimeTypes:
    """Python's own table, the same on every machine."""
    return MimeTypes()


class Sent(Struct, frozen=True):
    """The object that was made. `sha256` is of all its bytes, in Base64, if the stream was to tell; `version` empty where
    there are none."""

    size_bytes: int
    sha256: str
    version: str
    etag: str = ""


async def upload(
    connection: Connection,
    bulk: Bulk,
    target: Target,
    stream: Stream,
    requests: int,
    moved: Callable[[int], None],
) -> Sent:
    """Make the object `target` from all of `stream`; `moved` is told of bytes that S3 has taken.

    Raises what reading the stream raises, `NotFound` (bucket), `Denied`, `Unavailable`, `TimedOut`, `Broken` (a checksum did
    not fit), `Conflict` (the target's condition does not hold). On a fault or cancellation the object is not there, and no
    unfinished upload stays.
    """
    first = await in_thread(lambda _: stream.take())
    if stream.ended:
        return await _at_once(connection, bulk, target, put(bulk, target, first), stream, moved)
    return await _in_parts(connection, bulk, target, first, stream, requests, moved)


def put(bulk: Bulk, target: Target, body: list[memoryview]) -> Piece:
    """A whole object in one request."""

    def ask(piece: Piece) -> Request:
        crc32 = piece.crc32 if bulk.store.sums else ""
        headers = {**_vouching(piece, crc32), **target.condition, **target.headers}
        return bulk.request("PUT", target.key, headers, body=piece.body)

    return Piece(target.url, 1, body, ask, bulk.refusal)


def _vouching(piece: Piece, crc32: str) -> dict[str, str]:
    """What says of a body which bytes it has: its CRC32, or its MD5 where that is empty because the store takes none."""
    return {"x-amz-checksum-crc32": crc32} if crc32 else {"Content-MD5": piece.md5}


async def _at_once(
    connection: Connection,
    bulk: Bulk,
    target: Target,
    piece: Piece,
    stream: Stream,
    moved: Callable[[int], None],
) -> Sent:
    try:
        await connection.move(bulk, iter([piece]), 1, moved, finish_s=ABORT_S)
    except asyncio.CancelledError:
        if (piece.etag or not target.condition) and not target.stays:
            await _removed(connection, target)
        raise
    except Fault:
        # It may have been made all the same, and its answer lost. At a key that others use too it may be theirs.
        if piece.asked and target.own:
            await _removed(connection, target)
        raise
    return Sent(stream.size_bytes, stream.sha256, piece.version, piece.etag)


async def _in_parts(
    connection: Connection,
    bulk: Bulk,
    target: Target,
    first: list[memoryview],
    stream: Stream,
    requests: int,
    moved: Callable[[int], None],
) -> Sent:
    if target.own:
        await _abort_former(connection, target)
    note = Note(target.notes)
    for key, former in note.begun():
        await _abort(connection, structs.replace(target, key=key), former)
    upload_id = await _begun(connection, target)
    note.write(target.key, upload_id)
    summed = connection.store.sums
    parts: list[tuple[Piece, str]] = []

    def ask(piece: Piece) -> Request:
        query = {"partNumber": str(piece.number), "uploadId": upload_id}
        vouching = _vouching(piece, parts[piece.number - 1][1])
        return bulk.request("PUT", target.key, vouching, query, body=piece.body)

    def pieces() -> Iterator[Piece]:
        body = first
        while body:
            number = len(parts) + 1
            piece = Piece(f"{target.url} part {number}", number, body, ask, bulk.refusal)
            parts.append((piece, piece.crc32 if summed else ""))
            yield piece
            body = stream.take()

    try:
        await connection.move(bulk, pieces(), requests, moved, finish_s=FINISH_S)
        listed = [
            {"PartNumber": piece.number, "ETag": piece.etag, **({"ChecksumCRC32": crc32} if crc32 else {})}
            for piece, crc32 in parts
        ]
        making = completed(connection, target.bucket, target.key, upload_id, listed, target.condition)
        version, etag = await _made(connection, target, making)
    except BaseException:
        await _abort(connection, target, upload_id)
        note.clear()
        raise
    note.clear()
    return Sent(stream.size_bytes, stream.sha256, version, etag)


class Note:
    """Which upload has been begun, on this machine's disk: after ``kill -9`` nobody else knows whose it is, at a key that
    others use too. Best effort: a few bytes, written and read in place."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "s3-upload" if folder is not None else None

    def begun(self) -> list[tuple[str, str]]:
        """Key and id of what a former process had begun."""
        if self._path is None:
            return []
        try:
            return [msgspec.json.decode(self._path.read_bytes(), type=tuple[str, str])]
        except (OSError, msgspec.DecodeError):
            return []

    def write(self, key: str, upload_id: str) -> None:
        """Remember it."""
        if self._path is not None:
            with suppress(OSError):
                self._path.write_bytes(msgspec.json.encode((key, upload_id)))

    def clear(self) -> None:
        """There is none any more."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()


async def _made(
    connection: Connection, target: Target, making: Awaitable[tuple[str, str]]
) -> tuple[str, str]:
    """Wait for the call that makes the object; answers with what that says: its version and ETag.

    The server may go on with it after we have hung up. So when cancelled meanwhile, the answer is awaited all the same, and
    the object is removed again.
    """
    made = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        await asyncio.wait([made], timeout=ABORT_S)
        came = made.done() and not made.exception()
        made.cancel()
        with suppress(Fault, asyncio.CancelledError):
            await made
        if (came or not target.condition) and not target.stays:
            await _removed(connection, target)
        raise


async def _removed(connection: Connection, target: Target) -> None:
    with suppress(Fault, TimeoutError):
        async with asyncio.timeout(ABORT_S):
            with faults(target.url, connection.endpoint, signed=connection.signed):
                await connection.raw.delete_object(Bucket=target.bucket, Key=target.key)


async def _begun(connection: Connection, target: Target) -> str:
    """Begin an upload. When cancelled meanwhile, the answer is awaited all the same, so that it can be aborted."""

    async def begin() -> str:
        try:
            answer = await _create(connection, target)
            upload_id = begun_in(answer, target.url, connection.endpoint)
        except Fault:
            await _abort_nameless(connection, target)
            raise
        if answer["ResponseMetadata"].get("RetryAttempts"):
            await _abort_nameless(connection, target, upload_id)
        return upload_id

    begun = asyncio.ensure_future(begin())
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(ABORT_S):
                await _abort(connection, target, await begun)
        raise


async def _create(connection: Connection, target: Target) -> Any:
    """What S3 answers to the beginning of an upload. With an algorithm named here, it checks each part and the whole."""
    summed = connection.store.sums
    try:
        with faults(target.url, connection.endpoint, signed=connection.signed):
            return await connection.raw.create_multipart_upload(
                Bucket=target.bucket,
                Key=target.key,
                ContentType=target.content_type,
                Metadata=dict(target.meta),
                **({"ChecksumAlgorithm": "CRC32"} if summed else {}),
                **target.options,
            )
    except Invalid as fault:
        if fault.kind != SUMS or not summed:
            raise
        connection.store.sums = False
        return await _create(connection, target)


async def completed(
    connection: Connection,
    bucket: str,
    key: str,
    upload_id: str,
    parts: list[dict[str, Any]],
    condition: Mapping[str, str] | None = None,
    *,
    what: str = "",
) -> tuple[str, str]:
    """Put the parts together; answers with the version (empty for none) and the ETag. A completion whose answer was lost is
    found to have succeeded. Faults call the object `what`, if that is given."""
    under = {name.replace("-", ""): value for name, value in (condition or {}).items()}
    try:
        with faults(what or f"s3://{bucket}/{key}", connection.endpoint, signed=connection.signed):
            answer = await connection.raw.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}, **under
            )
            _told_in(answer, "ETag", what or f"s3://{bucket}/{key}", connection.endpoint)
    except Fault as fault:
        found = None
        with suppress(Fault):
            found, _ = await connection.head(bucket, key)
        if found is None or found.etag.strip('"') != whole_etag([part["ETag"] for part in parts]):
            raise fault from fault.__cause__
        return found.version, found.etag
    version = str(answer.get("VersionId") or "")
    return "" if version == "null" else version, str(answer["ETag"])


def begun_in(answer: Any, what: str, endpoint: str) -> str:
    """The id of an upload that was begun. Raises `Broken` for a success that is none of S3's: botocore takes any."""
    return _told_in(answer, "UploadId", what, endpoint)


def _told_in(answer: Any, name: str, what: str, endpoint: str) -> str:
    value = str(answer.get(name) or "")
    if not value:
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        raise Broken(f"{what}: {endpoint} answers {status} without {name}, which is not how S3 does")
    return value


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


async def _abort_nameless(connection: Connection, target: Target, but: str = "") -> None:
    """Take back what was begun by a request whose answer was lost, so that nobody knows its id. At a key that others use too
    nobody can tell whose it is: it is left to the bucket's lifecycle rules."""
    if target.own:
        await _abort_former(connection, target, but)


async def _abort_former(connection: Connection, target: Target, but: str = "") -> None:
    """Take back what a process of this execution that was killed had begun; one that may not look leaves it."""
    with suppress(Fault, TimeoutError):
        async with asyncio.timeout(ABORT_S):
            with faults(target.url, connection.endpoint, signed=connection.signed):
                listed = await connection.raw.list_multipart_uploads(Bucket=target.bucket, Prefix=target.key)
            for each in listed.get("Uploads") or []:
                if each["Key"] == target.key and each["UploadId"] != but:
                    await _abort(connection, target, each["UploadId"])
