"""What nodes keep of results: archives, new links to them, and the lists of what any result holds.

Knows: pieces asked for one by one, and what is told when a node cannot answer. Must not know: which results a job has, or
HTTP. The asker sets the pace: the next piece is asked for when the last one has been passed on. A list is taken for what an
execution wrote only if it has the digest and the size that the execution's record has.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from protocol import subjects
from protocol.asking import ask
from protocol.bus import Messages
from protocol.errors import Broken, Exhausted, Fault, NotFound, Unavailable, fault_of
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Spec
from protocol.messages import FileWritten, Written, decode, encode
from protocol.questions import ResultAnswer, ResultRequest
from requester.core.model import ExecutionRecord
from requester.verbs import Archive
from storage.sha256sum import lines_in

KEPT_TYPE: Final = "urldownload"
"""The type of what a node keeps; see `storage.local_publisher`."""
PIECE_BYTES: Final = 524_288
LINK_S: Final = 2.0
"""If a node does not answer by then, its old link is shown."""
PIECE_S: Final = 5.0
TRIES: Final = 3
AT_ONCE: Final = 32
LIST_MAX_BYTES: Final = 16 << 20
"""A longer list (some 150,000 files) is not asked for: its result says what is in it."""
LISTS_AT_ONCE: Final = 2
"""Each is in memory while it is compared."""
LIST_S: Final = 20.0


class KeptResults:
    """What nodes keep, asked for over the bus."""

    def __init__(self, bus: Messages) -> None:
        self._bus = bus
        self._lists = asyncio.Semaphore(LISTS_AT_ONCE)

    async def linked(self, records: Sequence[ExecutionRecord]) -> list[ExecutionRecord]:
        """The same, with links that are good from now on where a node keeps the result and answers."""
        limit = asyncio.Semaphore(AT_ONCE)
        silent: set[NodeId] = set()

        async def one(record: ExecutionRecord) -> ExecutionRecord:
            if not is_kept(record):
                return record
            async with limit:
                if record.node in silent:
                    return record
                try:
                    answer = await self._ask(record, ResultRequest(record.id), LINK_S, tries=1)
                except NotFound:
                    return record
                except Fault:
                    silent.add(record.node)
                    return record
            return (
                replace(record, result=Spec("urlDownload", {"URL": answer.link})) if answer.link else record
            )

        return list(await asyncio.gather(*(one(record) for record in records)))

    async def archive(self, record: ExecutionRecord) -> Archive:
        """The archive that a node keeps of an execution. Raises `NotFound`; `Unavailable` if the node does not answer."""
        if not is_kept(record):
            raise NotFound(f"execution {record.id} has no result that its node keeps")
        first = await self._ask(record, ResultRequest(record.id))

        async def read(offset: int) -> bytes:
            answer = await self._ask(record, ResultRequest(record.id, offset, PIECE_BYTES))
            if answer.version != first.version or not answer.data:
                raise Broken(f"the result of execution {record.id} was replaced while it was read")
            return answer.data

        return Archive(first.size_bytes, first.version, read)

    async def files(self, record: ExecutionRecord) -> list[FileWritten]:
        """All files that an execution wrote, in the order of a walk: from its record, else from the list of its node.

        Raises `NotFound` if nobody has kept them, `Unavailable` if the node does not answer, `Exhausted` if they are too
        many, `Broken` if the node has another list.
        """
        written = record.written
        if written is None:
            raise NotFound(f"the node of execution {record.id} has not told what it wrote")
        if len(written.files) == written.count:
            return written.files
        try:
            async with asyncio.timeout(LIST_S), self._lists:
                names = await self._list(record, "files")
                sizes = await self._list(record, "sizes")
                return await asyncio.to_thread(_files, record.id, written, names, sizes)
        except TimeoutError as error:
            raise Unavailable(
                f"the list of what execution {record.id} wrote did not come within {LIST_S:g} s"
            ) from error

    async def _list(self, record: ExecutionRecord, part: str) -> bytes:
        whole = bytearray()
        while True:
            wanted = ResultRequest(record.id, len(whole), PIECE_BYTES, part)
            answer = await self._ask(record, wanted)
            if answer.size_bytes > LIST_MAX_BYTES:
                raise Exhausted(
                    f"the list of what execution {record.id} wrote has {answer.size_bytes:,} bytes"
                )
            whole += answer.data
            if len(whole) >= answer.size_bytes or not answer.data:
                return bytes(whole)

    async def _ask(
        self,
        record: ExecutionRecord,
        wanted: ResultRequest,
        timeout_s: float = PIECE_S,
        *,
        tries: int = TRIES,
    ) -> ResultAnswer:
        what = "the list of the result" if wanted.part else "the result"
        try:
            subject = subjects.results(record.node)
            data = await ask(self._bus, subject, encode(wanted), timeout_s=timeout_s, tries=tries)
        except Unavailable as fault:
            raise Unavailable(
                f"the node {record.node}, which keeps {what} of execution {record.id}, is not connected",
                hint="Start the node again, or publish to S3 or IPFS.",
            ) from fault
        answer = decode(data, ResultAnswer)
        if answer.failure is not None:
            raise fault_of(answer.failure)
        return answer


def _files(execution: ExecutionId, written: Written, names: bytes, sizes: bytes) -> list[FileWritten]:
    """The files of two lists that belong together. Raises `Broken` unless they are what was recorded. Blocks."""
    numbers = [int(line) for line in sizes.split() if line.isdigit()]
    right = hashlib.sha256(names).hexdigest() == written.sha256
    if not right or len(numbers) != written.count or sum(numbers) != written.size_bytes:
        raise Broken(
            f"what its node keeps as the list of what execution {execution} wrote is another",
            hint="The result itself says what is in it: shoal ls JOB.",
        )
    return [
        FileWritten(path, size_bytes, sha256)
        for (path, sha256), size_bytes in zip(lines_in(names), numbers, strict=True)
    ]


def is_kept(record: ExecutionRecord) -> bool:
    """Whether the node that ran it keeps its result."""
    return record.result is not None and record.result.type.lower() == KEPT_TYPE
