"""Results to IPFS: added to a Kubo node as a tree of its own, and pinned there.

Knows: what a result looks like in UnixFS, and that nothing stays pinned of one that failed. Must not know: HTTP beyond
multipart bodies.

The tree is sent as one streamed request. It is pinned afterwards, by itself: then it is known whether the same bytes were
pinned before, and a pin that is not ours is never taken back. Links are stored as links, if they stay inside.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from protocol.errors import Broken, Fault, Invalid
from protocol.jobs import Spec
from storage.contract import Form, Label, Progress
from storage.ipfs.driver import IpfsDriver
from storage.ipfs.kubo import read_bounded
from storage.ipfs.params import PublisherParams
from storage.threads import in_thread
from storage.tree import CHUNK_BYTES, Entry, Kind, check_link, open_inside, walk

if TYPE_CHECKING:
    from storage.contract import Publisher

ROOT: Final = "result"
UNDO_S: Final = 20.0
MEDIA_TYPES: Final = {
    Kind.FOLDER: "application/x-directory",
    Kind.LINK: "application/symlink",
    Kind.FILE: "application/octet-stream",
}


class _Added(Struct, frozen=True, rename="pascal"):
    """A line of ``add``'s answer, or the error that ended it."""

    name: str = ""
    hash: str = ""
    message: str = ""


class _Pins(Struct, frozen=True, rename="pascal"):
    keys: dict[str, msgspec.Raw] = {}


class _Done(Struct, frozen=True, rename="pascal"):
    pins: list[str] | None = None


class IpfsPublisher(IpfsDriver):
    """Results to IPFS."""

    params: ClassVar[Form] = PublisherParams

    async def publish(self, folder: Path, params: PublisherParams, label: Label, progress: Progress) -> Spec:
        """Add and pin the folder; the answer is a spec of source ``ipfs`` with its CID. Raises as `Publisher`."""
        entries = await in_thread(lambda _: _checked(folder))
        await self._kubo.ready()
        cid = await self._add(folder, entries, progress)
        await self._pin(cid, label)
        return Spec("ipfs", {"CID": cid})

    async def _add(self, folder: Path, entries: list[Entry], progress: Progress) -> str:
        """Send the tree; answers with the CID of its root."""
        boundary = secrets.token_hex(24)
        what = "publishing to IPFS"
        async with self._kubo.call(
            "add",
            {"pin": "false", "progress": "false", "preserve-mode": "true"},
            what=what,
            silence_s=self._kubo.settings.silence_s,
            data=_body(folder, entries, boundary, progress),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        ) as response:
            lines = (await read_bounded(response, what, 1 << 30)).splitlines()
        return self._root(lines, len(entries))

    def _root(self, lines: list[bytes], entries: int) -> str:
        """The root's CID, told last. An error in the middle has a line of its own; a missing line is one that was lost."""
        added: dict[str, str] = {}
        for line in lines:
            try:
                each = msgspec.json.decode(line, type=_Added)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Broken(f"publishing to IPFS: Kubo answered {line[:100]!r}") from error
            if each.message:
                raise self._kubo.fault_of("publishing to IPFS", 500, line)
            added[each.name] = each.hash
        if ROOT not in added or len(added) != entries + 1:
            raise Broken(f"publishing to IPFS: Kubo added {len(added)} of {entries + 1} files and folders")
        return added[ROOT]

    async def _pin(self, cid: str, label: Label) -> None:
        """Pin the root. Where it was not pinned before, a fault or cancellation takes the pin back."""
        what = f"pinning {cid}"
        # That it is not pinned is an error to Kubo, too.
        with suppress(Fault):
            if await self._is_pinned(cid):
                return
        try:
            options = {"arg": cid, "name": label.execution}
            silence_s = self._kubo.settings.silence_s
            done = await self._kubo.ask("pin/add", _Done, options, what=what, silence_s=silence_s)
            if not done.pins:
                raise Broken(f"{what}: Kubo does not say that it did")
        except BaseException:
            with suppress(Fault, TimeoutError):
                async with asyncio.timeout(UNDO_S):
                    await self._kubo.ask("pin/rm", _Done, {"arg": cid}, what=what)
            raise

    async def _is_pinned(self, cid: str) -> bool:
        pins = await self._kubo.ask("pin/ls", _Pins, {"arg": cid, "type": "recursive"}, what=f"pin {cid}")
        return bool(pins.keys)


def _checked(folder: Path) -> list[Entry]:
    """Everything in the folder. Raises `Invalid`, which names it, for what IPFS or its readers would not take."""
    entries = list(walk(folder))
    for entry in entries:
        try:
            entry.path.encode()
            entry.target.encode()
        except UnicodeEncodeError as error:
            raise Invalid(f"the name {os.fsencode(entry.path)!r} is not UTF-8", kind="Name") from error
        if entry.kind is Kind.LINK:
            check_link(entry.path, entry.target)
    return entries


async def _body(
    folder: Path, entries: list[Entry], boundary: str, progress: Progress
) -> AsyncIterator[bytes]:
    """The multipart body: a part for each folder, link and file, each folder before what is in it."""
    total = sum(entry.size_bytes for entry in entries)
    done = 0
    small: list[bytes] = [_head(boundary, ROOT, Kind.FOLDER), b"\r\n"]
    for entry in entries:
        small.append(_head(boundary, f"{ROOT}/{entry.path}", entry.kind, entry.executable))
        if entry.kind is Kind.LINK:
            small.append(entry.target.encode())
        elif entry.kind is Kind.FILE:
            pieces = _pieces(folder, entry)
            while piece := await in_thread(lambda _, pieces=pieces: next(pieces, b"")):  # type: ignore[misc]
                yield b"".join(small)
                small = []
                yield piece
                done += len(piece)
                progress(done, total)
        small.append(b"\r\n")
        if len(small) > 256:
            yield b"".join(small)
            small = []
    yield b"".join([*small, f"--{boundary}--\r\n".encode()])


def _head(boundary: str, path: str, kind: Kind, executable: bool = False) -> bytes:
    # Only what differs from the rule has a mode, so that other files keep the CID that `ipfs add` gives them.
    name = "file?mode=0755" if executable else "file"
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{quote(path, safe="")}"\r\n'
        f"Content-Type: {MEDIA_TYPES[kind]}\r\n\r\n"
    ).encode()


def _pieces(folder: Path, entry: Entry) -> Iterator[bytes]:
    """A file's bytes, exactly as many as the listing says; blocking."""
    left = entry.size_bytes
    with open(open_inside(folder, entry.path), "rb", buffering=0) as file:
        while left:
            piece = file.read(min(left, CHUNK_BYTES))
            if not piece:
                raise Broken(f"{entry.path!r} became shorter while it was being published")
            left -= len(piece)
            yield piece


if TYPE_CHECKING:

    def _fits(driver: IpfsPublisher) -> Publisher[PublisherParams]:
        return driver
