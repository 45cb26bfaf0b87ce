"""Serves blobs to nodes, which have no other way to them.

Knows: the request and its answer. Must not know: what the bytes are.
"""

import asyncio
from typing import Final

from protocol import subjects
from protocol.bus import Bus, Message
from protocol.errors import Fault
from protocol.messages import decode, encode
from protocol.questions import BlobAnswer, BlobRequest

_PIECE_MAX_BYTES: Final = 524_288
"""Base64 makes four bytes of three, and a message has at most a megabyte."""
_AT_ONCE: Final = 16


async def serve_blobs(bus: Bus) -> None:
    """Answer requests for pieces of blobs until cancelled, a few at once."""
    limit = asyncio.Semaphore(_AT_ONCE)
    async with (
        bus.subscribe(subjects.BLOB_READ, group=subjects.REQUESTER_GROUP) as messages,
        asyncio.TaskGroup() as tasks,
    ):
        async for message in messages:
            await limit.acquire()
            task = tasks.create_task(_serve(bus, message))
            task.add_done_callback(lambda _: limit.release())


async def _serve(bus: Bus, message: Message) -> None:
    if message.respond is None:
        return
    try:
        wanted = decode(message.data, BlobRequest)
        limit = min(max(wanted.limit_bytes, 1), _PIECE_MAX_BYTES)
        size, data = await bus.get_blob(wanted.digest, max(wanted.offset, 0), limit)
        answer = BlobAnswer(size, data)
    except Fault as fault:
        answer = BlobAnswer(failure=fault.failure())
    try:
        await message.respond(encode(answer))
    except Fault:
        return
