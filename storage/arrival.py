"""How data comes to a place and goes from it: whole or not at all.

Knows: the file system. Must not know: where data comes from.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from protocol.errors import Conflict, Denied, Exhausted, Invalid
from storage.long_lists import each_of
from storage.threads import Stop, in_thread
from storage.tree import FOLDER_FLAGS, new_file, write_all

ARRIVING: Final = ".arriving-"
"""How names begin of what is not whole yet. After ``kill -9`` it stays: a folder that outlives a process is swept of it."""


@contextlib.asynccontextmanager
async def arriving(into: Path) -> AsyncIterator[Path]:
    """Where to build what is to be at `into`: a path beside it that does not exist yet (a file or a folder, as you like).

    On leaving, it is renamed to `into`: complete from the first moment. On any fault or cancellation it is removed, and
    `into` has never been there. A full or read-only disk becomes `Exhausted` or `Denied` naming `into`.
    """
    if os.path.lexists(into):
        raise Conflict(f"{into} is already there")
    beside = into.with_name(f"{ARRIVING}{secrets.token_hex(8)}")
    made = [beside]

    def arrive(stop: Stop) -> None:
        os.rename(beside, into)
        made.append(into)

    def remove(stop: Stop) -> None:
        for path in made:
            remove_tree(path)

    try:
        with disk_faults(into):
            yield beside
            # A cancellation that is under way would otherwise only be seen after the rename.
            await asyncio.sleep(0)
            # A busy disk lets even this wait, and the loop must not.
            await in_thread(arrive)
    except BaseException:
        await in_thread(remove)
        raise


def arrive_at_once(into: Path, data: bytes) -> None:
    """Make a small file at `into`, for data that is at hand: the same promises and faults as `arriving`.

    Nothing else runs meanwhile, so nobody meets half of it and it needs no second name.
    """
    with disk_faults(into):
        try:
            file = new_file(into)
        except FileExistsError as error:
            raise Conflict(f"{into} is already there") from error
        try:
            with file:
                write_all(file.fileno(), data)
        except BaseException:
            into.unlink()
            raise


@contextlib.contextmanager
def disk_faults(place: Path) -> Iterator[None]:
    """Turn what a disk refuses into our faults, naming `place`; errors of other kinds pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space, or give the node a larger disk."
            raise Exhausted(f"the disk of {place} is full", hint=hint, kind="Disk") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise Denied(
                f"{place} cannot be written: {error.strerror}", hint="Check the folder's owner."
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise Invalid(f"a path below {place} is too long for this disk", kind="Name") from error
        raise


def remove_tree(path: Path) -> None:
    """Remove a file, link or folder with all below it: read-only, ever so deep, or not there at all.

    Folders found inside are first moved up to the top, so neither the depth nor the length of paths matters. Raises
    `Denied` naming `path` if something in it belongs to another user and this process has no right to remove it; all else
    is gone then.
    """
    try:
        _remove(path)
    except FileNotFoundError:
        return
    except PermissionError as error:
        hint = "It holds folders of another user; run the node as root, or remove them by hand."
        raise Denied(f"{path} cannot be removed: {error.strerror} ({error.filename!r})", hint=hint) from error


def _remove(path: Path) -> None:
    mode = path.lstat().st_mode
    if not stat.S_ISDIR(mode):
        path.unlink()
        return
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        _unlock(os.fspath(path))
    root = os.open(path, FOLDER_FLAGS)
    stuck: dict[str, PermissionError] = {}
    try:
        while folders := [name for name in _unlink_files(root) if name not in stuck]:
            for name in folders:
                try:
                    _lift(root, name)
                except PermissionError as error:
                    stuck[name] = error
    finally:
        os.close(root)
    for first in stuck.values():
        raise first
    path.rmdir()


def _lift(root: int, name: str) -> None:
    """Remove the folder `name` in `root`; the folders inside it move up into `root`."""
    if _rmdir(name, root):
        return
    _unlock(name, root)
    at = os.open(name, FOLDER_FLAGS, dir_fd=root)
    try:
        for inner in _unlink_files(at):
            if not _rmdir(inner, at):
                _unlock(inner, at)
                os.rename(inner, f".removing-{secrets.token_hex(8)}", src_dir_fd=at, dst_dir_fd=root)
    finally:
        os.close(at)
    os.rmdir(name, dir_fd=root)


def _rmdir(name: str, at: int) -> bool:
    """Remove a folder if it is empty, which needs no right to the folder itself."""
    try:
        os.rmdir(name, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _unlink_files(at: int) -> list[str]:
    """Remove all that is no folder; the folders' names are returned."""
    folders = []
    with os.scandir(at) as entries:
        # A list of very many is not let go of at once: no other thread would run meanwhile.
        for entry in each_of(list(entries)):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=at)
    return folders


def _unlock(name: str, at: int | None = None) -> None:
    """Give ourselves the rights to empty a folder, as far as it is ours; it is known to be no link."""
    with contextlib.suppress(PermissionError):
        os.chmod(name, 0o700, dir_fd=at)
