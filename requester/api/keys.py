"""Under which keys the application and a request carry what handlers need."""

from typing import Any, Final

from aiohttp import web

from requester.verbs import Verbs

VERBS: Final = web.AppKey("verbs", Verbs)
BUILD: Final = web.AppKey("build", dict[str, Any])
CLIENT: Final = "client"
"""Request key: who asks, as far as known."""
