"""The HTTP application: routes, the common behaviour of all of them, and its listener.

Knows: what holds for every request (limits, headers, the error envelope). Must not know: any single route.
"""

import random
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiohttp import web

from protocol.errors import Fault
from protocol.ids import uuid4_text
from protocol.patience import Patience
from protocol.spec import Defaults
from protocol.spec.bounds import TEXT_MAX_BYTES
from requester.api import agent, clients, files, jobs, metrics, nodes, results, streams
from requester.api.envelope import answer, of_fault, refusal
from requester.api.keys import (
    BUILD,
    CLIENT,
    CONFIG,
    DEFAULTS,
    HEADERS,
    PATIENCE,
    REQUEST_ID,
    SIGNER,
    VERBS,
)
from requester.verbs import Verbs
from storage.s3.results import ResultSigner, Signing

BODY_MAX_BYTES: Final = TEXT_MAX_BYTES
"""Bacalhau's own limit on a request."""
ANSWER_S: Final = 33.0
"""No answer takes longer (streams aside): a little more than what a verb allows itself, a little less than our client."""
CONNECTIONS_WAITING: Final = 1_024
SHUTDOWN_S: Final = 2.0

log = structlog.get_logger("requester.api")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


def application(
    verbs: Verbs,
    version: str,
    defaults: Defaults | None = None,
    signer: ResultSigner | None = None,
    config: dict[str, Any] | None = None,
) -> web.Application:
    """All routes over `verbs`. `defaults` are filled in where a submitted job says nothing; `signer` makes links to results
    (None: nobody does); `config` are the settings in force, for whoever asks."""
    app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[_always])
    app[VERBS] = verbs
    app[BUILD] = build = agent.build_info(version)
    app[HEADERS] = _headers(build)
    app[PATIENCE] = Patience(ANSWER_S)
    app[CONFIG] = config or {}
    app[DEFAULTS] = defaults or Defaults()
    app[SIGNER] = signer or ResultSigner(Signing(disabled=True))
    # Of the paths below one they are tried in this order: what is asked most comes first.
    for module in (jobs, streams, results, files, nodes, agent, metrics):
        app.add_routes(module.routes)
    app.on_response_prepare.append(_add_headers)
    return app


@asynccontextmanager
async def listening(app: web.Application, listener: socket.socket) -> AsyncIterator[int]:
    """Answer on a socket that is bound already, while the context is open; gives its port."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=75.0,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=CONNECTIONS_WAITING).start()
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()


@web.middleware
async def _always(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who asks, and every failure as the envelope; what nobody foresaw is logged here and told without its insides.

    One for all: each layer of middleware costs a request more than what is done in it.
    """
    request[CLIENT] = request.headers.get("X-Bacalhau-InstallationID", "")[:128]
    claimed = request.headers.get("X-Request-Id", "")
    request_id = request[REQUEST_ID] = claimed if _REQUEST_ID.fullmatch(claimed) else _new_id()
    try:
        return _before(request) or await _in_time(request, handler)
    except Fault as fault:
        return of_fault(fault, request_id=request_id)
    except web.HTTPRequestEntityTooLarge:
        message = f"the request's body is larger than {BODY_MAX_BYTES // 2**20} MiB"
        hint = "Publish large data to S3 or IPFS and name it as an input."
        return refusal(413, "RequestEntityTooLarge", message, hint=hint, request_id=request_id)
    except web.HTTPRedirection:
        raise
    except web.HTTPException as refused:
        return _of_http(refused, request, request_id)
    except ConnectionError:
        # The client went away; nobody is there to be told.
        raise
    except Exception:
        log.exception("request failed", method=request.method, path=request.path, request=request_id)
        hint = f"See the requester's log for request {request_id}."
        return refusal(500, "InternalError", "Internal server error", hint=hint, request_id=request_id)


def _new_id() -> str:
    """A request's id in the form of a UUID (version 4)."""
    return uuid4_text(f"{_chance.getrandbits(128):032x}")


_chance = random.Random(secrets.randbits(256))
"""Ids of requests have to be different, not secret: the system is asked for chance once."""


def _of_http(refused: web.HTTPException, request: web.Request, request_id: str) -> web.StreamResponse:
    what = f"{request.method} {request.path[:200]}"
    hint = "Compare the path and the client's version with this server's (GET /api/v1/agent/version)."
    if refused.status == 404:
        message = f"The requested resource/URL was not found: {what}"
        return refusal(404, "NotFound", message, hint=hint, request_id=request_id)
    if isinstance(refused, web.HTTPMethodNotAllowed):
        message = f"{what} is not something this server does"
        allowed = ", ".join(sorted(refused.allowed_methods))
        known = {"Allowed": allowed}
        told = refusal(405, "MethodNotAllowed", message, hint=hint, details=known, request_id=request_id)
        told.headers["Allow"] = allowed
        return told
    return refusal(refused.status, "InternalError", refused.reason or "refused", request_id=request_id)


def _before(request: web.Request) -> web.Response | None:
    """The answer to what no handler is asked: a client that is too old, a browser's question whether it may ask at all."""
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return web.Response(headers=_preflight(request))
    return _too_old(request)


_WITHOUT_END: Final = frozenset({*streams.ENDLESS, results.archive})


async def _in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No answer takes for ever; streams have their own rhythm."""
    if request.match_info.handler in _WITHOUT_END:
        return await handler(request)
    try:
        with request.app[PATIENCE].once():
            return await handler(request)
    except TimeoutError:
        message = f"{request.method} {request.path[:200]} took longer than {ANSWER_S:g} s"
        return refusal(503, "ServiceUnavailable", message, request_id=request[REQUEST_ID])


def _preflight(request: web.Request) -> dict[str, str]:
    return {
        "Access-Control-Allow-Methods": "GET, HEAD, PUT, POST, DELETE",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ""),
    }


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    headers = response.headers
    headers.update(request.app[HEADERS])
    headers["X-Request-Id"] = request.get(REQUEST_ID, "")


def _headers(build: dict[str, str]) -> dict[str, str]:
    """What every answer carries beside the request's id: the versions as Bacalhau's clients read them."""
    return {
        "Access-Control-Allow-Origin": "*",
        "X-Bacalhau-Git-Version": build["GitVersion"],
        "X-Bacalhau-Git-Commit": build["GitCommit"],
        "X-Bacalhau-Build-Date": build["BuildDate"],
        "X-Bacalhau-Build-OS": build["GOOS"],
        "X-Bacalhau-Arch": build["GOARCH"],
    }


def _too_old(request: web.Request) -> web.Response | None:
    claimed = request.headers.get(clients.VERSION_HEADER, "")
    if not claimed:
        return None
    version = clients.version_of(request.headers)
    if version is None:
        return answer({"Error": f"client version {claimed[:40]!r} is not a version"}, status=400)
    if not clients.is_before(version, clients.OLDEST):
        return None
    build: dict[str, Any] = request.app[BUILD]
    return answer(
        {
            "Error": "this client is too old for this server",
            "MinVersion": "v" + ".".join(map(str, clients.OLDEST)),
            "ClientVersion": claimed,
            "ServerVersion": build["GitVersion"],
        },
        status=403,
    )
