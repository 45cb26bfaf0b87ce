"""An own copy of a file or a folder, for a program that may write to it.

Knows: how a file system copies (by sharing blocks, where it can). Must not know: whose copy it is.

XFS and btrfs share the blocks of both files until one is written (``FICLONE``): a copy of any size takes a millisecond and
no room. Elsewhere the kernel copies, without bytes passing through this process.
"""

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from storage.threads import Stop
from storage.tree import Kind, Limits, new_file, open_inside, walk
from storage.tree_writer import TreeWriter

FICLONE: Final = 0x40049409
"""The ioctl's number, from linux/fs.h."""
PIECE_BYTES: Final = 64 << 20
_LIMITS: Final = Limits(entries=10_000_000)


def copy(source: Path, into: Path, stop: Stop, clone: Callable[[int, int], bool] | None = None) -> None:
    """Make `into` equal to `source`: bytes, kinds, links, executable bits. Blocks; raises ``OSError``."""
    clone = clone or clone_file
    if not source.is_dir():
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        executable = bool(os.fstat(fd).st_mode & stat.S_IXUSR)
        with new_file(into) as file:
            _copy_bytes(fd, file.fileno(), stop, clone)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)
        return
    with TreeWriter(into, _LIMITS) as tree:
        for entry in walk(source, _LIMITS):
            stop()
            if entry.kind is Kind.FOLDER:
                tree.folder(entry.path)
            elif entry.kind is Kind.LINK:
                tree.link(entry.path, entry.target)
            else:
                made = tree.open(entry.path, executable=entry.executable)
                try:
                    _copy_bytes(open_inside(source, entry.path), made, stop, clone)
                finally:
                    os.close(made)


def make_writable(path: Path, stop: Stop) -> None:
    """Let any user write to a file, or to all in a folder: nobody knows as whom a program runs. Blocks."""
    if not path.is_dir():
        path.chmod(path.stat().st_mode | 0o666)
        return
    path.chmod(0o777)
    for entry in walk(path, _LIMITS):
        stop()
        if entry.kind is not Kind.LINK:
            os.chmod(path / entry.path, 0o777 if entry.kind is Kind.FOLDER or entry.executable else 0o666)


def clone_file(source: int, into: int) -> bool:
    """Share the blocks of one open file with another, if the file system can."""
    try:
        fcntl.ioctl(into, FICLONE, source)
    except OSError:
        return False
    return True


def _copy_bytes(source: int, into: int, stop: Stop, clone: Callable[[int, int], bool]) -> None:
    """Copy all of the open file `source`, which is closed."""
    try:
        if clone(source, into):
            return
        while os.copy_file_range(source, into, PIECE_BYTES):
            stop()
    finally:
        os.close(source)
