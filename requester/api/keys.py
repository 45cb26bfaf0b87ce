"""Under which keys the application and a request carry what handlers need.

Knows: keys, and the types of what is under them. Must not know: who puts it there, or what is done with it.
"""

from typing import Any, Final

from aiohttp import web

from protocol.patience import Patience
from protocol.spec import Defaults
from requester.verbs import Verbs
from storage.s3.results import ResultSigner

VERBS: Final = web.AppKey("verbs", Verbs)
BUILD: Final = web.AppKey("build", dict[str, Any])
CONFIG: Final = web.AppKey("config", dict[str, Any])
"""The settings in force, as they are told."""
DEFAULTS: Final = web.AppKey("defaults", Defaults)
HEADERS: Final = web.AppKey("headers", dict[str, str])
"""What every answer carries."""
PATIENCE: Final = web.AppKey("patience", Patience)
"""How long an answer may take that is not a stream."""
SIGNER: Final = web.AppKey("signer", ResultSigner)
"""Makes links to results in S3."""
CLIENT: Final = web.RequestKey("client", str)
"""Who asks, as far as known."""
REQUEST_ID: Final = web.RequestKey("request_id", str)
"""The request's id, the client's own if it gave one."""
