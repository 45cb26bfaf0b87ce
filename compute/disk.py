"""The disk of a node's data folder: what may still be written there, and what one folder takes of it.

Knows: the file system. Must not know: executions, or what becomes of one that takes too much.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from msgspec import Struct

from storage.threads import Stop

BLOCK_BYTES: Final = 512
"""The unit of ``st_blocks``, whatever the file system's own block is."""
INODE_BYTES: Final = 512
"""What a file takes beside its blocks, the empty one too: its inode, as large as XFS makes it (ext4: 256)."""

Inode = tuple[int, int]
"""Device and number of a file."""


class Disk(Struct, frozen=True):
    """The disk that `folder` is on. `reserve_bytes` of it are never given to anyone."""

    folder: Path
    reserve_bytes: int = 0

    def spare_bytes(self) -> int:
        """How much may be written before the reserve is touched; below zero when it is. Takes a microsecond.

        The reserve is of inodes as well, the same share of them: when they are over, a disk is full whatever space it has.
        """
        seen = os.statvfs(self.folder)
        spare_bytes = seen.f_bavail * seen.f_frsize - self.reserve_bytes
        if seen.f_files:
            all_bytes = seen.f_blocks * seen.f_frsize
            short_bytes = self.reserve_bytes - all_bytes * seen.f_favail // seen.f_files
            if short_bytes > 0:
                return min(spare_bytes, -short_bytes)
        return spare_bytes


def inode_of(path: Path) -> Inode:
    """A file's."""
    seen = path.stat()
    return seen.st_dev, seen.st_ino


def taken_bytes(folder: Path, others: Collection[Inode], stop: Stop) -> int:
    """What a folder takes on the disk, while programs may be writing there; 0 if it is not there.

    Holes in files count for nothing, a file with several names once, and an empty one for its inode; `others` are files that
    are someone else's. No link is followed. Blocks, some 3 µs a file.
    """
    taken = 0
    counted = set(others)
    waiting = [os.fspath(folder)]
    while waiting:
        stop()
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    seen = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif seen.st_nlink > 1:
                        inode = (seen.st_dev, seen.st_ino)
                        if inode in counted:
                            continue
                        counted.add(inode)
                    taken += seen.st_blocks * BLOCK_BYTES + INODE_BYTES
        except OSError:
            # Gone meanwhile, or too deep to be named: what a program hides so is bounded by the reserve.
            continue
    return taken
