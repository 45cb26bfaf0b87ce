"""The routes about the server itself, and the anonymous part of Bacalhau's authentication.

Knows: what clients ask before they do anything. Must not know: jobs.
"""

import base64
import platform
from typing import Any, Final

from aiohttp import web

from requester.api.envelope import COMPONENT, answer, refusal
from requester.api.keys import BUILD, CONFIG, REQUEST_ID, VERBS

routes = web.RouteTableDef()

COMPATIBLE_WITH: Final = "v1.9.3"
"""Bacalhau's clients compare this with their own version."""
AUTH_METHOD: Final = "clientkey"
"""Written as the peer writes it: its clients put a method's name into a path as they were told it."""
GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def build_info(version: str) -> dict[str, Any]:
    """The answer of ``/agent/version``: Bacalhau's fields, and our own version beside them."""
    machine = platform.machine()
    return {
        "Major": "1",
        "Minor": "9",
        "GitVersion": COMPATIBLE_WITH,
        "GitCommit": "",
        "BuildDate": "2026-01-01T00:00:00Z",
        "GOOS": platform.system().lower(),
        "GOARCH": GO_NAMES.get(machine, machine),
        "Shoal": version,
    }


@routes.get("/api/v1/agent/alive")
async def alive(request: web.Request) -> web.Response:
    return answer({"Status": "OK"})


@routes.get("/livez")
async def livez(request: web.Request) -> web.Response:
    raise web.HTTPMovedPermanently("/api/v1/agent/alive")


@routes.get("/api/v1/livez")
async def legacy_livez(request: web.Request) -> web.Response:
    return answer({"Status": "OK"})


@routes.get("/readyz")
@routes.get("/healthz")
@routes.get("/api/v1/healthz")
async def readyz(request: web.Request) -> web.Response:
    """200 when this requester can take jobs, 503 with the same facts when it cannot."""
    facts = request.app[VERBS].facts()
    ready = facts["connected"] and facts["writable"]
    return answer(facts, status=200 if ready else 503)


@routes.get("/")
@routes.get("/version")
async def to_version(request: web.Request) -> web.Response:
    raise web.HTTPMovedPermanently("/api/v1/agent/version")


@routes.get("/api/v1/agent/version")
async def version(request: web.Request) -> web.Response:
    return answer(request.app[BUILD])


@routes.post("/api/v1/version")
async def legacy_version(request: web.Request) -> web.Response:
    return answer({"VersionInfo": request.app[BUILD], "build_version_info": request.app[BUILD]})


@routes.get("/api/v1/id")
async def identity(request: web.Request) -> web.Response:
    return answer(request.app[VERBS].facts().get("id", ""))


@routes.get("/api/v1/agent/node")
@routes.get("/api/v1/node_info")
async def node(request: web.Request) -> web.Response:
    return answer(
        {
            "NodeID": request.app[VERBS].facts().get("id", ""),
            "NodeType": "Requester",
            "Labels": {},
            "SupportedProtocols": ["shoal/v1"],
            "BacalhauVersion": request.app[BUILD],
        }
    )


@routes.get("/api/v1/agent/debug")
async def debug(request: web.Request) -> web.Response:
    return answer([{"component": "requester", "info": request.app[VERBS].facts()}])


@routes.get("/api/v1/agent/config")
async def config(request: web.Request) -> web.Response:
    return answer({"config": request.app[CONFIG]})


@routes.get("/api/v1/agent/license")
async def no_license(request: web.Request) -> web.Response:
    """404 is how Bacalhau's own server says that it has none."""
    message = "this server has no license, and needs none"
    return refusal(404, "NotFound", message, component=COMPONENT, request_id=request[REQUEST_ID])


@routes.get("/api/v1/agent/authconfig")
async def authconfig(request: web.Request) -> web.Response:
    """No single sign-on: an empty ProviderID says so."""
    return answer({"Version": "1.0.0", "Config": {"ProviderID": ""}})


@routes.get("/api/v1/auth")
async def auth_methods(request: web.Request) -> web.Response:
    """One challenge method: Bacalhau's anonymous client insists on answering exactly one before its first call."""
    phrase = base64.b64encode(str(request.app[VERBS].facts().get("id", "shoal")).encode()).decode()
    return answer(
        {"NextToken": "", "Methods": {AUTH_METHOD: {"type": "challenge", "params": {"InputPhrase": phrase}}}}
    )


@routes.post("/api/v1/auth/{method:(?i:" + AUTH_METHOD + ")}")
async def auth_answer(request: web.Request) -> web.Response:
    """This server is open: any answer gets a token, and no token is asked for."""
    return answer({"Authentication": {"success": True, "token": "anonymous"}})


@routes.route("*", "/api/v1/requester/{rest:.*}")
async def gone(request: web.Request) -> web.Response:
    """Where jobs were submitted before 1.4."""
    hint = "Use a client of version 1.4 or later."
    message = "this part of the API was removed in Bacalhau 1.4"
    return refusal(410, "Gone", message, hint=hint, request_id=request[REQUEST_ID])
