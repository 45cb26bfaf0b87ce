"""The bytes of a result on their way to S3: as one ``.tar.gz``, or as one object a file.

Knows: how keys are claimed before anything is sent, and that what fails is taken back. Must not know: botocore's set-up, or
what is told of the result.

As an archive everything comes back: empty folders, links, executable bits. What is lost as objects: `storage.s3.planned`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

from msgspec import structs

from protocol.errors import Broken, Conflict, Fault, Invalid
from storage import archive
from storage.contents import Contents
from storage.contract import Label, Progress
from storage.long_lists import Packed
from storage.s3.bulk import Bulk
from storage.s3.claims import EXECUTION, HINT, claim, claim_prefix, of_ours
from storage.s3.connection import Connection
from storage.s3.kept_keys import NAME_HINT, check_kept
from storage.s3.keys import Object
from storage.s3.params import S3Settings
from storage.s3.pieces import PARTS_MAX, Piece, Stream
from storage.s3.planned import File, Planned, planned
from storage.s3.upload import ABORT_S, NOT_THERE, Sent, Target, put, upload
from storage.threads import Stop, in_thread
from storage.tree import CHUNK_BYTES, open_inside, walk


class Sending:
    """One result on its way. `claimed` is for whom the keys are claimed first; None if they are free to take. `options` are
    what S3 is told about each object (`storage.s3.upload.OPTIONS`).

    With `contents` the keys say what lies there: just that is sent, and what has other bytes by now is a fault before it is
    an object. What was put there stays on a fault: somebody else may have put the same there.
    """

    def __init__(
        self,
        connection: Connection,
        bulk: Bulk,
        settings: S3Settings,
        folder: Path,
        progress: Progress,
        meta: dict[str, str],
        claimed: Label | None,
        notes: Path | None,
        options: Mapping[str, str],
        contents: Contents | None = None,
    ) -> None:
        self._connection = connection
        self._bulk = bulk
        self._settings = settings
        self._folder = folder
        self._progress = progress
        self._meta = meta
        self._notes = notes
        self._options = options
        self._contents = contents
        self._own = False
        self._claimed = claimed
        self._lost: list[str] = []
        self._done = 0

    async def archive(self, key: str, *, own: bool) -> Sent:
        """Pack and send at once: what is packed is sent while the next is packed."""
        condition: dict[str, str] = {}
        size_bytes = await in_thread(lambda stop: archive.size_at_most(self._folder, stop))
        for last in (False, False, True):
            if self._claimed is not None:
                condition = await claim(self._connection, self._bulk.bucket, key, self._claimed)
            target = Target(self._bulk.bucket, key, own, condition, self._meta, self._notes, self._options)
            try:
                return await self._pack(target, size_bytes)
            except (Broken, Invalid) as fault:
                if fault.kind not in ("Changed", "NotImplemented") or not condition or last:
                    raise
                if fault.kind == "NotImplemented":
                    # A server without conditions: that nothing is there was seen just before.
                    return await self._pack(structs.replace(target, condition={}), size_bytes)
        raise AssertionError("unreachable")

    async def _pack(self, target: Target, size_bytes: int) -> Sent:
        stream = Stream(archive.pieces(self._folder), self._part_bytes(size_bytes), digest=True)
        self._done = 0
        return await upload(
            self._connection, self._bulk, target, stream, self._settings.requests, self._moved(None)
        )

    async def objects(self, prefix: str, *, own: bool) -> Packed[Object]:
        """One object a file; what was put there. On a fault those that were sent are removed again."""
        self._own = own
        plan = await in_thread(lambda stop: self._planned(prefix, stop))
        if plan.odd:
            await check_kept(self._connection, self._bulk, [plan.odd], NAME_HINT)
        condition: dict[str, str] = {}
        if self._claimed is not None:
            limit = self._settings.objects
            await self._connection.remove(
                self._bulk.bucket,
                await claim_prefix(self._connection, self._bulk.bucket, prefix, self._claimed, limit),
            )
            condition = dict(NOT_THERE)
        try:
            return await self._send(plan, condition)
        except Invalid as fault:
            if fault.kind != "NotImplemented" or not condition:
                raise
            return await self._send(plan, {})
        except Broken as fault:
            if fault.kind != "Changed" or not condition:
                raise
            if not self._lost:
                raise Conflict(fault.message, hint=HINT, kind="Key") from fault
            return await self._send(plan, condition)

    async def take_back(self, put_there: Packed[Object]) -> None:
        """Remove what `objects` has put there, of which nobody will hear, unless it stays."""
        if self._contents is None:
            await self._connection.remove(self._bulk.bucket, (each.key for each in put_there))

    def _planned(self, prefix: str, stop: Stop) -> Planned:
        if self._contents is not None:
            return planned(self._contents.entries, prefix, stop)
        return planned(((entry, "") for entry in walk(self._folder)), prefix, stop)

    async def _send(self, plan: Planned, condition: dict[str, str]) -> Packed[Object]:
        sent = _Sent()
        self._done = 0
        moved = self._moved(plan.size_bytes)
        stays = self._contents is not None

        def target(key: str) -> Target:
            return Target(
                self._bulk.bucket, key, self._own, condition, self._meta, self._notes, self._options, stays
            )

        def small() -> Iterator[Piece]:
            for file in plan.small:
                body = [memoryview(piece) for piece in self._read(file)]
                yield sent.begun(file.key, put(self._bulk, target(file.key), body))
            for key in plan.markers:
                yield sent.begun(key, put(self._bulk, target(key), []))

        count = len(plan.small) + len(plan.markers)
        requests = min(self._settings.small_requests, max(count, 1))
        try:
            await self._connection.move(self._bulk, small(), requests, moved, finish_s=ABORT_S)
            for file in plan.large:
                stream = Stream(self._read(file), self._part_bytes(file.entry.size_bytes), digest=False)
                made = await upload(
                    self._connection, self._bulk, target(file.key), stream, self._settings.requests, moved
                )
                sent.there.append(Object(file.key, made.size_bytes, made.etag, made.version))
        except BaseException:
            if stays:
                raise
            self._lost = sent.in_doubt()
            if condition:
                # What was not answered for may be somebody else's, or ours by a request whose answer was lost.
                with suppress(Fault):
                    self._lost = list(
                        await of_ours(self._connection, self._bulk.bucket, self._lost, self._meta[EXECUTION])
                    )
            put_there = (each.key for each in sent.there)
            await self._connection.remove(self._bulk.bucket, chain(put_there, self._lost))
            raise
        sent.settle()
        return sent.there

    def _read(self, file: File) -> Iterator[bytes]:
        """A file's bytes, exactly as many as the listing says; blocking. If they have another digest than they should have,
        this raises `Broken` before it gives the last of them."""
        path, left = file.entry.path, file.entry.size_bytes
        digest = hashlib.sha256() if file.sha256 else None
        try:
            fd = open_inside(self._folder, path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Broken(f"{path!r} went away while it was being published") from error
        with open(fd, "rb", buffering=0) as opened:
            while True:
                piece = opened.read(min(left, CHUNK_BYTES))
                left -= len(piece)
                if left and not piece:
                    raise Broken(f"{path!r} became shorter while it was being published")
                if digest is not None:
                    digest.update(piece)
                    if not left and digest.hexdigest() != file.sha256:
                        raise Broken(f"{path!r} changed while it was being published")
                if not piece:
                    return
                yield piece

    def _moved(self, total_bytes: int | None) -> Callable[[int], None]:
        def moved(size: int) -> None:
            self._done += size
            self._progress(self._done, total_bytes)

        return moved

    def _part_bytes(self, size_bytes: int) -> int:
        """Parts large enough that there are not more of them than S3 takes."""
        return max(self._settings.upload_part_bytes, size_bytes // (PARTS_MAX - 100) + 1)


class _Sent:
    """The objects that were begun: `there` are those that S3 has answered for. One that is answered for is let go of when
    the next begins, so as many are in memory as are on their way."""

    def __init__(self) -> None:
        self.there = Packed(Object)
        self._going: list[tuple[str, Piece]] = []

    def begun(self, key: str, piece: Piece) -> Piece:
        """The piece, whose turn comes now; by one thread at a time."""
        self.settle()
        self._going.append((key, piece))
        return piece

    def in_doubt(self) -> list[str]:
        """Once nothing is under way any more: the keys of what was asked for and not answered for."""
        self.settle()
        return [key for key, piece in self._going if piece.asked]

    def settle(self) -> None:
        """Take in what was answered for."""
        going = []
        for key, piece in self._going:
            if piece.etag:
                self.there.append(Object(key, piece.size_bytes, piece.etag, piece.version))
            else:
                going.append((key, piece))
        self._going = going
