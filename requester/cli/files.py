"""``shoal ls JOB`` and ``shoal cat JOB PATH``: a look at single files of results, without downloading the rest.

Knows: what a job's record says of the files that were written, and where one file of each kind of result is read. Must not
know: how an archive or a store works. A list comes from the record alone where the record has all of it; else the archive
is read once, and not kept.
"""

import asyncio
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from protocol.errors import Broken, Denied, Invalid, NotFound, TimedOut, Unavailable
from protocol.ids import short
from protocol.jobs import Spec
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, tell
from requester.cli.get import LINKED, Result, is_archive, published, told_if_gone
from requester.cli.jobs import JobRef, Namespace
from requester.cli.output import Column, ListFormat, print_list
from requester.cli.swarm import reached, read_swarm
from storage.tree import CHUNK_BYTES, Entry, Kind, safe_parts

Json = dict[str, Any]
FilePath = Annotated[str, Parameter(name="PATH", help="A path in the result: stdout, outputs/model.bin.")]
Execution = Annotated[
    str, Parameter(alias="-e", help="Of this execution only (its id or the beginning of it).")
]


def ls(
    job: JobRef,
    path: Annotated[str, Parameter(name="PATH", help="A folder or file; default all.")] = "",
    /,
    *,
    execution_id: Execution = "",
    namespace: Namespace = "",
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """List the files of a job's results, with size and SHA-256, without downloading them."""
    results, written = _looked_up(api, job, namespace, execution_id)
    items: list[Json] = []
    for result in results:
        files = _listed(result, written.get(result.execution))
        items += [
            {"ExecutionID": result.execution, **each} for each in files if _is_below(each["Path"], path)
        ]
    if path and not items:
        raise NotFound(f"job {job} has no result with {path!r}", hint=f"See all: shoal ls {job}")
    columns: list[Column] = [
        ("SIZE", lambda item: str(item["Size"])),
        ("SHA256", lambda item: item["SHA256"] if how.wide else item["SHA256"][:12]),
        ("PATH", lambda item: item["Path"]),
    ]
    if len(results) > 1:
        columns.insert(
            0, ("EXECUTION", lambda item: item["ExecutionID"] if how.wide else short(item["ExecutionID"]))
        )
    print_list(items, columns, how)
    return Exit.OK


def cat(
    job: JobRef,
    path: FilePath,
    /,
    *,
    execution_id: Execution = "",
    namespace: Namespace = "",
    api: Api = Api(),
) -> int:
    """Print one file of a job's results, of each execution that has it, without downloading the rest."""
    wanted = "/".join(safe_parts(path))
    results, written = _looked_up(api, job, namespace, execution_id)
    names: set[str] = set()
    found = 0
    for result in results:
        known = _complete(written.get(result.execution))
        digest = ""
        if known is not None:
            names.update(known)
            if wanted not in known:
                continue
            digest = known[wanted]
        found += _print(api, result, wanted, digest)
    if not found:
        raise _no_such_file(job, wanted, names)
    return Exit.OK


def _looked_up(api: Api, job: str, namespace: str, execution: str) -> tuple[list[Result], dict[str, Json]]:
    """The results that are meant, and what the record says that each execution wrote. Raises `NotFound` for none."""
    with api.client() as client:
        answer = client.job(job, include="executions", namespace=namespace)
        record = answer["Job"]
        results = [
            each for each in published(client, record, links=True) if each.execution.startswith(execution)
        ]
    if not results:
        of = f" of execution {execution}" if execution else ""
        raise NotFound(
            f"job {record['ID']} has no results{of} ({record['State']['StateType']})",
            hint=f"What became of it: shoal describe {job}",
        )
    executions = (answer.get("Executions") or {}).get("Items") or []
    return results, {each["ID"]: each["Written"] for each in executions if each.get("Written")}


def _complete(written: Json | None) -> dict[str, str] | None:
    """Paths and digests of all files, or None where the record does not have all of them."""
    files = (written or {}).get("Files") or []
    if written is None or len(files) != written["Count"]:
        return None
    return {each["Path"]: each["SHA256"] for each in files}


def _listed(result: Result, written: Json | None) -> list[Json]:
    if written is not None and _complete(written) is not None:
        return list(written["Files"])
    if result.relay or is_archive(result.spec):
        with ExitStack() as stack:
            return [_item(entry) for entry in _entries(stack, result) if entry.kind is Kind.FILE]
    if objects := result.spec.params.get("Objects"):
        prefix = str(result.spec.params.get("Key", ""))
        return [
            {"Path": each["Key"].removeprefix(prefix), "Size": each["Size"], "SHA256": ""} for each in objects
        ]
    if written is None:
        raise NotFound(
            f"the record does not say what execution {result.execution} wrote",
            hint="Download it all: shoal get JOB",
        )
    tell(
        f"These are the first {len(written['Files'])} of {written['Count']} files; shoal get brings them all."
    )
    return list(written["Files"])


def _item(entry: Entry) -> Json:
    return {"Path": "/".join(safe_parts(entry.path)), "Size": entry.size_bytes, "SHA256": ""}


def _is_below(path: str, folder: str) -> bool:
    wanted = tuple(part for part in folder.split("/") if part not in ("", "."))
    return tuple(path.split("/"))[: len(wanted)] == wanted


def _no_such_file(job: str, wanted: str, names: set[str]) -> NotFound:
    below = sorted(name for name in names if _is_below(name, wanted))
    if below:
        return NotFound(
            f"{wanted!r} is a folder", hint=f"It holds {len(below)} files: shoal ls {job} {wanted}"
        )
    near = get_close_matches(wanted, sorted(names), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"What there is: shoal ls {job}"
    return NotFound(f"no result of job {job} has a file {wanted!r}", hint=hint)


# One file


def _print(api: Api, result: Result, path: str, digest: str) -> bool:
    """Print one file, if it is there. Raises `Broken` if it was not the one that the record tells of."""
    from storage.peek import Unchecked

    told = hashlib.sha256()
    with ExitStack() as stack:
        pieces = _content(stack, api, result, path, check=not digest)
        if pieces is None:
            return False
        try:
            for piece in pieces:
                told.update(piece)
                sys.stdout.buffer.write(piece)
        except Unchecked:
            tell(
                f"Note: nothing vouches for the bytes of {path}: its digest is not in the record (shoal get checks all)."
            )
    sys.stdout.buffer.flush()
    if digest and told.hexdigest() != digest:
        raise Broken(
            f"{path} of execution {short(result.execution)} has the SHA-256 {told.hexdigest()}, not {digest}",
            hint="It was damaged on its way, or changed where it lies.",
        )
    return True


def _content(stack: ExitStack, api: Api, result: Result, path: str, *, check: bool) -> Iterator[bytes] | None:
    from storage.peek import content

    if result.spec.type.lower() == "ipfs":
        return _from_ipfs(stack, api, result.spec, path)
    if result.relay or is_archive(result.spec):
        return content(_archive(stack, result), path, check=check)
    return _from_bucket(stack, result.spec, path)


def _entries(stack: ExitStack, result: Result) -> Iterator[Entry]:
    from storage.peek import listing

    return listing(_archive(stack, result))


def _archive(stack: ExitStack, result: Result) -> Any:
    """The archive as a stream: from its node or store, else through the requester."""
    from storage.stream import opened

    params = {key.lower(): value for key, value in result.spec.params.items()}
    kind = result.spec.type.lower()
    if kind == "s3":
        return stack.enter_context(opened(asyncio.run(_signed(params, str(params["key"])))))
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


def _from_bucket(stack: ExitStack, spec: Spec, path: str) -> Iterator[bytes] | None:
    from storage.stream import opened

    params = {key.lower(): value for key, value in spec.params.items()}
    if spec.type.lower() not in ("s3", LINKED):
        raise Invalid(f"there is no way to look into a result of the type {spec.type!r}")
    prefix = str(params.get("key", "")).removesuffix("*").rstrip("/")
    key = f"{prefix}/{path}" if prefix else path
    listed = {each["Key"]: each for each in params.get("objects") or []}
    if listed and key not in listed:
        return None
    try:
        url = listed[key]["PreSignedURL"] if listed else asyncio.run(_signed(params, key))
        file = stack.enter_context(opened(url, size_bytes=listed[key]["Size"] if listed else None))
    except NotFound:
        return None
    return iter(lambda: file.read(CHUNK_BYTES), b"")


async def _signed(params: Json, key: str) -> str:
    from storage.addresses import OWN_NETWORKS, read_policy
    from storage.s3 import S3Client, S3Settings

    async with S3Client(S3Settings(addresses=read_policy(OWN_NETWORKS))) as client:
        connection = await client.connect(str(params.get("endpoint", "")), str(params.get("region", "")))
        version = str(params.get("versionid", "")) if key == params.get("key") else ""
        return await connection.signed_url(str(params.get("bucket", "")), key, version)


def _from_ipfs(stack: ExitStack, api: Api, spec: Spec, path: str) -> Iterator[bytes] | None:
    cid = str(next((value for key, value in spec.params.items() if key.lower() == "cid"), ""))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-")))
    try:
        fetched = asyncio.run(_fetched(api, f"{cid}/{path}", scratch))
    except NotFound:
        return None
    if fetched.is_dir():
        return None
    file = stack.enter_context(fetched.open("rb"))
    return iter(lambda: file.read(CHUNK_BYTES), b"")


async def _fetched(api: Api, cid: str, scratch: Path) -> Path:
    from storage.contract import Share, silent
    from storage.drivers import open_drivers
    from storage.params import read_params
    from storage.settings import StorageSettings

    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(reached(read_swarm(api.settings()), scratch / "kubo"))
        settings = StorageSettings(scratch / "drivers", ipfs_connect=way.kubo, ipfs_gateways=way.gateways)
        drivers = await stack.enter_async_context(open_drivers(settings))
        source = drivers.sources["ipfs"]
        params = read_params({"CID": cid}, source.params, "result ipfs")
        resolved = await source.resolve(params, Share())
        return (await source.fetch(params, resolved, scratch / "file", silent)).path
