"""The bytes of a file or folder, written down: what was there when it was whole, to be compared with later.

Knows: one line for each file, folder and link, with sizes, executable bits and SHA-256. Must not know: whose data it is.
All functions block; call them through `storage.threads.in_thread`.

A manifest's last line is the digest of the others, so one that a power cut tore is known for what it is.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from protocol.errors import Denied, Unavailable
from storage.threads import Stop
from storage.tree import Kind, Limits, digest_file, open_inside, text_of, walk

_LIMITS: Final = Limits(entries=10_000_000)
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What keeps this process from reading says nothing of the bytes."""


class Sum(Struct, frozen=True, array_like=True):
    """One entry, its names as text. `path` is empty for a manifest of a single file; `mark` is a link's target, or a file's
    SHA-256."""

    path: str
    kind: Kind
    size_bytes: int
    executable: bool
    mark: str


def sums(path: Path, stop: Stop) -> Iterator[Sum]:
    """The entries of a tree, or the one of a file, in the order of their paths. Raises as `storage.tree.walk`."""
    if not path.is_dir():
        fd = os.open(path, _FILE)
        seen = os.fstat(fd)
        executable = bool(seen.st_mode & stat.S_IXUSR)
        yield Sum("", Kind.FILE, seen.st_size, executable, digest_file(fd, stop))
        return
    for entry in walk(path, _LIMITS):
        stop()
        mark = text_of(entry.target)
        if entry.kind is Kind.FILE:
            mark = digest_file(open_inside(path, entry.path), stop)
        yield Sum(text_of(entry.path), entry.kind, entry.size_bytes, entry.executable, mark)


def write_manifest(path: Path, manifest: Path, stop: Stop) -> None:
    """Write down what is at `path`; `manifest` is there when it is whole."""
    beside = manifest.with_name(manifest.name + ".new")
    whole = hashlib.sha256()
    with beside.open("wb") as file:
        for each in sums(path, stop):
            line = msgspec.json.encode(each) + b"\n"
            whole.update(line)
            file.write(line)
        file.write(msgspec.json.encode(whole.hexdigest()) + b"\n")
    beside.rename(manifest)


def difference(path: Path, manifest: Path, stop: Stop) -> str:
    """The first thing at `path` that is not as the manifest has it, as a person is told; empty if all is. Raises
    `Unavailable` where this process has no files or memory left to look."""
    try:
        written = _read(manifest)
        for found in sums(path, stop):
            expected = next(written, None)
            if found != expected:
                return _told(found, expected)
        missing = next(written, None)
    except (OSError, Denied, msgspec.DecodeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _OURS:
            hint = "Raise the limit of open files (ulimit -n), or try again when less runs."
            raise Unavailable(f"{path} cannot be compared: {error.strerror}", hint=hint) from error
        return f"it cannot be compared: {error}"
    return f"{missing.path!r} is missing" if missing is not None else ""


def _read(manifest: Path) -> Iterator[Sum]:
    """The entries of a manifest. Raises ``ValueError`` at its end if it is not whole."""
    whole = hashlib.sha256()
    with manifest.open("rb") as file:
        for line in file:
            if line.startswith(b"["):
                yield msgspec.json.decode(line, type=Sum)
                whole.update(line)
            elif msgspec.json.decode(line) == whole.hexdigest():
                return
    raise ValueError("its manifest is torn")


def _told(found: Sum, expected: Sum | None) -> str:
    if expected is None:
        return f"{found.path!r} is too much"
    if found.path != expected.path:
        return f"{min(found.path, expected.path)!r} is missing or too much"
    if found.size_bytes != expected.size_bytes:
        return f"{found.path!r} has {found.size_bytes} bytes, and had {expected.size_bytes}"
    return f"{found.path!r} has other bytes or rights, or leads elsewhere"
