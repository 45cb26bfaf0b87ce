"""How the results of several executions become one folder.

Knows: the layout of a result (``stdout``, ``stderr``, ``exitCode`` and one folder per result path) and Bacalhau's merged
form of it. Must not know: where results come from.

The three text files are joined, one execution after another; everything else keeps its path. Two executions that wrote
the same path cannot be merged: that is found before anything is written.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from protocol.errors import Conflict

JOINED: Final = ("stdout", "stderr", "exitCode")


def merge(results: list[Path], into: Path) -> None:
    """Merge result folders into `into`, which exists. Raises `Conflict` naming the first path that two of them have."""
    taken: dict[str, Path] = {}
    for result in results:
        for path in _files(result):
            name = str(path.relative_to(result))
            if name in JOINED:
                continue
            if name in taken or (into / name).exists():
                raise Conflict(
                    f"two executions wrote {name}, so their results cannot be merged",
                    hint="use --raw to keep one folder per execution",
                )
            taken[name] = path
    for result in results:
        _place(result, into)


def _place(result: Path, into: Path) -> None:
    for folder, folders, files in os.walk(result):
        there = into / Path(folder).relative_to(result)
        there.mkdir(exist_ok=True)
        at_root = folder == str(result)
        for name in files + [each for each in folders if (Path(folder) / each).is_symlink()]:
            source = Path(folder) / name
            if at_root and name in JOINED:
                with source.open("rb") as part, (there / name).open("ab") as whole:
                    shutil.copyfileobj(part, whole)
            elif source.is_symlink():
                (there / name).symlink_to(source.readlink())
            else:
                shutil.move(source, there / name)


def _files(result: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(result):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found += [Path(folder) / name for name in files + links]
    return found
