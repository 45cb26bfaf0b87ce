"""How the results of several executions become one folder.

Knows: the layout of a result (``stdout``, ``stderr``, ``exitCode`` and one folder per result path) and Bacalhau's merged
form of it. Must not know: where results come from.

The three text files are joined, one execution after another; everything else keeps its path. Two executions that wrote
the same path cannot be merged: that is found before anything is written, and as far as their records tell what they wrote,
before anything is downloaded.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from protocol.errors import Conflict
from storage.tree import Kind

JOINED: Final = ("stdout", "stderr", "exitCode")


class Paths:
    """What the results seen so far hold: no other may hold the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._folders: set[str] = set()

    def add(self, entries: Iterable[tuple[str, bool]]) -> None:
        """Take one more result's paths, each with whether it is a folder. Raises `Conflict` naming the first path of two."""
        for name, is_folder in entries:
            if name in JOINED and not is_folder:
                continue
            if name in self._taken or (not is_folder and name in self._folders):
                raise Conflict(
                    f"two executions wrote {name}, so their results cannot be merged",
                    hint="Use --raw to keep one folder per execution.",
                )
            (self._folders if is_folder else self._taken).add(name)


def merge(results: list[Path], into: Path) -> None:
    """Merge result folders into `into`, which exists and is empty. Raises `Conflict` naming the first path of two.

    The results' files are moved, not copied: a folder that only one of them has with all that is in it.
    """
    if len(results) > 1:
        paths = Paths()
        for result in results:
            paths.add(_entries(result))
    for result in results:
        _place(result, into, JOINED)


def entries_told(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """The paths that a record tells of, with the folders above them, as `Paths` takes them."""
    found = dict[str, bool]()
    for row in rows:
        path = str(row["Path"])
        above = path.rpartition("/")[0]
        while above:
            found.setdefault(above, True)
            above = above.rpartition("/")[0]
        found[path] = row["Type"] == Kind.FOLDER
    return list(found.items())


def _place(folder: Path, into: Path, joined: tuple[str, ...] = ()) -> None:
    """Move what is in `folder`; to files of the names `joined` it is added."""
    for source in sorted(folder.iterdir()):
        there = into / source.name
        if source.is_symlink():
            os.rename(source, there)
        elif source.name in joined and source.is_file():
            with source.open("rb") as part, there.open("ab") as whole:
                shutil.copyfileobj(part, whole)
        elif source.is_dir() and there.exists():
            _place(source, there)
        else:
            os.rename(source, there)


def _entries(result: Path) -> list[tuple[str, bool]]:
    """Everything inside by its path, a folder before what is in it; whether it is a folder. A link is never followed."""
    found = []
    for folder, folders, files in os.walk(result):
        above = Path(folder).relative_to(result)
        found += [(str(above / name), not (Path(folder) / name).is_symlink()) for name in folders]
        found += [(str(above / name), False) for name in files]
    return found
