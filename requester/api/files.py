"""The route that lists what results hold, for those who read no store themselves: ``…/results/files``.

Knows: pages, and which execution's list they are at. Must not know: where a list comes from (`requester.verbs`), or what a
row is (`requester.written`). Nothing of a result is read: what is listed is what its execution wrote and its record vouches
for, wherever it lies and whether or not it is still there.
"""

import asyncio
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Raw, Struct
from msgspec.structs import replace

from protocol.errors import Fault, Invalid, NotFound
from protocol.ids import ExecutionId
from protocol.messages import FileWritten, Written
from requester.api import queries, views
from requester.api.envelope import answer
from requester.api.jobs import BASE
from requester.api.keys import VERBS
from requester.core.model import ExecutionRecord
from requester.verbs import Verbs
from requester.written import has_all, is_below, rows_of
from storage.long_lists import let_go

routes = web.RouteTableDef()
Json = dict[str, Any]

LISTS_MAX: Final = 16
"""Lists that nodes are asked for, for one answer; then there is a next page."""


class Listed(Struct, frozen=True):
    """What is known of what one execution wrote: a page of its rows, each as it is told, whether there are `more` behind it,
    whether a node was asked for them, and why they are not all."""

    rows: list[Raw]
    more: bool = False
    asked: bool = False
    lacking: Json | None = None


class Page(Struct, frozen=True):
    """Which rows are wanted: those at `path` and below, from the one of that number on, so many at most."""

    path: str
    index: int
    limit: int


@routes.get(BASE + "/{ref}/results/files")
async def files(request: web.Request) -> web.Response:
    query, verbs = request.query, request.app[VERBS]
    job = await verbs.job(request.match_info["ref"], namespace=queries.text(query, "namespace"))
    wanted, path = queries.text(query, "execution_id"), queries.text(query, "path")
    limit = min(queries.number(query, "limit") or queries.LIMIT_MAX, queries.LIMIT_MAX)
    found = [each for each in job.published() if each.id.startswith(wanted)]
    if wanted and not found:
        raise NotFound(
            f"job {job.id} has no result of an execution {wanted!r}",
            hint="List its executions with: job executions",
        )
    number, index = _place(queries.text(query, "next_token"), found)
    items: list[Raw] = []
    lacking: list[Json] = []
    asked, token = 0, ""
    for each in found[number:]:
        if len(items) >= limit or asked >= LISTS_MAX:
            token = queries.pack(each.id, 0)
            break
        listed = await _listed(verbs, each, Page(path, index, limit - len(items)))
        asked += listed.asked
        items += listed.rows
        lacking += [listed.lacking] if listed.lacking else []
        if listed.more:
            token = queries.pack(each.id, index + len(listed.rows))
            break
        index = 0
    return answer({"Items": items, "Incomplete": lacking, "NextToken": token})


def _place(token: str, found: list[ExecutionRecord]) -> tuple[int, int]:
    """Where a page begins: the number of the execution, and of the row in its list. Raises `Invalid`."""
    if not token:
        return 0, 0
    execution, index = queries.unpack(token, 2)
    number = next((number for number, each in enumerate(found) if each.id == execution), None)
    if number is None:
        raise Invalid(
            f"execution {execution[:64]} has no result any more", hint="Start again without next_token."
        )
    return number, max(queries.whole(index), 0)


async def _listed(verbs: Verbs, record: ExecutionRecord, page: Page) -> Listed:
    """All that is known of that page of what an execution wrote."""
    written = record.written
    if written is None:
        return Listed([], lacking=_lacking(record, 0, "its node has not told what it wrote"))
    why, hint = "", ""
    known: list[FileWritten] = written.files
    asked = len(known) < written.count
    if asked:
        try:
            known = await verbs.files(record)
        except Fault as fault:
            why, hint = fault.message, fault.hint
    count, told = len(known), replace(written, files=known)
    # Hundreds of thousands of rows must not hold up other calls.
    work = partial(_paged, told, record.id, page)
    rows, more, whole = await asyncio.to_thread(partial(work, forget=not why)) if asked else work()
    if not why and not whole:
        of = "its" if written.others is None else f"its {written.others}"
        others = len(written.links) + len(written.folders)
        why = f"of {of} links and empty folders {others} are known"
    return Listed(rows, more, asked, _lacking(record, count, why, hint) if why else None)


def _paged(
    written: Written, execution: ExecutionId, page: Page, *, forget: bool = False
) -> tuple[list[Raw], bool, bool]:
    """The page, whether there are more rows, and whether the record names all that was written. `forget` says that nobody
    else has the list of its files."""
    view = views.written(written)
    rows = rows_of(view)
    below = (each for each in rows if is_below(each["Path"], page.path))
    wanted = islice(below, page.index, page.index + page.limit)
    told = [Raw(msgspec.json.encode({"ExecutionID": execution, **each})) for each in wanted]
    more = next(below, None) is not None
    whole = has_all(view)
    for each in (rows, view["Files"], written.files if forget else []):
        let_go(each)
    return told, more, whole


def _lacking(record: ExecutionRecord, known: int, why: str, hint: str = "") -> Json:
    count = record.written.count if record.written else None
    return {"ExecutionID": record.id, "Files": count, "Known": known, "Message": why, "Hint": hint}
