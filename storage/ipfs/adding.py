"""A tree sent to Kubo's ``add``: one request, whose body is as long as the tree, and its answer.

Knows: multipart bodies as Kubo reads them, and how it tells what it added. Must not know: pins, or threads beyond the one
that it is called in.

Kubo is told to be silent about files, and tells of folders alone: a million files would make an answer of a hundred
megabytes, which nobody needs, because the root that is told last is that of all of them. An error behind its first line
stands in a line of its own, in an HTTP trailer, or both.
"""

import os
import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from protocol.errors import Broken
from storage.ipfs.kubo import Kubo
from storage.ipfs.trailers import lines, told_behind
from storage.lanes import Lane, Request
from storage.pour import Piece, Stretch
from storage.ranged import Refusal
from storage.tree import Entry, Kind, open_inside
from storage.wire import Head, Line

ROOT: Final = "result"
ADDING: Final = "publishing to IPFS"
JOINED_BYTES: Final = 1 << 18
"""Heads and small files are sent together, about so much at a time."""
SMALL_BYTES: Final = 1 << 16
STRETCH_BYTES: Final = 8 << 20
OPTIONS: Final = {"progress": "false", "silent": "true"}
MEDIA_TYPES: Final = {
    Kind.FOLDER: "application/x-directory",
    Kind.LINK: "application/symlink",
    Kind.FILE: "application/octet-stream",
}


class _Added(Struct, frozen=True, rename="pascal"):
    """A line of ``add``'s answer, or the error that ended it."""

    name: str = ""
    hash: str = ""
    message: str = ""


class Adding:
    """The request: a `storage.lanes.Task`. Afterwards `root` is the CID of the folder.

    `entries` are gone through more than once; all their files together have `size_bytes`. An empty file of the name `mark`
    is added to what is there, if it is not empty.
    """

    name = ADDING

    def __init__(
        self,
        kubo: Kubo,
        folder: Path,
        entries: Iterable[Entry],
        size_bytes: int,
        options: Mapping[str, str],
        mark: str = "",
    ) -> None:
        self.root = ""
        self.moved_bytes = 0
        self.size_bytes = size_bytes
        self._kubo = kubo
        self._folder = folder
        self._entries = entries
        self._boundary = secrets.token_hex(24)
        self._mark = mark
        self._target = f"{urlsplit(kubo.url('add')).path}?{urlencode({**OPTIONS, **options})}"

    def request(self) -> Request:
        """All of it: Kubo cannot go on where it broke off."""
        size = sum(len(text) for text, _ in self._texts()) + self.size_bytes
        headers = {"Content-Type": f"multipart/form-data; boundary={self._boundary}"}
        return Request("POST", self._target, headers, poured=self._pieces, poured_bytes=size)

    def refused(self, status: int, body: bytes) -> Refusal:
        """As Kubo says."""
        return Refusal(self._kubo.fault_of(ADDING, status, body), again=False)

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Read what was added. Raises `Broken` for an answer that is not whole, and what Kubo says went wrong."""
        root = ""
        for text in lines(line, ADDING):
            try:
                each = msgspec.json.decode(text, type=_Added)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                told = told_behind(self._kubo, ADDING, line.trailers)
                raise told or Broken(f"{ADDING}: Kubo answered {text[:100]!r}") from error
            if each.message:
                raise self._kubo.fault_of(ADDING, 500, text)
            # The root is told last, when all that is in it was added.
            root = each.hash if each.name == ROOT else ""
        fault = told_behind(self._kubo, ADDING, line.trailers)
        if fault is not None:
            raise fault
        if not root:
            hint = "It ended before its time, and says why in its log: is its disk full?"
            raise Broken(f"{ADDING}: Kubo did not tell that it added all", hint=hint)
        self.root = root

    def _texts(self) -> Iterator[tuple[bytes, Entry | None]]:
        """What stands around the files' bytes, and the file that follows, if one does."""
        before = _head(self._boundary, ROOT, Kind.FOLDER) + b"\r\n"
        if self._mark:
            before += _head(self._boundary, f"{ROOT}/{self._mark}", Kind.FILE) + b"\r\n"
        for entry in self._entries:
            text = before + _head(self._boundary, f"{ROOT}/{entry.path}", entry.kind, entry.executable)
            before = b"\r\n"
            if entry.kind is Kind.FILE:
                yield text, entry
            else:
                yield text + entry.target.encode(), None
        yield before + f"--{self._boundary}--\r\n".encode(), None

    def _pieces(self, lane: Lane) -> Generator[Piece, None, None]:
        """The multipart body: a part for each folder, link and file, each folder before what is in it. `lane` is told of
        the files' bytes that were sent."""
        joined = bytearray()
        content = 0
        for text, entry in self._texts():
            joined += text
            is_small = entry is not None and entry.size_bytes <= SMALL_BYTES
            if entry is not None and is_small:
                joined += self._whole(entry)
                content += entry.size_bytes
            if len(joined) >= JOINED_BYTES or (entry is not None and not is_small):
                lane.check()
                yield memoryview(joined)
                lane.moved += content
                joined, content = bytearray(), 0
            if entry is not None and not is_small:
                yield from self._stretches(entry, lane)
        yield memoryview(joined)
        lane.moved += content

    def _whole(self, entry: Entry) -> bytes:
        with open(open_inside(self._folder, entry.path), "rb", buffering=0) as file:
            data = file.read(entry.size_bytes)
        if len(data) < entry.size_bytes:
            raise Broken(f"{entry.path!r} became shorter while it was being published")
        return data

    def _stretches(self, entry: Entry, lane: Lane) -> Iterator[Stretch]:
        """A file's bytes, exactly as many as the listing says."""
        fd = open_inside(self._folder, entry.path)
        try:
            for start in range(0, entry.size_bytes, STRETCH_BYTES):
                lane.check()
                size = min(STRETCH_BYTES, entry.size_bytes - start)
                yield Stretch(fd, start, size, entry.path)
                lane.moved += size
        finally:
            os.close(fd)


def _head(boundary: str, path: str, kind: Kind, executable: bool = False) -> bytes:
    # Only what differs from the rule has a mode, so that other files keep the CID that `ipfs add` gives them.
    name = "file?mode=0755" if executable else "file"
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{quote(path, safe="")}"\r\n'
        f"Content-Type: {MEDIA_TYPES[kind]}\r\n\r\n"
    ).encode()
