"""``shoal get JOB``: bring a job's published results home, with the same drivers that nodes fetch inputs with.

Knows: which driver reads a result, and where it is put. Must not know: how a driver works.
"""

import asyncio
import errno
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

import msgspec
from cyclopts import Parameter

from protocol.errors import (
    Broken,
    Conflict,
    Denied,
    Exhausted,
    Fault,
    NotFound,
    TimedOut,
    Unavailable,
    fault_of,
)
from protocol.ids import short
from protocol.jobs import NAMESPACE_DEFAULT, Spec
from protocol.spelling import some_of
from requester.cli.endpoint import Api
from requester.cli.exits import CLOSED, Exit, tell
from requester.cli.flags import JobRef, Namespace
from requester.cli.merge import Paths, entries_told, merge
from requester.cli.output import clean, size
from requester.cli.results import (
    NewLinks,
    Result,
    executions_in,
    is_archive,
    published,
    told_if_gone,
    told_whose,
)
from requester.cli.stores import LINKED, looked_at, opened_stores
from requester.cli.swarm import KUBO_HELP, Swarm, read_swarm
from requester.written import rows_of
from storage.contract import Drivers, silent
from storage.spread import spread

Json = dict[str, Any]

_OF_S3: Final = (
    *("Bucket", "Key", "Region", "Endpoint", "AddressingStyle"),
    *("VersionID", "ChecksumSHA256", "Listing"),
)
_TOLD: Final = 5
"""How many executions one line names."""


def get(
    job: JobRef,
    /,
    *,
    output_dir: Annotated[Path | None, Parameter(help="Where to put the results; default ./job-ID.")] = None,
    raw: Annotated[bool, Parameter(help="Keep one folder per execution instead of merging them.")] = False,
    download_timeout_secs: Annotated[
        float, Parameter(help="After how many seconds to give up; 0: no limit.")
    ] = 0,
    ipfs_connect: Annotated[
        str,
        Parameter(help=f"{KUBO_HELP}."),
    ] = "",
    ipfs_swarm_addrs: Annotated[
        list[str] | None,
        Parameter(help="Addresses of IPFS nodes that hold the results, to connect to first; repeatable."),
    ] = None,
    ipfs_swarm_key: Annotated[
        str,
        Parameter(help="Key of a private IPFS network; where no Kubo is named, one is started with it."),
    ] = "",
    namespace: Namespace = "",
    api: Api = Api(),
) -> int:
    """Download a job's results into a folder of their own; a download that fails leaves nothing of it."""
    try:
        with api.client() as client:
            answer = client.job(job, include="executions", namespace=namespace)
            record = answer["Job"]
            results = published(client, record, links=True)
        if not results:
            return _nothing(record)
        folder = (output_dir or Path(f"job-{_folder_name(record)}")).absolute()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Conflict(f"{folder} is there already", hint="Name another folder with --output-dir.")
        if not raw:
            _check_apart(results, answer)
        tell(f"Fetching results of job '{clean(job)}'...")
        if not _closed(record):
            tell("The job is not closed yet; these are the results so far.")
        settings = api.settings(
            ResultDownloaders_Types_IPFS_Endpoint=ipfs_connect,
            Node_IPFS_SwarmAddresses=ipfs_swarm_addrs or "",
            Node_IPFS_SwarmKeyPath=ipfs_swarm_key,
        )
        limit_s = download_timeout_secs or None
        links = NewLinks(partial(_again, api, record))
        fetching = _fetch_all(
            results, folder, raw=raw, limit_s=limit_s, swarm=read_swarm(settings), links=links
        )
        asyncio.run(fetching)
    except KeyboardInterrupt:
        tell("\nStopped; nothing was kept.")
        return Exit.INTERRUPTED
    print(f"Results for job '{clean(job)}' have been written to...\n{folder}")
    return Exit.OK


def _nothing(record: Json) -> int:
    tell(f"No results found for job {record['ID']} ({record['State']['StateType']}).")
    if not _closed(record):
        tell(f"Hint: the job is not closed yet; see: shoal job describe {record['ID']}")
    elif not record["Tasks"][0]["Publisher"].get("Type"):
        tell(f"Hint: the job has no publisher; what the program printed is in: shoal job logs {record['ID']}")
    return Exit.OK


def _check_apart(results: list[Result], answer: Json) -> None:
    """Raise `Conflict` if the records tell of a path that two of the executions wrote: better now than after a download."""
    executions = executions_in(answer)
    paths = Paths()
    for each in results:
        paths.add(entries_told(rows_of(executions.get(each.execution, {}).get("Written"))))


def _closed(record: Json) -> bool:
    return record["State"]["StateType"] in CLOSED


def _folder_name(record: Json) -> str:
    # A name is free text; only one that is a plain file name may become one.
    name = str(record["Name"])
    plain = name != record["ID"] and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 64
    return name if plain and record["Namespace"] == NAMESPACE_DEFAULT else short(record["ID"])


def _again(api: Api, record: Json) -> list[Result]:
    """The results once more."""
    with api.client() as client:
        return published(client, record, links=True)


async def _fetch_all(
    results: list[Result], folder: Path, *, raw: bool, limit_s: float | None, swarm: Swarm, links: NewLinks
) -> None:
    """Fetch beside the folder, then put everything there at once: a failed download leaves no half of it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            scratch = Path(name)
            # What is removed of one download is not to slow down the next.
            spread(scratch)
            stores = opened_stores([each.spec.type for each in results], scratch, swarm, links.of)
            async with asyncio.timeout(limit_s), stores as drivers:
                trees = []
                away: set[str] = set()
                for each in results:
                    with told_if_gone(each), told_whose(each.spec):
                        tree = await _fetch(drivers, each, scratch, away)
                    await _check(each, tree)
                    trees.append((each.execution, tree))
            await asyncio.to_thread(_put, trees, scratch / "whole", folder, raw=raw)
            _tell_unchecked(results)
    except Exhausted as fault:
        if fault.kind == "Disk":
            # What a driver says of it is meant for a node's owner.
            fault.hint = "Free some space there, or name another folder with --output-dir."
        raise
    except TimeoutError as error:
        raise TimedOut(
            f"the results did not arrive within {limit_s:g} s",
            hint="Allow more with --download-timeout-secs.",
        ) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = f"{'Free some space there, or name' if full else 'Name'} another folder with --output-dir."
        kind = Exhausted if full else Denied
        raise kind(f"the results cannot be written to {folder}: {error.strerror}", hint=hint) from error


async def _fetch(drivers: Drivers, result: Result, scratch: Path, away: set[str]) -> Path:
    """One execution's result, unpacked: a folder. Raises a driver's faults, with the execution named.

    Nodes that could not be reached come into `away`: what else they keep is brought by the requester at once.
    """
    try:
        into = scratch / result.execution
        other = _other_way(result)
        node = urlsplit(str(result.spec.params.get("URL"))).netloc if result.relay else ""
        try:
            if other is not None and node in away:
                return await _fetched(drivers, other, into)
            return await _fetched(drivers, result.spec, into)
        except (Unavailable, TimedOut, Denied, NotFound) as fault:
            if other is None or node in away:
                raise
            if node and isinstance(fault, Unavailable | TimedOut):
                away.add(node)
            return await _fetched(drivers, other, into)
        except Broken as changed:
            if changed.kind != "Changed":
                raise
            return await _rewritten(drivers, result, into, changed)
    except Fault as fault:
        failure = fault.failure()
        of = f"the result of execution {short(result.execution)}"
        message = fault.message if of in fault.message else f"{of}: {fault.message}"
        raise fault_of(msgspec.structs.replace(failure, message=message)) from fault


async def _fetched(drivers: Drivers, spec: Spec, into: Path) -> Path:
    from storage.archive import unpack

    stored = await looked_at(drivers, spec)
    with _Bar(f"{short(into.name)} {spec.type}", stored.resolved.size_bytes) as bar:
        fetched = await stored.driver.fetch(stored.params, stored.resolved, into, bar)
    path: Path = fetched.path
    if not is_archive(spec):
        return path
    archive = path if path.is_file() else next(path.iterdir())
    tree = into.with_suffix(".tree")
    await unpack(archive, tree, silent)
    archive.unlink()
    return tree


async def _rewritten(drivers: Drivers, result: Result, into: Path, changed: Broken) -> Path:
    """A result of objects of which some are no longer those that were put there, if they have the same bytes: somebody has
    copied them, or brought them back. Raises `changed` if they are others, or nobody has told what they were."""
    spec = _whatever_lies_there(result.spec)
    if not result.sha256 or spec is None:
        raise changed
    try:
        tree = await _fetched(drivers, spec, into)
        await _check(result, tree)
    except Fault:
        raise changed from None
    return tree


def _whatever_lies_there(spec: Spec) -> Spec | None:
    """The same objects, or all below the prefix, whoever has put them there; None for an archive."""
    params = {name: value for name, value in spec.params.items() if name != "Listing"}
    if is_archive(spec) or len(params) == len(spec.params):
        return None
    if objects := params.get("Objects"):
        params["Objects"] = [{**each, "ETag": ""} for each in objects]
    return Spec(spec.type, params)


async def _check(result: Result, tree: Path) -> None:
    """Raise `Broken` unless what came is what the execution wrote, to the last byte, whoever brought it."""
    from storage.sha256sum import total_of
    from storage.threads import in_thread

    if not result.sha256:
        return
    found = await in_thread(lambda stop: total_of(tree, stop))
    if found.sha256 != result.sha256:
        raise Broken(
            f"what came is not what execution {short(result.execution)} wrote: the list of its {found.count} files has "
            f"the SHA-256 {found.sha256}, not {result.sha256}",
            hint="It was damaged on its way, or changed where it lies. What it wrote: shoal describe JOB",
            kind="Changed",
        )


def _tell_unchecked(results: list[Result]) -> None:
    """Say of which results nobody knows whether they are what was written: those of nodes that recorded no digests."""
    unknown = [short(each.execution) for each in results if not each.sha256]
    if unknown:
        shown = some_of(unknown, _TOLD)
        tell(f"No record tells what was written by {shown}: what came was not compared.")


def _other_way(result: Result) -> Spec | None:
    """What is tried where a link does not work.

    A node that cannot be reached from here, or whose link has expired, the requester can reach. What is in a bucket may be
    read with the person's own account.
    """
    if result.relay:
        return Spec(result.spec.type, {"URL": result.relay})
    place = {name: value for name, value in result.spec.params.items() if name in _OF_S3}
    return Spec("s3", place) if result.spec.type.lower() == LINKED and place.get("Bucket") else None


def _put(trees: list[tuple[str, Path]], whole: Path, folder: Path, *, raw: bool) -> None:
    """Make the whole result, then put it in its place."""
    whole.mkdir()
    if raw:
        for execution, tree in trees:
            os.rename(tree, whole / execution)
    else:
        merge([tree for _, tree in trees], whole)
    if folder.is_dir():
        # An empty folder that a person made stays theirs.
        for entry in sorted(whole.iterdir()):
            os.rename(entry, folder / entry.name)
    else:
        os.rename(whole, folder)


class _Bar:
    """How far a download is, on a terminal."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._shown = sys.stderr.isatty()

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        if self._shown:
            total = total_bytes or self._total
            share = f"{size(done_bytes)} of {size(total)}" if total else size(done_bytes)
            print(f"\r\x1b[K{self._what}: {share}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
