"""Inputs from S3: one object, or all objects of a prefix.

Knows: how objects are pinned, brought and checked. Must not know: botocore, or which objects are meant
(`storage.s3.selection`). The target is always a folder, as Bacalhau's users expect: one object lies in it under the last
component of its key.

An input is pinned by the ETag of each object (and its version, where one was asked for): S3 is asked for exactly that one,
so what changes half-way is an error and never a mixture. Where the node has an account that is refused, the input is tried
once more unsigned: it may be public.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from msgspec import Struct, structs

from protocol.errors import Broken, Denied, Fault, Invalid
from protocol.together import together
from storage.arrival import arriving
from storage.contract import Fetched, Form, Progress, Resolved, Share, Source, silent
from storage.lister import Lister
from storage.long_lists import Packed
from storage.mismatch import mismatch
from storage.multiaddr import parse_endpoint
from storage.parts import Files, Item, requests_for
from storage.ranged import check_size
from storage.s3.bulk import Bulk
from storage.s3.checksums import Checksum, sha256_of
from storage.s3.connection import Connection
from storage.s3.driver import S3Driver
from storage.s3.faults import REGION
from storage.s3.keys import Landing, Object, Placed, landing
from storage.s3.params import S3Settings, SourceParams
from storage.s3.remote_object import RemoteObject, version_of
from storage.s3.selection import find
from storage.s3.verifying import Arrived
from storage.threads import Stop, in_thread
from storage.tree import Entry
from storage.tree import Limits as TreeLimits
from storage.tree_writer import TreeWriter

SMALL_OBJECT_BYTES: Final = 1 << 20


class Pinned(Struct, frozen=True):
    """What `fetch` brings, from which region, with or without the node's account."""

    landing: Landing
    region: str
    signed: bool


class Places(NamedTuple):
    """How files are made, by their names, and who is told of each that is whole and was not summed up as it came."""

    open: Callable[[str], int]
    whole: Callable[[str, RemoteObject, Stop], None]


class S3Source(S3Driver):
    """Objects from S3."""

    params: ClassVar[Form] = SourceParams

    async def resolve(self, params: SourceParams, share: Share) -> Resolved:
        """Look at the object, or list the prefix. Raises as `Source`, `NotFound` also for a prefix of nothing."""
        connection = await self._connect(params, params.region)
        try:
            connection, sought, objects = await self._seek(connection, params, share)
        except Denied as denied:
            if not connection.signed:
                raise
            connection = await self._connect(params, params.region, signed=False)
            try:
                connection, sought, objects = await self._seek(connection, params, share)
            except Fault:
                raise denied from None
        region, signed = connection.region_of(params.bucket), connection.signed

        def told(_: Stop) -> Resolved:
            placed = landing(objects, sought.prefix if sought.is_prefix else sought.key)
            check_size(params.url, placed.size_bytes, self._client.settings.max_bytes)
            return Resolved(
                identity=_identity(sought, objects),
                size_bytes=placed.size_bytes,
                pinned=Pinned(placed, region, signed),
                cacheable=all(each.etag for each in objects),
            )

        # There may be hundreds of thousands.
        return await in_thread(told)

    async def fetch(
        self, params: SourceParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        """Bring what was resolved into the folder `into`. Raises as `Source`."""
        pinned = resolved.pinned
        if not isinstance(pinned, Pinned):
            raise TypeError("fetch takes what this source's resolve answered")
        connection = await self._connect(params, pinned.region, signed=pinned.signed)
        async with arriving(into) as beside:
            placed = await self._with_checksums(connection, params, pinned.landing)
            settings = self._client.settings
            etags = settings.etags_are_md5 and not params.checksum_sha256
            arrived = Arrived(beside, etags=etags, looks=settings.small_requests)
            with TreeWriter(beside, TreeLimits(entries=settings.objects * 2)) as tree:
                await in_thread(partial(_furnish, tree, placed))
                places = Places(tree.open, arrived.whole)
                await self._bring(connection, params, placed, places, progress)
            await arrived.check(connection, params, partial(self._again, connection, params, placed, beside))
            if params.checksum_sha256:
                for name, each in placed.files:
                    await _check_sha256(params, each, beside / name)
        return Fetched(into)

    async def entries(self, params: SourceParams, resolved: Resolved) -> list[Entry]:
        """See `storage.lister.Lister`."""
        placed: Landing = resolved.pinned.landing
        return await in_thread(lambda _: placed.entries)

    async def _bring(
        self,
        connection: Connection,
        params: SourceParams,
        landing: Landing,
        places: Places,
        progress: Progress,
    ) -> None:
        """Bring all to their places."""
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, landing.size_bytes)

        settings = self._client.settings
        requests = await in_thread(lambda _: _requests(landing, settings))
        async with connection.bulk(params.bucket) as bulk:
            files = Files(_items(bulk, params, landing, places), settings.part_bytes)
            try:
                await connection.move(bulk, files.parts(), requests, moved)
            finally:
                files.close()

    async def _again(
        self, connection: Connection, params: SourceParams, placed: Landing, folder: Path, name: str
    ) -> None:
        """Bring one file once more, to where it lies."""
        files = await in_thread(lambda stop: placed.files.sifted(lambda each: each.name == name, stop))
        only = structs.replace(placed, files=files, size_bytes=sum(each.size_bytes for _, each in files))
        with TreeWriter(folder) as tree:
            places = Places(partial(tree.open, replace=True), lambda name, remote, stop: None)
            await self._bring(connection, params, only, places, silent)

    async def _with_checksums(self, connection: Connection, params: SourceParams, placed: Landing) -> Landing:
        """The same, with the checksums of objects that come in several ranges, which no answer to a range tells."""
        settings = self._client.settings

        def is_untold(each: Placed) -> bool:
            return each.found.size_bytes > settings.part_bytes and each.found.checksum is None

        untold = await in_thread(lambda stop: placed.files.sifted(is_untold, stop))
        if not untold:
            return placed
        waiting = iter(untold)
        checksums: dict[str, Checksum | None] = {}

        async def look() -> None:
            for name, each in waiting:
                found, _ = await connection.head(params.bucket, each.key, version_of(params, each))
                if found.etag == each.etag:
                    checksums[name] = found.checksum

        await together(look() for _ in range(min(settings.requests, len(untold))))
        return await in_thread(lambda _: _with_checksums(placed, checksums))

    async def _connect(self, params: SourceParams, region: str, *, signed: bool = True) -> Connection:
        return await self._client.connect(
            params.endpoint,
            region,
            signed=signed,
            profile=params.profile if signed else "",
            addressing=params.addressing_style,
            pays=params.requester_pays and signed,
        )

    async def _seek(
        self, connection: Connection, params: SourceParams, share: Share
    ) -> tuple[Connection, SourceParams, Packed[Object]]:
        """What `find` finds, where the bucket is: a connection to its own region comes back."""
        limit = self._client.settings.objects
        try:
            return connection, *await find(connection, params, share, limit)
        except Invalid as fault:
            region = await connection.elsewhere(params.bucket) if fault.kind == REGION else ""
            if not region:
                raise
        connection = await self._connect(params, region, signed=connection.signed)
        return connection, *await find(connection, params, share, limit)


def _furnish(tree: TreeWriter, placed: Landing, stop: Stop) -> None:
    """Make the folders that markers stand for."""
    for folder in placed.folders:
        stop()
        tree.folder(folder)


def _requests(placed: Landing, settings: S3Settings) -> int:
    """How many at once: more where most files are small."""
    small = placed.size_bytes < SMALL_OBJECT_BYTES * len(placed.files)
    most = settings.small_requests if small else settings.requests
    return requests_for((each.size_bytes for _, each in placed.files), settings.part_bytes, most)


def _items(bulk: Bulk, params: SourceParams, placed: Landing, places: Places) -> Iterator[Item]:
    """The files, each made when its turn comes."""
    for name, each in placed.files:
        remote = RemoteObject(bulk, params, each)
        whole = partial(places.whole, name, remote)
        yield Item(remote, partial(places.open, name), remote.summed, whole=whole)


def _with_checksums(placed: Landing, checksums: dict[str, Checksum | None]) -> Landing:
    files = (
        Placed(name, structs.replace(each, checksum=checksums[name]) if name in checksums else each)
        for name, each in placed.files
    )
    return structs.replace(placed, files=Packed(Placed, files))


async def _check_sha256(params: SourceParams, found: Object, path: Path) -> None:
    """Raise `Broken` unless what came of the object has the checksum that the params name: of kind ``Mismatch`` where its
    ETag says that it is all of one version."""
    sha256 = await in_thread(partial(sha256_of, path))
    if sha256 != params.checksum_sha256:
        fault = mismatch(
            f"s3://{params.bucket}/{found.key}",
            f"the SHA-256 {sha256}",
            "ChecksumSHA256",
            params.checksum_sha256,
        )
        raise fault if found.etag else Broken(fault.message, hint=fault.hint, kind="Checksum")


def _identity(params: SourceParams, objects: Packed[Object]) -> str:
    """What names these bytes for ever: versions or ETags; for a prefix a digest over all of them."""
    where = f"&endpoint={parse_endpoint(params.endpoint).url}" if params.endpoint else ""
    if not params.is_prefix and len(objects) == 1:
        (only,) = objects
        versioned = only.version and only.version != "null"
        pin = f"versionId={only.version}" if versioned else f"etag={only.etag.strip(chr(34))}"
        # A checksum that is compared is part of it: what came without one must not pass for what was checked.
        checked = f"&sha256={params.checksum_sha256}" if params.checksum_sha256 else ""
        return f"s3://{params.bucket}/{only.key}?{pin}{checked}{where}"
    digest = hashlib.sha256()
    for each in objects.in_order(lambda each: each.key):
        digest.update(f"{each.key}\0{each.size_bytes}\0{each.etag}\0".encode())
    return f"s3://{params.bucket}/{params.prefix}*?sha256={digest.hexdigest()}{where}"


if TYPE_CHECKING:

    def _fits(driver: S3Source) -> tuple[Source[SourceParams], Lister[SourceParams]]:
        return driver, driver
