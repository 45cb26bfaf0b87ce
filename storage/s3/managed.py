"""The publisher `s3managed`: archives to a bucket that a requester holds the account of.

Knows: how an archive is uploaded by links. Must not know: whose bucket it is, or how links are asked for: `Grants` gives
them, on demand and for a short time. No account, and no bucket's name, is on the node.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from aiohttp.resolver import ThreadedResolver
from msgspec import Struct

from protocol.errors import Denied, Fault, TimedOut
from protocol.jobs import Spec
from protocol.nodes import Offer
from storage import archive
from storage.contract import Form, Label, Progress, Publisher
from storage.lanes import Lanes, Request, Task
from storage.ranged import Limits, Refusal
from storage.s3.bulk import refusal_of
from storage.s3.links import route_of
from storage.s3.params import S3Settings
from storage.s3.pieces import PARTS_MAX, Piece, Stream
from storage.s3.upload import ABORT_S, FINISH_S
from storage.threads import in_thread

T = TypeVar("T")

LINKS_AT_ONCE: Final = 16
LINKS_S: Final = 30.0


class Grants(Protocol):
    """Gives leave to upload one execution's archive. Raises the faults of a `storage.contract.Publisher`."""

    async def put(self, job: str, execution: str) -> str:
        """A link to upload all of it with, in one request."""

    async def begin(self, job: str, execution: str) -> str:
        """Begin an upload in parts: its id."""

    async def parts(self, job: str, execution: str, upload: str, first: int, count: int) -> list[str]:
        """Links to upload the parts from number `first` with."""

    async def complete(self, job: str, execution: str, upload: str, etags: list[str]) -> None:
        """Put the parts together."""

    async def abort(self, job: str, execution: str, upload: str) -> None:
        """Take an upload in parts back; without an id, the object."""


class ManagedParams(Struct, frozen=True):
    """There is nothing to say: the requester's owner has said it all."""


class ManagedPublisher:
    """Archives to the managed bucket."""

    type: ClassVar[str] = "s3managed"
    params: ClassVar[Form] = ManagedParams

    def __init__(self, grants: Grants, settings: S3Settings | None = None) -> None:
        self._grants = grants
        self._settings = given = settings or S3Settings()
        self._limits = Limits(given.connect_s, given.silence_s, given.retry_s, given.tries)
        self._lanes = Lanes(self._limits)

    async def close(self) -> None:
        """Let go of all connections."""
        self._lanes.close()

    async def probe(self) -> Offer:
        """Always there: whether there is a bucket, the requester knows."""
        return Offer(self.type)

    async def publish(self, folder: Path, params: ManagedParams, label: Label, progress: Progress) -> Spec:
        """Pack and send; the answer names the job and the execution, as Bacalhau's does. Raises as `Publisher`."""
        size_bytes = await in_thread(lambda stop: archive.size_at_most(folder, stop))
        part_bytes = max(self._settings.upload_part_bytes, size_bytes // (PARTS_MAX - 100) + 1)
        stream = Stream(archive.pieces(folder), part_bytes, digest=True)
        upload = _Upload(self._grants, self._lanes, self._limits, label, progress)
        first = await in_thread(lambda _: stream.take())
        if stream.ended:
            await upload.at_once(first)
        else:
            await upload.in_parts(first, stream, self._settings.requests)
        named = {"JobID": label.job, "ExecutionID": label.execution, "ChecksumSHA256": stream.sha256}
        return Spec("s3managed", named)


class _Upload:
    """One archive on its way."""

    def __init__(
        self, grants: Grants, lanes: Lanes, limits: Limits, label: Label, progress: Progress
    ) -> None:
        self._grants = grants
        self._lanes = lanes
        self._limits = limits
        self._job, self._execution = str(label.job), str(label.execution)
        self._progress = progress
        self._done = 0
        self._links: dict[int, str] = {}
        self._renewed: set[int] = set()
        self._upload = ""
        self._loop = asyncio.get_running_loop()
        self.name = "the managed bucket"

    async def at_once(self, body: list[memoryview]) -> None:
        """All of it in one request. On a fault or when cancelled, the object is removed again: it may have been made all
        the same, and the answer lost."""
        self._links[1] = await self._grants.put(self._job, self._execution)
        piece = self._piece(1, body)
        try:
            await self._move(iter([piece]), 1, finish_s=ABORT_S)
        except BaseException:
            if piece.asked:
                await self._taken_back("")
            raise

    async def in_parts(self, first: list[memoryview], stream: Stream, requests: int) -> None:
        """In parts, for which links are asked as they are needed. On a fault or when cancelled, all is taken back."""
        upload = self._upload = await self._grants.begin(self._job, self._execution)
        pieces: list[Piece] = []

        def parts() -> Iterator[Piece]:
            body = first
            while body:
                number = len(pieces) + 1
                if number not in self._links:
                    asked = self._grants.parts(self._job, self._execution, upload, number, LINKS_AT_ONCE)
                    self._links |= dict(enumerate(_in_time(asked, self._loop), start=number))
                pieces.append(piece := self._piece(number, body))
                yield piece
                body = stream.take()

        try:
            self._links |= dict(
                enumerate(await self._grants.parts(self._job, self._execution, upload, 1, LINKS_AT_ONCE), 1)
            )
            await self._move(parts(), requests, finish_s=FINISH_S)
            await self._grants.complete(self._job, self._execution, upload, [piece.etag for piece in pieces])
        except BaseException:
            await self._taken_back(upload)
            raise

    async def _link(self, number: int) -> str:
        """A new link for a part, or for all of it."""
        if not self._upload:
            return await self._grants.put(self._job, self._execution)
        (link,) = await self._grants.parts(self._job, self._execution, self._upload, number, 1)
        return link

    def _piece(self, number: int, body: list[memoryview]) -> Piece:
        first = urlsplit(self._links[number])
        where = f"{first.scheme}://{first.netloc}"

        def ask(piece: Piece) -> Request:
            url = urlsplit(self._links[number])
            target = f"{url.path}?{url.query}"
            return Request("PUT", target, {"Content-MD5": piece.md5}, piece.body)

        def refused(what: str, status: int, answer: bytes) -> Refusal:
            refusal = refusal_of(what, status, answer, where, signed=True)
            if not isinstance(refusal.fault, Denied) or number in self._renewed:
                return refusal
            # The link may have ended while the part waited, or with the session of the account that it was signed by.
            self._renewed.add(number)
            self._links[number] = _in_time(self._link(number), self._loop)
            return Refusal(refusal.fault, again=True)

        return Piece(f"{self.name}, part {number}", number, body, ask, refused)

    async def _move(self, tasks: Iterator[Task], count: int, finish_s: float = 0.0) -> None:
        def moved(size: int) -> None:
            self._done += size
            self._progress(self._done, None)

        route = await route_of(self._links[1], self._limits, ThreadedResolver())
        await self._lanes.move(tasks, route, count, moved, finish_s)

    async def _taken_back(self, upload: str) -> None:
        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(ABORT_S):
                await self._grants.abort(self._job, self._execution, upload)


def _in_time(asked: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """What the coroutine answers on the loop, waited for in another thread. Raises its fault, and `TimedOut`."""
    answering = asyncio.run_coroutine_threadsafe(asked, loop)
    try:
        return answering.result(LINKS_S)
    except TimeoutError as error:
        answering.cancel()
        raise TimedOut(f"no requester gave links to upload with for {LINKS_S:g} s") from error


if TYPE_CHECKING:
    from storage.s3.results import ResultSigner

    def _fits(driver: ManagedPublisher, signer: ResultSigner) -> tuple[Publisher[Any], Grants]:
        return driver, signer
