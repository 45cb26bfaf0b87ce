"""The routes about results: what was published, and the bytes of what a node keeps for those who cannot reach the node.

Knows: Bacalhau's path of results, and HTTP's ranges. Must not know: how a node is asked. Bacalhau's clients download the URL
that they are told: a link to the node itself, or one to this requester where the node's own leads no further than its
machine and whoever asks is on another. A result in S3 they read by a link that this requester signs; with ``links=true`` a
tree of objects too, one link an object.
"""

import asyncio
import ipaddress
from typing import Any, Final

import structlog
from aiohttp import web
from msgspec.structs import replace
from yarl import URL

from protocol.errors import Fault
from protocol.jobs import Spec
from requester.api import queries, views
from requester.api.envelope import answer
from requester.api.jobs import BASE
from requester.api.keys import SIGNER, VERBS
from requester.core.model import ExecutionRecord
from requester.verbs import Archive
from storage.http_part import TAKEN_S, Part, part_of

routes = web.RouteTableDef()
log = structlog.get_logger("requester.api")

SUFFIX: Final = ".tar.gz"


@routes.get(BASE + "/{ref}/results")
async def results(request: web.Request) -> web.Response:
    found = await request.app[VERBS].results(
        request.match_info["ref"], namespace=queries.text(request.query, "namespace")
    )
    root = f"{request.scheme}://{request.host}"
    near = [within_reach(record, request.remote, root) for record in found]
    shown = await request.app[SIGNER].shown_all(
        [each.result or Spec() for each in near], objects=queries.flag(request.query, "links")
    )
    items = [views.result(each, told) for each, told in zip(near, shown, strict=True)]
    return answer({"NextToken": "", "Items": items})


@routes.get(BASE + "/{ref}/results/{execution}" + SUFFIX)
async def archive(request: web.Request) -> web.StreamResponse:
    """A result that its node keeps, brought by this requester piece by piece."""
    kept = await request.app[VERBS].archive(
        request.match_info["ref"],
        request.match_info["execution"],
        namespace=queries.text(request.query, "namespace"),
    )
    etag = f'"{kept.version}"'
    part = part_of(request.headers, kept.size_bytes, etag)
    headers = {"Content-Type": "application/gzip", **part.headers(kept.size_bytes, etag)}
    response = web.StreamResponse(status=part.status, headers=headers)
    if part.status != 304:
        response.content_length = part.size_bytes
    await response.prepare(request)
    if request.method != "HEAD":
        await _pass_on(request, response, kept, part)
    return response


async def _pass_on(request: web.Request, response: web.StreamResponse, kept: Archive, part: Part) -> None:
    at = part.start
    try:
        while at < part.stop:
            piece = (await kept.read(at))[: part.stop - at]
            # The server closes no connection because its other side takes nothing; pieces have half a mebibyte at most.
            async with asyncio.timeout(TAKEN_S):
                await response.write(piece)
            at += len(piece)
    except (Fault, TimeoutError) as fault:
        # The length has been told already: only a connection that is cut says that this is not all.
        log.warning("a result broke off", path=request.path, fault=str(fault) or "nobody took it")
        if request.transport is not None:
            request.transport.abort()


def within_reach(record: ExecutionRecord, asker: str | None, root: str) -> ExecutionRecord:
    """The same, with a link through this requester (at `root`) where the node's own is good on the node's machine only.

    `asker` is the address that whoever asks has.
    """
    url: Any = record.result.params.get("URL") if record.result else None
    if not isinstance(url, str) or not _is_loopback(URL(url).host) or _is_loopback(asker):
        return record
    path = f"{BASE}/{record.job}/results/{record.id}{SUFFIX}"
    return replace(record, result=Spec("urlDownload", {"URL": f"{root}{path}"}))


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
