"""Makes trees of files on this machine, whose names come from strangers.

Knows: the file system, and the rules of `storage.tree`: every step goes through the descriptor of the folder above, and
follows no link. Must not know: where names or bytes come from. Blocks; call it through `storage.threads.in_thread`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from protocol.errors import Exhausted, Invalid
from storage.tree import FOLDER_FLAGS, Limits, check_link, safe_parts, shown

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeWriter:
    """Creates files, folders and links below one folder, which it makes if need be; a context manager.

    Faults: `Invalid` (an unsafe name, or one that is taken by something else), `Exhausted` (too many entries).
    """

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._entries = 0
        self._kept: set[int] = set()
        """Modes that files get when they are made: neither the umask nor the folder's ACL takes from them."""
        with contextlib.suppress(FileExistsError):
            root.mkdir()
        self._root = os.open(root, FOLDER_FLAGS)
        os.fchmod(self._root, 0o755)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)

    def folder(self, name: str) -> None:
        """Make a folder and those above it; harmless if it is there."""
        self._leave(self._descend(name, safe_parts(name, self._limits.depth)))

    def open(self, name: str, *, executable: bool = False, replace: bool = False) -> int:
        """Make a file and the folders above it: a descriptor to write to, which the caller closes.

        The file is readable to all, and executable to all if asked. With `replace` a file or link of that name goes first.
        """
        mode = 0o755 if executable else 0o644
        above, last = self._place(name)
        try:
            if replace:
                _make_room(last, above)
            made = os.open(last, _NEW_FILE, mode, dir_fd=above)
        except FileExistsError as error:
            _taken(name, error)
        finally:
            self._leave(above)
        if mode not in self._kept:
            if stat.S_IMODE(os.fstat(made).st_mode) == mode:
                self._kept.add(mode)
            else:
                os.fchmod(made, mode)
        return made

    def link(self, name: str, target: str, *, replace: bool = False) -> None:
        """Make a symbolic link that stays inside; raises as `check_link`."""
        check_link(name, target)
        above, last = self._place(name)
        try:
            if replace:
                _make_room(last, above)
            os.symlink(target, last, dir_fd=above)
        except FileExistsError as error:
            _taken(name, error)
        finally:
            self._leave(above)

    def _place(self, name: str) -> tuple[int, str]:
        """The folder that `name` is to be in, made if need be, and what it is called there; `_leave` follows."""
        *above, last = safe_parts(name, self._limits.depth)
        self._count()
        return self._descend(name, above), last

    def _descend(self, name: str, parts: Sequence[str]) -> int:
        at = self._root
        for part in parts:
            try:
                below = self._enter(part, at)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    _taken(name, error)
                raise
            finally:
                self._leave(at)
            at = below
        return at

    def _leave(self, at: int) -> None:
        """Close what `_descend` opened."""
        if at != self._root:
            os.close(at)

    def _enter(self, part: str, at: int) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.open(part, FOLDER_FLAGS, dir_fd=at)
        self._count()
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=at)
        made = os.open(part, FOLDER_FLAGS, dir_fd=at)
        os.fchmod(made, 0o755)
        return made

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise Exhausted(
                f"more than {self._limits.entries} files and folders", hint="Pack them, or raise the limit."
            )


def _make_room(name: str, at: int) -> None:
    """Remove a file or link, if one is there."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(name, dir_fd=at)


def _taken(name: str, cause: Exception) -> NoReturn:
    raise Invalid(
        f"{shown(name)} meets another entry of the same name",
        hint="Two names lead to one path, or a file is used as a folder; rename one of them.",
        kind="Name",
    ) from cause
