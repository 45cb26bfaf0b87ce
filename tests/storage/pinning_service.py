"""A small pinning service: the public API (https://ipfs.github.io/pinning-services-api-spec) over real HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.storage.s3_world import serving

KEY = "a-secret-token"


class PinningService:
    """Says that it has a pin after `polls` questions, or that it failed; `requests` are what it was asked."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.pins: dict[str, dict[str, Any]] = {}
        self.polls = 2
        self.end = "pinned"
        self.asked: list[str] = []

    @property
    def cids(self) -> dict[str, str]:
        """The names of all pins, by their CID."""
        return {pin["pin"]["cid"]: pin["pin"]["name"] for pin in self.pins.values()}

    async def answer(self, request: web.Request) -> web.Response:
        """Every request."""
        self.asked.append(f"{request.method} {request.path_qs}")
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"reason": "UNAUTHORIZED"}}, status=401)
        key = request.path.removeprefix("/pins").strip("/")
        if request.method == "POST":
            return web.json_response(self._add(await request.json()), status=202)
        if request.method == "DELETE":
            self.pins.pop(key, None)
            return web.Response(status=202)
        for pin in self.pins.values():
            pin["left"] -= 1
            pin["status"] = self.end if pin["left"] <= 0 else "pinning"
        states = ",".join(request.query.getall("status", ["pinned"])).split(",")
        cids = request.query.get("cid", "").split(",")
        found = [
            self._shown(pin)
            for pin in self.pins.values()
            if pin["status"] in states and (pin["pin"]["cid"] in cids or cids == [""])
        ]
        return web.json_response({"count": len(found), "results": found})

    def _add(self, pin: dict[str, Any]) -> dict[str, Any]:
        key = f"pin-{len(self.pins)}"
        self.pins[key] = {"requestid": key, "status": "queued", "pin": pin, "left": self.polls}
        return self._shown(self.pins[key])

    def _shown(self, pin: dict[str, Any]) -> dict[str, Any]:
        shown = {key: value for key, value in pin.items() if key != "left"}
        return shown | {"created": "2026-01-01T00:00:00Z", "delegates": [], "info": {}}


@asynccontextmanager
async def pinning_service() -> AsyncIterator[PinningService]:
    """A service on a free port of loopback."""
    service = PinningService()
    async with serving(service.answer) as url:
        service.endpoint = url
        yield service
