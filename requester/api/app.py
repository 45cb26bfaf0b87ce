"""The HTTP application: routes, the common behaviour of all of them, and its listener.

Knows: what holds for every request (limits, headers, the error envelope). Must not know: any single route.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiohttp import web

from protocol.errors import Fault
from requester.api import agent, jobs, nodes, streams
from requester.api.envelope import answer, of_fault, refusal
from requester.api.keys import BUILD, CLIENT, VERBS
from requester.verbs import Verbs

BODY_MAX_BYTES: Final = 10_000_000
"""Bacalhau's own limit on a request."""
OLDEST_CLIENT: Final = (1, 4, 0)

log = structlog.get_logger("requester.api")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def application(verbs: Verbs, version: str) -> web.Application:
    """All routes over `verbs`."""
    app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[_errors, _client])
    app[VERBS] = verbs
    app[BUILD] = agent.build_info(version)
    for module in (streams, jobs, nodes, agent):
        app.add_routes(module.routes)
    return app


@asynccontextmanager
async def serve_api(verbs: Verbs, host: str, port: int, *, version: str) -> AsyncIterator[tuple[str, int]]:
    """Listen while the context is open; gives the address, with the real port when `port` is 0.

    Raises `OSError` when the address cannot be had.
    """
    runner = web.AppRunner(
        application(verbs, version),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=2.0,
        keepalive_timeout=75.0,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1_024)
        await site.start()
        yield host, runner.addresses[0][1]
    finally:
        await runner.cleanup()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure as the envelope; what nobody foresaw is logged here and told without its insides."""
    request_id = request.headers.get("X-Request-Id", "")
    try:
        return await handler(request)
    except Fault as fault:
        return of_fault(fault, request_id=request_id)
    except web.HTTPRequestEntityTooLarge:
        message = f"the request's body is larger than {BODY_MAX_BYTES} bytes"
        return refusal(
            413,
            "RequestEntityTooLarge",
            message,
            hint="publish large data to S3 or IPFS and name it as an input",
        )
    except web.HTTPException as refused:
        return _of_http(refused, request, request_id)
    except Exception:
        log.exception("request failed", method=request.method, path=request.path)
        return refusal(
            500,
            "InternalError",
            "Internal server error",
            hint="see the requester's log",
            request_id=request_id,
        )


def _of_http(refused: web.HTTPException, request: web.Request, request_id: str) -> web.StreamResponse:
    if refused.status < 400:
        return refused
    if refused.status in (404, 405):
        message = f"{request.method} {request.path} is not something this server does."
        hint = "compare the path and the client's version with this server's (GET /api/v1/agent/version)"
        return refusal(refused.status, "NotFound", message, hint=hint, request_id=request_id)
    return refusal(refused.status, "InternalError", refused.reason or "refused", request_id=request_id)


@web.middleware
async def _client(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who asks, and whether that client is too old."""
    request[CLIENT] = request.headers.get("X-Bacalhau-InstallationID", "")
    refused = _too_old(request)
    return refused or await handler(request)


def _too_old(request: web.Request) -> web.Response | None:
    claimed = request.headers.get("X-Bacalhau-Git-Version", "")
    if not claimed or "dev" in claimed:
        return None
    found = _VERSION.match(claimed)
    if found is None:
        return answer({"Error": f"client version {claimed[:40]!r} is not a version"}, status=400)
    if tuple(int(part) for part in found.groups()) >= OLDEST_CLIENT:
        return None
    build: dict[str, Any] = request.app[BUILD]
    return answer(
        {
            "Error": "this client is too old for this server",
            "MinVersion": "v" + ".".join(map(str, OLDEST_CLIENT)),
            "ClientVersion": claimed,
            "ServerVersion": build["GitVersion"],
        },
        status=403,
    )
