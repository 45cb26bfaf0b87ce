"""What objects a folder becomes when it is published as one object a file.

Knows: keys, and what S3 can hold of a tree. Must not know: any S3 client, the disk, or how bytes are sent.

An empty folder becomes a marker (an empty object whose key ends with ``/``, which the source makes a folder again),
executable bits are lost, and a tree with links is refused before anything is sent: S3 has no links, and following one would
publish what it leads to.
"""

import os
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from protocol.errors import Invalid
from storage.long_lists import Packed, in_order
from storage.s3.keys import Landing
from storage.s3.params import KEY_MAX_BYTES
from storage.threads import Stop
from storage.tree import Entry, Kind

SMALL_FILE_BYTES: Final = 1 << 20
"""A smaller file goes in one request, beside others."""


class File(NamedTuple):
    """A file that becomes the object at `key`. `sha256` (hexadecimal) is what its bytes should have; empty for any."""

    key: str
    entry: Entry
    sha256: str


class Planned(Struct, frozen=True):
    """What is to be put there: the files, and the keys of the markers. `odd` is the first key of a name with a backslash,
    which not every server keeps as it is; empty if there is none."""

    small: Packed[File]
    large: Packed[File]
    markers: list[str]
    size_bytes: int
    odd: str


def planned(entries: Iterable[tuple[Entry, str]], prefix: str, stop: Stop) -> Planned:
    """The objects that a folder becomes with these entries, each with the digest that its bytes should have (see `File`), in
    the order of a walk. Raises `Invalid`, which names the path."""
    small, large = Packed(File), Packed(File)
    size_bytes = 0
    odd = ""
    empty: set[str] = {""}
    for entry, sha256 in entries:
        stop()
        empty.discard(entry.path.rpartition("/")[0])
        key = prefix + entry.path
        _check_key(entry.path, key)
        if "\\" in entry.path and not odd:
            odd = key
        if entry.kind is Kind.LINK:
            raise Invalid(
                f"the link {entry.path!r} cannot be published as an object",
                hint="Publish with Encoding: gzip, which keeps links, or let the program write a file.",
                kind="Link",
            )
        if entry.kind is Kind.FOLDER:
            empty.add(entry.path)
        else:
            (small if entry.size_bytes < SMALL_FILE_BYTES else large).append(File(key, entry, sha256))
            size_bytes += entry.size_bytes
    markers = [f"{prefix}{path}/" if path else prefix for path in empty]
    return Planned(small, large, in_order(markers, str), size_bytes, odd)


def lacking(entries: Iterable[tuple[Entry, str]], landed: Landing, stop: Stop) -> tuple[str, str]:
    """What a prefix with these objects lacks of a folder, and what it has beside it: one path of each, empty for none. A
    file of another size is lacking. Raises as `planned`."""
    plan = planned(entries, "", stop)
    wanted = {file.key: file.entry.size_bytes for files in (plan.small, plan.large) for file in files}
    there = {name: found.size_bytes for name, found in landed.files}
    folders = set(landed.folders)
    gone = [name for name, size in wanted.items() if there.get(name) != size]
    gone += [marker for marker in plan.markers if marker and marker.removesuffix("/") not in folders]
    # Some stores make a marker for each folder by themselves.
    more = [name for name in there if name not in wanted]
    return min(gone, default=""), min(more, default="")


def _check_key(path: str, key: str) -> None:
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        shown = os.fsencode(path)
        raise Invalid(
            f"the name {shown!r} is not UTF-8, and no key", hint="Publish with Encoding: gzip."
        ) from error
    if length > KEY_MAX_BYTES:
        raise Invalid(
            f"the key {key!r} has {length} bytes and the limit is {KEY_MAX_BYTES}", hint="Use shorter names."
        )
