"""How an entry of the cache lies on the disk.

Knows: its folder's files, and which folders can be served. Must not know: who uses an entry, or when it goes.

``data`` is what programs see (a file or a folder), ``entry`` says what it is, ``manifest`` holds its bytes written down. The
folder's name follows from type and identity. All functions that take a folder block.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from storage.shelf import Key

DATA: Final = "data"
ENTRY: Final = "entry"
MANIFEST: Final = "manifest"
SPOILED: Final = "spoiled"
"""A file of this name in an entry, put there by whoever verified it beside the node, says that its bytes are wrong."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Entry(Struct, frozen=True, omit_defaults=True, gc=False):
    """What an entry is. `boot` is the system's start under which its bytes were written or last compared."""

    type: str
    identity: str
    size_bytes: int
    boot: str
    token: str = ""


def key_of(type: str, identity: str) -> Key:
    """The name under which an input is kept."""
    return hashlib.sha256(f"{type.lower()}\0{identity}".encode()).hexdigest()[:32]


def read_entry(folder: Path) -> Entry | None:
    """What an entry's folder holds, if it is one."""
    if folder.name.startswith("."):
        return None
    try:
        entry = msgspec.json.decode((folder / ENTRY).read_bytes(), type=Entry)
    except (OSError, msgspec.DecodeError):
        return None
    right = key_of(entry.type, entry.identity) == folder.name and (folder / DATA).exists()
    return entry if right else None


def fit_entry(folder: Path, boot: str) -> Entry | None:
    """What an entry's folder holds, if it can ever be served under that boot."""
    entry = read_entry(folder)
    if entry is None or (folder / SPOILED).exists():
        return None
    return entry if entry.boot == boot or (folder / MANIFEST).exists() else None


def entries_in(folder: Path) -> Iterator[tuple[Path, Entry]]:
    """The entries in a cache's folder, each with its own; none if it is not there."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        entry = read_entry(path)
        if entry is not None:
            yield path, entry


def entries_by_use(folder: Path) -> list[tuple[float, Path, Entry]]:
    """The entries in a cache's folder with the times of their last use (unix seconds), the one used longest ago first."""
    found = []
    for path, entry in entries_in(folder):
        # One that goes meanwhile is none any more.
        with contextlib.suppress(OSError):
            found.append(((path / ENTRY).stat().st_mtime, path, entry))
    return sorted(found, key=lambda each: each[0])


def unfinished_in(folder: Path) -> list[Path]:
    """What a process that was killed left on its way into a cache's folder, or out of it."""
    return [path for path in folder.iterdir() if path.name.startswith(".")] if folder.is_dir() else []


def put_away(path: Path) -> Path:
    """Give an entry the name of what goes, so that nobody finds half of it; the path that is to be removed.

    Raises ``OSError``.
    """
    leaving = path.with_name(f".leaving-{secrets.token_hex(8)}")
    path.rename(leaving)
    return leaving


def cached_bytes(folder: Path) -> int:
    """How much the entries in a cache's folder take, as they say."""
    return sum(entry.size_bytes for _, entry in entries_in(folder))


def boot_id() -> str:
    """The name of this start of the system; a new one each time where there is none, so that nothing is trusted."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return secrets.token_hex(16)


def replace_file(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    beside.rename(path)
