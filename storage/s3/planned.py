"""What objects a folder becomes when it is published as one object a file.

Knows: keys, and what S3 can hold of a tree. Must not know: any S3 client, or how bytes are sent.

An empty folder becomes a marker (an empty object whose key ends with ``/``, which the source makes a folder again),
executable bits are lost, and a tree with links is refused before anything is sent: S3 has no links, and following one would
publish what it leads to.
"""

import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from protocol.errors import Invalid
from storage.long_lists import Packed, in_order
from storage.s3.params import KEY_MAX_BYTES
from storage.threads import Stop
from storage.tree import Entry, Kind, walk

SMALL_FILE_BYTES: Final = 1 << 20
"""A smaller file goes in one request, beside others."""


class Planned(Struct, frozen=True):
    """What is to be put there: key and entry of each file, and the keys of the markers."""

    small: Packed[tuple[str, Entry]]
    large: Packed[tuple[str, Entry]]
    markers: list[str]
    size_bytes: int


def planned(folder: Path, prefix: str, stop: Stop) -> Planned:
    """The objects that the folder becomes. Raises `Invalid`, which names the path."""
    small, large = Packed(tuple[str, Entry]), Packed(tuple[str, Entry])
    size_bytes = 0
    empty: set[str] = {""}
    for entry in walk(folder):
        stop()
        empty.discard(entry.path.rpartition("/")[0])
        key = prefix + entry.path
        _check_key(entry.path, key)
        if entry.kind is Kind.LINK:
            raise Invalid(
                f"the link {entry.path!r} cannot be published as an object",
                hint="Publish with Encoding: gzip, which keeps links, or let the program write a file.",
                kind="Link",
            )
        if entry.kind is Kind.FOLDER:
            empty.add(entry.path)
        else:
            (small if entry.size_bytes < SMALL_FILE_BYTES else large).append((key, entry))
            size_bytes += entry.size_bytes
    markers = [f"{prefix}{path}/" if path else prefix for path in empty]
    return Planned(small, large, in_order(markers, str), size_bytes)


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
