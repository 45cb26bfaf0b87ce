"""Folders whose sub-folders lie apart on the disk.

Knows: that ext4 puts a new folder and its files near its parent, and does not use the number of a removed file again for
minutes: where many small files have come and gone, it steps over each of them for each new one. Measured: 0.2 to 0.9 ms for
a new file after a thousand were removed, 0.024 ms in a part of the disk where none were. Must not know: what is in them.
"""

import fcntl
import os
from pathlib import Path
from typing import Final

_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of <linux/fs.h> on 64-bit machines."""
_TOP_OF_HIERARCHY: Final = 0x00020000
"""FS_TOPDIR_FL, what ``chattr +T`` sets (chattr(1)): sub-folders have nothing to do with each other."""


def spread(folder: Path) -> None:
    """Ask the file system to put the sub-folders of `folder` apart from each other; one that cannot is left as it is."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = bytearray(8)
        fcntl.ioctl(at, _GET_FLAGS, flags)
        wanted = int.from_bytes(flags, "little") | _TOP_OF_HIERARCHY
        fcntl.ioctl(at, _SET_FLAGS, wanted.to_bytes(8, "little"))
    except OSError:
        pass
    finally:
        os.close(at)
