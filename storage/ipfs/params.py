"""What a job may say to the IPFS drivers, and what a node may.

Knows: how people write CIDs. Must not know: a node.
"""

from typing import Final

import libipld
from msgspec import Struct, field

from protocol.errors import Invalid

PREFIXES: Final = ("ipfs://", "/ipfs/", "ipfs/")
PATH_MAX: Final = 4096


class SourceParams(Struct, frozen=True):
    """An input: a CID of version 0 or 1, and maybe a path below it: ``CID``, ``CID/path``, ``ipfs://CID/path``."""

    cid: str = field(name="CID")

    def __post_init__(self) -> None:
        split_path(self.cid)

    @property
    def path(self) -> str:
        """``/ipfs/CID/path`` as Kubo wants it."""
        return "/".join(("/ipfs", *split_path(self.cid)))


class PublisherParams(Struct, frozen=True):
    """Publishing to IPFS needs no params."""


class IpfsSettings(Struct, frozen=True):
    """What a node says to the IPFS drivers. Times in seconds.

    `silence_s` is how long the network may bring nothing of what was asked for: a CID that nobody has ends there.
    `answer_s` is for questions that the Kubo node answers by itself. `requests` run at once in a fetch, each for a part of
    `part_bytes`. `gateway` lets files be read through the node's own gateway where there is one, which is faster.
    An input has at most `entries` files and folders and `max_bytes`.
    """

    connect_s: float = 5.0
    answer_s: float = 20.0
    silence_s: float = 60.0
    requests: int = 2
    small_requests: int = 8
    part_bytes: int = 256 << 20
    entries: int = 1_000_000
    max_bytes: int | None = None
    gateway: bool = True


def split_path(text: str) -> list[str]:
    """The CID and the path's components. Raises `Invalid`, which quotes what is not a CID or not a path."""
    rest = text.strip()
    for prefix in PREFIXES:
        if rest.startswith(prefix):
            rest = rest.removeprefix(prefix)
            break
    if rest.startswith(("/ipns/", "ipns://")):
        raise Invalid(f"CID {text!r} is an IPNS name", hint="Resolve it first: ipfs name resolve NAME")
    if len(rest) > PATH_MAX:
        raise Invalid(f"CID has {len(rest)} characters and the limit is {PATH_MAX}")
    cid, *path = rest.rstrip("/").split("/")
    _check_cid(cid, text)
    if ".." in path or "." in path or "" in path or "\0" in rest:
        raise Invalid(f"CID {text!r}: the path behind the CID is not a plain one")
    return [cid, *path]


def _check_cid(cid: str, text: str) -> None:
    hint = "It looks like QmYwAPJz… or bafybei…; the path, if any, comes behind a slash."
    if not cid or not cid.isascii() or not cid.isalnum():
        raise Invalid(f"CID {text!r} is not a content identifier", hint=hint)
    try:
        libipld.decode_cid(cid)
    except ValueError as error:
        raise Invalid(f"CID {text!r} is not a content identifier", hint=hint) from error
