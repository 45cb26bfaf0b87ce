"""``python -m compute cache list`` and ``verify``: a look at a node's inputs from beside it.

Knows: how entries lie on the disk, and how they are shown. Must not know: the node, which may be running or not. What is
found to be wrong is marked: the node serves it no more, removes it, and ends programs that read it.

An entry is in one of three states: whole; ``SPOILED``, its bytes are not those that came; ``UNCHECKED``, nothing was written
down yet to compare its bytes with. A node writes that down when it has nothing better to do; until then it serves an entry
that it fetched itself since the machine started, and none that an earlier start left behind.
"""

import contextlib
import time
from pathlib import Path

from protocol.spec.quantities import format_bytes
from storage.cache_entries import DATA, MANIFEST, SPOILED, Entry, entries_by_use, entries_in
from storage.manifest import difference


def list_entries(folder: Path) -> int:
    """Print each entry: when it was last used, its size and what it is. Returns the exit code."""
    now = time.time()
    found = entries_by_use(folder)
    for used_at, path, entry in found:
        state = _state(path)
        print(f"{_ago(now - used_at):>12}  {format_bytes(entry.size_bytes):>10}  {_shown(entry)}{state}")
    total = sum(entry.size_bytes for _, _, entry in found)
    print(f"{len(found)} inputs, {format_bytes(total)}, in {folder}")
    return 0


def verify_entries(folder: Path) -> int:
    """Compare each entry with what was written down when it came, and print what is wrong. 1 if anything is."""
    right = wrong = unchecked = 0
    for path, entry in entries_in(folder):
        if not (path / MANIFEST).exists():
            unchecked += 1
            print(f"UNCHECKED  {_shown(entry)}: its digests are not taken yet")
            continue
        found = difference(path / DATA, path / MANIFEST, lambda: None)
        if found and not path.exists():
            # The node has let it go meanwhile.
            continue
        if found:
            wrong += 1
            print(f"WRONG  {_shown(entry)}: {found}")
            with contextlib.suppress(OSError):
                (path / SPOILED).touch()
        else:
            right += 1
    later = f", {unchecked} could not be checked" if unchecked else ""
    print(f"{right} inputs are as they came, {wrong} are not{later}; in {folder}")
    if unchecked:
        print("Digests are taken by the node that runs on this folder, when it has time.")
    return 1 if wrong else 0


def _state(path: Path) -> str:
    """What is to be said of an entry that is not simply whole."""
    if (path / SPOILED).exists():
        return "  SPOILED"
    return "" if (path / MANIFEST).exists() else "  UNCHECKED"


def _shown(entry: Entry) -> str:
    text = f"{entry.type} {entry.identity}"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _ago(seconds: float) -> str:
    sizes = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
    size, unit = next((each for each in sizes if seconds >= each[0]), sizes[-1])
    count = round(seconds / size)
    return f"{count} {unit}{'' if count == 1 else 's'}"
