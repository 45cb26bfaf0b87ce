"""One file of an archive that lies elsewhere, or the list of its files, without keeping the rest.

Knows: archives as streams, and how a URL is read as one. Must not know: which archive, or who looks. Blocking: for programs
that do one thing. What follows the wanted file is never asked for, so an archive's own checksum is not reached either;
whoever knows the file's digest compares it.
"""

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from isal import igzip

from protocol.errors import Broken, TimedOut, Unavailable
from storage import tar_format
from storage.archive import DAMAGED
from storage.http_faults import check_status
from storage.tree import CHUNK_BYTES, Entry, Kind, safe_parts


@contextlib.contextmanager
def opened(url: str, *, silence_s: float = 30.0) -> Iterator[BinaryIO]:
    """What a URL answers with, as a stream. Raises our faults, here and while it is read."""
    parts = urlsplit(url)
    what = f"{parts.scheme}://{parts.hostname}{parts.path}"
    try:
        with contextlib.ExitStack() as stack:
            try:
                answer = stack.enter_context(urllib.request.urlopen(url, timeout=silence_s))
            except urllib.error.HTTPError as error:
                check_status(what, error.code, str(error.reason), 200)
                raise
            check_status(what, answer.status, answer.reason, 200)
            yield cast(BinaryIO, answer)
    except TimeoutError as error:
        raise TimedOut(f"{what} was silent for {silence_s:g} s") from error
    except urllib.error.URLError as error:
        raise Unavailable(f"{what} cannot be reached: {error.reason}") from error
    except http.client.HTTPException as error:
        raise Broken(f"{what} ended early") from error
    except ConnectionError as error:
        raise Unavailable(f"{what} broke off the connection: {error}") from error


def listing(archive: BinaryIO) -> Iterator[Entry]:
    """All that is in a ``.tar.gz`` stream, in its order. Raises `Broken`, and `Invalid` for kinds that are not taken."""
    with _unzipped(archive) as stream:
        for entry in tar_format.members(stream.read):
            yield entry
            _skip(stream, entry.size_bytes + len(tar_format.padding(entry.size_bytes)))


def content(archive: BinaryIO, path: str) -> Iterator[bytes] | None:
    """The pieces of the file at `path` in a ``.tar.gz`` stream; None if there is no such file. Raises as `listing`."""
    wanted = safe_parts(path)
    stream = cast(BinaryIO, igzip.IGzipFile(fileobj=archive, mode="rb"))  # type: ignore[no-untyped-call]
    with _damage_told():
        for entry in tar_format.members(stream.read):
            if entry.kind is Kind.FILE and safe_parts(entry.path) == wanted:
                return _pieces(stream, entry)
            _skip(stream, entry.size_bytes + len(tar_format.padding(entry.size_bytes)))
    return None


def _pieces(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    left = entry.size_bytes
    with _damage_told():
        while left:
            piece = stream.read(min(left, CHUNK_BYTES))
            if not piece:
                raise Broken(f"the archive is cut short: {left} bytes of {entry.path!r} are missing")
            left -= len(piece)
            yield piece


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
