"""What a Kubo node answers (https://docs.ipfs.tech/reference/kubo/rpc), as far as we read it.

Knows: the forms of its JSON. Must not know: how it is asked.
"""

from msgspec import Struct, field


class Version(Struct, frozen=True, rename="pascal"):
    """Answer of ``version``."""

    version: str


class Identity(Struct, frozen=True):
    """Answer of ``id``; `agent` is a name and a version, with slashes between and behind: ``kubo/0.43.0/``."""

    id: str = field(name="ID")
    agent: str = field(name="AgentVersion", default="")


class Resolution(Struct, frozen=True, rename="pascal"):
    """Answer of ``resolve``: ``/ipfs/CID``, or with a path."""

    path: str


class Stat(Struct, frozen=True, rename="pascal"):
    """Answer of ``files/stat``; `mode` is octal, with Go's bits for links and others in front. `local` only if asked for."""

    hash: str
    type: str
    size: int = 0
    mode: str = "0"
    local: bool = False


class Link(Struct, frozen=True, rename="pascal"):
    """An entry of a folder as ``ls`` tells it; `type` by UnixFS: see `storage.ipfs.source`."""

    name: str
    hash: str
    size: int
    type: int
    target: str = ""
    mode: int = 0


class _Listed(Struct, frozen=True, rename="pascal"):
    links: list[Link] | None = None


class Listing(Struct, frozen=True, rename="pascal"):
    """Answer of ``ls`` about one folder."""

    objects: list[_Listed]

    @property
    def links(self) -> list[Link]:
        """The folder's entries."""
        return [link for each in self.objects for link in each.links or ()]
