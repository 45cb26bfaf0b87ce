"""Which objects an input means: one, all below a prefix, those that a pattern, a filter and a partition leave.

Knows: what a job's params say of keys, and how S3 is asked which there are. Must not know: how their bytes come.
"""

from typing import Final

from msgspec import structs

from protocol.errors import Fault, Invalid, NotFound
from protocol.together import together
from storage.contract import Share
from storage.long_lists import Packed
from storage.s3.claims import of_ours
from storage.s3.connection import Connection
from storage.s3.globs import across_folders, pattern_of
from storage.s3.keys import Object
from storage.s3.listing import Listing, check_listing, digest_of
from storage.s3.near import meant
from storage.s3.params import SourceParams
from storage.s3.partitions import Groups, behind_prefix, index_of, shares_out
from storage.s3.patterns import FILTER, PATTERN, sift
from storage.threads import Stop, in_thread

FOLDER_TYPE: Final = "application/x-directory"


async def find(
    connection: Connection, params: SourceParams, share: Share, limit: int
) -> tuple[SourceParams, Packed[Object]]:
    """What the params mean, now that S3 was asked, and the objects that this execution reads: a prefix (`is_prefix`) that
    all of them begin with, or one object, whose key means itself whatever signs are in it.

    Raises `Exhausted` beyond `limit` objects, `NotFound` with what may have been meant, and what S3 says.
    """
    if (listing := params.listing) is not None:
        objects = await listed(connection, params, listing, limit)
        await in_thread(lambda _: check_listing(params.url, listing, objects))
        return params, await _shared_out(await _filtered(objects, params), params, params.key, share)
    if not params.is_prefix:
        try:
            found = await _one(connection, params)
        except NotFound as missing:
            if missing.kind != "Object" or not _may_be_many(params):
                raise
        else:
            if found is not None:
                return params, await _shared_out(Packed(Object, [found]), params, params.key, share)
            params = structs.replace(params, key=params.key + "/", version_id="", checksum_sha256="")
    objects = Packed(Object)
    if params.is_prefix or params.is_glob:
        objects = await connection.objects(params.bucket, params.prefix, limit)
    below = objects
    objects = await _filtered(await _matching(objects, params), params)
    if not objects and not params.allow_empty:
        nothing = _nothing(params, connection.endpoint)
        if below:
            nothing.hint = f"{await _others(below, params)} {nothing.hint}"
        elif said := await meant(connection, params.bucket, params.prefix):
            nothing.hint = f"{said} {nothing.hint}"
        raise nothing
    every = structs.replace(params, key=params.prefix + "*", version_id="", checksum_sha256="")
    return every, await _shared_out(objects, every, every.prefix, share)


async def listed(
    connection: Connection, params: SourceParams, listing: Listing, limit: int
) -> Packed[Object]:
    """What is there of a result's objects; `check_listing` says whether that is all of it. Raises what S3 says."""
    if not listing.objects:
        found = await connection.objects(params.bucket, params.key, limit)
        digest = await in_thread(lambda _: digest_of(found))
        if digest == listing.sha256 or len(found) <= listing.count:
            return found
        # Others lie there too.
        keys = (each.key for each in found)
        ours = await of_ours(connection, params.bucket, keys, listing.execution_id)
        return await in_thread(lambda stop: _named(found, ours, stop))
    there: dict[str, Object] = {}

    async def look(key: str, version: str) -> None:
        try:
            there[key], _ = await connection.head(params.bucket, key, version)
        except NotFound as missing:
            if missing.kind == "Bucket":
                raise

    await together(look(each.key, each.version_id) for each in listing.objects)
    return Packed(Object, (there[each.key] for each in listing.objects if each.key in there))


def _named(found: Packed[Object], keys: Packed[str], stop: Stop) -> Packed[Object]:
    """Those of the objects that have these keys, which are in the same order."""
    waiting = iter(keys)
    wanted = next(waiting, None)
    named = Packed(Object)
    for each in found:
        stop()
        if each.key == wanted:
            named.append(each)
            wanted = next(waiting, None)
    return named


async def _one(connection: Connection, params: SourceParams) -> Object | None:
    """The object of that key, or None if it stands for a folder. Raises `NotFound` with what may have been meant."""
    try:
        found, content_type = await connection.head(params.bucket, params.key, params.version_id)
    except (NotFound, Invalid) as fault:
        # What is no version S3 calls a bad request, and one that says that the object was removed a method not allowed.
        if params.version_id and fault.kind in ("", "Object"):
            raise _no_version(params, connection.endpoint) from fault
        if fault.kind == "Object" and await _is_folder(connection, params):
            fault.hint = f"There are objects below it: write {params.key}/ for all of them."
        elif fault.kind == "Object":
            fault.hint = await meant(connection, params.bucket, params.key) or fault.hint
        raise
    if params.version_id not in ("", "null", found.version):
        # A store that keeps no versions there may answer with what there is.
        raise _no_version(params, connection.endpoint)
    pinned = params.version_id or params.checksum_sha256
    if content_type.startswith(FOLDER_TYPE) and found.size_bytes == 0 and not pinned:
        return None
    return found


def _may_be_many(params: SourceParams) -> bool:
    """Whether a key of which there is no object may mean others, or none."""
    if params.version_id:
        return False
    return params.allow_empty or (params.is_glob and not params.checksum_sha256)


async def _is_folder(connection: Connection, params: SourceParams) -> bool:
    try:
        return await connection.has_any(params.bucket, params.key + "/")
    except Fault:
        # Whether there is anything below is only for a hint.
        return False


async def _others(below: Packed[Object], params: SourceParams) -> str:
    """What there is where nothing is that was meant."""
    wider = across_folders(params.key)
    if params.is_glob and wider != params.key:
        found = await _passing(below, params.prefix, pattern_of(wider), "source s3: Key")
        if await _filtered(found, params):
            return f"A * stays in a folder, and ** does not: {wider!r} finds some."
    return f"There are others below it, as {next(each.key for each in below)!r}."


async def _matching(objects: Packed[Object], params: SourceParams) -> Packed[Object]:
    """The objects that the key's wildcards mean, where it has any."""
    if not objects or not params.is_glob:
        return objects
    return await _passing(objects, params.prefix, pattern_of(params.key), "source s3: Key")


async def _filtered(objects: Packed[Object], params: SourceParams) -> Packed[Object]:
    if not params.filter or not objects:
        return objects
    return await _passing(objects, params.prefix, params.filter, FILTER)


async def _passing(objects: Packed[Object], prefix: str, pattern: str, field: str) -> Packed[Object]:
    return await sift(
        objects, pattern, field, lambda each: each.key.removeprefix(prefix), lambda _, match: bool(match)
    )


async def _shared_out(
    objects: Packed[Object], params: SourceParams, prefix: str, share: Share
) -> Packed[Object]:
    partition = params.partition
    if not shares_out(partition, share.count):
        return objects

    def ours(each: Object, match: Groups = ()) -> bool:
        return not each.is_marker and index_of(each.key, prefix, partition, share.count, match) == share.index

    if partition.type.lower() == "regex":
        return await sift(
            objects, partition.pattern, PATTERN, lambda each: behind_prefix(each.key, prefix), ours
        )
    # A hash of each key takes a second for a hundred thousand of them.
    return await in_thread(lambda stop: objects.sifted(ours, stop))


def _no_version(params: SourceParams, endpoint: str) -> NotFound:
    return NotFound(
        f"{params.url}: it has no version {params.version_id[:100]!r} at {endpoint}",
        hint="See which there are: aws s3api list-object-versions, or leave VersionID out.",
        kind="Object",
    )


def _nothing(params: SourceParams, endpoint: str) -> NotFound:
    passing = f" passing Filter {params.filter!r}" if params.filter else ""
    does = f"matches {params.key!r}" if params.is_glob else f"begins with {params.prefix!r}"
    return NotFound(
        f"{params.url}: no object of bucket {params.bucket!r} {does}{passing} (at {endpoint})",
        hint="Check Key and Filter, or write AllowEmpty: true if there may be none.",
        kind="Prefix",
    )
