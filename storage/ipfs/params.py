"""What a job may say to the IPFS drivers, and what a node may.

Knows: how people write CIDs. Must not know: a node.
"""

import re
from typing import Final, Literal

import libipld
from msgspec import Struct, field

from protocol.errors import Invalid
from storage.ipfs.cid import DAG_PB, LIBP2P_KEY, RAW

PREFIXES: Final = ("ipfs://", "/ipfs/", "ipfs/")
NAME_PREFIXES: Final = ("ipns://", "/ipns/", "ipns/")
PATH_MAX: Final = 4096
NAME_MAX_BYTES: Final = 255
FILES: Final = frozenset({RAW, DAG_PB})
"""The codecs of UnixFS, by their multicodec numbers."""

_CHUNKER: Final = re.compile(r"size-[1-9]\d{0,6}|rabin(-\d{1,7}){0,3}|buzhash")
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class SourceParams(Struct, frozen=True):
    """An input: a CID of version 0 or 1, and maybe a path below it: ``CID``, ``CID/path``, ``ipfs://CID/path``.

    An IPNS name (``/ipns/k51…``, ``ipns://example.com/path``) in its place is turned into a CID first.
    """

    cid: str = field(name="CID")

    def __post_init__(self) -> None:
        split_path(self.cid)

    @property
    def is_name(self) -> bool:
        """Whether it is a name, which may mean something else tomorrow."""
        return _space(self.cid)[0] == "ipns"

    @property
    def path(self) -> str:
        """``/ipfs/CID/path`` or ``/ipns/NAME/path`` as Kubo wants it."""
        return "/".join(("", _space(self.cid)[0], *split_path(self.cid)))


class PublisherParams(Struct, frozen=True):
    """How a result is added and kept; without params as `ipfs add` does it, pinned by the node.

    `cid_version`, `raw_leaves` and `chunker` (``size-1048576``, ``rabin-…``, ``buzhash``) shape the tree and so its CID.
    `name` is the pin's, by default the execution's id. `remote` is a pinning service that Kubo's owner has named to it
    (``ipfs pin remote service add``): it keeps the result as well.
    """

    cid_version: Literal[0, 1] | None = field(name="CIDVersion", default=None)
    raw_leaves: bool | None = field(name="RawLeaves", default=None)
    chunker: str = field(name="Chunker", default="")
    name: str = field(name="Name", default="")
    remote: str = field(name="RemoteService", default="")

    def __post_init__(self) -> None:
        if self.chunker and not _CHUNKER.fullmatch(self.chunker):
            hint = "It looks like size-262144, rabin-65536-131072-262144 or buzhash."
            raise Invalid(f"Chunker {self.chunker!r} is not understood", hint=hint)
        for field_name, text in (("Name", self.name), ("RemoteService", self.remote)):
            if len(text.encode()) > NAME_MAX_BYTES or not text.isprintable():
                raise Invalid(f"{field_name} is longer than {NAME_MAX_BYTES} bytes or not printable")


class IpfsSettings(Struct, frozen=True):
    """What a node says to the IPFS drivers. Times in seconds.

    `silence_s` is how long the network may bring nothing of what was asked for: a CID that nobody has ends there.
    `retry_s` is the pause before a second try, and doubles. `answer_s` is for questions that the Kubo node answers by
    itself. `requests` run at once in a fetch, each for a part of `part_bytes`. `gateway` lets files be read through the
    node's own gateway where there is one, which is faster.
    `remote_s` is how long a pinning service may take until it has a whole result. An input has at most `entries` files and
    folders and `max_bytes`.
    """

    connect_s: float = 5.0
    answer_s: float = 20.0
    silence_s: float = 60.0
    retry_s: float = 0.2
    remote_s: float = 3600.0
    requests: int = 2
    small_requests: int = 8
    part_bytes: int = 256 << 20
    entries: int = 1_000_000
    max_bytes: int | None = None
    gateway: bool = True


def split_path(text: str) -> list[str]:
    """The CID, or the name, and the path's components. Raises `Invalid`, which quotes what is none or not a path."""
    space, rest = _space(text)
    if len(rest) > PATH_MAX:
        raise Invalid(f"CID has {len(rest)} characters and the limit is {PATH_MAX}")
    cid, *path = rest.rstrip("/").split("/")
    if space == "ipfs":
        _check_cid(cid, text, whole=not path)
    elif not _NAME.fullmatch(cid):
        raise Invalid(
            f"CID {text!r} is not an IPNS name", hint="It looks like /ipns/k51… or /ipns/example.com."
        )
    if ".." in path or "." in path or "" in path or "\0" in rest:
        raise Invalid(
            f"CID {text!r}: the path behind the CID is not a plain one",
            hint="Leave out empty names, . and ..",
        )
    return [cid, *path]


def _space(text: str) -> tuple[str, str]:
    """Whether a text is of ``ipfs`` or of ``ipns``, and what is behind that."""
    rest = text.strip()
    for space, prefixes in (("ipfs", PREFIXES), ("ipns", NAME_PREFIXES)):
        for prefix in prefixes:
            if rest.startswith(prefix):
                return space, rest.removeprefix(prefix)
    return "ipfs", rest


def _check_cid(cid: str, text: str, *, whole: bool) -> None:
    """Raise `Invalid` for what is no CID, and if it is `whole`, without a path, for one that can be no file or folder."""
    hint = "It looks like QmYwAPJz… or bafybei…; the path, if any, comes behind a slash."
    try:
        codec = libipld.decode_cid(cid)["codec"]
    except ValueError as error:
        raise Invalid(f"CID {text!r} is not a content identifier", hint=hint) from error
    if codec == LIBP2P_KEY and whole:
        raise Invalid(f"CID {text!r} is the name of a peer", hint=f"What it has published is at /ipns/{cid}.")
    if codec not in FILES and whole:
        hint = "Files and folders have raw or dag-pb CIDs (Qm…, bafkrei…, bafybei…); below other data a path leads to them."
        raise Invalid(f"CID {text!r} is of codec {codec:#x}, and no file or folder", hint=hint)
