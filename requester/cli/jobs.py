"""The commands about jobs that are there: list, executions, history, versions, stop, delete.

Knows: the columns of their lists. Must not know: how answers come (`requester.client`).
"""

import shlex
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from protocol.ids import short
from requester.cli.endpoint import Api
from requester.cli.exits import CLOSED, Exit, tell
from requester.cli.flags import JobRef, Namespace, Version
from requester.cli.output import (
    Column,
    ListFormat,
    Order,
    Paging,
    WholeList,
    moment,
    print_list,
)
from requester.cli.views import desired_of, state_of, time_of
from requester.client import JOBS, job_path

Json = dict[str, Any]


def list_jobs(
    *,
    labels: Annotated[str, Parameter(help="A label selector: 'team=a,!canary'.")] = "",
    namespace: Annotated[str, Parameter(help="One namespace only; default all.")] = "*",
    state: Annotated[
        Literal["", "pending", "queued", "running", "completed", "failed", "stopped"],
        Parameter(help="Jobs in one state only."),
    ] = "",
    paging: Paging = Paging(),
    order: Order = Order(),
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
            state=state,
            limit=paging.limit,
            next_token=paging.next_token,
            order_by=order.order_by,
            reverse="false" if order.order_reversed else "true",
        )
    print_list(page["Items"] or [], columns, how)
    asked = {"--labels": labels, "--state": state, "--namespace": namespace if namespace != "*" else ""}
    _tell_of_more(["list"], asked, page, paging, how)
    return Exit.OK


def executions(
    job: JobRef,
    /,
    *,
    namespace: Namespace = "",
    version: Version = 0,
    all_versions: Annotated[bool, Parameter(help="Also what has ended of earlier versions.")] = False,
    part: WholeList = WholeList(),
    order: Order = Order(),
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
        ("STATE", state_of),
        ("DESIRED", desired_of),
    ]
    with api.client() as client:
        page = client.call(
            "GET",
            job_path(job, "executions"),
            namespace=namespace,
            job_version=version or "",
            all_job_versions="true" if all_versions else "",
            order_by=order.order_by,
            reverse="true" if order.order_reversed else "",
            limit=part.limit or "",
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
    execution_id: Annotated[str, Parameter(help="Only this execution.")] = "",
    paging: Paging = Paging(limit=1_000),
    order_by: Annotated[str, Parameter(show=False)] = "",
    order_reversed: Annotated[bool, Parameter(show=False)] = False,
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """Tell what happened to a job, the oldest first. (Bacalhau's flags for another order are taken, and do nothing.)"""
    columns: list[Column] = [
        ("TIME", time_of),
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
    # They come in the order in which requesters wrote them down; what a node did it tells when it next has to say something.
    items = sorted(page["Items"] or [], key=time_of)
    print_list(items, columns, how)
    # An open job's history has a token behind its last item too: for what is still to come.
    if len(items) == paging.limit:
        asked = {
            "--namespace": namespace,
            "--version": str(version or ""),
            "--event-type": event_type if event_type != "all" else "",
            "--execution-id": execution_id,
        }
        words = ["history", job, *(["--all-versions"] if all_versions else [])]
        _tell_of_more(words, asked, page, paging, how)
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


def _tell_of_more(
    words: list[str], asked: dict[str, str], page: Json, paging: Paging, how: ListFormat
) -> None:
    """How to see what follows of the same list, for a person; a program has the token. The order is in the token."""
    if page["NextToken"] and how.output == "table":
        flags = {**asked, "--limit": str(paging.limit), "--next-token": page["NextToken"]}
        given = [word for flag, value in flags.items() if value for word in (flag, value)]
        tell(f"\nTo fetch more records use: {shlex.join(['shoal', 'job', *words, *given])}")


def _state_of_version(version: Json, all_versions: list[Json]) -> str:
    """The end of a version; one that was open when the next came has been replaced."""
    state = str(version["State"]["StateType"])
    ended = state in CLOSED
    return state if ended or version is all_versions[-1] else "Replaced"


def _id(identifier: str, how: ListFormat) -> str:
    return identifier if how.wide else short(identifier)
