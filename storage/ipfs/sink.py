"""What blocks hold, put on the disk.

Knows: files that come in pieces, in any order. Must not know: blocks. Blocking; called from several threads at once.
"""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.errors import Exhausted
from storage.ipfs.unixfs import Found
from storage.ranged import check_size
from storage.tree import Kind, Limits, new_file, write_all_at
from storage.tree_writer import TreeWriter


class _File:
    """A file of which some bytes are still to come."""

    def __init__(self, fd: int, left: int) -> None:
        self.fd = fd
        self.left = left


class Sink:
    """Builds a tree, or a single file, at a path that does not exist yet; a context manager.

    Raises `Exhausted` beyond `limits`, `Invalid` for names that meet. Equal to the source when every block was put.
    """

    def __init__(self, at: Path, what: str, limits: Limits) -> None:
        self._at = at
        self._what = what
        self._limits = limits
        self._tree: TreeWriter | None = None
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        self._announced_bytes = 0
        self._shards = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            os.close(file.fd)
        if self._tree is not None:
            self._tree.__exit__(kind, fault, trace)

    def put(self, found: Found) -> int:
        """Put what one block holds; returns the number of bytes written."""
        if found.kind is Kind.FILE:
            self._begin(found)
        elif found.kind is Kind.FOLDER:
            self._folder(found.path)
        elif found.kind is Kind.LINK:
            self._writer().link(found.path, found.target)
        elif found.data:
            self._piece(found)
        elif not found.size_bytes:
            self._shard()
        return len(found.data)

    def _writer(self) -> TreeWriter:
        with self._lock:
            if self._tree is None:
                self._tree = TreeWriter(self._at, self._limits)
            return self._tree

    def _folder(self, path: str) -> None:
        writer = self._writer()
        if path:
            writer.folder(path)

    def _begin(self, found: Found) -> None:
        with self._lock:
            self._announced_bytes += found.size_bytes
        check_size(self._what, self._announced_bytes, self._limits.size_bytes)
        fd = self._open(found)
        left = found.size_bytes - len(found.data)
        try:
            write_all_at(fd, found.data, found.offset)
        except BaseException:
            os.close(fd)
            raise
        if not left:
            os.close(fd)
            return
        with self._lock:
            self._files[found.path] = _File(fd, left)

    def _open(self, found: Found) -> int:
        if found.path:
            return self._writer().open(found.path, executable=found.executable)
        with new_file(self._at) as file:
            if found.executable:
                os.fchmod(file.fileno(), 0o755)
            return os.dup(file.fileno())

    def _piece(self, found: Found) -> None:
        file = self._files[found.path]
        write_all_at(file.fd, found.data, found.offset)
        with self._lock:
            file.left -= len(found.data)
            if file.left:
                return
            del self._files[found.path]
        os.close(file.fd)

    def _shard(self) -> None:
        with self._lock:
            self._shards += 1
        if self._shards > self._limits.entries:
            raise Exhausted(f"{self._what} is sharded into more than {self._limits.entries} parts")
