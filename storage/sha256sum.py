"""The files of a tree as ``sha256sum`` lists them, and the digest of that list: what says whether two trees hold the same.

Knows: the list's form and order. Must not know: whose tree it is. Blocks; call it through `storage.threads.in_thread`.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from protocol.errors import Broken
from storage.threads import Stop
from storage.tree import Entry, Kind, Limits, digest_file, open_inside, text_of, walk

LIMITS: Final = Limits(entries=10_000_000)
_ESCAPED: Final = re.compile(rb"\\[\\nr]")
_MEANT: Final = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


class Total(Struct, frozen=True):
    """`count` files of `size_bytes` together; `sha256` is that of their whole list, in hexadecimal."""

    count: int
    size_bytes: int
    sha256: str


def summed(folder: Path, stop: Stop) -> Iterator[tuple[Entry, str]]:
    """All entries of a walk, files with the SHA-256 of their bytes. Raises as `storage.tree.walk`."""
    for entry in walk(folder, LIMITS):
        stop()
        yield (
            entry,
            digest_file(open_inside(folder, entry.path), stop) if entry.kind is Kind.FILE else "",
        )


def line_of(path: str, sha256: str) -> bytes:
    """A line as ``sha256sum`` writes and checks it: a name with a backslash or a line break is escaped, and says so."""
    name = path.encode(errors="surrogateescape")
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != name else b""
    return b"%b%b  %b\n" % (mark, sha256.encode(), escaped)


def lines_in(text: bytes) -> Iterator[tuple[str, str]]:
    """Path (as `storage.tree.text_of` has it) and digest of each line of such a list. Raises `Broken` for what is none."""
    for line in text.splitlines():
        escaped = line.startswith(b"\\")
        sha256, blanks, name = line.removeprefix(b"\\").partition(b"  ")
        if len(sha256) != 64 or not blanks or not name:
            raise Broken("a list of files has a line that sha256sum does not write")
        if escaped:
            name = _ESCAPED.sub(lambda found: _MEANT[found[0]], name)
        yield text_of(os.fsdecode(name)), sha256.decode(errors="replace")


def total_of(folder: Path, stop: Stop) -> Total:
    """All files of a tree together. Raises as `storage.tree.walk`."""
    count = size_bytes = 0
    whole = hashlib.sha256()
    for entry, sha256 in summed(folder, stop):
        if entry.kind is Kind.FILE:
            count += 1
            size_bytes += entry.size_bytes
            whole.update(line_of(entry.path, sha256))
    return Total(count, size_bytes, whole.hexdigest())
