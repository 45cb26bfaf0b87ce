"""What a Kubo node says that goes wrong, as our faults.

Knows: Kubo's words, by which alone most of its errors are told apart. Must not know: how it is asked.
"""

from typing import Final

import msgspec
from msgspec import Struct

from protocol.errors import Denied, Exhausted, Fault, Invalid, NotFound, TimedOut, Unavailable
from storage.multiaddr import Endpoint

_MISSING: Final = (
    "not found",
    "could not find",
    "could not resolve name",
    "no link named",
    "no link by that name",
    "does not exist",
    "no such file",
    "called on wrong kind",  # a path that goes on below a file
)
_MALFORMED: Final = ("invalid path", "invalid cid")
_NO_FILE: Final = ("unrecognized object type", "not unixfs", "expected protobuf", "proto:")
API_HINT: Final = (
    "Is this the address of Kubo's RPC API? `ipfs config Addresses.API` prints it; what `ipfs id` prints are those of its "
    "swarm."
)
_OFFLINE: Final = "(offline)"
"""How the words of a node end that has not asked any other."""


class _Error(Struct, frozen=True, rename="pascal"):
    message: str


def fault_of(what: str, status: int, body: bytes, node: Endpoint, silence_s: float) -> Fault:
    """What an answer of the `node` that is not 200 says about `what`. `silence_s` is how long Kubo was told to seek."""
    where = node.url
    try:
        message = msgspec.json.decode(body, type=_Error).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = body[:200].decode(errors="replace").strip()
    if status in (401, 403):
        return Denied(
            f"{what}: Kubo at {where} denies access (status {status})", hint="See API.Authorizations."
        )
    if status != 500:
        return Unavailable(f"{what}: {where} does not answer as Kubo does (status {status})", hint=API_HINT)
    lower = message.lower()
    said = f"{what}: {message[:300]} (Kubo at {where})"
    if "failed to dial" in lower:
        return Unavailable(said)
    if "deadline exceeded" in lower or "timeout" in lower:
        return silent(what, silence_s, where)
    if any(text in lower for text in _MISSING):
        return NotFound(said, hint=_missing_hint(lower, node.given))
    if "service not known" in lower:
        return Invalid(said, hint="Tell that Kubo of it: ipfs pin remote service add NAME URL KEY.")
    if any(text in lower for text in _MALFORMED):
        return Invalid(said)
    if any(text in lower for text in _NO_FILE):
        return Invalid(said, hint="What is there is no file or folder as `ipfs add` makes them.")
    if "no space left" in lower or "storagemax" in lower:
        return Exhausted(said, hint="Free space on the Kubo node's disk.")
    return Unavailable(said)


def silent(what: str, silence_s: float, where: str) -> TimedOut:
    """The fault of something that the network does not bring."""
    return TimedOut(
        f"{what}: nothing came for {silence_s:g} s (Kubo at {where})",
        hint="Perhaps no node that can be reached has it. See whom this one reaches with `ipfs swarm peers`, connect it to "
        "one that has it with `ipfs swarm connect`, or pin it on one that it reaches.",
    )


def _missing_hint(words: str, node: str) -> str:
    """What to do about something that is not there, by Kubo's words in small letters."""
    if "no link" in words:
        return "See what there is: ipfs ls CID."
    if _OFFLINE in words:
        return (
            f"The node at {node} asks no other node for it: start it without --offline, see whom it reaches with "
            "`ipfs swarm peers`, or name a node that has it with --ipfs-connect."
        )
    return ""
