"""A person's own files as inputs: ``-i ./folder:/in``, or ``SourcePath: ./folder`` of a `local` source in a spec file, puts
them where nodes find them, and names them there.

Knows: which store takes them, and that the same bytes are put there once. Must not know: how a store works, or jobs.

============  =====================================================================================================
requester     inside the job: a ``.tar.gz`` or the file itself, which the requester keeps by its digest (ADR 0005)
ipfs          added to the person's Kubo (the one that `ipfs` talks to, if none is configured); the CID is the input
s3            below the prefix that is named, in a folder called by the digest of the tree; what is there is not sent again,
              and what is sent has been found to be of that digest before it is there
============  =====================================================================================================

Without a word the requester takes what is small, and the person's Kubo what is larger, if one is configured. Links are
shipped as links or refused; pipes, sockets and devices are refused; what changes meanwhile is an error.
"""

import asyncio
import os
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final
from uuid import uuid4

import msgspec

from protocol.config import Config
from protocol.errors import Broken, Conflict, Denied, Exhausted, Fault, Invalid, NotFound
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Input, Spec
from protocol.spec import Reading, SpecFaults
from protocol.spec.drivers import OWN
from requester.cli.endpoint import IPFS, UPLOADS
from requester.cli.exits import tell
from requester.cli.output import clean, size
from requester.cli.swarm import kubo_here
from storage.contract import Label, Publisher, Share, Source, silent

SMALL_MAX_BYTES: Final = 7 * 1024 * 1024
"""As base64 it still fits into a request."""

Json = dict[str, Any]
Stamp = list[tuple[str, int, float]]


def shipped(wanted: Input, settings: Callable[[], Config]) -> Input:
    """The input of a ``-i`` as it is, or where a person's own file or folder has been put; its alias was the path, and goes.
    Raises `NotFound`, and what stores raise.
    """
    if wanted.source.type != OWN:
        return wanted
    path = Path(str(wanted.source.params["Path"])).expanduser()
    with _at("-i"):
        if not path.exists():
            hint = "A path on a node is written file:///path."
            raise NotFound(f"{clean(str(path))}: there is no such file or folder here", hint=hint)
        return msgspec.structs.replace(_ship(path, wanted, settings()), alias="")


def shipped_spec(reading: Reading, beside: Path, settings: Callable[[], Config]) -> Reading:
    """A spec with its own files put where nodes find them; their paths begin in the folder `beside`.

    Raises `SpecFaults` if any is not there, before one is sent, and what stores raise, each with its place in the text.
    """
    check_own(reading, beside)
    inputs = []
    for each in reading.job.task.input_sources:
        if each.source.type == OWN:
            with _at(str(reading.own[each.target])):
                each = _ship(_path_of(each, beside), each, settings())
        inputs.append(each)
    task = msgspec.structs.replace(reading.job.task, input_sources=inputs)
    job = msgspec.structs.replace(reading.job, tasks=[task])
    return msgspec.structs.replace(reading, job=job, own={})


def check_own(reading: Reading, beside: Path) -> None:
    """Raise `SpecFaults` with each of a spec's own files that is not there."""
    faults = [
        place.fault(f"{place.path}: there is no file or folder {clean(str(path))} here")
        for each in reading.job.task.input_sources
        if (place := reading.own.get(each.target)) and not (path := _path_of(each, beside)).exists()
    ]
    if faults:
        raise SpecFaults(faults, file=faults[0].file)


def _path_of(wanted: Input, beside: Path) -> Path:
    return beside / Path(str(wanted.source.params["Path"])).expanduser()


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Faults say which of the person's words they are about."""
    try:
        yield
    except Fault as fault:
        kind = type(fault)
        raise kind(
            f"{where}: {fault.message}", hint=fault.hint, kind=fault.kind, details=fault.details
        ) from fault


def _ship(path: Path, wanted: Input, config: Config) -> Input:
    to = str(wanted.source.params.get("To") or config.text(*UPLOADS))
    shown = clean(str(path))
    if path.is_dir():
        # What a person calls a folder may be a link to it; no link in it is followed.
        path = path.resolve()
    elif not path.is_file():
        hint = "Write what it gives to a file first."
        raise Invalid(f"{shown} is a pipe, a socket or a device", hint=hint, kind="File")
    try:
        before = _stamp(path)
        total = sum(each[1] for each in before)

        def check() -> None:
            if _stamp(path) != before:
                raise Broken(f"{shown} changed while it was read", hint="Run the command again.")

        return _put(path, wanted, to, config, f"{shown} ({size(total)})", check)
    except OSError as error:
        at = clean(os.fsdecode(error.filename)) if error.filename else shown
        raise Denied(f"{at} cannot be read: {error.strerror}") from error


def _put(path: Path, wanted: Input, to: str, config: Config, what: str, check: Callable[[], None]) -> Input:
    """Put it where it goes; `check` raises a fault if it is no longer what it was."""
    kubo = config.text(*IPFS)
    if to in ("", "requester"):
        data = _packed(path)
        check()
        if data is not None:
            media_type = "application/gzip" if path.is_dir() else "application/octet-stream"
            url = f"data:{media_type};base64,{b64encode(data).decode()}"
            if not path.is_dir():
                _tell_of_executables(path, "the requester", "Ship the folder that it is in")
            return msgspec.structs.replace(wanted, source=Spec("inline", {"URL": url}))
        if to or not kubo:
            raise Exhausted(
                f"{what} is more than the {size(SMALL_MAX_BYTES)} that travel with a job",
                hint="Put it on S3 or IPFS: opt=to=s3://bucket/prefix or opt=to=ipfs (in a spec: To), or Uploads.To.",
            )
        to = "ipfs"
    if to == "ipfs":
        tell(f"Adding {what} to IPFS...")
        return asyncio.run(_to_ipfs(path, wanted, kubo or kubo_here(os.environ), check))
    if to.startswith("s3://"):
        tell(f"Putting {what} to {clean(to)}...")
        made = asyncio.run(_to_s3(path, wanted, to))
        check()
        return made
    raise Invalid(
        f"{to[:100]!r} takes no files",
        hint="Files go to requester, ipfs or s3://bucket/prefix (opt=to=…, To in a spec, Uploads.To).",
    )


def _packed(path: Path) -> bytes | None:
    """A folder's archive or a file's bytes; None if it is too much to travel with a job."""
    from storage.archive import pieces

    if not path.is_dir():
        with path.open("rb") as file:
            data = file.read(SMALL_MAX_BYTES + 1)
        return data if len(data) <= SMALL_MAX_BYTES else None
    made: list[bytes] = []
    total = 0
    for piece in pieces(path):
        made.append(piece)
        total += len(piece)
        if total > SMALL_MAX_BYTES:
            return None
    return b"".join(made)


def _stamp(path: Path) -> Stamp:
    """What is there and how it looks; two that are equal hold the same bytes. Raises `Invalid` for what is not taken."""
    from storage.tree import walk

    if not path.is_dir():
        seen = path.stat()
        return [("", seen.st_size, seen.st_mtime)]
    return [(each.path, each.size_bytes, each.mtime) for each in walk(path)]


async def _to_ipfs(path: Path, wanted: Input, kubo: str, check: Callable[[], None]) -> Input:
    from storage.ipfs import IpfsPublisher

    with _folder(path) as folder:
        publisher = IpfsPublisher(kubo, check=check)
        try:
            spec = await _published(publisher, folder, {"Name": path.absolute().name})
        finally:
            await publisher.close()
    name = "" if path.is_dir() else f"/{path.name}"
    return msgspec.structs.replace(wanted, source=Spec("ipfs", {"CID": f"{spec.params['CID']}{name}"}))


async def _to_s3(path: Path, wanted: Input, to: str) -> Input:
    """A file comes into the folder of its target, because that is where S3's objects land."""
    from storage.contents import contents_of
    from storage.s3 import S3Client, S3Publisher, S3Settings, S3Source

    bucket, _, prefix = to.removeprefix("s3://").partition("/")
    target = wanted.target if path.is_dir() else _folder_of(path, wanted.target)
    _tell_of_executables(path, "S3", "Ship with opt=to=ipfs")
    with _folder(path) as folder:
        # A file's name counts: of two with the same bytes each comes under its own.
        contents = await asyncio.to_thread(contents_of, folder)
        key = "/".join(filter(None, (prefix.strip("/"), f"sha256-{contents.sha256}"))) + "/"
        async with S3Client(S3Settings()) as client:
            spec = await _there(client, S3Source(client=client), bucket, key, contents)
            if spec is not None:
                tell("It is there already.")
                return msgspec.structs.replace(wanted, source=spec, target=target)
            # Whoever puts something there just now puts the same.
            params = {"Bucket": bucket, "Key": key, "Encoding": "plain", "Overwrite": True}
            try:
                spec = await _published(S3Publisher(client=client, contents=contents), folder, params)
            except Invalid as fault:
                if fault.kind == "Link":
                    fault.hint = "Ship with opt=to=ipfs, which keeps links, or without the link."
                raise
            except Broken as fault:
                where = f"s3://{bucket}/{clean(key)}"
                fault.hint = (
                    fault.hint or f"Run the command again. What was sent before that stays at {where}"
                )
                raise
    # What is there already is told by its prefix; so is what comes there, which has a digest in its name.
    spec.params.pop("Listing")
    return msgspec.structs.replace(wanted, source=spec, target=target)


def _tell_of_executables(path: Path, store: str, instead: str) -> None:
    """Say what of a person's files does not arrive as it is."""
    from storage.tree import walk

    modes = (each.executable for each in walk(path)) if path.is_dir() else [os.access(path, os.X_OK)]
    if count := sum(modes):
        tell(
            f"Note: executable files that will not be so when they come from {store}: {count}. "
            f"{instead}, or run scripts as: sh FILE."
        )


async def _there(client: Any, source: Source[Any], bucket: str, key: str, contents: Any) -> Spec | None:
    """The input if all of it is there; what was begun and not ended is not. Raises `Conflict` if there is more."""
    from storage.params import read_params
    from storage.s3.planned import lacking

    connection = await client.connect()
    found = {"Bucket": bucket, "Key": key, "Region": connection.region_of(bucket)}
    if not connection.endpoint.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        found["Endpoint"] = connection.endpoint
    try:
        resolved = await source.resolve(read_params(found, source.params, "upload to s3"), Share())
    except NotFound:
        return None
    gone, more = await asyncio.to_thread(lacking, contents.entries, resolved.pinned.landing, lambda: None)
    if more:
        said = f"s3://{bucket}/{clean(key)} holds {clean(more)!r}, which is not of what its name says"
        raise Conflict(said, hint="Remove it, or ship to another prefix.")
    return Spec("s3", found) if not gone else None


async def _published(publisher: Publisher[Any], folder: Path, params: Json) -> Spec:
    from storage.params import read_params

    form = read_params(params, publisher.params, f"upload to {publisher.type}")
    # What fails is taken back by its execution's id, which must not be that of another upload under way.
    label = Label(JobId("upload"), ExecutionId(f"upload-{uuid4().hex}"), NodeId("client"), 0.0)
    return await publisher.publish(folder, form, label, silent)


def _folder_of(path: Path, target: str) -> str:
    above = str(PurePosixPath(target).parent)
    if PurePosixPath(target).name != path.name or above == "/":
        hint = f"Write the target as /folder/{path.name}."
        raise Invalid(f"{clean(str(path))}: a file from S3 keeps its name", hint=hint)
    return above


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A folder as it is; a file as the only one in a folder."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        only = Path(scratch) / path.name
        try:
            os.link(path.resolve(), only)
        except OSError:
            # Another disk.
            shutil.copy(path, only)
        yield Path(scratch)
