"""Results that nodes keep themselves: new links to them, and their bytes for those who cannot reach the node.

Knows: pieces asked for one by one, and what is told when a node cannot answer. Must not know: which results a job has, or
HTTP. The asker sets the pace: the next piece is asked for when the last one has been passed on.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from protocol import subjects
from protocol.bus import Messages
from protocol.errors import Broken, Fault, NotFound, Unavailable, fault_of
from protocol.ids import NodeId
from protocol.jobs import Spec
from protocol.messages import ResultAnswer, ResultRequest, decode, encode
from requester.core.model import ExecutionRecord
from requester.verbs import Archive

KEPT_TYPE: Final = "urldownload"
"""The type of what a node keeps; see `storage.local_publisher`."""
PIECE_BYTES: Final = 524_288
LINK_S: Final = 2.0
"""A node that does not answer by then is told of by its old link."""
PIECE_S: Final = 15.0
AT_ONCE: Final = 32


class KeptResults:
    """What nodes keep, asked for over the bus."""

    def __init__(self, bus: Messages) -> None:
        self._bus = bus

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
                    answer = await self._ask(record, ResultRequest(record.id), LINK_S)
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
        first = await self._ask(record, ResultRequest(record.id), PIECE_S)

        async def read(offset: int) -> bytes:
            answer = await self._ask(record, ResultRequest(record.id, offset, PIECE_BYTES), PIECE_S)
            if answer.version != first.version or not answer.data:
                raise Broken(f"the result of execution {record.id} was replaced while it was read")
            return answer.data

        return Archive(first.size_bytes, first.version, read)

    async def _ask(self, record: ExecutionRecord, wanted: ResultRequest, timeout_s: float) -> ResultAnswer:
        try:
            data = await self._bus.request(subjects.results(record.node), encode(wanted), timeout_s=timeout_s)
        except Unavailable as fault:
            raise Unavailable(
                f"the node {record.node}, which keeps the result of execution {record.id}, is not connected",
                hint="Start the node again, or publish to S3 or IPFS.",
            ) from fault
        answer = decode(data, ResultAnswer)
        if answer.failure is not None:
            raise fault_of(answer.failure)
        return answer


def is_kept(record: ExecutionRecord) -> bool:
    """Whether the node that ran it keeps its result."""
    return record.result is not None and record.result.type.lower() == KEPT_TYPE
