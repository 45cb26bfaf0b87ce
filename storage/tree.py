"""Trees of files on this machine: names that stay inside, and walks that follow no link. (`tree_writer` makes trees.)

Knows: the file system, and that names, links and folders come from strangers. Must not know: any driver or archive format.

The rules of this file. A foreign name becomes a list of components before it touches the disk (`safe_parts`). Every step
from a folder to something inside it goes through the folder's descriptor without following links, so that a link planted
half-way leads nowhere. A link is kept only if it stays inside (`check_link`). Folders are met without recursion: a program
may leave them ten thousand deep. Functions that touch many files block; call them through `storage.threads.in_thread`.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

from msgspec import Struct

from protocol.errors import Denied, Exhausted, Invalid
from storage.long_lists import each_of, in_order
from storage.threads import Stop

CHUNK_BYTES: Final = 1 << 20
NAME_MAX_BYTES: Final = 255
"""Longest component that Linux file systems take."""

RATIO_MAX: Final = 200
"""Data that travels inside a job may unpack to this many times its size."""
RATIO_FREE_BYTES: Final = 64 << 20
"""An archive may unpack to this much in any case: a few megabytes of text pack very well."""

FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""To open a folder itself, never what a link of its name leads to."""
_PLAIN_NAME: Final = re.compile(r"(?!\.\.?\Z)[\x01-\x2e\x30-\x7f]{1,255}")
"""One component with nothing wrong in it, as nearly all names are: known at sight it costs a small file less."""
# A pipe put in the place of a file must not hold us up.
_READ_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Limits(Struct, frozen=True):
    """How much a tree may hold. `size_bytes` None means as much as the disk.

    `ratio` is how many times its packed size an archive may unpack to, beyond its first `RATIO_FREE_BYTES`; None for any.
    """

    entries: int = 1_000_000
    depth: int = 128
    size_bytes: int | None = None
    ratio: int | None = None


class Kind(StrEnum):
    """What an entry of a tree is; there are no others."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


class Entry(Struct, frozen=True, gc=False):
    """One thing below a folder. `path` is relative with ``/``; `target` is a link's text; `mtime` in unix seconds."""

    path: str
    kind: Kind
    size_bytes: int = 0
    executable: bool = False
    mtime: float = 0.0
    target: str = ""


def safe_parts(name: str, depth: int = Limits().depth) -> tuple[str, ...]:
    """The components of a foreign name (a key, a path in an archive or a listing), fit to be created below a folder.

    Empty components and ``.`` are dropped, so a leading or doubled slash does no harm. Raises `Invalid` for ``..``, a NUL,
    a component longer than the file system takes, a name with nothing left, and for more than `depth` components.
    """
    if _PLAIN_NAME.fullmatch(name) and depth:
        return (name,)
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if not parts:
        raise _unsafe(name, "it names nothing")
    if ".." in parts:
        raise _unsafe(name, "it leads upwards ('..')")
    if "\0" in name:
        raise _unsafe(name, "it holds a NUL")
    if len(parts) > depth:
        raise _unsafe(name, f"it is {len(parts)} folders deep and the limit is {depth}")
    for part in parts:
        try:
            length = len(os.fsencode(part))
        except UnicodeEncodeError as error:
            raise _unsafe(name, "it cannot be written as UTF-8") from error
        if length > NAME_MAX_BYTES:
            raise _unsafe(name, f"a component has {length} bytes and the limit is {NAME_MAX_BYTES}")
    return parts


def text_of(name: str) -> str:
    """A name that a file system told, as text that can be sent and kept: bytes that are no UTF-8 stand as ``\\xff``."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")


def check_link(name: str, target: str) -> None:
    """Raise `Invalid` unless the link `name` stays inside its tree, whatever else the tree holds.

    The target is relative, and its ``..`` come first and are no more than the folders above the link. With ``..`` behind
    a name the target would depend on where another link leads, and no look at one link alone could vouch for it.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    inside = target and not target.startswith("/") and "\0" not in target
    if not inside or ".." in parts[ups:] or ups >= len(safe_parts(name)):
        raise Invalid(
            f"the link {shown(name)} leads out of its folder (to {shown(target)})",
            hint="Make it relative and let it stay inside, or copy what it leads to.",
            kind="Link",
        )


def walk(folder: Path, limits: Limits | None = None) -> Iterator[Entry]:
    """Everything below `folder`, each folder before its content, in the order of the names' bytes; no link is followed.

    Raises `Invalid` for a pipe, socket or device, `Denied` for a folder that may not be read, `Exhausted` beyond `limits`.
    """
    limits = limits or Limits()
    root = os.open(folder, FOLDER_FLAGS)
    seen = size_bytes = 0
    try:
        waiting = [_scan(root, ())]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
                continue
            seen += 1
            size_bytes += entry.size_bytes
            _within(limits, seen, len(waiting), size_bytes, folder)
            yield entry
            if entry.kind is Kind.FOLDER:
                waiting.append(_scan(root, tuple(entry.path.split("/"))))
    finally:
        os.close(root)


def open_inside(folder: Path, path: str) -> int:
    """A descriptor to read the regular file at `path` below `folder`, without following links; the caller closes it.

    Raises `Invalid` if it is something else, `Denied` if it may not be read, ``FileNotFoundError`` if it is not there.
    """
    parts = safe_parts(path, depth=NAME_MAX_BYTES * 16)
    above = _down(os.open(folder, FOLDER_FLAGS), parts[:-1])
    try:
        opened = os.open(parts[-1], _READ_FILE, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Invalid(f"{shown(path)} is not a regular file") from error
        if isinstance(error, PermissionError):
            raise _unreadable(path) from error
        raise
    finally:
        os.close(above)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise Invalid(f"{shown(path)} is not a regular file")
    return opened


def size_of(path: Path) -> int:
    """Bytes of all regular files at or below `path`."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(entry.size_bytes for entry in walk(path))


def digest_file(fd: int, stop: Stop) -> str:
    """SHA-256 in hexadecimal of what the descriptor `fd` reads, which is closed."""
    digest = hashlib.sha256()
    with open(fd, "rb", buffering=0) as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            stop()
    return digest.hexdigest()


def new_file(path: Path) -> IO[bytes]:
    """A file that is not there yet, open for writing and reading, readable by all."""
    made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(made, 0o644)
    return open(made, "w+b")


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte, however often the system takes only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_all_at(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write every byte at a place of a file."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written


def _scan(root: int, parts: tuple[str, ...]) -> Iterator[Entry]:
    """The entries of one folder, read at once so that no descriptor stays open while they are used."""
    try:
        at = _down(os.dup(root), parts)
        try:
            names = in_order(os.listdir(at), os.fsencode)
            found = [_entry(at, name, "/".join((*parts, name))) for name in each_of(names)]
        finally:
            os.close(at)
    except PermissionError as error:
        raise _unreadable("/".join(parts)) from error
    return each_of(found)


def _entry(at: int, name: str, path: str) -> Entry:
    seen = os.lstat(name, dir_fd=at)
    if stat.S_ISREG(seen.st_mode):
        executable = bool(seen.st_mode & 0o111)
        return Entry(path, Kind.FILE, seen.st_size, executable, mtime=seen.st_mtime)
    if stat.S_ISDIR(seen.st_mode):
        return Entry(path, Kind.FOLDER, mtime=seen.st_mtime)
    if stat.S_ISLNK(seen.st_mode):
        return Entry(path, Kind.LINK, mtime=seen.st_mtime, target=os.readlink(name, dir_fd=at))
    raise Invalid(
        f"{shown(path)} is a pipe, a socket or a device",
        hint="Only files, folders and links are taken.",
        kind="File",
    )


def _down(at: int, parts: tuple[str, ...]) -> int:
    """Go down from the descriptor `at`, which is closed, without following links."""
    for part in parts:
        try:
            below = os.open(part, FOLDER_FLAGS, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _within(limits: Limits, entries: int, depth: int, size_bytes: int, folder: Path) -> None:
    if entries > limits.entries:
        raise Exhausted(
            f"{folder} holds more than {limits.entries} files and folders", hint="Pack them into one file."
        )
    if depth > limits.depth:
        raise Exhausted(f"{folder} is more than {limits.depth} folders deep", hint="Use flatter folders.")
    if limits.size_bytes is not None and size_bytes > limits.size_bytes:
        raise Exhausted(f"{folder} holds more than {limits.size_bytes} bytes")


def _unreadable(path: str) -> Denied:
    """A program may run as another user than whoever reads what it wrote."""
    hint = "Let others read it (umask 022, or chmod -R a+rX at the end of the program)."
    return Denied(f"{shown(path)} may not be read: it belongs to another user", hint=hint, kind="File")


def _unsafe(name: str, reason: str) -> Invalid:
    return Invalid(
        f"the name {shown(name)} is refused: {reason}", hint="Rename it where it comes from.", kind="Name"
    )


def shown(name: str, limit: int = 200) -> str:
    """A foreign name as people may see it: control characters escaped, length bounded."""
    return repr(name if len(name) <= limit else name[:limit] + "…")
