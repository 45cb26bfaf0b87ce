"""What there is below a CID, as a Kubo node tells it: each file, folder and link with its own CID, and its size.

Knows: the entries of folders as ``ls`` tells them, one in a line. Must not know: how bytes come. There may be a million
entries: they are read, checked and packed in threads.
"""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Final, TypeVar

import msgspec
from msgspec import Struct, structs

from protocol.errors import Broken, Exhausted, Invalid
from protocol.together import together
from storage.ipfs.answers import Link, Listing, Stat
from storage.ipfs.cid import is_empty, read_cid
from storage.ipfs.kubo import Kubo
from storage.ipfs.trailers import Reading
from storage.long_lists import Packed
from storage.threads import in_thread
from storage.tree import Entry, Kind, Limits, check_link, safe_parts

T = TypeVar("T")

KINDS: Final = {0: Kind.FILE, 1: Kind.FOLDER, 2: Kind.FILE, 4: Kind.LINK, 5: Kind.FOLDER}
"""UnixFS types: raw, directory, file, symlink, HAMT shard."""
DEPTH_MAX: Final = Limits().depth


class Node(Struct, frozen=True, gc=False, array_like=True):
    """One thing below the root, or the root itself with an empty path. `target` is a link's text."""

    path: str
    cid: str
    kind: Kind
    size_bytes: int = 0
    executable: bool = False
    target: str = ""

    @property
    def entry(self) -> Entry:
        """As a walk over the tree on a disk would tell it."""
        return Entry(self.path, self.kind, self.size_bytes, self.executable, target=self.target)


async def walk(kubo: Kubo, root: Node, cid: str) -> Packed[Node]:
    """Everything below the folder `root` of `cid`, the folders of one depth side by side; those of a depth in the order of
    their paths.

    Raises `Invalid` for what no tree may have, `Exhausted` for too much, and what Kubo says.
    """
    found = Packed(Node)
    folders = Packed(Node, [root])
    for _ in range(DEPTH_MAX):
        if not folders:
            return found
        depth = _Depth(kubo, cid, kubo.settings.entries - len(found))
        await depth.look(folders)
        folders = await in_thread(lambda _: _taken_up(found, depth.nodes))  # noqa: B023
    if folders:
        raise Exhausted(f"{cid} is more than {DEPTH_MAX} folders deep")
    return found


async def asked(kubo: Kubo, command: str, form: type[T], path: str, what: str) -> T:
    """Ask about something that the network may have to bring first."""
    silence_s = kubo.settings.silence_s
    # Kubo is told the limit too, so that it stops seeking; it answers a little before we would give up.
    options = {"arg": path, "timeout": f"{silence_s:g}s"}
    return await kubo.ask(command, form, options, what=what, silence_s=silence_s + 5)


class _Listed(Struct, frozen=True):
    """The entries of a folder, and by its CID each file among them of which no size is told: what faults call the folder."""

    nodes: Packed[Node]
    untold: dict[str, str]


class _Depth:
    """What is in the folders of one depth of the tree of `cid`, `room` things at most: its `nodes`, in any order."""

    def __init__(self, kubo: Kubo, cid: str, room: int) -> None:
        self.nodes = Packed(Node)
        self._kubo = kubo
        self._cid = cid
        self._room = room
        self._lock = threading.Lock()
        self._untold: dict[str, str] = {}

    async def look(self, folders: Packed[Node]) -> None:
        """Look into these folders."""
        at_once = self._kubo.settings.small_requests
        listings = (self._listing(each) for each in folders)
        await self._kubo.once(listings, self._cid, count=min(at_once, len(folders)))
        if not self._untold:
            return
        sizes: dict[str, int] = {}
        waiting = iter(self._untold.items())
        await together(self._ask(waiting, sizes) for _ in range(min(at_once, len(self._untold))))
        self.nodes = await in_thread(lambda _: Packed(Node, _sized(self.nodes, sizes)))

    def _listing(self, folder: Node) -> Reading[_Listed]:
        what = f"{self._cid} {folder.path}".rstrip()
        options = {"arg": f"/ipfs/{folder.cid}", "stream": "true"}
        return Reading(self._kubo, "ls", options, what, partial(self._read, folder, what), self._take)

    def _read(self, folder: Node, what: str, lines: Iterator[bytes]) -> _Listed:
        """What is in a folder, as the lines tell it; each counts as it comes, for several folders do so at once. Blocks."""
        nodes = Packed(Node)
        untold: dict[str, str] = {}
        decoder = msgspec.json.Decoder(Listing)
        for line in lines:
            try:
                links = decoder.decode(line).links
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                url = self._kubo.endpoint.url
                raise Broken(f"{what}: {url} does not answer as Kubo does") from error
            self._count(len(links))
            for link in links:
                node = _node(folder, link, what)
                nodes.append(node)
                # Kubo tells of a raw block what its folder says; some tools write no size there.
                if node.kind is Kind.FILE and not node.size_bytes and not is_empty(read_cid(node.cid)):
                    untold[node.cid] = what
        return _Listed(nodes, untold)

    def _count(self, more: int) -> None:
        """Take up so much of the room. From any thread."""
        with self._lock:
            self._room -= more
            if self._room < 0:
                limit = self._kubo.settings.entries
                raise Exhausted(f"{self._cid} holds more than {limit} files and folders")

    def _take(self, listed: _Listed) -> None:
        """Add a folder's entries. From any thread."""
        with self._lock:
            self.nodes.extend(listed.nodes)
            self._untold |= listed.untold

    async def _ask(self, waiting: Iterator[tuple[str, str]], sizes: dict[str, int]) -> None:
        """Ask for the sizes that no folder tells."""
        for cid, what in waiting:
            sizes[cid] = (await asked(self._kubo, "files/stat", Stat, f"/ipfs/{cid}", what)).size


def _sized(nodes: Packed[Node], sizes: dict[str, int]) -> Iterator[Node]:
    for each in nodes:
        yield structs.replace(each, size_bytes=sizes[each.cid]) if each.cid in sizes else each


def _taken_up(found: Packed[Node], level: Packed[Node]) -> Packed[Node]:
    """Add what is of one depth; the folders among it."""
    folders = Packed(Node)
    for node in level.in_order(lambda each: each.path):
        found.append(node)
        if node.kind is Kind.FOLDER:
            folders.append(node)
    return folders


def _node(folder: Node, link: Link, what: str) -> Node:
    """An entry of a folder, its name and target checked before anything is fetched."""
    kind = KINDS.get(link.type)
    if kind is None:
        raise Invalid(
            f"{what}: {link.name!r} is neither a file, a folder nor a link (UnixFS type {link.type})"
        )
    if "/" in link.name or safe_parts(link.name) != (link.name,):
        raise Invalid(
            f"{what}: the name {link.name!r} is refused", hint="Rename it where it comes from.", kind="Name"
        )
    path = f"{folder.path}/{link.name}" if folder.path else link.name
    if kind is Kind.LINK:
        try:
            check_link(path, link.target)
        except Invalid as fault:
            raise Invalid(f"{what}: {fault.message}", hint=fault.hint, kind=fault.kind) from None
        return Node(path, link.hash, kind, target=link.target)
    size = link.size if kind is Kind.FILE else 0
    return Node(path, link.hash, kind, size, is_executable(link.mode))


def is_executable(mode: int) -> bool:
    """Whether a mode lets anybody execute the file."""
    return bool(mode & 0o111)
