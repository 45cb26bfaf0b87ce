"""``shoal ls JOB`` and ``shoal cat JOB PATH``: a look at single files of results, without downloading the rest.

Knows: what a job's record says of what was written, and what a person is shown. Must not know: where a result lies, or how
it is read (`requester.cli.contents`). A list comes from the record alone where the record has all of it, else from the node
that keeps it; where that is away, an archive is read once, and not kept, and any other store is asked what it holds.
"""

import hashlib
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any, Final

from cyclopts import Parameter
from msgspec import Struct

from protocol.errors import Broken, Denied, Fault, Invalid, NotFound, TimedOut, Unavailable
from protocol.ids import short
from protocol.spelling import nearest
from requester.cli.contents import content, entries
from requester.cli.endpoint import IPFS, Api
from requester.cli.exits import Exit, tell
from requester.cli.flags import JobRef, Namespace
from requester.cli.output import Column, ListFormat, print_list
from requester.cli.results import Result, executions_in, published
from requester.cli.stores import shown_entries
from requester.cli.swarm import KUBO_HELP
from requester.client import job_path
from requester.written import digests_of, has_all, has_all_files, is_below, links_of, rows_of
from storage.tree import Entry, Kind, safe_parts, text_of

Json = dict[str, Any]
FILES: Final = "results/files"
"""The part of a job's path that tells what its results hold."""
FilePath = Annotated[str, Parameter(name="PATH", help="A path in the result: stdout, outputs/model.bin.")]
Execution = Annotated[str, Parameter(alias="-e", help="Only this execution (its id or the beginning of it).")]
IpfsConnect = Annotated[str, Parameter(help=f"{KUBO_HELP}.")]


def ls(
    job: JobRef,
    path: Annotated[str, Parameter(name="PATH", help="A folder or file; default all.")] = "",
    /,
    *,
    execution_id: Execution = "",
    ipfs_connect: IpfsConnect = "",
    namespace: Namespace = "",
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """List what a job's results hold, files with size and SHA-256, without downloading them."""
    api = _by_way_of(ipfs_connect, api)
    results, executions = _looked_up(api, job, namespace, execution_id)
    items: list[Json] = []
    for result in results:
        written = executions.get(result.execution, {}).get("Written")
        listed = _listed(api, result, written, job_path(job, FILES), namespace)
        items += [
            {"ExecutionID": result.execution, **each} for each in listed if is_below(each["Path"], path)
        ]
    if path and not items:
        raise NotFound(f"job {job} has no result with {path!r}", hint=f"See all: shoal ls {job}")
    columns: list[Column] = [
        ("SIZE", lambda item: str(item["Size"]) if item["Type"] == Kind.FILE else ""),
        ("SHA256", lambda item: item["SHA256"] if how.wide else item["SHA256"][:12]),
        ("PATH", _shown_path),
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
    ipfs_connect: IpfsConnect = "",
    namespace: Namespace = "",
    api: Api = Api(),
) -> int:
    """Print one file of a job's results, of each execution that has it, without downloading the rest."""
    try:
        wanted = "/".join(safe_parts(path))
    except Invalid as fault:
        fault.hint = f"What there is: shoal ls {job}"
        raise
    api = _by_way_of(ipfs_connect, api)
    results, executions = _looked_up(api, job, namespace, execution_id)
    named = text_of(wanted)
    names: dict[str, str] = {}
    found = 0
    for result in results:
        told = executions.get(result.execution, {}).get("Written")
        digests, whole = digests_of(told), has_all_files(told)
        if told is not None and not whole and named not in digests:
            known = _known(api, job_path(job, FILES), result, namespace, named)
            digests |= known.digests
        names |= dict.fromkeys(digests, "") | {each["Path"]: each["Target"] for each in links_of(told)}
        if whole and named not in digests:
            continue
        whose = _whose(named, executions.get(result.execution), result) if len(results) > 1 else ""
        found += _print(api, result, wanted, digests.get(named, ""), whose)
    if not found:
        raise _no_such_file(job, named, names)
    return Exit.OK


def _by_way_of(ipfs_connect: str, api: Api) -> Api:
    """The same settings, with that Kubo if one is named."""
    named = [f"{IPFS[0]}={ipfs_connect}"] if ipfs_connect else []
    return replace(api, config=[*(api.config or []), *named])


def _looked_up(api: Api, job: str, namespace: str, execution: str) -> tuple[list[Result], dict[str, Json]]:
    """The results that are meant, and the job's executions by id. Raises `NotFound` for none."""
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
    return results, executions_in(answer)


def _whose(path: str, execution: Json | None, result: Result) -> str:
    """Whose file comes next, of several."""
    partition = f"partition {execution['PartitionIndex']}, " if execution is not None else ""
    return f"==> {path} of {partition}execution {short(result.execution)} <=="


class Known(Struct, frozen=True):
    """What the requester tells of what an execution wrote; `whole` if that is all."""

    rows: list[Json]
    whole: bool

    @property
    def digests(self) -> dict[str, str]:
        """Of the files, by path."""
        return {each["Path"]: each["SHA256"] for each in self.rows if each["Type"] == Kind.FILE}


def _known(api: Api, route: str, result: Result, namespace: str, path: str = "") -> Known:
    """What its record names and the node that ran it has kept, without a look at where the result lies."""
    rows: list[Json] = []
    lacking, token = False, ""
    with api.client() as client:
        while True:
            try:
                page = client.call(
                    "GET",
                    route,
                    execution_id=result.execution,
                    path=path,
                    namespace=namespace,
                    next_token=token,
                )
            except Fault:
                # Nobody there knows more, as with a requester of an earlier version; the result itself does.
                return Known(rows, whole=False)
            rows += page["Items"]
            lacking |= bool(page["Incomplete"])
            token = page["NextToken"]
            if not token:
                return Known(rows, whole=not lacking)


def _listed(api: Api, result: Result, written: Json | None, route: str, namespace: str) -> list[Json]:
    """What a result holds, in the order of a walk. Raises what its store says, if nothing else helps."""
    if written is None:
        return [_item(each, {}) for each in shown_entries(entries(api, result))]
    if has_all(written):
        return rows_of(written)
    known = _known(api, route, result, namespace)
    if known.whole:
        return known.rows
    digests = digests_of(written) | known.digests
    try:
        return [_item(each, digests) for each in shown_entries(entries(api, result))]
    except (Unavailable, TimedOut, Denied, NotFound) as fault:
        tell(f"The result cannot be looked at just now: {fault.message}")
        tell(f"These are {len(digests)} of its {written['Count']} files, as its record has them.")
        return known.rows or rows_of(written)


def _item(entry: Entry, digests: dict[str, str]) -> Json:
    path = text_of(entry.path)
    item = {"Path": path, "Size": entry.size_bytes, "SHA256": digests.get(path, "")}
    target = {"Target": text_of(entry.target)} if entry.kind is Kind.LINK else {}
    return {**item, "Type": entry.kind.value, **target}


def _shown_path(item: Json) -> str:
    """A folder ends with a slash; of a link it is told where it leads."""
    match item["Type"]:
        case Kind.FOLDER:
            return f"{item['Path']}/"
        case Kind.LINK:
            return f"{item['Path']} -> {item['Target']}"
    return str(item["Path"])


def _no_such_file(job: str, wanted: str, names: dict[str, str]) -> NotFound:
    """`names` are the paths that there are; links have targets."""
    if target := names.get(wanted):
        return NotFound(f"{wanted!r} is a link to {target!r}", hint="Name the file that it leads to.")
    below = sorted(name for name in names if is_below(name, wanted))
    if below:
        return NotFound(f"{wanted!r} is a folder", hint=f"See the files in it: shoal ls {job} {wanted}")
    near = nearest(wanted, sorted(names))
    hint = f"Did you mean {near[0]}?" if near else f"What there is: shoal ls {job}"
    return NotFound(f"no result of job {job} has a file {wanted!r}", hint=hint)


# One file


def _print(api: Api, result: Result, path: str, digest: str, whose: str) -> bool:
    """Print one file, if it is there; `whose` it is goes to standard error, if anything. Raises `Broken` if it was not the
    one that the record tells of.
    """
    from storage.peek import Unchecked

    told = hashlib.sha256()
    with ExitStack() as stack:
        pieces = content(stack, api, result, path, digest)
        if pieces is None:
            return False
        if whose:
            tell(whose)
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
