"""What a folder holds at one time: everything in it, files with the SHA-256 of their bytes, and one digest of it all.

Knows: what makes two trees the same. Must not know: where a tree is sent, or under which name.

What is sent by such a list and changes meanwhile is found out: its bytes have another digest than the list says.
"""

import hashlib
import os
from pathlib import Path

from msgspec import Struct

from protocol.errors import Invalid
from storage.long_lists import Packed
from storage.sha256sum import summed
from storage.threads import Stop
from storage.tree import Entry, Kind


class Contents(Struct, frozen=True):
    """`entries` in the order of a walk, each with its SHA-256 (in hexadecimal; empty for what is no file); `sha256` is the
    digest of them all, `size_bytes` what the files have together."""

    entries: Packed[tuple[Entry, str]]
    size_bytes: int
    sha256: str


def contents_of(folder: Path, stop: Stop = lambda: None) -> Contents:
    """What the folder holds now. Blocks, and calls `stop` between pieces.

    Equal trees have equal digests on every machine: names, kinds, executable bits, bytes and the targets of links count,
    times and owners do not. Raises `Invalid` for a name that is not UTF-8, and as `storage.tree.walk`.
    """
    entries = Packed(tuple[Entry, str])
    size_bytes = 0
    whole = hashlib.sha256()
    for entry, sha256 in summed(folder, stop):
        try:
            line = (entry.kind.value, entry.path, "x" if entry.executable else "-", sha256 or entry.target)
            whole.update(b"".join(part.encode() + b"\0" for part in line))
        except UnicodeEncodeError as error:
            shown = os.fsencode(entry.path)
            raise Invalid(f"the name {shown!r} is not UTF-8", hint="Rename it.", kind="Name") from error
        entries.append((entry, sha256))
        size_bytes += entry.size_bytes if entry.kind is Kind.FILE else 0
    return Contents(entries, size_bytes, whole.hexdigest())
