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

routes = web.RouteTableDef()
log = structlog.get_logger("requester.api")

SUFFIX: Final = ".tar.gz"
TAKEN_S: Final = 120.0
"""A client that takes no piece of a result for this long is cut off; pieces have half a mebibyte at most."""


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
    headers = {"Content-Type": "application/gzip", "Accept-Ranges": "bytes", "ETag": f'"{kept.version}"'}
    wanted = _range(request, kept)
    if wanted is None:
        headers["Content-Range"] = f"bytes */{kept.size_bytes}"
        return web.Response(status=416, headers=headers)
    whole = len(wanted) == kept.size_bytes
    if not whole:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{kept.size_bytes}"
    response = web.StreamResponse(status=200 if whole else 206, headers=headers)
    response.content_length = len(wanted)
    await response.prepare(request)
    if request.method != "HEAD":
        await _pass_on(request, response, kept, wanted)
    return response


async def _pass_on(request: web.Request, response: web.StreamResponse, kept: Archive, wanted: range) -> None:
    at = wanted.start
    try:
        while at < wanted.stop:
            piece = (await kept.read(at))[: wanted.stop - at]
            # The server closes no connection because its other side takes nothing.
            async with asyncio.timeout(TAKEN_S):
                await response.write(piece)
            at += len(piece)
    except (Fault, TimeoutError) as fault:
        # The length has been told already: only a connection that is cut says that this is not all.
        log.warning("a result broke off", path=request.path, fault=str(fault) or "nobody took it")
        if request.transport is not None:
            request.transport.abort()


def _range(request: web.Request, kept: Archive) -> range | None:
    """The bytes that are asked for: all of them if no range is, or one of another version. None for what is not there."""
    size = kept.size_bytes
    same = request.headers.get("If-Range", f'"{kept.version}"') == f'"{kept.version}"'
    try:
        wanted = request.http_range
    except ValueError:
        return range(size)
    if not same or (wanted.start is None and wanted.stop is None):
        return range(size)
    start = wanted.start or 0
    start = max(size + start, 0) if start < 0 else start
    stop = size if wanted.stop is None else min(wanted.stop, size)
    return range(start, stop) if start < stop else None


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
