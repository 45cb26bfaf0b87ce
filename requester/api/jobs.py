"""The routes about jobs: submit, rerun, diff, list, describe, stop, versions, history, executions, explain.

Knows: bodies and parameters of Bacalhau's paths. Must not know: how a verb is carried out. A handler decodes, calls one
verb (two for ``include``), and encodes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from protocol.errors import Invalid
from protocol.spec import Reading, read_body
from requester.api import explanations, queries, views
from requester.api.clients import NAMES_ARE_IDENTITIES, is_before, version_of
from requester.api.envelope import answer, listed
from requester.api.keys import CLIENT, DEFAULTS, SIGNER, VERBS
from requester.core.model import HistoryItem, JobRecord
from requester.verbs import HistoryQuery, JobQuery, Submission
from storage.forms import look

routes = web.RouteTableDef()
BASE: Final = "/api/v1/orchestrator/jobs"
INCLUDED_MAX: Final = 1_000
"""Lines of history that are told with a job, the newest; its own route has all of them."""

_ORDERS: Final = {
    "created_at": "created_at",
    "create_time": "created_at",
    "modified_at": "modified_at",
    "modify_time": "modified_at",
}
_KINDS: Final = {
    "": "all",
    "all": "all",
    "job": "job",
    "joblevel": "job",
    "execution": "execution",
    "executionlevel": "execution",
}


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. An empty body is an empty object. Raises `Invalid`."""
    data = await request.read()
    if not data.strip():
        return {}
    try:
        body = msgspec.json.decode(data)
    except RecursionError as error:
        raise Invalid("the request's body is nested too deep for any job") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the request's body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Invalid("the request's body must be a JSON object")
    return body


def member(body: dict[str, Any], name: str) -> Any:
    """A member of a body whatever its case, or None."""
    return next((value for key, value in body.items() if key.lower() == name), None)


@routes.put(BASE)
@routes.post(BASE)
async def submit(request: web.Request) -> web.Response:
    body = await body_of(request)
    reading = _reading(body, request)
    if any(task.publisher.type.lower() == "s3managed" for task in reading.job.tasks):
        request.app[SIGNER].check_managed()
    is_older = is_before(version_of(request.headers), NAMES_ARE_IDENTITIES)
    submission = await request.app[VERBS].submit(
        reading.job,
        warnings=reading.warnings,
        client=request.get(CLIENT, ""),
        force=is_older or bool(member(body, "force")),
    )
    told = [_is_next_version(reading.job.name, submission)] if is_older and submission.version > 1 else []
    return answer(
        {
            "JobID": submission.job,
            "EvaluationID": views.evaluation_id(submission.job, submission.version, 0),
            "Warnings": [*submission.warnings, *told],
            "JobVersion": submission.version,
        }
    )


def _is_next_version(name: str, submission: Submission) -> str:
    return f"there is a job named {name!r} already: this is version {submission.version} of it and takes its place"


def _reading(body: dict[str, Any], request: web.Request) -> Reading:
    """The job in a body, read and filled in. Raises `Invalid`."""
    job = member(body, "job")
    if not isinstance(job, dict):
        raise Invalid('the body needs a member "Job" that is an object')
    namespace = member(body, "namespace")
    if isinstance(namespace, str) and namespace and not member(job, "namespace"):
        # The Python SDK names the namespace beside the job.
        job = {key: value for key, value in job.items() if key.lower() != "namespace"}
        job["Namespace"] = namespace
    return read_body(job, defaults=request.app[DEFAULTS], look=look)


@routes.put(BASE + "/diff")
async def diff(request: web.Request) -> web.Response:
    reading = _reading(await body_of(request), request)
    text = await request.app[VERBS].changes(reading.job)
    return answer({"Diff": text, "Warnings": reading.warnings})


@routes.put(BASE + "/{ref}/rerun")
async def rerun(request: web.Request) -> web.Response:
    body = await body_of(request)
    version = member(body, "jobversion") or 0
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise Invalid(f"JobVersion {version!r} is not a version's number")
    submission = await request.app[VERBS].rerun(
        request.match_info["ref"],
        namespace=queries.text(request.query, "namespace", str(member(body, "namespace") or "")),
        version=version,
        reason=str(member(body, "reason") or ""),
        client=request.get(CLIENT, ""),
    )
    return answer(
        {
            "JobID": submission.job,
            "JobVersion": submission.version,
            "EvaluationID": views.evaluation_id(submission.job, submission.version, 0),
            "Warnings": submission.warnings,
        }
    )


@routes.get(BASE + "/{ref}/versions")
async def versions(request: web.Request) -> web.Response:
    found = await request.app[VERBS].versions(
        request.match_info["ref"], namespace=queries.text(request.query, "namespace")
    )
    return answer({"NextToken": "", "Items": await listed(found, views.job)})


@routes.get(BASE)
async def list_jobs(request: web.Request) -> web.Response:
    query = request.query
    order_by = _order(queries.text(query, "order_by"))
    reverse = queries.flag(query, "reverse")
    limit, offset = queries.number(query, "limit"), 0
    if token := queries.text(query, "next_token"):
        kept_order, direction, kept_limit, start = queries.unpack(token, 4)
        order_by, reverse = _order(kept_order), direction == "Y"
        limit, offset = limit or queries.whole(kept_limit), queries.whole(start)
    limit = min(limit or queries.LIMIT_MAX, queries.LIMIT_MAX)
    namespace = queries.text(query, "namespace")
    records, more = await request.app[VERBS].jobs(
        JobQuery(
            namespace="" if namespace == "*" else namespace,
            labels=[label for label in query.getall("labels", []) if label],
            state=queries.text(query, "state"),
            order_by=order_by,
            reverse=reverse,
            limit=limit,
            offset=offset,
        )
    )
    token = queries.pack(order_by, "Y" if reverse else "N", limit, offset + len(records)) if more else ""
    return answer({"NextToken": token, "Items": await listed(records, views.job)})


@routes.get(BASE + "/{ref}")
async def describe(request: web.Request) -> web.Response:
    record = await job_of(request)
    view: dict[str, Any] = {"Job": views.job(record)}
    place = request.app[VERBS].queue_place(record)
    if place is not None:
        view["Queue"] = views.queue_place(place)
    resting = request.app[VERBS].next_attempt(record)
    if resting is not None:
        view["NextAttempt"] = views.timestamp(resting)
    left = request.app[VERBS].entries_left(record)
    if left is not None:
        view["EntriesLeft"] = left
    include = {
        part.strip().lower() for value in request.query.getall("include", []) for part in value.split(",")
    }
    if include & {"executions", "execution"}:
        found = await listed(record.current(), partial(views.execution, job=record))
        view["Executions"] = {"NextToken": "", "Items": found}
        if older := record.older():
            # Beside Bacalhau's list, whose readers take all of it for the present version's.
            view["Older"] = await listed(older, partial(views.execution, job=record))
    if "history" in include:
        page = await request.app[VERBS].history(
            record.id,
            HistoryQuery(version=record.version, limit=INCLUDED_MAX, newest=True),
            namespace=record.spec.namespace,
        )
        view["History"] = {"NextToken": "", "Items": await listed(page.items, _line_for(request))}
        if page.more:
            view["History"]["Earlier"] = True
    return answer(view)


@routes.delete(BASE + "/{ref}")
async def stop(request: web.Request) -> web.Response:
    reason = queries.text(request.query, "reason") or str(member(await body_of(request), "reason") or "")
    record = await request.app[VERBS].stop(
        request.match_info["ref"],
        namespace=queries.text(request.query, "namespace"),
        reason=reason,
        client=request.get(CLIENT, ""),
    )
    return answer({"EvaluationID": views.evaluation_id(record.id, record.version, record.revision)})


@routes.put(BASE + "/{ref}/delete")
async def delete(request: web.Request) -> web.Response:
    body = await body_of(request)
    record = await request.app[VERBS].delete(
        request.match_info["ref"],
        namespace=queries.text(request.query, "namespace", str(member(body, "namespace") or "")),
        reason=str(member(body, "reason") or ""),
        client=request.get(CLIENT, ""),
    )
    return answer({"JobID": record.id})


@routes.get(BASE + "/{ref}/history")
async def history(request: web.Request) -> web.Response:
    query = request.query
    kind = queries.text(query, "event_type").lower()
    if kind not in _KINDS:
        raise Invalid(f"event_type {kind!r} is not one of all, job, execution")
    after = (0, -1)
    if token := queries.text(query, "next_token"):
        seq, index = queries.unpack(token, 2)
        after = (queries.whole(seq), queries.whole(index))
    page = await request.app[VERBS].history(
        request.match_info["ref"],
        HistoryQuery(
            after=after,
            since=float(queries.number(query, "since")),
            kind=_KINDS[kind],
            execution=queries.text(query, "execution_id"),
            version=queries.number(query, "job_version"),
            all_versions=queries.flag(query, "all_job_versions"),
            limit=min(queries.number(query, "limit") or 100, queries.LIMIT_MAX),
        ),
        namespace=queries.text(query, "namespace"),
    )
    if page.items:
        after = (page.items[-1].seq, page.items[-1].index)
    items = page.items
    if node := queries.text(query, "node_id"):
        items = await _on_node(request, node, items)
    return answer(
        {
            "NextToken": "" if page.ended else queries.pack(*after),
            "Items": await listed(items, _line_for(request)),
        }
    )


def _line_for(request: web.Request) -> Callable[[HistoryItem], dict[str, Any]]:
    """How a line of history looks for the client that asks."""
    is_older = is_before(version_of(request.headers), (1, 5, 0))
    return views.history_item_of_1_4 if is_older else views.history_item


async def _on_node(request: web.Request, node: str, items: list[HistoryItem]) -> list[HistoryItem]:
    """The items of executions on one node: the filter of 1.4, which later versions only ignore."""
    found = await request.app[VERBS].executions(
        request.match_info["ref"], namespace=queries.text(request.query, "namespace"), all_versions=True
    )
    there = {each.id for each in found if each.node == node}
    return [item for item in items if item.execution in there]


@routes.get(BASE + "/{ref}/executions")
async def executions(request: web.Request) -> web.Response:
    query = request.query
    order_by = _order(queries.text(query, "order_by"))
    record = await job_of(request)
    found = await request.app[VERBS].executions(
        record.id,
        namespace=record.spec.namespace,
        version=queries.number(query, "job_version"),
        all_versions=queries.flag(query, "all_job_versions"),
    )
    found = sorted(found, key=lambda one: getattr(one, order_by), reverse=queries.flag(query, "reverse"))
    limit = queries.number(query, "limit")
    shown = await listed(found[:limit] if limit else found, partial(views.execution, job=record))
    return answer({"NextToken": "", "Items": shown})


@routes.get(BASE + "/{ref}/explain")
async def explain(request: web.Request) -> web.Response:
    found = await request.app[VERBS].explain(
        request.match_info["ref"], namespace=queries.text(request.query, "namespace")
    )
    decisions = await listed(found.job.current(), explanations.decision)
    return answer(
        explanations.explanation(found, decisions, await listed(found.nodes, explanations.standing))
    )


async def job_of(request: web.Request) -> JobRecord:
    """The job that the path names. Raises `NotFound`, `Conflict`."""
    return await request.app[VERBS].job(
        request.match_info["ref"],
        namespace=queries.text(request.query, "namespace"),
        version=queries.number(request.query, "job_version"),
    )


def _order(order_by: str) -> str:
    if order_by and order_by not in _ORDERS:
        raise Invalid(f"order_by {order_by!r} is not one of {', '.join(_ORDERS)}")
    return _ORDERS.get(order_by, "created_at")
