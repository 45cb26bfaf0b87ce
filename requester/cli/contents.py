"""What is in one result, read where it lies: in an archive on a node or in a bucket, in a tree of objects, in IPFS.

Knows: how each kind is reached, and that a node that cannot be is reached through the requester. Must not know: what is
printed. Whether a file is the right one is decided by the SHA-256 that the execution told, wherever that is known.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from protocol.errors import Broken, Denied, Fault, Invalid, NotFound, TimedOut, Unavailable
from protocol.jobs import Spec
from requester.cli.endpoint import Api
from requester.cli.results import Result, is_archive, told_if_gone, told_whose
from requester.cli.stores import LINKED, entries_of, looked_at, opened_stores
from requester.cli.swarm import read_swarm
from storage.contract import silent
from storage.tree import CHUNK_BYTES, Entry, safe_parts

Json = dict[str, Any]
CHANGED: Final = "Changed"
"""Kind of a `Broken` that says that what lies there is not, or no longer, what was published."""


def content(stack: ExitStack, api: Api, result: Result, path: str, digest: str) -> Iterator[bytes] | None:
    """One file's bytes in pieces, None if there is none of that path. What is open belongs to `stack`.

    `digest` is the one that the record has, if it has it. Without one, `storage.peek.Unchecked` comes behind them if nothing
    else vouches for them. Raises what the store says.
    """
    from storage import peek

    if result.spec.type.lower() == "ipfs":
        return _from_ipfs(stack, api, result.spec, path)
    with told_whose(result.spec):
        if result.relay or is_archive(result.spec):
            return peek.content(_archive(stack, result), path, check=not digest)
        try:
            found = _from_bucket(stack, api, result.spec, path)
            if found is None and digest:
                raise Broken(f"{path} is not there any more: it was removed since it was published")
            return found
        except Broken as changed:
            if changed.kind != CHANGED or not digest:
                raise
            return _rewritten(stack, result.spec, path, digest, changed)


def entries(api: Api, result: Result) -> list[Entry]:
    """All that is in a result. Raises what its store says."""
    from storage.peek import listing

    with told_whose(result.spec), ExitStack() as stack:
        if result.relay or is_archive(result.spec):
            found = listing(_archive(stack, result))
            return [
                Entry("/".join(safe_parts(each.path)), each.kind, each.size_bytes, target=each.target)
                for each in found
            ]
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-")))
        return entries_of(result.spec, scratch, read_swarm(api.settings()))


def _archive(stack: ExitStack, result: Result) -> Any:
    """The archive as a stream: from its node or store, else through the requester."""
    from storage.stream import opened

    params = {key.lower(): value for key, value in result.spec.params.items()}
    kind = result.spec.type.lower()
    if kind == "s3":
        return stack.enter_context(
            opened(asyncio.run(_signed(params, str(params["key"]), str(params.get("versionid", "")))))
        )
    url = params.get("presignedurl") if kind == LINKED else params.get("url")
    if not isinstance(url, str):
        raise Invalid(f"there is no way to look into a result of the type {result.spec.type!r}")
    try:
        return stack.enter_context(opened(url, hasty=bool(result.relay)))
    except (Unavailable, TimedOut, Denied, NotFound):
        if not result.relay:
            raise
        with told_if_gone(result):
            return stack.enter_context(opened(result.relay))


def _from_bucket(stack: ExitStack, api: Api, spec: Spec, path: str) -> Iterator[bytes] | None:
    """The object as it was published. Raises `Broken` of kind ``Changed`` for another one, by its ETag."""
    from storage.stream import opened

    if spec.type.lower() not in ("s3", LINKED):
        raise Invalid(f"there is no way to look into a result of the type {spec.type!r}")
    params = {key.lower(): value for key, value in spec.params.items()}
    key = _key_of(params, path)
    etag, size_bytes = "", None
    listing = params.get("listing")
    try:
        if objects := params.get("objects"):
            found = next((each for each in objects if each["Key"] == key), None)
            if found is None:
                return None
            url, etag, size_bytes = found["PreSignedURL"], found.get("ETag", ""), found["Size"]
        elif listing and not listing.get("Objects"):
            url, etag = asyncio.run(_of_many(params, key, str(listing.get("ExecutionID", ""))))
        elif listing:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-")))
            pinned = asyncio.run(_pinned(api, spec, key, scratch))
            if pinned is None:
                return None
            url, etag, size_bytes = (
                asyncio.run(_signed(params, key, pinned.version)),
                pinned.etag,
                pinned.size_bytes,
            )
        else:
            url = asyncio.run(_signed(params, key, ""))
        file = stack.enter_context(opened(url, size_bytes=size_bytes, etag=etag))
    except NotFound as fault:
        if not etag:
            return None
        raise Broken(f"{key} is not there any more: it was removed since it was published") from fault
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _rewritten(stack: ExitStack, spec: Spec, path: str, digest: str, changed: Broken) -> Iterator[bytes]:
    """The object of that key, whoever has put it there, if its bytes are those of the record: all of it is looked at before
    any of it is given. Raises `changed` if they are not."""
    from storage.stream import opened

    params = {key.lower(): value for key, value in spec.params.items()}
    key = _key_of(params, path)
    links = {each["Key"]: each["PreSignedURL"] for each in params.get("objects") or ()}
    told = hashlib.sha256()
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-")))
    kept = stack.enter_context((scratch / "file").open("w+b"))
    try:
        url = links.get(key) or asyncio.run(_signed(params, key, ""))
        with opened(url) as file:
            while piece := file.read(CHUNK_BYTES):
                told.update(piece)
                kept.write(piece)
    except Fault:
        raise changed from None
    if told.hexdigest() != digest:
        raise changed
    kept.seek(0)
    return iter(lambda: kept.read(CHUNK_BYTES), b"")


def _key_of(params: Json, path: str) -> str:
    """Of the object that a file at that path of a result is; the params' names are in lower case."""
    prefix = str(params.get("key", "")).removesuffix("*").rstrip("/")
    return f"{prefix}/{path}" if prefix else path


async def _pinned(api: Api, spec: Spec, key: str, scratch: Path) -> Any:
    """One of a result's objects as it was found (`storage.s3.keys.Object`); None if there is none of that key."""
    async with opened_stores([spec.type], scratch, read_swarm(api.settings())) as drivers:
        stored = await looked_at(drivers, spec)
        files = stored.resolved.pinned.landing.files
        return next((each for _, each in files if each.key == key), None)


async def _of_many(params: Json, key: str, execution: str) -> tuple[str, str]:
    """A link to one of a result's objects that are too many to be named, and its ETag: what was put there says by whom.

    Raises `NotFound`, and `Broken` of kind ``Changed`` if somebody else has put something there since.
    """
    from storage.s3.claims import EXECUTION

    async with _connected(params) as connection:
        bucket = str(params.get("bucket", ""))
        found = await connection.look(bucket, key)
        if found is None:
            raise NotFound(f"s3://{bucket}/{key} is not there")
        if found.meta.get(EXECUTION) != execution:
            raise Broken(f"s3://{bucket}/{key} is not as it was published", kind=CHANGED)
        return await connection.signed_url(bucket, key), found.etag


async def _signed(params: Json, key: str, version: str) -> str:
    async with _connected(params) as connection:
        url: str = await connection.signed_url(str(params.get("bucket", "")), key, version)
        return url


@asynccontextmanager
async def _connected(params: Json) -> AsyncIterator[Any]:
    """A connection to where a result lies, with the person's own account."""
    from storage.addresses import OWN_NETWORKS, read_policy
    from storage.s3 import S3Client, S3Settings

    async with S3Client(S3Settings(addresses=read_policy(OWN_NETWORKS))) as client:
        yield await client.connect(
            str(params.get("endpoint", "")),
            str(params.get("region", "")),
            addressing=str(params.get("addressingstyle", "")),
        )


def _from_ipfs(stack: ExitStack, api: Api, spec: Spec, path: str) -> Iterator[bytes] | None:
    cid = str(next((value for key, value in spec.params.items() if key.lower() == "cid"), ""))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-")))
    try:
        fetched = asyncio.run(_fetched(api, Spec("ipfs", {"CID": f"{cid}/{path}"}), scratch))
    except NotFound:
        return None
    if fetched.is_dir():
        return None
    file = stack.enter_context(fetched.open("rb"))
    return iter(lambda: file.read(CHUNK_BYTES), b"")


async def _fetched(api: Api, spec: Spec, scratch: Path) -> Path:
    async with opened_stores([spec.type], scratch, read_swarm(api.settings())) as drivers:
        stored = await looked_at(drivers, spec)
        fetched = await stored.driver.fetch(stored.params, stored.resolved, scratch / "file", silent)
        path: Path = fetched.path
        return path
