"""One file of an archive that lies elsewhere, or the list of its files, without keeping the rest.

Knows: archives as streams. Must not know: which archive, where it lies (`storage.stream`), or who looks. Blocking. What
follows the wanted file is not asked for, so an archive's own checksum is not reached either: whoever knows the file's
digest compares it, and for whoever does not, a few megabytes more are read to the checksum.
"""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from isal import igzip

from protocol.errors import Broken, Fault
from storage import tar_format
from storage.archive import DAMAGED
from storage.tree import CHUNK_BYTES, Entry, Kind, safe_parts

REST_MAX_BYTES: Final = 64 << 20
"""What may be read behind a file, unpacked, for the sake of the archive's checksum."""


def listing(archive: BinaryIO) -> Iterator[Entry]:
    """All that is in a ``.tar.gz`` stream, in its order. Raises `Broken`, and `Invalid` for kinds that are not taken."""
    with _unzipped(archive) as stream:
        for entry in tar_format.members(stream.read):
            yield entry
            _skip(stream, entry.size_bytes + len(tar_format.padding(entry.size_bytes)))


class Unchecked(Exception):
    """All of a file came, and nothing says that its bytes are the right ones."""


def content(archive: BinaryIO, path: str, *, check: bool = True) -> Iterator[bytes] | None:
    """The pieces of the file at `path` in a ``.tar.gz`` stream; None if there is no such file. Raises as `listing`.

    With `check` the archive's own checksum is compared behind the last piece; raises `Unchecked` if it is not there, or too
    far away.
    """
    wanted = safe_parts(path)
    stream = cast(BinaryIO, igzip.IGzipFile(fileobj=archive, mode="rb"))  # type: ignore[no-untyped-call]
    with _damage_told():
        for entry in tar_format.members(stream.read):
            if entry.kind is Kind.FILE and safe_parts(entry.path) == wanted:
                return _pieces(stream, entry, check)
            _skip(stream, entry.size_bytes + len(tar_format.padding(entry.size_bytes)))
    return None


def _pieces(stream: BinaryIO, entry: Entry, check: bool) -> Iterator[bytes]:
    left = entry.size_bytes
    with _damage_told():
        while left:
            piece = stream.read(min(left, CHUNK_BYTES))
            if not piece:
                raise Broken(f"the archive is cut short: {left} bytes of {entry.path!r} are missing")
            left -= len(piece)
            yield piece
    if check:
        _check_rest(stream)


def _check_rest(stream: BinaryIO) -> None:
    """Read on to the archive's end, whose checksum is compared there. Raises `Broken`, and `Unchecked` short of the end."""
    with _damage_told():
        try:
            for _ in range(REST_MAX_BYTES // CHUNK_BYTES):
                if not stream.read(CHUNK_BYTES):
                    return
        except (EOFError, Fault) as error:
            raise Unchecked from error
    raise Unchecked


@contextlib.contextmanager
def _unzipped(archive: BinaryIO) -> Iterator[BinaryIO]:
    with _damage_told():
        yield cast(BinaryIO, igzip.IGzipFile(fileobj=archive, mode="rb"))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise Broken(f"the archive is damaged or cut short: {error}") from error


def _skip(stream: BinaryIO, size_bytes: int) -> None:
    left = size_bytes
    while left:
        piece = stream.read(min(left, CHUNK_BYTES))
        if not piece:
            raise Broken("the archive is cut short")
        left -= len(piece)
