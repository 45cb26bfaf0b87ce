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
    """Merge result folders into `into`, which exists and is empty. Raises `Conflict` naming the first path of two.

    The results' files are moved, not copied.
    """
    taken: set[str] = set()
    folders: set[str] = set()
    for result in results:
        for name, is_folder in _entries(result):
            if name in JOINED and not is_folder:
                continue
            if name in taken or (not is_folder and name in folders):
                raise Conflict(
                    f"two executions wrote {name}, so their results cannot be merged",
                    hint="use --raw to keep one folder per execution",
                )
            (folders if is_folder else taken).add(name)
    for result in results:
        _place(result, into)


def _place(result: Path, into: Path) -> None:
    for name, is_folder in _entries(result):
        source, there = result / name, into / name
        if is_folder:
            there.mkdir(exist_ok=True)
        elif name in JOINED and not source.is_symlink():
            with source.open("rb") as part, there.open("ab") as whole:
                shutil.copyfileobj(part, whole)
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
