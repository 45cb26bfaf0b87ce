"""The commands about jobs that are there: describe, list, executions, history, versions, stop, rerun.

Knows: columns and the layout of ``describe``. Must not know: how answers come (`requester.client`).
"""

import time
from typing import Annotated, Any

from cyclopts import Parameter
from msgspec.structs import fields

from protocol.ids import short
from protocol.jobs import Job
from requester.cli.endpoint import Api
from requester.cli.exits import CLOSED, Exit, tell
from requester.cli.output import (
    Column,
    ListFormat,
    ObjectFormat,
    Paging,
    age,
    clean,
    clean_text,
    moment,
    print_list,
    print_object,
    print_table,
    size,
    terminal_width,
)
from requester.cli.progress import held_up_update
from requester.cli.waiting import Waiting, wait_for
from requester.client import JOBS, job_path

Json = dict[str, Any]
JobRef = Annotated[str, Parameter(name="JOB", help="The job's name, id or the beginning of its id.")]
Namespace = Annotated[str, Parameter(help="The job's namespace, where its name alone is not enough.")]
Version = Annotated[int, Parameter(alias="-v", help="An earlier version of the job.")]

FILES_SHOWN = 10
STATES = {
    0: "Undefined",
    4: "Refused",
    5: "BidAccepted",
    6: "Running",
    7: "Publishing",
    9: "Completed",
    10: "Failed",
    11: "Cancelled",
}


def list_jobs(
    *,
    labels: Annotated[str, Parameter(help="A label selector: 'team=a,!canary'.")] = "",
    namespace: Annotated[str, Parameter(help="One namespace only; default all.")] = "*",
    paging: Paging = Paging(),
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """List jobs, newest first."""
    columns: list[Column] = [
        ("CREATED", lambda job: moment(job["CreateTime"])),
        ("ID", lambda job: _id(job["ID"], how)),
        ("NAME", lambda job: job["Name"] if job["Name"] != job["ID"] else ""),
        ("JOB", lambda job: job["Tasks"][0]["Engine"]["Type"]),
        ("TYPE", lambda job: job["Type"]),
        ("STATE", lambda job: job["State"]["StateType"]),
    ]
    with api.client() as client:
        page = client.call(
            "GET",
            JOBS,
            namespace=namespace,
            labels=labels,
            limit=paging.limit,
            next_token=paging.next_token,
            order_by=paging.order_by,
            reverse="false" if paging.order_reversed else "true",
        )
    print_list(page["Items"] or [], columns, how)
    if page["NextToken"] and how.output == "table":
        tell(
            f"\nTo fetch more records use: shoal job list --limit {paging.limit} --next-token {page['NextToken']}"
        )
    return Exit.OK


def executions(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    version: Version = 0,
    all_versions: Annotated[bool, Parameter(help="Of all versions of the job.")] = False,
    paging: Paging = Paging(limit=0),
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """List a job's executions."""
    columns: list[Column] = [
        ("CREATED", lambda each: moment(each["CreateTime"])),
        ("MODIFIED", lambda each: moment(each["ModifyTime"])),
        ("ID", lambda each: _id(each["ID"], how)),
        ("JOB-VERSION", lambda each: str(each["JobVersion"])),
        ("PARTITION", lambda each: str(each["PartitionIndex"])),
        ("ATTEMPT", lambda each: str(each.get("Attempt", 1))),
        ("NODE-ID", lambda each: _id(each["NodeID"], how)),
        ("REV.", lambda each: str(each["Revision"])),
        ("STATE", _state),
        ("DESIRED", lambda each: "Running" if each["DesiredState"]["StateType"] == 1 else "Stopped"),
    ]
    with api.client() as client:
        page = client.call(
            "GET",
            job_path(job, "executions"),
            namespace=namespace,
            job_version=version or "",
            all_job_versions="true" if all_versions else "",
            order_by=paging.order_by,
            reverse="true" if paging.order_reversed else "",
            limit=paging.limit or "",
        )
    print_list(page["Items"] or [], columns, how)
    return Exit.OK


def history(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    version: Version = 0,
    all_versions: Annotated[bool, Parameter(help="Of all versions of the job.")] = False,
    event_type: Annotated[str, Parameter(help="all, job or execution.")] = "all",
    execution_id: Annotated[str, Parameter(help="Of one execution only.")] = "",
    paging: Paging = Paging(limit=1_000),
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """Tell what happened to a job."""
    columns: list[Column] = [
        ("TIME", lambda item: item["Time"].replace("T", " ").rstrip("Z")[:23]),
        ("LEVEL", lambda item: item["Type"]),
        ("JOB-VERSION", lambda item: str(item["JobVersion"])),
        ("EXEC.-ID", lambda item: _id(item.get("ExecutionID", ""), how)),
        ("TOPIC", lambda item: item["Event"]["Topic"]),
        ("EVENT", lambda item: item["Event"]["Message"]),
    ]
    with api.client() as client:
        page = client.call(
            "GET",
            job_path(job, "history"),
            namespace=namespace,
            job_version=version or "",
            all_job_versions="true" if all_versions else "",
            event_type=event_type,
            execution_id=execution_id,
            limit=paging.limit,
            next_token=paging.next_token,
        )
    print_list(page["Items"] or [], columns, how)
    return Exit.OK


def stop(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    reason: Annotated[str, Parameter(help="Why, for the job's history.")] = "",
    quiet: Annotated[bool, Parameter(help="Print nothing.")] = False,
    api: Api = Api(),
) -> int:
    """Stop a job; what runs of it is ended."""
    with api.client() as client:
        answer = client.call("DELETE", job_path(job), body={"reason": reason}, namespace=namespace)
    if not quiet:
        print(f"Job stop successfully submitted with evaluation ID: {answer['EvaluationID']}")
    return Exit.OK


def delete(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    reason: Annotated[str, Parameter(help="Why, for the log.")] = "",
    quiet: Annotated[bool, Parameter(help="Print nothing.")] = False,
    api: Api = Api(),
) -> int:
    """Forget a job that has ended, with all its versions; published results stay where they are."""
    with api.client() as client:
        answer = client.call("PUT", job_path(job, "delete"), body={"reason": reason}, namespace=namespace)
    if not quiet:
        print(f"Deleted {answer['JobID']}")
    return Exit.OK


def rerun(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    version: Version = 0,
    reason: Annotated[str, Parameter(help="Why, for the job's history.")] = "",
    how: Waiting = Waiting(),
    api: Api = Api(),
) -> int:
    """Run a job once more: a new version with the spec of the newest, or of --version."""
    with api.client() as client:
        if how.dry_run:
            print_object(
                _as_spec(client.job(job, namespace=namespace, version=version)["Job"]), "yaml", False
            )
            return Exit.OK
        answer = client.rerun(job, version=version, reason=reason, namespace=namespace)
        view = client.job(answer["JobID"], namespace=namespace)["Job"]
        published = bool(view["Tasks"][0]["Publisher"].get("Type"))
        return wait_for(client, answer["JobID"], how, published=published)


def versions(
    job: JobRef, /, *, namespace: Namespace = "", how: ListFormat = ListFormat(), api: Api = Api()
) -> int:
    """List a job's versions, oldest first."""
    columns: list[Column] = [
        ("CREATED-AT", lambda each: moment(each["SubmitTime"])),
        ("JOB-VERSION", lambda each: str(each["Version"])),
        ("STATE", lambda each: _state_of_version(each, items)),
    ]
    with api.client() as client:
        items = client.call("GET", job_path(job, "versions"), namespace=namespace)["Items"] or []
    print_list(items, columns, how)
    return Exit.OK


def _state_of_version(version: Json, all_versions: list[Json]) -> str:
    """The end of a version; one that was open when the next came has been replaced."""
    state = str(version["State"]["StateType"])
    ended = state in CLOSED
    return state if ended or version is all_versions[-1] else "Replaced"


def describe(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    version: Version = 0,
    spec: Annotated[bool, Parameter(help="Only what was asked, as a spec that can be submitted.")] = False,
    how: ObjectFormat = ObjectFormat(),
    api: Api = Api(),
) -> int:
    """Describe a job: what was asked, what became of it, and why."""
    include = "" if spec else "executions,history"
    with api.client() as client:
        view = client.job(job, include=include, namespace=namespace, version=version)
    if spec:
        print_object(_as_spec(view["Job"]), how.output or "yaml", how.pretty)
    elif how.output:
        print_object(view, how.output, how.pretty)
    else:
        _describe(view, time.time())
    return Exit.OK


def _as_spec(job: Json) -> Json:
    """The job without what the server added; a name that is only the id was no one's wish."""
    asked = {field.encode_name: job[field.encode_name] for field in fields(Job) if field.encode_name in job}
    if asked["Name"] == job["ID"]:
        del asked["Name"]
    return asked


def _describe(view: Json, now: float) -> None:
    job, executions = view["Job"], view["Executions"]["Items"] or []
    items = view["History"]["Items"] or []
    _print_pairs(_head(job) + _queue(view) + _update(view))
    if executions:
        counts: dict[str, int] = {}
        for each in executions:
            counts[_state(each)] = counts.get(_state(each), 0) + 1
        _section("Summary")
        _print_pairs([(state, str(count)) for state, count in counts.items()])
    _section("Job History")
    _print_history([item for item in items if "ExecutionID" not in item])
    if executions:
        _section("Executions")
        _print_executions(executions, now)
    for each in executions:
        _section(f"Execution {short(each['ID'])} History")
        _print_history([item for item in items if item.get("ExecutionID") == each["ID"]])
        _print_facts(each)
    _print_output(executions)


def _head(job: Json) -> list[tuple[str, str]]:
    task = job["Tasks"][0]
    pairs = [
        ("ID", job["ID"]),
        ("Name", job["Name"]),
        ("Namespace", job["Namespace"]),
        ("Type", job["Type"]),
        ("State", job["State"]["StateType"]),
        ("Message", job["State"]["Message"]),
        ("Hint", (job.get("Failure") or {}).get("Hint", "")),
        ("Count", str(job["Count"]) if job["Type"] in ("batch", "service") else ""),
        ("Engine", task["Engine"]["Type"]),
        ("Publisher", task["Publisher"].get("Type", "")),
        ("Labels", ", ".join(f"{key}={value}" for key, value in (job["Labels"] or {}).items())),
        ("Created Time", moment(job["CreateTime"])),
        ("Modified Time", moment(job["ModifyTime"])),
        ("Version", str(job["Version"])),
    ]
    return [(name, value) for name, value in pairs if value]


def _queue(view: Json) -> list[tuple[str, str]]:
    """Where the job stands in the queue, and why it waits."""
    queue = view.get("Queue")
    if not queue:
        return []
    ahead, waiting = queue["Ahead"], queue["Waiting"]
    place = f"{ahead} of {waiting} waiting jobs go first" if ahead is not None else f"one of {waiting} jobs"
    pairs = [("Queue", f"{place}, since {queue['Since'].replace('T', ' ')[:19]}")]
    if "KeptNode" in queue:
        pairs.append(("Kept Node", f"{queue['KeptNode']}: the next room there is this job's"))
    details = (view["Job"].get("Failure") or {}).get("Details") or {}
    lines = [f"{short(node)}  {reason}" for node, reason in details.items() if node != "others"]
    if "others" in details:
        lines.append(f"and {details['others']} more: shoal job explain {short(view['Job']['ID'])}")
    return [*pairs, ("Why", "\n".join(lines))]


def _update(view: Json) -> list[tuple[str, str]]:
    """That a version has not come up yet, if that is so."""
    held_up = held_up_update(view["Job"], view["Executions"]["Items"] or [])
    return [("Update", held_up)] if held_up else []


def _print_facts(each: Json) -> None:
    """What an execution read and wrote."""
    for read in each.get("Inputs", []):
        notes = [size(read["Size"])] if read["Size"] is not None else []
        notes += ["on the node already"] if read.get("Cached") else []
        noted = f" ({', '.join(notes)})" if notes else ""
        print(f"Input {clean(read['Target'])}: {clean(read['Identity'])}{noted}")
    result = each["PublishedResult"]
    if result.get("Type"):
        told = {**result.get("Params", {})}
        if listing := told.pop("Listing", None):
            told["Objects"] = f"{listing['Count']} (SHA256 {listing['SHA256'][:12]})"
        params = ", ".join(f"{key}: {value}" for key, value in told.items() if value)
        print(f"Published Result: {result['Type']} {{{clean(params)}}}")
    if written := each.get("Written"):
        _print_written(written)


def _print_written(written: Json) -> None:
    """The files of a result as ``sha256sum`` lists them, the first of many."""
    print(
        f"Written: {written['Count']} files, {size(written['Size'])}; their list has SHA-256 {written['SHA256']}"
    )
    shown = written["Files"][:FILES_SHOWN]
    for file in shown:
        print(f"  {file['SHA256']}  {clean(file['Path'])} ({size(file['Size'])})")
    if written["Count"] > len(shown):
        print(f"  ... and {written['Count'] - len(shown)} more")


def _print_output(executions: list[Json]) -> None:
    """What the programs wrote, as far as the log keeps it."""
    written = [each for each in executions if each.get("RunOutput")]
    for each in written:
        of = f" of {short(each['ID'])}" if len(written) > 1 else ""
        output = each["RunOutput"]
        parts = (
            ("Standard Output", output["Stdout"], output["StdoutTruncated"]),
            ("Standard Error", output["stderr"], output["StderrTruncated"]),
        )
        for title, text, cut in parts:
            if text:
                _section(f"{title}{of}")
                print(clean_text(text.rstrip("\n")))
            if cut:
                tell(f"... there is more: shoal job logs {each['JobID']} --execution-id {short(each['ID'])}")


def _print_executions(executions: list[Json], now: float) -> None:
    header = ["ID", "NODE ID", "STATE", "DESIRED", "REV.", "CREATED", "MODIFIED", "COMMENT"]
    rows = [
        [
            short(each["ID"]),
            short(each["NodeID"]),
            _state(each),
            "Running" if each["DesiredState"]["StateType"] == 1 else "Stopped",
            str(each["Revision"]),
            age(each["CreateTime"], now) + " ago",
            age(each["ModifyTime"], now) + " ago",
            each["ComputeState"]["Message"],
        ]
        for each in executions
    ]
    print_table(header, rows, width=terminal_width())


def _print_history(items: list[Json]) -> None:
    rows = [
        [item["Time"].replace("T", " ").rstrip("Z")[:23], item["Event"]["Topic"], item["Event"]["Message"]]
        for item in items
    ]
    print_table(["TIME", "TOPIC", "EVENT"], rows, width=terminal_width())


def _print_pairs(pairs: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        first, *more = value.split("\n")
        print(f"{name.ljust(width)} = {clean(first)}")
        for each in more:
            print(f"{' ' * width}   {clean(each)}")


def _section(title: str) -> None:
    print(f"\n{title}")


def _state(each: Json) -> str:
    return STATES.get(each["ComputeState"]["StateType"], str(each["ComputeState"]["StateType"]))


def _id(identifier: str, how: ListFormat) -> str:
    return identifier if how.wide else short(identifier)
