"""Answers a requester that asks for results which this node keeps, or for the list of what a result holds.

Knows: requests for pieces and links. Must not know: where archives lie, or how links are made (`storage.local_publisher`);
how lists are kept (`compute.provenance`).

Flow control is the asker's: it asks for the next piece when it has passed on the last one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from compute.provenance import Manifests
from protocol import messages
from protocol.bus import Message
from protocol.errors import Fault, Unavailable
from protocol.questions import ResultAnswer, ResultRequest
from storage.local_publisher import LocalPublisher
from storage.threads import in_thread

PIECE_MAX_BYTES: Final = 524_288
"""Base64 makes four bytes of three, and a message has at most a megabyte."""
AT_ONCE: Final = 8


class ResultAnswers:
    """Answers for what `publisher` keeps (None where this node keeps no results) and for the lists in `manifests`."""

    def __init__(self, publisher: LocalPublisher | None, manifests: Manifests) -> None:
        self._publisher = publisher
        self._manifests = manifests
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def serve(self, asked: AsyncIterator[Message], tasks: asyncio.TaskGroup) -> None:
        """Answer each message of `asked`, for ever, a few at once."""
        async for message in asked:
            if message.respond is None:
                continue
            await self._limit.acquire()
            task = tasks.create_task(self._answer(message))
            task.add_done_callback(lambda _: self._limit.release())

    async def _answer(self, message: Message) -> None:
        try:
            answer = await self._read(messages.decode(message.data, ResultRequest))
        except Fault as fault:
            answer = ResultAnswer(failure=fault.failure())
        if message.respond is not None:
            with contextlib.suppress(Fault):
                await message.respond(messages.encode(answer))

    async def _read(self, wanted: ResultRequest) -> ResultAnswer:
        offset, limit = max(wanted.offset, 0), min(max(wanted.limit_bytes, 0), PIECE_MAX_BYTES)
        if wanted.part:
            read = partial(self._manifests.read, wanted.execution, wanted.part, offset, limit)
            size_bytes, data = await in_thread(lambda _: read())
            return ResultAnswer(size_bytes, data=data)
        publisher = self._publisher
        if publisher is None:
            raise Unavailable("this node keeps no results")
        piece = await publisher.read(wanted.execution, offset, limit)
        return ResultAnswer(piece.size_bytes, piece.version, piece.data, publisher.link(wanted.execution))
