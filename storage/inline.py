"""The `inline` source: data that travels inside the job, or beside it as a blob.

Knows: what becomes of a data URL or blob URL (`protocol.spec.blobs` reads both). Must not know: where blobs are kept; their
bytes come through a function.

``application/gzip`` is a ``.tar.gz`` and becomes a folder; every other media type becomes a single file.
"""

import asyncio
import contextlib
import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Final

from msgspec import Struct, field

from protocol.errors import Broken, Exhausted, NotFound, TimedOut, Unavailable
from protocol.nodes import Offer
from protocol.spec.blobs import BlobUrl, is_blob_url, parse_blob_url, parse_data_url
from storage.archive import MEDIA_TYPES, extract
from storage.arrival import arrive_at_once, arriving
from storage.contract import Drivers, Fetched, Form, Progress, Resolved, Share
from storage.settings import StorageSettings
from storage.threads import Stop, in_thread
from storage.tree import RATIO_MAX, Limits, new_file, write_all

if TYPE_CHECKING:
    from storage.contract import Source

BlobReader = Callable[[str, int, int], Awaitable[tuple[int, bytes]]]
"""Given a digest, an offset and a limit in bytes: the whole's size and a piece. Raises `NotFound`, `Unavailable`."""

PIECE_BYTES: Final = 262_144
TOLD_S: Final = 0.05
"""How often it is told what an archive has unpacked to: a disk writes some 50 MB meanwhile."""
ARCHIVE_HINT: Final = (
    "The type application/gzip is a folder packed by tar czf; write application/octet-stream for a file."
)
SEEN_KEPT: Final = 4_096
"""Digests of inline data that are remembered."""


class InlineParams(Struct, frozen=True):
    """A data URL, or the blob URL that took its place."""

    url: str = field(name="URL")

    def __post_init__(self) -> None:
        # The data itself is read once, when it is resolved; a fault here would be told without a field.
        if not self.url.lower().startswith(("data:", "blob:")):
            raise ValueError("URL is neither a data URL nor a blob URL")


class Content(Struct, frozen=True):
    """What an inline URL stands for: bytes at hand, or a blob to be read."""

    media_type: str
    digest: str
    size_bytes: int
    data: bytes | None

    @property
    def archive(self) -> bool:
        """Whether it becomes a folder."""
        return self.media_type.partition(";")[0].strip().lower() in MEDIA_TYPES


class InlineSource:
    """Data inside the job. `read_blob` None means that blobs cannot be read here."""

    type: ClassVar[str] = "inline"
    params: ClassVar[Form] = InlineParams

    def __init__(self, read_blob: BlobReader | None, limits: Limits, silence_s: float) -> None:
        self._read_blob = read_blob
        self._limits = limits
        self._silence_s = silence_s
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def is_here(self, params: InlineParams) -> bool:
        """It came with the job."""
        return True

    async def resolve(self, params: InlineParams, share: Share) -> Resolved:
        content = read_url(params.url)
        limit = self._limits.size_bytes
        if limit is not None and content.size_bytes > limit:
            message = (
                f"the inline data {_shown(content)} has more than {limit} bytes, the most this node takes"
            )
            raise Exhausted(message, hint="Use a node with a higher limit.", kind="Size")
        form = "tar" if content.archive else "file"
        return Resolved(
            f"inline:{form}:sha256:{content.digest}",
            None if content.archive else content.size_bytes,
            content,
            cacheable=content.archive
            or content.data is None
            or content.size_bytes > PIECE_BYTES
            or self._again(content.digest),
        )

    def _again(self, digest: str) -> bool:
        """Whether the same data came of late: what is at hand, small and new is written sooner than kept."""
        again = digest in self._seen
        self._seen[digest] = None
        self._seen.move_to_end(digest)
        if len(self._seen) > SEEN_KEPT:
            self._seen.popitem(last=False)
        return again

    async def fetch(
        self, params: InlineParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        content: Content = resolved.pinned
        if content.data is not None and content.size_bytes <= PIECE_BYTES and not content.archive:
            progress(content.size_bytes, content.size_bytes)
            # A cancellation that is under way would otherwise only be seen when the file is there.
            await asyncio.sleep(0)
            arrive_at_once(into, content.data)
            return Fetched(into)
        async with arriving(into) as beside:
            if not content.archive:
                with new_file(beside) as file:
                    await self._write(content, file, progress)
                return Fetched(into)
            # Without a name: nothing to clean up.
            with tempfile.TemporaryFile(dir=into.parent) as packed:
                await self._write(content, packed, progress)
                packed.seek(0)
                await self._unpack(packed, beside, partial(_further, progress, content.size_bytes))
        return Fetched(into)

    async def _unpack(self, packed: IO[bytes], beside: Path, told: Callable[[int], None]) -> None:
        """Unpack an archive; `told` hears what its files take, and ends it by what it raises."""
        done_bytes = 0

        def written(size_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes = size_bytes

        def work(stop: Stop) -> None:
            try:
                extract(packed, beside, self._limits, stop, written)
            except Broken as fault:
                fault.hint = fault.hint or ARCHIVE_HINT
                raise

        unpacking = asyncio.ensure_future(in_thread(work))
        try:
            while not unpacking.done():
                await asyncio.wait([unpacking], timeout=TOLD_S)
                told(done_bytes)
        except BaseException:
            unpacking.cancel()
            await asyncio.gather(unpacking, return_exceptions=True)
            raise
        await unpacking

    async def _write(self, content: Content, file: IO[bytes], progress: Progress) -> None:
        """Bring the bytes into `file`, and see that they are those that were named."""
        digest = hashlib.sha256()
        done = 0
        async with contextlib.aclosing(self._pieces(content)) as pieces:
            async for piece in pieces:
                digest.update(piece)
                await in_thread(partial(_append, file.fileno(), piece))
                done += len(piece)
                progress(done, content.size_bytes)
        if done != content.size_bytes or digest.hexdigest() != content.digest:
            raise Broken(f"the inline data {_shown(content)} arrived as other bytes ({done} of them)")

    async def _pieces(self, content: Content) -> AsyncGenerator[bytes, None]:
        if content.data is not None:
            yield content.data
            return
        offset = 0
        while offset < content.size_bytes:
            piece = await self._piece(content, offset)
            offset += len(piece)
            yield piece

    async def _piece(self, content: Content, offset: int) -> bytes:
        if self._read_blob is None:
            raise Unavailable(f"the inline data {_shown(content)} cannot be read here")
        try:
            async with asyncio.timeout(self._silence_s):
                size, piece = await self._read_blob(content.digest, offset, PIECE_BYTES)
        except TimeoutError as error:
            message = f"the inline data {_shown(content)} did not come for {self._silence_s:g} s, after {offset} bytes"
            raise TimedOut(message) from error
        except NotFound as fault:
            hint = "Submit the job again: its inline data is no longer kept."
            raise NotFound(f"the inline data {_shown(content)} is not there", hint=hint) from fault
        if size != content.size_bytes or not piece:
            raise Broken(f"the inline data {_shown(content)} has {size} bytes, not {content.size_bytes}")
        return piece


@contextlib.asynccontextmanager
async def open_inline(
    settings: StorageSettings, *, read_blob: BlobReader | None = None
) -> AsyncIterator[Drivers]:
    """The source; it needs no client of its own."""
    limits = Limits(entries=settings.max_entries, size_bytes=settings.max_bytes, ratio=RATIO_MAX)
    yield Drivers(sources={"inline": InlineSource(read_blob, limits, settings.silence_s)})


def read_url(url: str) -> Content:
    """What an inline URL stands for. Raises `Invalid`, without repeating the data."""
    if is_blob_url(url):
        blob: BlobUrl = parse_blob_url(url)
        return Content(blob.media_type, blob.digest, blob.size_bytes, None)
    media_type, data = parse_data_url(url)
    return Content(media_type, hashlib.sha256(data).hexdigest(), len(data), data)


def _append(file: int, piece: bytes, stop: Stop) -> None:
    write_all(file, piece)


def _further(progress: Progress, packed_bytes: int, done_bytes: int) -> None:
    """Tell `progress`, which has heard of the packed bytes, of more than those."""
    if done_bytes > packed_bytes:
        progress(done_bytes, None)


def _shown(content: Content) -> str:
    return f"sha256:{content.digest[:12]}…"


if TYPE_CHECKING:

    def _fits(driver: InlineSource) -> Source[InlineParams]:
        return driver
