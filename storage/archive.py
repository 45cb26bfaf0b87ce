"""Folders as ``.tar.gz`` and back, as streams.

Knows: how a tree becomes an archive, and what an archive from a stranger may do. Must not know: where either lies.

An archive made here depends on the tree alone: entries in the order of `tree.walk`, relative names, no owners. Extraction
writes through `tree.TreeWriter`, so no name and no link leads outside, and it counts entries, bytes and depth as it goes.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from isal import igzip, igzip_lib, isal_zlib

from protocol.errors import Broken, Exhausted
from storage import tar_format
from storage.arrival import arriving
from storage.contract import Progress
from storage.threads import Stop, in_thread, relayed
from storage.tree import (
    CHUNK_BYTES,
    RATIO_FREE_BYTES,
    Entry,
    Kind,
    Limits,
    check_link,
    new_file,
    open_inside,
    walk,
    write_all,
)
from storage.tree_writer import TreeWriter

SUFFIX: Final = ".tar.gz"
MEDIA_TYPES: Final = frozenset({"application/gzip", "application/x-gzip"})

_LEVEL: Final = 1
_MEMBER_BYTES: Final = 2048
"""What packing adds to a file at the worst: headers, and what cannot be compressed."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_RECORD_MAX_BYTES: Final = 64 << 20
"""Tar's own are 10 KB; people who write to tapes make them larger."""
_NOTHING: Final = bytes(CHUNK_BYTES)
DAMAGED: Final = (EOFError, gzip.BadGzipFile, cast(type[Exception], igzip_lib.IsalError))


def pieces(folder: Path, stop: Stop = lambda: None) -> Iterator[bytes]:
    """The archive of a folder in pieces of about a mebibyte, made as they are asked for; blocking.

    `stop` is called far more often than pieces come: what packs well brings few of them.

    Raises `Invalid` for what an archive must not hold: pipes, devices, links that lead out of the folder. `Broken` if a
    file shrinks meanwhile.
    """
    packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
    ready: list[bytes] = []
    size = 0
    for piece in _tar(folder):
        stop()
        packed = packer.compress(piece)
        ready.append(packed)
        size += len(packed)
        if size >= CHUNK_BYTES:
            yield b"".join(ready)
            ready, size = [], 0
    ready.append(packer.flush())
    yield b"".join(ready)


async def pack(folder: Path, archive: Path, progress: Progress) -> int:
    """Write the archive of `folder` to the new file `archive`; returns its size in bytes. Raises as `pieces`.

    Progress counts the archive's bytes. On any fault or cancellation no file is left.
    """
    tell = relayed(progress)

    def work(stop: Stop) -> int:
        done = 0
        with new_file(beside) as file:
            for piece in pieces(folder, stop):
                file.write(piece)
                done += len(piece)
                tell(done, None)
        return done

    async with arriving(archive) as beside:
        return await in_thread(work)


def size_at_most(folder: Path, stop: Stop) -> int:
    """How many bytes the folder packs to at the worst: with headers, and where nothing of it can be compressed. Blocking."""
    size_bytes = 0
    for entry in walk(folder):
        stop()
        size_bytes += entry.size_bytes + _MEMBER_BYTES
    return size_bytes


async def unpack(archive: Path, into: Path, progress: Progress, limits: Limits | None = None) -> None:
    """Unpack the file `archive` to the new folder `into`. Raises as `extract`; on a fault nothing is left.

    Progress counts the archive's bytes.
    """
    tell = relayed(progress)
    total = archive.stat().st_size

    def work(stop: Stop) -> None:
        told = 0
        with open(archive, "rb") as file:

            def moved() -> None:
                nonlocal told
                stop()
                if file.tell() > told:
                    told = file.tell()
                    tell(told, total)

            extract(file, beside, limits or Limits(), moved)

    async with arriving(into) as beside:
        await in_thread(work)


def extract(
    archive: IO[bytes],
    folder: Path,
    limits: Limits,
    moved: Stop,
    told: Callable[[int], None] = lambda done_bytes: None,
) -> None:
    """Unpack a ``.tar.gz`` stream into `folder`; blocking, calls `moved` between pieces, and `told` with what was written.

    Raises `Broken` (not an archive, damaged, cut short), `Invalid` naming the member (its name or link leads outside, its
    kind is not taken), `Exhausted` (beyond `limits`). What was written before a fault is the caller's to remove.
    """
    unzipped = cast(BinaryIO, igzip.IGzipFile(fileobj=archive, mode="rb"))  # type: ignore[no-untyped-call]
    with unzipped as stream, TreeWriter(folder, limits) as writer:

        def written(done_bytes: int) -> None:
            moved()
            told(done_bytes)
            _check_ratio(limits, done_bytes, archive)

        try:
            _extract(tar_format.members(stream.read), stream, writer, limits, written)
            _read_to_end(stream)
        except DAMAGED as error:
            raise Broken(f"the archive is damaged or cut short: {error}") from error


def _extract(
    members: Iterator[Entry],
    stream: BinaryIO,
    writer: TreeWriter,
    limits: Limits,
    written: Callable[[int], None],
) -> None:
    size_bytes = 0
    for member in members:
        written(size_bytes)
        before, size_bytes = size_bytes, size_bytes + member.size_bytes
        if limits.size_bytes is not None and size_bytes > limits.size_bytes:
            hint = "Take fewer files, or raise the node's limit."
            raise Exhausted(f"the archive unpacks to more than {limits.size_bytes} bytes", hint=hint)
        if member.kind is Kind.FILE:
            _write(member, stream, writer, lambda done, before=before: written(before + done))  # type: ignore[misc]
        elif member.kind is Kind.LINK:
            writer.link(member.path, member.target, replace=True)
        elif any(part not in ("", ".") for part in member.path.split("/")):
            writer.folder(member.path)


def _read_to_end(stream: BinaryIO) -> None:
    """So that the checksum is compared. Tar fills its last record up with zeros; an archive behind that, of whoever joined
    several, would be lost in silence."""
    for _ in range(_RECORD_MAX_BYTES // CHUNK_BYTES):
        piece = stream.read(CHUNK_BYTES)
        if not piece:
            return
        if piece.strip(b"\0"):
            break
    hint = (
        "Of archives that were joined only the first would be taken: make one of all, or send each by itself."
    )
    raise Broken("the archive goes on behind its end", hint=hint)


def _check_ratio(limits: Limits, done_bytes: int, archive: IO[bytes]) -> None:
    """Raise `Exhausted` for what is small to send and large to keep. What has been read ahead counts as packed."""
    if limits.ratio is None or done_bytes <= RATIO_FREE_BYTES:
        return
    packed_bytes = archive.tell()
    if done_bytes > packed_bytes * limits.ratio:
        message = f"the archive unpacks to more than {limits.ratio} times its size ({done_bytes} bytes of {packed_bytes})"
        raise Exhausted(message, hint="Send it less packed, by another source.", kind="Ratio")


def _write(member: Entry, stream: BinaryIO, writer: TreeWriter, written: Callable[[int], None]) -> None:
    """One file, exactly as long as its header says. A later member of the same name replaces an earlier one, as with tar."""
    file = writer.open(member.path, executable=member.executable, replace=True)
    try:
        left = member.size_bytes
        while left:
            piece = stream.read(min(left, CHUNK_BYTES))
            if not piece:
                raise Broken(f"the archive is cut short: {left} bytes of {member.path!r} are missing")
            if piece == _NOTHING:
                # A hole takes no room, here as where it comes from.
                os.lseek(file, len(piece), os.SEEK_CUR)
            else:
                write_all(file, piece)
            left -= len(piece)
            written(member.size_bytes - left)
        if member.size_bytes >= len(_NOTHING):
            os.ftruncate(file, member.size_bytes)
        os.utime(file, (member.mtime, member.mtime))
    finally:
        os.close(file)
    stream.read(len(tar_format.padding(member.size_bytes)))


def _tar(folder: Path) -> Iterator[bytes]:
    for entry in walk(folder):
        if entry.kind is Kind.FILE:
            yield from _file(folder, entry)
        else:
            if entry.kind is Kind.LINK:
                check_link(entry.path, entry.target)
            yield tar_format.header(entry)
    yield tar_format.END


def _file(folder: Path, entry: Entry) -> Iterator[bytes]:
    with open(open_inside(folder, entry.path), "rb", buffering=0) as file:
        yield tar_format.header(entry)
        left = entry.size_bytes
        while left:
            piece = file.read(min(left, CHUNK_BYTES))
            if not piece:
                raise Broken(f"{entry.path!r} became shorter while it was packed")
            left -= len(piece)
            yield piece
    yield tar_format.padding(entry.size_bytes)
