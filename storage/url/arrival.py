"""One file on its way, over all attempts to bring it.

Knows: which answer continues what has come, and what the whole must be. Must not know: connections, or when to try again.

A body is continued where the server vouches that it is the same version (a strong ETag and If-Range), or the params' SHA-256
does; else it is brought again from its beginning, because two attempts may be answered by two versions.
"""

import hashlib
import os
from pathlib import Path
from typing import Self

import aiohttp

from protocol.errors import Broken
from storage.arrival import remove_tree
from storage.contract import Progress
from storage.mismatch import mismatch
from storage.ranged import CONTENT_RANGE
from storage.threads import Stop
from storage.tree import write_all
from storage.tree_writer import TreeWriter
from storage.url.params import Pinned, UrlParams, Version, changed, check_size, shown, version_of


class Arrival:
    """One fetch over all of its attempts: what has come, and what may be continued."""

    def __init__(self, params: UrlParams, pinned: Pinned, folder: Path, progress: Progress) -> None:
        self.params = params
        self.done = 0
        self.furthest = 0
        self._pinned = pinned
        self._folder = folder
        self._progress = progress
        self._digest = hashlib.sha256()
        self._file = -1
        self._vouched = True
        self._joined = False
        """Whether what came is of several answers, and only the digest says that they are of one version."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def wanted(self) -> dict[str, str]:
        """The headers that ask for what is missing, none for everything."""
        version = self._pinned.version
        if not (self.done and self._vouched and (version.exact or self.params.digest)):
            return {}
        same = {"If-Range": version.etag} if version.exact else {}
        return {"Range": f"bytes={self.done}-", **same}

    def check_version(self, found: Version) -> None:
        """Raise `Broken` if the server has another version by now; where a digest is named, that will tell."""
        if not found.may_be(self._pinned.version) and not self.params.digest:
            raise changed(self.params)

    def check_rest(self, answer: aiohttp.ClientResponse) -> None:
        """Raise `Broken` unless this is all that is missing, of the same version."""
        version, found = self._pinned.version, version_of(answer)
        told = answer.headers.get("Content-Range", "")
        part = CONTENT_RANGE.fullmatch(told)
        size = version.size_bytes
        if (
            answer.status != 206
            or part is None
            or int(part[1]) != self.done
            or (size is not None and part[3] not in ("*", str(size)))
        ):
            raise self._unfit(f"answers with the range {told[:60]!r}, not with the rest from {self.done}")
        length = int(part[2]) + 1 - self.done
        if answer.content_length not in (None, length) or (size is not None and self.done + length != size):
            raise self._unfit("answers with another part than was asked for")
        if version.exact and not found.etag:
            raise self._unfit("does not say of which version the rest is")
        if version.exact and (found.etag, found.coding) != (version.etag, version.coding):
            raise changed(self.params)
        self._joined = not version.exact

    def _unfit(self, what: str) -> Broken:
        """For what may not be joined with what came: the next attempt asks for everything."""
        self._vouched = False
        return Broken(f"{shown(self.params)} {what}")

    def total(self, answer: aiohttp.ClientResponse) -> int | None:
        """How many bytes there are in all, as far as this answer or the resolved version says."""
        left = answer.content_length
        return self._pinned.version.size_bytes if left is None else self.done + left

    def forget(self) -> None:
        """All that came is void: what comes next is the beginning."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.done = 0
        self._joined = False
        self._digest = hashlib.sha256()

    def append(self, piece: bytes, stop: Stop) -> None:
        """Write what comes next, at the beginning into a new file of the name (also if nothing is in it)."""
        if self._file < 0:
            remove_tree(self._folder)
            with TreeWriter(self._folder) as writer:
                self._file = writer.open(self._pinned.name)
        write_all(self._file, piece)
        if self.params.digest:
            self._digest.update(piece)
        self.done += len(piece)

    def tell(self, total: int | None) -> None:
        """Tell progress, without the way back that a new attempt makes."""
        if self.done > self.furthest:
            self.furthest = self.done
            self._progress(self.done, total)

    def check_whole(self, total: int | None, *, ended: bool) -> None:
        """Raise `Broken` unless what came is everything, and what was named: of kind ``Mismatch`` if nothing was lost.

        Not `ended`: the server does not say where its body ends, so a cut looks like the end.
        """
        if total is not None and self.done != total:
            raise Broken(f"{shown(self.params)} ended after {self.done} of {total} bytes")
        try:
            check_size(self.params, self.done)
            if self.params.digest and self._digest.hexdigest() != self.params.digest:
                found = f"the SHA-256 {self._digest.hexdigest()}"
                raise mismatch(shown(self.params), found, "SHA256", self.params.digest)
        except Broken as fault:
            if ended and not self._joined:
                raise
            # All of it in one answer may be right.
            self._vouched = False
            raise Broken(fault.message, hint="It was cut off, or changed meanwhile: try again.") from fault
