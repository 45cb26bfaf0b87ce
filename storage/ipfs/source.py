"""Inputs from IPFS: a file or a folder by its CID, or what lies at a path below one.

Knows: UnixFS as Kubo tells it, and how to bring it. Must not know: HTTP beyond what `kubo` and `files` hide.

Resolving follows the path to the CID of what is there and walks its folders, so it knows every file's own CID and size;
fetching brings those files, and what comes is exactly as long as was said. Large files come in ranges, through the node's
own gateway where it has one, else by ``cat``; either way Kubo has checked each block against its CID. A tree of many small
files comes as one stream of blocks (docs/adr/0011).
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from msgspec import Struct, structs

from protocol.errors import Broken, Exhausted, Invalid, NotFound, TimedOut, Unavailable
from protocol.together import together
from storage.arrival import arriving, remove_tree
from storage.contract import Fetched, Form, Progress, Resolved, Share
from storage.ipfs.answers import Link, Listing, Resolution, Stat
from storage.ipfs.blocks import BlockLimits, Blocks
from storage.ipfs.cid import HASH, is_empty, read_cid
from storage.ipfs.driver import IpfsDriver
from storage.ipfs.exchange import Exchanges
from storage.ipfs.files import REFUSED, GatewayFile, KuboFile
from storage.ipfs.holders import Holder, KuboBlocks, KuboGateway
from storage.ipfs.kubo import Kubo
from storage.ipfs.near import meant
from storage.ipfs.params import SourceParams
from storage.ipfs.sink import Sink
from storage.ipfs.unixfs import Want
from storage.parts import Files, Item
from storage.ranged import Limits as RangeLimits
from storage.ranged import check_size
from storage.threads import Stop, in_thread
from storage.tree import Entry, Kind, Limits, TreeWriter, check_link, safe_parts

if TYPE_CHECKING:
    from storage.contract import Source
    from storage.lister import Lister

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

    async def is_here(self, params: SourceParams) -> bool:
        """Whether the node has every block of it; no other node is asked. See `storage.locality`."""
        await self._kubo.ready()
        options = {"arg": params.path, "with-local": "true", "offline": "true"}
        silence_s = self._kubo.settings.silence_s
        try:
            found = await self._kubo.ask("files/stat", Stat, options, what=params.cid, silence_s=silence_s)
        except (NotFound, TimedOut):
            return False
        return found.local

    async def fetch(
        self, params: SourceParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        """Bring what was resolved to `into`: a file for a file, a folder for a folder. Raises as `Source`."""
        root, *below = resolved.pinned
        told = 0

        def moved(done: int) -> None:
            nonlocal told
            # A second way begins anew; progress does not.
            if done > told:
                told = done
                progress(done, resolved.size_bytes)

        async with arriving(into) as beside:
            if root.kind is Kind.FOLDER and _is_many_small(below):
                try:
                    await self._bring_blocks(root, beside, params, moved)
                    return Fetched(into)
                except Invalid as fault:
                    if fault.kind != HASH:
                        raise
                # Kubo knows more hash functions than we do, and checks the blocks of what it is asked for itself.
                await in_thread(lambda _: remove_tree(beside))
            gateway = await self._kubo.gateway()
            try:
                await self._bring_files(root, below, beside, gateway, params, moved)
            except Unavailable as fault:
                if fault.kind != REFUSED:
                    raise
                await in_thread(lambda _: remove_tree(beside))
                await self._bring_files(root, below, beside, "", params, moved)
        return Fetched(into)

    async def entries(self, params: SourceParams, resolved: Resolved) -> list[Entry]:
        """See `storage.lister.Lister`."""
        return [
            Entry(each.path, each.kind, each.size_bytes, each.executable, target=each.target)
            for each in resolved.pinned[1:]
        ]

    async def _bring_files(
        self,
        root: Node,
        below: list[Node],
        beside: Path,
        gateway: str,
        params: SourceParams,
        moved: Callable[[int], None],
    ) -> None:
        """Bring the files one by one, in ranges, through the gateway if it is named, else by ``cat``."""
        if root.kind is Kind.FILE:
            await self._move([(root, partial(_new_file, beside, root.executable))], gateway, params, moved)
            return
        with TreeWriter(beside, Limits(entries=self._kubo.settings.entries)) as tree:

            def furnish(stop: Stop) -> None:
                for node in below:
                    stop()
                    if node.kind is Kind.FOLDER:
                        tree.folder(node.path)
                    elif node.kind is Kind.LINK:
                        tree.link(node.path, node.target)

            await in_thread(furnish)
            files = [
                (node, partial(tree.open, node.path, executable=node.executable))
                for node in below
                if node.kind is Kind.FILE
            ]
            await self._move(files, gateway, params, moved)

    async def _move(
        self,
        files: list[tuple[Node, "partial[int]"]],
        gateway: str,
        params: SourceParams,
        moved: Callable[[int], None],
    ) -> None:
        done = 0

        def more(size: int) -> None:
            nonlocal done
            done += size
            moved(done)

        def item(node: Node, open_file: Callable[[], int]) -> Item:
            name = f"{params.cid} {node.path}".rstrip()
            far: GatewayFile | KuboFile
            if gateway:
                far = GatewayFile(gateway, node.cid, node.size_bytes, name)
            else:
                far = KuboFile(self._kubo, node.cid, node.size_bytes, name)
            return Item(far, open_file, told=far.told)

        settings = self._kubo.settings
        parts = Files((item(node, open_file) for node, open_file in files), settings.part_bytes)
        count = sum(-(-node.size_bytes // settings.part_bytes) for node, _ in files)
        try:
            await self._kubo.move(gateway, parts.parts(), min(settings.requests, max(count, 1)), more)
        finally:
            parts.close()

    async def _bring_blocks(
        self, root: Node, beside: Path, params: SourceParams, moved: Callable[[int], None]
    ) -> None:
        """A tree of many small files as one stream of blocks, checked here once more: a request a file costs far more."""
        settings = self._kubo.settings
        gateway = await self._kubo.gateway()
        holders: list[Holder] = [KuboBlocks(self._kubo)]
        if gateway:
            holders.insert(0, KuboGateway(self._kubo, gateway))
        limits = BlockLimits(retry_s=settings.retry_s)
        done = 0

        def more(size: int) -> None:
            nonlocal done
            done += size
            moved(done)

        lines = RangeLimits(settings.connect_s, settings.silence_s)
        with (
            Sink(beside, params.cid, Limits(entries=settings.entries)) as sink,
            Exchanges(lines) as exchanges,
        ):
            blocks = Blocks(exchanges, holders, limits)
            await blocks.bring(Want(read_cid(root.cid)), sink, more, params.cid)

    async def _named(self, params: SourceParams) -> SourceParams:
        """What an IPNS name means now."""
        found = await _asked(self._kubo, "resolve", Resolution, params.path, params.cid)
        try:
            return SourceParams(found.path)
        except Invalid as fault:
            raise Broken(f"{params.cid} means {found.path!r}, which is no CID") from fault

    async def _root(self, params: SourceParams) -> Node:
        try:
            found = await _asked(self._kubo, "files/stat", Stat, params.path, params.cid)
        except NotFound as missing:
            missing.hint = await meant(self._kubo, params) or missing.hint
            raise
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
        nodes = await in_thread(partial(_nodes, folder, listing.links, what))
        for index, node in enumerate(nodes):
            # Kubo tells of a raw block what its folder says; some tools write no size there.
            if node.kind is Kind.FILE and not node.size_bytes and not is_empty(read_cid(node.cid)):
                found = await _asked(self._kubo, "files/stat", Stat, f"/ipfs/{node.cid}", what)
                nodes[index] = structs.replace(node, size_bytes=found.size)
        return nodes


async def _asked(kubo: Kubo, command: str, form: type[T], path: str, what: str) -> T:
    """Ask about something that the network may have to bring first."""
    silence_s = kubo.settings.silence_s
    # Kubo is told the limit too, so that it stops seeking; it answers a little before we would give up.
    options = {"arg": path, "timeout": f"{silence_s:g}s"}
    return await kubo.ask(command, form, options, what=what, silence_s=silence_s + 5)


def _nodes(folder: Node, links: list[Link], what: str, stop: Stop) -> list[Node]:
    """The entries of a folder, of which there may be a hundred thousand. Raises as `_node`."""
    nodes = []
    for link in links:
        stop()
        nodes.append(_node(folder, link, what))
    return nodes


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

    def _fits(driver: IpfsSource) -> tuple[Source[SourceParams], Lister[SourceParams]]:
        return driver, driver
