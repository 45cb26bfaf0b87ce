"""What an execution wrote, as it is recorded: every file of its result with the SHA-256 of its bytes, every link and every
empty folder.

Knows: the list (as ``sha256sum`` prints it), how much of it a report carries, and where the rest stays. Must not know: who
publishes what, or where.

A report carries the first files and a digest of the whole list, so a log entry stays small however many files there are. A
list that does not fit is kept by the node, as long as the logs are: ``manifests/<execution>`` in its data folder, and the
files' sizes beside it. Requesters ask for both in pieces; whoever has the published result can make the same list, and
compare. The list has names as the bytes that they are, a report has text (`storage.tree.text_of`).
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Final

from protocol.errors import NotFound, Unavailable
from protocol.ids import ExecutionId, is_token
from protocol.messages import FileWritten, LinkWritten, Written
from storage.sha256sum import line_of, summed
from storage.threads import Stop
from storage.tree import Kind, text_of

FILES_MAX: Final = 20
PATHS_MAX_BYTES: Final = 4096
"""What a report carries. A job may have ten thousand executions, and a requester has all of them in memory."""
SPOOL_BYTES: Final = 1 << 16
SUFFIXES: Final = {"files": "", "sizes": ".sizes"}
"""What can be asked for of a list, and how its file's name ends."""
Recorded = FileWritten | LinkWritten | str


class _Few:
    """The first of many: as much as a report carries."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[Recorded] = []
        self._bytes = 0

    def take(self, each: Recorded, text: str) -> None:
        """Count it, and keep it if there is room for it (and was for all before)."""
        self.count += 1
        self._bytes += len(text.encode(errors="surrogateescape"))
        if self.count <= FILES_MAX and self._bytes <= PATHS_MAX_BYTES:
            self.kept.append(each)


class Manifests:
    """The lists that were too long for a report, in `folder`."""

    def __init__(self, folder: Path, keep_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._keep_s = keep_s

    def record(self, execution: ExecutionId, results: Path, stop: Stop) -> Written:
        """Read all that is in `results`. Blocks; raises as `storage.tree.walk`."""
        if not is_token(execution):
            raise ValueError(f"not an execution id: {execution!r}")
        files, others = _Few(), _Few()
        size_bytes = 0
        whole = hashlib.sha256()
        with self._spooled() as manifest, self._spooled() as sizes:
            for each in _entries(results, stop):
                if isinstance(each, FileWritten):
                    line = line_of(each.path, each.sha256)
                    whole.update(line)
                    manifest.write(line)
                    sizes.write(b"%d\n" % each.size_bytes)
                    size_bytes += each.size_bytes
                    files.take(each, each.path)
                elif isinstance(each, LinkWritten):
                    others.take(each, each.path + each.target)
                else:
                    others.take(each, each)
            if len(files.kept) < files.count:
                self._keep(execution, "sizes", sizes)
                self._keep(execution, "files", manifest)
        return Written(
            files.count,
            size_bytes,
            whole.hexdigest(),
            [
                FileWritten(text_of(each.path), each.size_bytes, each.sha256)
                for each in files.kept
                if isinstance(each, FileWritten)
            ],
            others.count,
            [
                LinkWritten(text_of(each.path), text_of(each.target))
                for each in others.kept
                if isinstance(each, LinkWritten)
            ],
            [text_of(each) for each in others.kept if isinstance(each, str)],
        )

    def read(self, execution: ExecutionId, part: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        """The size of a kept list, or of its files' sizes (`SUFFIXES`), and a piece of it. Blocks.

        Raises `NotFound` for one that is not here (any more), `Unavailable` for one that cannot be read.
        """
        suffix = SUFFIXES.get(part)
        if suffix is None or not is_token(execution):
            raise NotFound(f"this node keeps no {part!r} of {execution!r}")
        try:
            with (self._folder / f"{execution}{suffix}").open("rb") as file:
                return os.fstat(file.fileno()).st_size, os.pread(file.fileno(), limit_bytes, offset)
        except FileNotFoundError as error:
            raise NotFound(
                f"the list of what execution {execution} wrote is not kept on its node any more",
                hint="It is kept as long as the logs. The result itself says what is in it: shoal ls JOB.",
            ) from error
        except OSError as error:
            raise Unavailable(
                f"the list of what {execution} wrote cannot be read: {error.strerror}"
            ) from error

    def _spooled(self) -> "SpooledTemporaryFile[bytes]":
        return SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=str(self._folder))

    def _keep(self, execution: ExecutionId, part: str, written: "SpooledTemporaryFile[bytes]") -> None:
        written.seek(0)
        with (self._folder / f"{execution}{SUFFIXES[part]}").open("wb") as kept:
            shutil.copyfileobj(written, kept)

    def prune(self, now: float) -> None:
        """Let go of what was kept long enough."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if now - path.stat().st_mtime > self._keep_s:
                    path.unlink()


def _entries(results: Path, stop: Stop) -> Iterator[Recorded]:
    """Files, links, and the paths of folders that are empty, in the order of a walk."""
    empty = ""
    for entry, sha256 in summed(results, stop):
        if empty and not entry.path.startswith(f"{empty}/"):
            yield empty
        empty = entry.path if entry.kind is Kind.FOLDER else ""
        if entry.kind is Kind.FILE:
            yield FileWritten(entry.path, entry.size_bytes, sha256)
        elif entry.kind is Kind.LINK:
            yield LinkWritten(entry.path, entry.target)
    if empty:
        yield empty
