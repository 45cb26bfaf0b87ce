"""Results to S3: as one ``.tar.gz``, or as one object a file.

Knows: names of results, and what S3 can hold of a tree. Must not know: botocore.

As an archive everything comes back: empty folders, links, executable bits. As objects, an empty folder becomes a marker (an
empty object whose key ends with ``/``, which the source makes a folder again), executable bits are lost, and a tree with
links is refused before anything is sent: S3 has no links, and following one would publish what it leads to.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit
from uuid import uuid4

from msgspec import Struct, structs, to_builtins

from protocol.errors import Broken, Conflict, Denied, Fault, Invalid, NotFound
from protocol.jobs import Spec
from storage import archive
from storage.contract import Foreseeing, Form, Label, Progress, Publisher
from storage.long_lists import Packed, each_of, in_order
from storage.s3.bulk import Bulk
from storage.s3.claims import (
    EXECUTION,
    HINT,
    claim,
    claim_prefix,
    may_replace,
    meta_of,
    of_ours,
    taken,
)
from storage.s3.connection import Connection
from storage.s3.driver import S3Driver
from storage.s3.faults import REGION, faults
from storage.s3.keys import ODD_HINT, Object, plain_key
from storage.s3.listing import listing_of
from storage.s3.params import KEY_MAX_BYTES, PublisherParams, S3Settings
from storage.s3.pieces import PARTS_MAX, Piece, Stream
from storage.s3.upload import ABORT_S, NOT_THERE, Sent, Target, put, upload
from storage.threads import Stop, in_thread
from storage.tree import CHUNK_BYTES, Entry, Kind, open_inside, walk

SMALL_FILE_BYTES: Final = 1 << 20
DELETE_MAX: Final = 1000
FOR_GOOD: Final = frozenset({"Profile", "Address"})
"""Kinds of `Denied` that a node's own settings say."""


class S3Publisher(S3Driver):
    """Results to S3."""

    params: ClassVar[Form] = PublisherParams

    async def publish(self, folder: Path, params: PublisherParams, label: Label, progress: Progress) -> Spec:
        """Store the folder; the answer is a spec of source ``s3``. Raises as `Publisher`."""
        connection = await self._connect(params, params.region)
        try:
            return await self._publish(connection, folder, params, label, progress)
        except Invalid as fault:
            region = await connection.elsewhere(params.bucket) if fault.kind == REGION else ""
            if not region:
                raise
        connection = await self._connect(params, region)
        return await self._publish(connection, folder, params, label, progress)

    async def foresee(self, params: PublisherParams, label: Label) -> None:
        """See `storage.contract.Foreseeing`: whether the bucket is there, and the key free to take."""
        unique = str(uuid4())
        key = published_key(params, label, unique)
        shared = not (params.overwrite or label.execution in key or unique in key)
        try:
            connection = await self._connect(params, params.region)
            if shared and params.plain:
                key = await connection.first(params.bucket, key) or key
            found = await connection.look(params.bucket, key)
        except (NotFound, Invalid):
            raise
        except Fault as fault:
            # One who may write and not look is denied as well; and whoever is away may be back by then.
            if fault.kind not in FOR_GOOD:
                return
            raise
        # Some stores make a marker for each folder by themselves, and keep nothing with it.
        if found is not None and shared and not key.endswith("/") and not may_replace(found.meta, label):
            raise taken(params.bucket, key, found.meta)

    async def _connect(self, params: PublisherParams, region: str) -> Connection:
        return await self._client.connect(
            params.endpoint, region, profile=params.profile, addressing=params.addressing_style
        )

    async def _publish(
        self,
        connection: Connection,
        folder: Path,
        params: PublisherParams,
        label: Label,
        progress: Progress,
    ) -> Spec:
        unique = str(uuid4())
        key = published_key(params, label, unique)
        own = label.execution in key or unique in key
        async with connection.bulk(params.bucket) as bulk:
            if key != plain_key(key):
                await _check_kept(connection, bulk, key, unique)
            claimed = None if own or params.overwrite else label
            settings = self._client.settings
            publishing = _Publishing(
                connection, bulk, settings, folder, progress, meta_of(label), claimed, label.notes
            )
            if params.plain:
                put_there = await publishing.objects(key)
                listing = await in_thread(lambda _: _listed(put_there, label))
                return _spec(params, key, connection, {"Listing": listing})
            sent = await publishing.archive(key, own=own)
        return _spec(params, key, connection, _pinned(sent))


def published_key(params: PublisherParams, label: Label, unique: str = "") -> str:
    """The key of an archive, or the prefix of the objects, with the templates filled in.

    ``{jobID}``, ``{executionID}``, ``{nodeID}``, ``{partition}``, ``{attempt}``, ``{date}`` (20060102), ``{time}`` (150405,
    the node's own time), and ``{uuid}``, which is `unique`: each publishing has another.
    """
    ending = "/" if params.plain else archive.SUFFIX
    key = params.key if params.key.endswith(ending) else params.key + ending
    at = time.localtime(label.at)
    for name, value in (
        ("nodeID", label.node),
        ("executionID", label.execution),
        ("jobID", label.job),
        ("date", time.strftime("%Y%m%d", at)),
        ("time", time.strftime("%H%M%S", at)),
        ("partition", str(label.partition)),
        ("attempt", str(label.attempt)),
        ("uuid", unique),
    ):
        key = key.replace(f"{{{name}}}", value)
    return key


class _Publishing:
    """One result on its way. `claimed` is for whom the keys are claimed first; None if they are free to take."""

    def __init__(
        self,
        connection: Connection,
        bulk: Bulk,
        settings: S3Settings,
        folder: Path,
        progress: Progress,
        meta: dict[str, str],
        claimed: Label | None,
        notes: Path | None,
    ) -> None:
        self._connection = connection
        self._bulk = bulk
        self._settings = settings
        self._folder = folder
        self._progress = progress
        self._meta = meta
        self._notes = notes
        self._claimed = claimed
        self._lost: list[str] = []
        self._done = 0

    async def archive(self, key: str, *, own: bool) -> Sent:
        """Pack and send at once: what is packed is sent while the next is packed."""
        condition: dict[str, str] = {}
        size_bytes = await in_thread(lambda stop: archive.size_at_most(self._folder, stop))
        for last in (False, False, True):
            if self._claimed is not None:
                condition = await claim(self._connection, self._bulk.bucket, key, self._claimed)
            target = Target(self._bulk.bucket, key, own, condition, self._meta, self._notes)
            try:
                return await self._pack(target, size_bytes)
            except (Broken, Invalid) as fault:
                if fault.kind not in ("Changed", "NotImplemented") or not condition or last:
                    raise
                if fault.kind == "NotImplemented":
                    # A server without conditions: that nothing is there was seen just before.
                    return await self._pack(structs.replace(target, condition={}), size_bytes)
        raise AssertionError("unreachable")

    async def _pack(self, target: Target, size_bytes: int) -> Sent:
        stream = Stream(archive.pieces(self._folder), self._part_bytes(size_bytes), digest=True)
        self._done = 0
        return await upload(
            self._connection, self._bulk, target, stream, self._settings.requests, self._moved(None)
        )

    async def objects(self, prefix: str) -> Packed[Object]:
        """One object a file; what was put there. On a fault those that were sent are removed again."""
        planned = await in_thread(lambda stop: _planned(self._folder, prefix, stop))
        condition: dict[str, str] = {}
        if self._claimed is not None:
            limit = self._settings.objects
            await self._remove(
                await claim_prefix(self._connection, self._bulk.bucket, prefix, self._claimed, limit)
            )
            condition = dict(NOT_THERE)
        try:
            return await self._send(planned, condition)
        except Invalid as fault:
            if fault.kind != "NotImplemented" or not condition:
                raise
            return await self._send(planned, {})
        except Broken as fault:
            if fault.kind != "Changed" or not condition:
                raise
            if not self._lost:
                raise Conflict(fault.message, hint=HINT, kind="Key") from fault
            return await self._send(planned, condition)

    async def _send(self, planned: "_Planned", condition: dict[str, str]) -> Packed[Object]:
        sent: list[Piece] = []
        self._done = 0
        moved = self._moved(planned.size_bytes)

        def target(key: str) -> Target:
            return Target(self._bulk.bucket, key, False, condition, self._meta, self._notes)

        def small() -> Iterator[Piece]:
            for key, entry in planned.small:
                yield begun(key, [memoryview(piece) for piece in self._read(entry)])
            for key in planned.markers:
                yield begun(key, [])

        def begun(key: str, body: list[memoryview]) -> Piece:
            sent.append(piece := put(self._bulk, target(key), body))
            keys.append(key)
            return piece

        keys: list[str] = []
        large: list[Object] = []
        count = len(planned.small) + len(planned.markers)
        requests = min(self._settings.small_requests, max(count, 1))
        try:
            await self._connection.move(self._bulk, small(), requests, moved, finish_s=ABORT_S)
            for key, entry in planned.large:
                stream = Stream(self._read(entry), self._part_bytes(entry.size_bytes), digest=False)
                made = await upload(
                    self._connection, self._bulk, target(key), stream, self._settings.requests, moved
                )
                large.append(Object(key, made.size_bytes, made.etag, made.version))
        except BaseException:
            done, rest = await in_thread(lambda _: _answered(keys, sent))
            if condition:
                # What was not answered for may be somebody else's, or ours by a request whose answer was lost.
                with suppress(Fault):
                    rest = await of_ours(self._connection, self._bulk.bucket, rest, self._meta[EXECUTION])
            self._lost = rest
            await self._remove([*done, *rest, *(each.key for each in large)])
            raise
        return await in_thread(lambda _: _put_there(keys, sent, large))

    def _read(self, entry: Entry) -> Iterator[bytes]:
        """A file's bytes, exactly as many as the listing says; blocking."""
        left = entry.size_bytes
        with open(open_inside(self._folder, entry.path), "rb", buffering=0) as file:
            while left:
                piece = file.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise Broken(f"{entry.path!r} became shorter while it was being published")
                left -= len(piece)
                yield piece

    def _moved(self, total_bytes: int | None) -> Callable[[int], None]:
        def moved(size: int) -> None:
            self._done += size
            self._progress(self._done, total_bytes)

        return moved

    def _part_bytes(self, size_bytes: int) -> int:
        """Parts large enough that there are not more of them than S3 takes."""
        return max(self._settings.upload_part_bytes, size_bytes // (PARTS_MAX - 100) + 1)

    async def _remove(self, keys: list[str]) -> None:
        """Remove objects, as well as may be."""
        bucket = self._bulk.bucket
        for start in range(0, len(keys), DELETE_MAX):
            listed = [{"Key": key} for key in keys[start : start + DELETE_MAX]]
            with suppress(Fault), faults(f"s3://{bucket}", self._connection.endpoint, signed=True):
                await self._connection.raw.delete_objects(
                    Bucket=bucket, Delete={"Objects": listed, "Quiet": True}
                )


async def _check_kept(connection: Connection, bulk: Bulk, key: str, unique: str) -> None:
    """Raise `Invalid` if the server keeps what is put at an odd key under its plain one: a result would not be found again
    where it was put, and might take another's place. An empty object of our own beside it shows it before anything is sent.
    """
    probe = f"{key.rpartition('/')[0]}/.shoal-{unique}"
    sent = put(bulk, Target(bulk.bucket, probe), [])
    sent.name = bulk.url(key)
    moved = None
    try:
        await connection.move(bulk, iter([sent]), 1, lambda _: None, finish_s=ABORT_S)
        # One who may write and not look is told 403 of what is not there.
        with suppress(Denied):
            moved = await connection.look(bulk.bucket, plain_key(probe))
    except Invalid as refused:
        refused.hint = refused.hint or ODD_HINT
        raise
    finally:
        with suppress(Fault), faults(bulk.url(probe), connection.endpoint, signed=True):
            await connection.raw.delete_object(Bucket=bulk.bucket, Key=probe)
    if moved is not None:
        said = f"{connection.endpoint} keeps this key under another one"
        raise Invalid(f"{bulk.url(key)}: {said}", hint=ODD_HINT, kind="Key")


class _Planned(Struct, frozen=True):
    """What is to be put there: key and entry of each file, and the keys of the markers."""

    small: Packed[tuple[str, Entry]]
    large: Packed[tuple[str, Entry]]
    markers: list[str]
    size_bytes: int


def _planned(folder: Path, prefix: str, stop: Stop) -> _Planned:
    """The objects that the folder becomes. Raises `Invalid`, which names the path."""
    small, large = Packed(tuple[str, Entry]), Packed(tuple[str, Entry])
    size_bytes = 0
    empty: set[str] = {""}
    for entry in walk(folder):
        stop()
        empty.discard(entry.path.rpartition("/")[0])
        key = prefix + entry.path
        _check_key(entry.path, key)
        if entry.kind is Kind.LINK:
            raise Invalid(
                f"the link {entry.path!r} cannot be published as an object",
                hint="Publish with Encoding: gzip, which keeps links, or let the program write a file.",
                kind="Link",
            )
        if entry.kind is Kind.FOLDER:
            empty.add(entry.path)
        else:
            (small if entry.size_bytes < SMALL_FILE_BYTES else large).append((key, entry))
            size_bytes += entry.size_bytes
    markers = [f"{prefix}{path}/" if path else prefix for path in empty]
    return _Planned(small, large, in_order(markers, str), size_bytes)


def _answered(keys: list[str], sent: list[Piece]) -> tuple[list[str], list[str]]:
    """The keys of what was put there, and of what was sent and not answered for."""
    both = list(zip(keys, sent, strict=True))
    done = [key for key, piece in both if piece.etag]
    return done, [key for key, piece in both if piece.asked and not piece.etag]


def _put_there(keys: list[str], sent: list[Piece], large: list[Object]) -> Packed[Object]:
    small = zip(keys, each_of(sent), strict=True)
    found = Packed(Object, (Object(key, each.size_bytes, each.etag, each.version) for key, each in small))
    found.extend(large)
    return found


def _check_key(path: str, key: str) -> None:
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        shown = os.fsencode(path)
        raise Invalid(
            f"the name {shown!r} is not UTF-8, and no key", hint="Publish with Encoding: gzip."
        ) from error
    if length > KEY_MAX_BYTES:
        raise Invalid(
            f"the key {key!r} has {length} bytes and the limit is {KEY_MAX_BYTES}", hint="Use shorter names."
        )


def _spec(params: PublisherParams, key: str, connection: Connection, pinned: dict[str, Any]) -> Spec:
    """What brings the result again, and `pinned`, which says what it is."""
    host = urlsplit(connection.endpoint).hostname or ""
    of_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    found = {
        "Bucket": params.bucket,
        "Key": key,
        "Endpoint": "" if of_aws and not params.endpoint else connection.endpoint,
        "Region": connection.region_of(params.bucket),
    }
    if params.addressing_style:
        found["AddressingStyle"] = params.addressing_style
    if params.profile:
        found["Profile"] = params.profile
    return Spec("s3", {**found, **pinned})


def _pinned(sent: Sent) -> dict[str, Any]:
    """An archive is pinned by its checksum, and its version where there are versions."""
    return {"ChecksumSHA256": sent.sha256, **({"VersionID": sent.version} if sent.version else {})}


def _listed(put_there: Packed[Object], label: Label) -> dict[str, Any]:
    listed: dict[str, Any] = to_builtins(listing_of(put_there, label.execution))
    return listed


if TYPE_CHECKING:

    def _fits(driver: S3Publisher) -> tuple[Publisher[PublisherParams], Foreseeing[PublisherParams]]:
        return driver, driver
