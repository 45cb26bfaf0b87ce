"""From keys to names on the disk.

Knows: what Bacalhau's users expect to find below an input's target, and which keys cannot be told apart there. Must not
know: the disk or an S3 client. Keys come from strangers; the names are checked again where they are created.
"""

import posixpath
from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Final

from msgspec import Struct

from protocol.errors import Invalid
from storage.long_lists import in_order
from storage.s3.checksums import Checksum
from storage.tree import Entry, Kind, safe_parts

ODD_HINT: Final = "Write Key without // and .. and without a slash at its beginning."


class Object(Struct, frozen=True, gc=False):
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


class Landing(Struct, frozen=True):
    """Which object becomes which file, by relative path, and which folders are there besides."""

    files: list[tuple[str, Object]]
    folders: list[str]

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
    files: dict[str, Object] = {}
    placed: list[tuple[str, Object]] = []
    folders: dict[str, str] = {}
    for each in objects:
        name = _name(each.key, above)
        if each.is_marker:
            folders.setdefault(name, each.key)
        elif each.key.endswith("/"):
            raise Invalid(
                f"the object {each.key!r} has the name of a folder but {each.size_bytes} bytes",
                hint="Leave it out with Filter, or rename it.",
            )
        elif name in files:
            raise _collision(files[name].key, each.key, name)
        else:
            files[name] = each
            placed.append((name, each))
    _check_nesting(files, folders)
    return Landing(in_order(placed, itemgetter(0)), in_order([name for name in folders if name], str))


def _name(key: str, above: str) -> str:
    rest = key.removeprefix(above)
    if not rest.strip("/") and key.endswith("/"):
        return ""
    try:
        return "/".join(safe_parts(rest))
    except Invalid as fault:
        hint = "Leave it out with Filter, or rename it."
        raise Invalid(f"the key {key!r} cannot become a file: {fault.message}", hint=hint) from fault


def _check_nesting(files: dict[str, Object], folders: dict[str, str]) -> None:
    """No file may be where a folder must be."""
    for name in files.keys() & folders.keys():
        raise _collision(files[name].key, folders[name], name)
    for name, key in chain(((name, each.key) for name, each in files.items()), folders.items()):
        above = name.rpartition("/")[0]
        while above:
            if above in files:
                raise _collision(files[above].key, key, above)
            above = above.rpartition("/")[0]


def _collision(one: str, other: str, name: str) -> Invalid:
    return Invalid(
        f"the keys {one!r} and {other!r} would both lie at {name!r}",
        hint="Leave one of them out with Filter, or rename it.",
    )
