"""Inputs from S3: one object, or all objects of a prefix.

Knows: what a job's params mean, how objects are pinned and checked. Must not know: botocore. The target is always a folder,
as Bacalhau's users expect: one object lies in it under the last component of its key.

An input is pinned by the ETag of each object (and its version, where one was asked for): S3 is asked for exactly that one,
so what changes half-way is an error and never a mixture. Where the node has an account that is refused, the input is tried
once more unsigned: it may be public.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct, structs

from protocol.errors import Broken, Denied, Fault, Invalid, NotFound
from protocol.together import together
from storage.arrival import arriving
from storage.contract import Fetched, Form, Progress, Resolved, Share, Source
from storage.lanes import Request
from storage.lister import Lister
from storage.multiaddr import parse_endpoint
from storage.parts import PARTIAL, Files, Item
from storage.ranged import Refusal, check_size
from storage.s3.bulk import Bulk
from storage.s3.checksums import CRCS, CrcSum, check_file, told
from storage.s3.claims import of_ours
from storage.s3.connection import Connection
from storage.s3.digests import check_sha256
from storage.s3.driver import S3Driver
from storage.s3.globs import pattern_of
from storage.s3.keys import Landing, Object, landing
from storage.s3.listing import Listing, check_listing, digest_of
from storage.s3.near import meant
from storage.s3.params import SourceParams
from storage.s3.partitions import behind_prefix, index_of, shares_out
from storage.s3.patterns import search
from storage.threads import in_thread
from storage.tree import Entry, TreeWriter
from storage.tree import Limits as TreeLimits

FOLDER_TYPE = "application/x-directory"
SMALL_OBJECT_BYTES = 1 << 20


class Pinned(Struct, frozen=True):
    """What `fetch` brings, from which region, with or without the node's account."""

    landing: Landing
    region: str
    signed: bool


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
        size_bytes = sum(each.size_bytes for each in objects)
        check_size(params.url, size_bytes, self._client.settings.max_bytes)
        return Resolved(
            identity=_identity(sought, objects),
            size_bytes=size_bytes,
            pinned=Pinned(
                await in_thread(lambda _: landing(objects, sought.prefix)),
                connection.region_of(params.bucket),
                connection.signed,
            ),
            cacheable=all(each.etag for each in objects),
        )

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
            with TreeWriter(beside, TreeLimits(entries=self._client.settings.objects * 2)) as tree:
                for folder in placed.folders:
                    tree.folder(folder)
                brought = await self._bring(connection, params, placed, tree, progress)
            await self._check(connection, params, brought, beside)
            if params.checksum_sha256 and pinned.landing.files:
                await check_sha256(params.url, params.checksum_sha256, beside / pinned.landing.files[0][0])
        return Fetched(into)

    async def entries(self, params: SourceParams, resolved: Resolved) -> list[Entry]:
        """See `storage.lister.Lister`."""
        placed: Landing = resolved.pinned.landing
        return placed.entries

    async def _bring(
        self,
        connection: Connection,
        params: SourceParams,
        landing: Landing,
        tree: TreeWriter,
        progress: Progress,
    ) -> "list[tuple[str, RemoteObject]]":
        total = sum(each.size_bytes for _, each in landing.files)
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, total)

        settings = self._client.settings
        small = total < SMALL_OBJECT_BYTES * len(landing.files)
        requests = settings.small_requests if small else settings.requests
        count = sum(-(-each.size_bytes // settings.part_bytes) for _, each in landing.files)
        async with connection.bulk(params.bucket) as bulk:
            brought = [(name, RemoteObject(bulk, params, each)) for name, each in landing.files]
            items = (Item(remote, partial(tree.open, name), remote.summed) for name, remote in brought)
            files = Files(items, settings.part_bytes)
            try:
                await connection.move(bulk, files.parts(), min(requests, max(count, 1)), moved)
            finally:
                files.close()
        return brought

    async def _with_checksums(self, connection: Connection, params: SourceParams, placed: Landing) -> Landing:
        """The same, with the checksums of objects that come in several ranges, which no answer to a range tells."""
        limit = asyncio.Semaphore(self._client.settings.requests)
        files = list(placed.files)

        async def look(number: int, name: str, each: Object) -> None:
            async with limit:
                found, _ = await connection.head(params.bucket, each.key, _version(params, each))
            if found.etag == each.etag:
                files[number] = name, structs.replace(each, checksum=found.checksum)

        part_bytes = self._client.settings.part_bytes
        await together(
            look(number, name, each)
            for number, (name, each) in enumerate(placed.files)
            if each.size_bytes > part_bytes and each.checksum is None
        )
        return structs.replace(placed, files=files)

    async def _check(
        self,
        connection: Connection,
        params: SourceParams,
        brought: "list[tuple[str, RemoteObject]]",
        folder: Path,
    ) -> None:
        """Check what can only be reckoned from the whole file. Raises `Broken`."""
        for name, remote in brought:
            wanted = remote.checksum
            if wanted is None or (wanted.algorithm in CRCS and not wanted.parts):
                continue
            part_bytes = 0
            if wanted.parts:
                version = _version(params, remote.found)
                part_bytes = await connection.part_bytes(params.bucket, remote.found, version)
                if not part_bytes or -(-remote.size_bytes // part_bytes) != wanted.parts:
                    # Put together of parts of other sizes: nobody tells which bytes the checksum is of.
                    continue
            await in_thread(partial(check_file, remote.name, wanted, folder / name, part_bytes))

    async def _connect(self, params: SourceParams, region: str, *, signed: bool = True) -> Connection:
        return await self._client.connect(
            params.endpoint,
            region,
            signed=signed,
            profile=params.profile if signed else "",
            addressing=params.addressing_style,
        )

    async def _seek(
        self, connection: Connection, params: SourceParams, share: Share
    ) -> tuple[Connection, SourceParams, list[Object]]:
        """As `_find`, where the bucket is: a connection to its own region comes back."""
        try:
            return connection, *await self._find(connection, params, share)
        except Invalid as elsewhere:
            if elsewhere.kind != "Region":
                raise
        # botocore goes there by itself, and learns which region it is.
        await connection.has_any(params.bucket, params.prefix)
        region = connection.region_of(params.bucket)
        connection = await self._connect(params, region, signed=connection.signed)
        return connection, *await self._find(connection, params, share)

    async def _find(
        self, connection: Connection, params: SourceParams, share: Share
    ) -> tuple[SourceParams, list[Object]]:
        """What the params mean, now that S3 was asked, and the objects that this execution reads."""
        if params.listing is not None:
            objects = await listed(connection, params, params.listing, self._client.settings.objects)
            check_listing(params.url, params.listing, objects)
            return params, await _shared_out(await _filtered(objects, params), params, share)
        if not params.is_prefix:
            try:
                found = await self._one(connection, params)
            except NotFound as missing:
                if missing.kind != "Object" or not _may_be_many(params):
                    raise
            else:
                if found is not None:
                    return params, await _shared_out([found], params, share)
                params = structs.replace(params, key=params.key + "/", version_id="", checksum_sha256="")
        objects = []
        if params.is_prefix or params.is_glob:
            limit = self._client.settings.objects
            objects = await connection.objects(params.bucket, params.prefix, limit)
        listed_first = objects[0].key if objects else ""
        objects = await _filtered(await _matching(objects, params), params)
        if not objects and not params.allow_empty:
            nothing = _nothing(params, connection.endpoint)
            if listed_first:
                nothing.hint = f"There are others below it, as {listed_first!r}. {nothing.hint}"
            elif said := await meant(connection, params.bucket, params.prefix):
                nothing.hint = f"{said} {nothing.hint}"
            raise nothing
        every = structs.replace(params, key=params.prefix + "*", version_id="", checksum_sha256="")
        return every, await _shared_out(objects, every, share)

    async def _one(self, connection: Connection, params: SourceParams) -> Object | None:
        """The object of that key, or None if it stands for a folder. Raises `NotFound` with what may have been meant."""
        try:
            found, content_type = await connection.head(params.bucket, params.key, params.version_id)
        except NotFound as missing:
            if missing.kind == "Object" and await _is_folder(connection, params):
                missing.hint = f"There are objects below it: write {params.key}/ for all of them."
            elif missing.kind == "Object" and not params.version_id:
                missing.hint = await meant(connection, params.bucket, params.key) or missing.hint
            raise
        pinned = params.version_id or params.checksum_sha256
        if content_type.startswith(FOLDER_TYPE) and found.size_bytes == 0 and not pinned:
            return None
        return found


class RemoteObject:
    """An object's bytes for `storage.parts`, pinned to the object's ETag and version."""

    def __init__(self, bulk: Bulk, params: SourceParams, found: Object) -> None:
        self._bulk = bulk
        self.found = found
        version = _version(params, found)
        self._query = {"versionId": version} if version else {}
        self._pin = {"If-Match": found.etag} if found.etag else {}
        self.checksum = found.checksum
        self._sum: CrcSum | None = None
        self.name = bulk.url(found.key)
        self.size_bytes = found.size_bytes

    def summed(self) -> CrcSum | None:
        """The sum that its bytes shall have, if S3 keeps one that can be reckoned as they come."""
        wanted = self.checksum
        if self._sum is None and wanted is not None and wanted.algorithm in CRCS and not wanted.parts:
            self._sum = CrcSum(self.name, wanted)
        return self._sum

    def request(self, start: int, end: int) -> Request:
        """The whole object is asked for without a range, which every server understands; then its checksum is told."""
        if start == 0 and end == self.size_bytes:
            headers = {**self._pin, "x-amz-checksum-mode": "ENABLED"}
            return self._bulk.request("GET", self.found.key, headers, self._query)
        headers = {**self._pin, "Range": f"bytes={start}-{end - 1}"}
        return self._bulk.request("GET", self.found.key, headers, self._query, statuses=(PARTIAL,))

    def check(self, headers: Mapping[str, str]) -> None:
        """The ETag that is answered is the pinned one, also where a server does not know If-Match."""
        etag = headers.get("etag", "")
        if etag and self.found.etag and etag.strip('"') != self.found.etag.strip('"'):
            raise Broken(f"{self.name} was changed while it was being read", kind="Changed")
        if "content-range" not in headers:
            self.checksum = self.checksum or told(headers)

    def refused(self, status: int, body: bytes) -> Refusal:
        """S3's own error."""
        return self._bulk.refusal(self.name, status, body)


async def listed(connection: Connection, params: SourceParams, listing: Listing, limit: int) -> list[Object]:
    """What is there of a result's objects; `check_listing` says whether that is all of it. Raises what S3 says."""
    if not listing.objects:
        found = await connection.objects(params.bucket, params.key, limit)
        if digest_of(found) == listing.sha256 or len(found) <= listing.count:
            return found
        # Others lie there too.
        keys = [each.key for each in found]
        ours = set(await of_ours(connection, params.bucket, keys, listing.execution_id))
        return [each for each in found if each.key in ours]
    there: dict[str, Object] = {}

    async def look(key: str, version: str) -> None:
        try:
            there[key], _ = await connection.head(params.bucket, key, version)
        except NotFound as missing:
            if missing.kind == "Bucket":
                raise

    await together(look(each.key, each.version_id) for each in listing.objects)
    return [there[each.key] for each in listing.objects if each.key in there]


def _version(params: SourceParams, found: Object) -> str:
    """The version to ask for: one that the params name, or a result's own. (Who is asked for what is there now may be
    refused versions.)"""
    return params.version_id or (found.version if params.listing is not None else "")


def _may_be_many(params: SourceParams) -> bool:
    """Whether a key of which there is no object may mean others, or none."""
    return (params.is_glob or params.allow_empty) and not params.version_id


async def _is_folder(connection: Connection, params: SourceParams) -> bool:
    try:
        return await connection.has_any(params.bucket, params.key + "/")
    except Fault:
        # Whether there is anything below is only for a hint.
        return False


async def _matching(objects: list[Object], params: SourceParams) -> list[Object]:
    """The objects that the key's wildcards mean, where it has any."""
    if not objects or not params.is_glob:
        return objects
    rests = [each.key.removeprefix(params.prefix) for each in objects]
    matches = await search(pattern_of(params.key), rests, "source s3: Key")
    return [each for each, match in zip(objects, matches, strict=True) if match]


async def _filtered(objects: list[Object], params: SourceParams) -> list[Object]:
    if not params.filter or not objects:
        return objects
    rests = [each.key.removeprefix(params.prefix) for each in objects]
    matches = await search(params.filter, rests, "source s3: Filter")
    return [each for each, match in zip(objects, matches, strict=True) if match]


async def _shared_out(objects: list[Object], params: SourceParams, share: Share) -> list[Object]:
    partition = params.partition
    if not shares_out(partition, share.count):
        return objects
    objects = [each for each in objects if not each.is_marker]
    groups: list[list[str]] = [[]] * len(objects)
    if partition.type.lower() == "regex":
        rests = [behind_prefix(each.key, params.prefix) for each in objects]
        groups = await search(partition.pattern, rests, "source s3: Partition.Pattern")
    return [
        each
        for each, match in zip(objects, groups, strict=True)
        if index_of(each.key, params.prefix, partition, share.count, match) == share.index
    ]


def _identity(params: SourceParams, objects: list[Object]) -> str:
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
    for each in sorted(objects, key=lambda each: each.key):
        digest.update(f"{each.key}\0{each.size_bytes}\0{each.etag}\0".encode())
    return f"s3://{params.bucket}/{params.prefix}*?sha256={digest.hexdigest()}{where}"


def _nothing(params: SourceParams, endpoint: str) -> NotFound:
    passing = f" passing Filter {params.filter!r}" if params.filter else ""
    does = f"matches {params.key!r}" if params.is_glob else f"begins with {params.prefix!r}"
    return NotFound(
        f"s3://{params.bucket}/{params.prefix}*: no object of bucket {params.bucket!r} {does}{passing} (at {endpoint})",
        hint="Check Key and Filter, or write AllowEmpty: true if there may be none.",
        kind="Prefix",
    )


if TYPE_CHECKING:

    def _fits(driver: S3Source) -> tuple[Source[SourceParams], Lister[SourceParams]]:
        return driver, driver
