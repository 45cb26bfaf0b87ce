"""From keys to names on the disk.

Knows: what Bacalhau's users expect to find below an input's target, and which keys cannot be told apart there. Must not
know: the disk or an S3 client. Keys come from strangers; the names are checked again where they are created.
"""

import posixpath
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Final, NamedTuple

from msgspec import Struct

from protocol.errors import Invalid
from storage.long_lists import Packed
from storage.s3.checksums import Checksum
from storage.tree import Entry, Kind, safe_parts

ODD_HINT: Final = "Write Key without //, .. and \\, and without a slash at its beginning."


class Object(Struct, frozen=True, gc=False, array_like=True):
    """An object as a listing or a look at it has it; `version` empty unless a version was asked for or told, `checksum` the
    one that S3 keeps (`storage.s3.checksums`), as far as a look told it."""

    key: str
    size_bytes: int
    etag: str = ""
    version: str = ""
    checksum: Checksum | None = None

    @property
    def is_marker(self) -> bool:
        """Whether it only says that a folder is there."""
        return self.key.endswith("/") and self.size_bytes == 0


class Placed(NamedTuple):
    """An object and the relative path that it lands at."""

    name: str
    found: Object


class Landing(Struct, frozen=True):
    """Which object becomes which file, by relative path, and which folders are there besides; `size_bytes` of all files."""

    files: Packed[Placed]
    folders: Packed[str]
    size_bytes: int

    @property
    def entries(self) -> list[Entry]:
        """As a walk over the tree would tell it, but for the folders that files make."""
        files = [Entry(name, Kind.FILE, each.size_bytes) for name, each in self.files]
        return files + [Entry(name, Kind.FOLDER) for name in self.folders]


def plain_key(key: str) -> str:
    """The key under which a server that keeps objects as files may keep it: without ``//``, ``.``, ``..`` and a slash at the
    beginning. Most keys are their own."""
    ending = "/" if key.endswith("/") else ""
    return posixpath.normpath("/./" + key)[1:] + ending


def landing(objects: Iterable[Object], prefix: str) -> Landing:
    """Where the objects of a prefix lie below the target: the key behind the prefix's last slash.

    Empty and ``.`` components are dropped (``a//b`` lies at ``a/b``). A marker makes a folder.

    Raises `Invalid`, which names the key, for ``..``, a NUL, a component too long, an object that has bytes but a folder's
    name, and for two keys that would lie at one place, or one below the other.
    """
    above = prefix[: prefix.rfind("/") + 1]
    placed = Packed(Placed, (Placed(_name(each, above), each) for each in objects)).in_order(itemgetter(0))
    files, folders = Packed(Placed), Packed(str)
    size_bytes = 0
    for name, each in _apart(placed):
        if not each.is_marker:
            files.append(Placed(name, each))
            size_bytes += each.size_bytes
        elif name:
            folders.append(name)
    return Landing(files, folders, size_bytes)


def _name(found: Object, above: str) -> str:
    key = found.key
    if key.endswith("/") and not found.is_marker:
        raise Invalid(
            f"the object {key!r} has the name of a folder but {found.size_bytes} bytes",
            hint="Leave it out with Filter, or rename it.",
        )
    rest = key.removeprefix(above)
    if not rest.strip("/") and key.endswith("/"):
        return ""
    try:
        return "/".join(safe_parts(rest))
    except Invalid as fault:
        hint = "Leave it out with Filter, or rename it."
        raise Invalid(f"the key {key!r} cannot become a file: {fault.message}", hint=hint) from fault


def _apart(placed: Iterable[Placed]) -> Iterator[Placed]:
    """What is placed, in the order of names, each name once. Raises `Invalid` where a file lies where another thing does, or
    where there must be a folder.

    All that begin with a file's name follow it in that order. So those that begin the present one are a few, each longer
    than the one before: they are all that has to be compared.
    """
    begun: list[Placed] = []
    for name, each in placed:
        while begun and not name.startswith(begun[-1][0]):
            begun.pop()
        known = False
        for other, there in begun:
            same = other == name
            if same and there.is_marker and each.is_marker:
                known = True
            elif same or (not there.is_marker and name[len(other)] == "/"):
                raise _collision(there.key, each.key, other)
        if not known:
            begun.append(Placed(name, each))
            yield begun[-1]


def _collision(one: str, other: str, name: str) -> Invalid:
    return Invalid(
        f"the keys {one!r} and {other!r} would both lie at {name!r}",
        hint="Leave one of them out with Filter, or rename it.",
    )
