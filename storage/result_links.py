"""Links to results: for a while, to one thing, and not to be guessed.

Knows: what a link says and how it is vouched for. Must not know: servers or files; whoever asks tells the time. A link's
token is the time of its end and a signature (HMAC-SHA-256, 128 bits of it) of that and of the name, under a key that its
node alone has: it needs no memory, and whoever has one link can make no other.
"""

import hmac
import re
from typing import Final

from protocol.errors import Denied, NotFound

TOKEN: Final = r"[0-9a-f]{8,12}-[0-9a-f]{32}"
_TOKEN: Final = re.compile(TOKEN)


def token(key: bytes, name: str, until: float) -> str:
    """What stands in a link to `name` that is good until then (unix seconds)."""
    end = f"{int(until):08x}"
    return f"{end}-{_signature(key, name, end)}"


def check(key: bytes, name: str, given: str, now: float) -> None:
    """Raise `NotFound` unless this token was made for that name, `Denied` if its time is over."""
    end, _, signature = given.partition("-")
    if not _TOKEN.fullmatch(given) or not hmac.compare_digest(signature, _signature(key, name, end)):
        raise NotFound("There is no such result.")
    if now > int(end, 16):
        raise Denied(
            "This link has expired.", hint="Ask a requester for the job's results: its links are new."
        )


def _signature(key: bytes, name: str, end: str) -> str:
    return hmac.digest(key, f"{end}/{name}".encode(), "sha256").hex()[:32]
