"""Inputs from IPFS: a file or a folder by its CID, or what lies at a path below one.

Knows: UnixFS as Kubo tells it, and how to bring it. Must not know: HTTP beyond what `kubo` and `files` hide.

Resolving follows the path to the CID of what is there and walks its folders, so it knows every file's own CID and size;
fetching brings those files, and what comes is exactly as long as was said. Large files come in ranges, through the node's
own gateway where it has one, else by ``cat``; either way Kubo has checked each block against its CID. A tree of many small
files comes as one stream of blocks (docs/adr/0011).
"""

import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from msgspec import Struct

from protocol.errors import Broken, Invalid, NotFound, TimedOut, Unavailable
from storage.arrival import arriving, remove_tree
from storage.contract import Fetched, Form, Progress, Resolved, Share
from storage.ipfs.answers import Resolution, Stat
from storage.ipfs.blocks import BlockLimits, Blocks
from storage.ipfs.cid import HASH, read_cid
from storage.ipfs.driver import IpfsDriver
from storage.ipfs.exchange import Exchanges
from storage.ipfs.files import GatewayFile, KuboFile
from storage.ipfs.holders import Holder, KuboBlocks, KuboGateway
from storage.ipfs.keeping import is_pinned
from storage.ipfs.near import meant
from storage.ipfs.params import SourceParams, split_path
from storage.ipfs.sink import Sink
from storage.ipfs.unixfs import Want
from storage.ipfs.walk import Node, asked, is_executable, walk
from storage.long_lists import Packed
from storage.parts import Files, Item, requests_for
from storage.ranged import Limits as RangeLimits
from storage.ranged import check_size
from storage.threads import Stop, in_thread
from storage.tree import Entry, Kind, Limits
from storage.tree_writer import TreeWriter

if TYPE_CHECKING:
    from storage.contract import Source
    from storage.lister import Lister

SMALL_FILE_BYTES: Final = 1 << 20
FEW_FILES: Final = 8
LINK_BIT: Final = 1 << 27
"""Go's bit for a symbolic link in a file's mode."""


class Pinned(Struct, frozen=True):
    """What `fetch` brings. `many_small`: by blocks and not file by file."""

    root: Node
    below: Packed[Node]
    many_small: bool


class IpfsSource(IpfsDriver):
    """Data by CID."""

    params: ClassVar[Form] = SourceParams

    async def resolve(self, params: SourceParams, share: Share) -> Resolved:
        """Follow the path, and walk what is there. Raises as `Source`; `TimedOut` for a CID that nobody has."""
        await self._kubo.ready()
        if params.is_name:
            params = await self._named(params)
        root = await self._root(params)
        below = await walk(self._kubo, root, params.cid) if root.kind is Kind.FOLDER else Packed(Node)
        pinned, size_bytes = await in_thread(lambda _: _looked_over(root, below))
        check_size(params.cid, size_bytes, self._kubo.settings.max_bytes)
        return Resolved(f"ipfs://{root.cid}", size_bytes, pinned, cacheable=True)

    async def is_here(self, params: SourceParams) -> bool:
        """Whether the node has every block of it; no other node is asked. See `storage.locality`."""
        await self._kubo.ready()
        if not params.is_name and await is_pinned(self._kubo, split_path(params.cid)[0]):
            return True
        # This reads all of it.
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
        pinned: Pinned = resolved.pinned
        told = 0

        def moved(done: int) -> None:
            nonlocal told
            # A second way begins anew; progress does not.
            if done > told:
                told = done
                progress(done, resolved.size_bytes)

        async with arriving(into) as beside:
            if pinned.many_small:
                try:
                    await self._bring_blocks(pinned.root, beside, params, moved)
                    return Fetched(into)
                except Invalid as fault:
                    if fault.kind != HASH:
                        raise
                # Kubo knows more hash functions than we do, and checks the blocks of what it is asked for itself.
                await in_thread(lambda _: remove_tree(beside))
            gateway = await self._kubo.gateway()
            try:
                await self._bring_files(pinned, beside, gateway, params, moved)
            except Unavailable:
                # It refuses, or is not where it was; the node itself may have all of it.
                if not gateway:
                    raise
                await in_thread(lambda _: remove_tree(beside))
                await self._bring_files(pinned, beside, "", params, moved)
        return Fetched(into)

    async def entries(self, params: SourceParams, resolved: Resolved) -> list[Entry]:
        """See `storage.lister.Lister`."""
        return await in_thread(lambda _: [each.entry for each in resolved.pinned.below])

    async def _bring_files(
        self,
        pinned: Pinned,
        beside: Path,
        gateway: str,
        params: SourceParams,
        moved: Callable[[int], None],
    ) -> None:
        """Bring the files one by one, in ranges, through the gateway if it is named, else by ``cat``."""
        settings = self._kubo.settings
        # Folders and links have no bytes.
        sizes = (each.size_bytes for each in chain([pinned.root], pinned.below))
        requests = await in_thread(lambda _: requests_for(sizes, settings.part_bytes, settings.requests))
        if pinned.root.kind is Kind.FILE:
            make = partial(_new_file, beside, pinned.root.executable)
            await self._move([(pinned.root, make)], requests, gateway, params, moved)
            return
        with TreeWriter(beside, Limits(entries=settings.entries)) as tree:

            def furnish(stop: Stop) -> None:
                for node in pinned.below:
                    stop()
                    if node.kind is Kind.FOLDER:
                        tree.folder(node.path)
                    elif node.kind is Kind.LINK:
                        tree.link(node.path, node.target)

            await in_thread(furnish)
            files = (
                (node, partial(tree.open, node.path, executable=node.executable))
                for node in pinned.below
                if node.kind is Kind.FILE
            )
            await self._move(files, requests, gateway, params, moved)

    async def _move(
        self,
        files: Iterable[tuple[Node, "partial[int]"]],
        requests: int,
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

        parts = Files((item(node, open_file) for node, open_file in files), self._kubo.settings.part_bytes)
        try:
            await self._kubo.move(gateway, parts.parts(), requests, more)
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
        name, *names = split_path(params.cid)
        found = await asked(self._kubo, "resolve", Resolution, f"/ipns/{name}", params.cid)
        try:
            return SourceParams("/".join((found.path, *names)))
        except Invalid as fault:
            raise Broken(f"{params.cid} means {found.path!r}, which is no CID") from fault

    async def _root(self, params: SourceParams) -> Node:
        try:
            found = await asked(self._kubo, "files/stat", Stat, params.path, params.cid)
        except NotFound as missing:
            missing.hint = await meant(self._kubo, params) or missing.hint
            raise
        if int(found.mode, 8) & LINK_BIT:
            raise Invalid(
                f"{params.cid} is a symbolic link", hint="Name what it leads to, or the folder it is in."
            )
        if found.type == "directory":
            return Node("", found.hash, Kind.FOLDER)
        return Node("", found.hash, Kind.FILE, found.size, is_executable(int(found.mode, 8)))


def _looked_over(root: Node, below: Packed[Node]) -> tuple[Pinned, int]:
    """What is to be brought, and the size of it all."""
    size_bytes, files = root.size_bytes, 0
    for node in below:
        size_bytes += node.size_bytes
        files += node.kind is Kind.FILE
    many_small = files > FEW_FILES and size_bytes < SMALL_FILE_BYTES * files
    return Pinned(root, below, many_small), size_bytes


def _new_file(path: Path, executable: bool) -> int:
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(made, 0o755 if executable else 0o644)
    return made


if TYPE_CHECKING:

    def _fits(driver: IpfsSource) -> tuple[Source[SourceParams], Lister[SourceParams]]:
        return driver, driver
