"""The `local` source: a path of the node itself, mounted as it is.

Knows: the node's files and its allow list. Must not know: who mounts the path.

Nothing is copied: a fetch answers with the path, and the program sees what lies there while it runs. The identity is made
of names, sizes and modification times (to the nanosecond), not of bytes: it changes whenever a file is written, and reading
a terabyte to name it is no answer in bounded time. Beyond `LISTED_MAX` entries each answer has an identity of its own and
no size, so nothing is ever taken for the same by mistake.

A path must be allowed as it is written and again after its links are followed.
"""

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from msgspec import Struct

from protocol.errors import Denied, Invalid, NotFound, Unavailable
from protocol.nodes import Offer
from protocol.spelling import did_you_mean, nearest_few
from storage.allow_list import Allowed, is_allowed, read_allow_list
from storage.contract import Drivers, Fetched, Form, Progress, Resolved, Share
from storage.long_lists import each_of, in_order
from storage.settings import StorageSettings
from storage.threads import Apart, Stop
from storage.tree import text_of

if TYPE_CHECKING:
    from storage.contract import Source

LISTED_MAX: Final = 200_000
HUNG_MAX: Final = 16
"""Local paths looked at at once. Each may hang with the disk it is on; the input fails when its time to be looked at is
over, and its thread stays until the disk answers or is unmounted. When all hang, `local` inputs wait, and nothing else."""
_MODES: Final = {"nocreate": "", "dir": "dir", "file": "file", "": ""}


class LocalParams(Struct, frozen=True, rename="pascal"):
    """Where: an absolute path. `create_as` (``dir`` or ``file``) makes it if it is missing, and needs `read_write`."""

    source_path: str
    read_write: bool = False
    create_as: str = "noCreate"

    def __post_init__(self) -> None:
        if not self.source_path.startswith("/") or "\0" in self.source_path:
            raise ValueError(f"SourcePath {self.source_path!r} is not an absolute path")
        if self.create_as.lower() not in _MODES:
            raise ValueError(f"CreateAs {self.create_as!r} is none of noCreate, dir, file")
        if self.creates and not self.read_write:
            raise ValueError("CreateAs needs ReadWrite: true")

    @property
    def creates(self) -> str:
        """``dir``, ``file``, or empty for neither."""
        return _MODES[self.create_as.lower()]


class LocalSource:
    """Paths of this node that its allow list names."""

    type: ClassVar[str] = "local"
    params: ClassVar[Form] = LocalParams

    def __init__(self, allowed: list[Allowed], threads: Apart) -> None:
        self._allowed = allowed
        self._threads = threads

    async def probe(self) -> Offer:
        if self._allowed:
            return Offer(self.type)
        return Offer(
            self.type,
            available=False,
            reason="this node allows no local paths",
            hint="Its owner allows some: --allow-local '/data/**:ro', or Compute.AllowListedLocalPaths.",
        )

    async def is_here(self, params: LocalParams) -> bool:
        """Nothing else is; what is missing is told by `resolve`."""
        return True

    async def resolve(self, params: LocalParams, share: Share) -> Resolved:
        return await self._threads.run(lambda stop: self._listed(params, stop))

    async def fetch(self, params: LocalParams, resolved: Resolved, into: Path, progress: Progress) -> Fetched:
        path = await self._threads.run(lambda _: self._there(params))
        progress(resolved.size_bytes or 0, resolved.size_bytes)
        return Fetched(path, read_only=not params.read_write, owned=False)

    def _listed(self, params: LocalParams, stop: Stop) -> Resolved:
        try:
            return _listed(self._permitted(params), params, stop)
        except NotFound as missing:
            missing.hint = f"{self._meant(params)} {missing.hint}".lstrip()
            raise

    def _there(self, params: LocalParams) -> Path:
        path = self._permitted(params)
        if not path.exists():
            if not params.creates:
                raise _missing(params)
            _create(path, params)
        return path

    def _meant(self, params: LocalParams) -> str:
        """What may have been meant by a path that is not there. Names are told only of what a job may read."""
        asked = Path(os.path.normpath(params.source_path))
        while len(asked.parts) > 2 and not asked.parent.is_dir():
            asked = asked.parent
        try:
            with os.scandir(asked.parent) as found:
                names = nearest_few(asked.name, (each.name for each in found if each.name != asked.name))
        except OSError:
            return ""
        paths = [str(asked.parent / each) for each in names]
        return did_you_mean([each for each in paths if is_allowed(self._allowed, each, write=False)])

    def _permitted(self, params: LocalParams) -> Path:
        """The path with all links followed. Raises `Denied` unless both forms of it are allowed."""
        asked = os.path.normpath(params.source_path)
        real = os.path.realpath(asked)
        on_disk = [each.resolved() for each in self._allowed]
        for path, allowed in ((asked, self._allowed), (real, on_disk)):
            if not is_allowed(allowed, path, write=False):
                by_link = "" if path == asked else f" (a link to {path})"
                hint = "Ask the node's owner to allow it, or use a path that is allowed."
                raise Denied(f"the local path {asked}{by_link} is not allowed on this node", hint=hint)
            if params.read_write and not is_allowed(allowed, path, write=True):
                hint = "Leave out ReadWrite, or ask the node's owner to allow it with :rw."
                raise Denied(f"the local path {asked} is allowed on this node for reading only", hint=hint)
        return Path(real)


class LocalDirectorySource(LocalSource):
    """The same under its older name."""

    type: ClassVar[str] = "localDirectory"


@contextlib.asynccontextmanager
async def open_local(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """The source under both of its names. Raises `Invalid` for an allow list that cannot be read."""
    allowed = read_allow_list(settings.allowed_paths)
    threads = Apart(HUNG_MAX)
    yield Drivers(
        sources={
            "local": LocalSource(allowed, threads),
            "localdirectory": LocalDirectorySource(allowed, threads),
        }
    )


def _listed(path: Path, params: LocalParams, stop: Stop) -> Resolved:
    digest = hashlib.sha256(os.fsencode(path))
    size = 0
    try:
        for number, (name, seen) in enumerate(_everything(path)):
            stop()
            if number >= LISTED_MAX:
                return Resolved(f"local:{text_of(str(path))}@{time.time_ns()}")
            digest.update(
                b"%b\0%d %d %d\0" % (os.fsencode(name), seen.st_mode, seen.st_size, seen.st_mtime_ns)
            )
            size += seen.st_size if stat.S_ISREG(seen.st_mode) else 0
    except FileNotFoundError as error:
        if not params.creates:
            raise _missing(params) from error
        return Resolved(f"local:{text_of(str(path))}@new", 0)
    except NotADirectoryError as error:
        raise Invalid(f"the local path {params.source_path} leads through a file, not a folder") from error
    except PermissionError as error:
        raise Denied(f"the local path {path} cannot be read by this node: {error.strerror}") from error
    except OSError as error:
        raise Unavailable(f"the local path {path} cannot be read: {error.strerror}") from error
    return Resolved(f"local:{text_of(str(path))}@{digest.hexdigest()}", size)


def _everything(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The path itself and all below it, with their stat; what a folder does not let us list is left out of it."""
    yield "", path.stat()
    folders = [path] if path.is_dir() else []
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = in_order(list(found), lambda entry: entry.name)
        except PermissionError:
            continue
        for entry in each_of(entries):
            with contextlib.suppress(FileNotFoundError):
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))


def _create(path: Path, params: LocalParams) -> None:
    try:
        if params.creates == "dir":
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    except (NotADirectoryError, FileExistsError) as error:
        raise Invalid(
            f"the local path {params.source_path} cannot be made: {error.filename} is a file"
        ) from error
    except OSError as error:
        raise Unavailable(f"the local path {params.source_path} cannot be made: {error.strerror}") from error


def _missing(params: LocalParams) -> NotFound:
    hint = "Use a node that has it, or let it be created with ReadWrite: true and CreateAs: dir."
    what = "is a link to what does not exist" if os.path.islink(params.source_path) else "does not exist"
    return NotFound(f"the local path {params.source_path} {what} on this node", hint=hint)


if TYPE_CHECKING:

    def _fits(driver: LocalSource) -> Source[LocalParams]:
        return driver
