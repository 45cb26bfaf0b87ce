"""Inputs from IPFS: a file or a folder by its CID, or what lies at a path below one.

Knows: UnixFS as Kubo tells it, and how to bring it. Must not know: HTTP beyond what `kubo` and `ranged` hide.

Resolving follows the path to the CID of what is there and walks its folders, so it knows every file's own CID and size;
fetching brings those files, and what comes is exactly as long as was said. Files come through the node's own gateway where
it has one (two and a half times as fast as ``cat``, four times as fast as ``get``, when this was written), else by ``cat``;
either way Kubo has checked each block against its CID.
"""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar
from urllib.parse import quote

from msgspec import Struct

from protocol.errors import Broken, Exhausted, Invalid, Unavailable
from storage.arrival import arriving
from storage.contract import Fetched, Form, Progress, Resolved, Share
from storage.ipfs.blocks import BlockLimits, Blocks
from storage.ipfs.cid import read_cid
from storage.ipfs.driver import IpfsDriver
from storage.ipfs.holders import Gateway, Holder, KuboBlocks
from storage.ipfs.kubo import Kubo, Link, Listing, Resolution, Stat
from storage.ipfs.params import SourceParams
from storage.ipfs.sink import Sink
from storage.ipfs.unixfs import Want
from storage.ranged import Ask, Item, Refusal, check_size, ranged_get, together
from storage.tree import Kind, Limits, TreeWriter, check_link, safe_parts

if TYPE_CHECKING:
    from storage.contract import Source

T = TypeVar("T")

SMALL_FILE_BYTES: Final = 1 << 20
FEW_FILES: Final = 8
LINK_BIT: Final = 1 << 27
"""Go's bit for a symbolic link in a file's mode."""
KINDS: Final = {0: Kind.FILE, 1: Kind.FOLDER, 2: Kind.FILE, 4: Kind.LINK, 5: Kind.FOLDER}
"""UnixFS types: raw, directory, file, symlink, HAMT shard."""
DEPTH_MAX: Final = Limits().depth


class Node(Struct, frozen=True):
    """One thing below the root, or the root itself with an empty path. `target` is a link's text."""

    path: str
    cid: str
    kind: Kind
    size_bytes: int = 0
    executable: bool = False
    target: str = ""


class IpfsSource(IpfsDriver):
    """Data by CID."""

    params: ClassVar[Form] = SourceParams

    async def resolve(self, params: SourceParams, share: Share) -> Resolved:
        """Follow the path, and walk what is there. Raises as `Source`; `TimedOut` for a CID that nobody has."""
        await self._kubo.ready()
        if params.is_name:
            params = await self._named(params)
        root = await self._root(params)
        nodes = [root]
        if root.kind is Kind.FOLDER:
            nodes += await self._walk(root, params)
        size_bytes = sum(node.size_bytes for node in nodes)
        check_size(params.cid, size_bytes, self._kubo.settings.max_bytes)
        return Resolved(f"ipfs://{root.cid}", size_bytes, nodes, cacheable=True)

    async def fetch(
        self, params: SourceParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        """Bring what was resolved to `into`: a file for a file, a folder for a folder. Raises as `Source`."""
        root, *below = resolved.pinned
        async with arriving(into) as beside:
            if root.kind is Kind.FILE:
                await self._bring([(root, partial(_new_file, beside, root.executable))], params, progress)
            elif _is_many_small(below):
                await self._bring_blocks(root, resolved, beside, params, progress)
            else:
                with TreeWriter(beside, Limits(entries=self._kubo.settings.entries)) as tree:
                    files = []
                    for node in below:
                        if node.kind is Kind.FOLDER:
                            tree.folder(node.path)
                        elif node.kind is Kind.LINK:
                            tree.link(node.path, node.target)
                        else:
                            files.append((node, partial(tree.open, node.path, executable=node.executable)))
                    await self._bring(files, params, progress)
        return Fetched(into)

    async def _bring(
        self, files: list[tuple[Node, "partial[int]"]], params: SourceParams, progress: Progress
    ) -> None:
        total = sum(node.size_bytes for node, _ in files)
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, total)

        gateway = await self._kubo.gateway()

        def items() -> Iterator[Item]:
            for node, open_file in files:
                yield Item(
                    RemoteFile(self._kubo, gateway, node, f"{params.cid} {node.path}".rstrip()), open_file
                )

        settings = self._kubo.settings
        small = total < SMALL_FILE_BYTES * len(files)
        await self._kubo.reader().bring(
            items(), moved, settings.small_requests if small else settings.requests
        )

    async def _bring_blocks(
        self, root: Node, resolved: Resolved, beside: Path, params: SourceParams, progress: Progress
    ) -> None:
        """A tree of many small files as one stream of blocks, checked here once more: a request a file costs far more."""
        settings = self._kubo.settings
        gateway = await self._kubo.gateway()
        holders: list[Holder] = [KuboBlocks(self._kubo)]
        if gateway:
            holders.insert(0, Gateway(gateway))
        limits = BlockLimits(connect_s=settings.connect_s, silence_s=settings.silence_s)
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            progress(done, resolved.size_bytes)

        with Sink(beside, params.cid, Limits(entries=settings.entries)) as sink:
            blocks = Blocks(self._kubo.session, holders, limits)
            await blocks.bring(Want(read_cid(root.cid)), sink, moved, params.cid)

    async def _named(self, params: SourceParams) -> SourceParams:
        """What an IPNS name means now."""
        found = await _asked(self._kubo, "resolve", Resolution, params.path, params.cid)
        try:
            return SourceParams(found.path)
        except Invalid as fault:
            raise Broken(f"{params.cid} means {found.path!r}, which is no CID") from fault

    async def _root(self, params: SourceParams) -> Node:
        found = await _asked(self._kubo, "files/stat", Stat, params.path, params.cid)
        if int(found.mode, 8) & LINK_BIT:
            raise Invalid(
                f"{params.cid} is a symbolic link", hint="Name what it leads to, or the folder it is in."
            )
        if found.type == "directory":
            return Node("", found.hash, Kind.FOLDER)
        return Node("", found.hash, Kind.FILE, found.size, _is_executable(int(found.mode, 8)))

    async def _walk(self, root: Node, params: SourceParams) -> list[Node]:
        """Everything below the root, folder by folder, the folders of one depth side by side."""
        found: list[Node] = []
        limit = self._kubo.settings.entries
        level = [root]
        depth = 0
        while level:
            depth += 1
            if depth > DEPTH_MAX:
                raise Exhausted(f"{params.cid} is more than {DEPTH_MAX} folders deep")
            below: list[Node] = []
            waiting = iter(level)

            await together(
                self._list_all(waiting, below, params) for _ in range(self._kubo.settings.small_requests)
            )
            if len(found) + len(below) > limit:
                raise Exhausted(f"{params.cid} holds more than {limit} files and folders")
            found += sorted(below, key=lambda node: node.path)
            level = [node for node in below if node.kind is Kind.FOLDER]
        return found

    async def _list_all(self, folders: Iterator[Node], below: list[Node], params: SourceParams) -> None:
        for folder in folders:
            below += await self._entries(folder, params)
            if len(below) > self._kubo.settings.entries:
                return

    async def _entries(self, folder: Node, params: SourceParams) -> list[Node]:
        what = f"{params.cid} {folder.path}".rstrip()
        listing = await _asked(self._kubo, "ls", Listing, f"/ipfs/{folder.cid}", what)
        return [_node(folder, link, what) for link in listing.links]


class RemoteFile:
    """A file's bytes for `storage.ranged`: through the gateway, or by ``cat`` where the gateway will not."""

    def __init__(self, kubo: Kubo, gateway: str, node: Node, name: str) -> None:
        self._kubo = kubo
        self._gateway = gateway
        self._cid = node.cid
        self.name = name
        self.size_bytes = node.size_bytes

    async def ask(self, start: int, end: int) -> Ask:
        """A range of the file."""
        if self._gateway:
            return ranged_get(f"{self._gateway}/ipfs/{self._cid}", {}, start, end, self.size_bytes)
        path = quote(f"/ipfs/{self._cid}", safe="")
        options = f"arg={path}&offset={start}&length={end - start}"
        return Ask(f"{self._kubo.url('cat')}?{options}", {}, partial=False, method="POST")

    def check(self, ask: Ask, headers: Mapping[str, str]) -> None:
        """A gateway says what it serves; anything else than the file asked for is not taken."""
        roots = headers.get("X-Ipfs-Roots", "")
        if ask.method == "GET" and self._cid not in roots.split(","):
            raise Broken(f"{self.name}: the gateway answered with another CID ({roots[:200]!r})")

    def refusal(self, ask: Ask, status: int, body: bytes) -> Refusal:
        """What the gateway refuses is asked of Kubo itself, whose word counts."""
        if ask.method == "GET":
            self._gateway = ""
            return Refusal(Unavailable(f"{self.name}: the gateway refuses (status {status})"), again=True)
        return Refusal(self._kubo.fault_of(self.name, status, body), again=False)


async def _asked(kubo: Kubo, command: str, form: type[T], path: str, what: str) -> T:
    """Ask about something that the network may have to bring first."""
    silence_s = kubo.settings.silence_s
    # Kubo is told the limit too, so that it stops seeking; it answers a little before we would give up.
    options = {"arg": path, "timeout": f"{silence_s:g}s"}
    return await kubo.ask(command, form, options, what=what, silence_s=silence_s + 5)


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
    return Node(path, link.hash, kind, size, _is_executable(link.mode))


def _is_many_small(nodes: list[Node]) -> bool:
    files = [node.size_bytes for node in nodes if node.kind is Kind.FILE]
    return len(files) > FEW_FILES and sum(files) < SMALL_FILE_BYTES * len(files)


def _is_executable(mode: int) -> bool:
    return bool(mode & 0o111)


def _new_file(path: Path, executable: bool) -> int:
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(made, 0o755 if executable else 0o644)
    return made


if TYPE_CHECKING:

    def _fits(driver: IpfsSource) -> Source[SourceParams]:
        return driver
