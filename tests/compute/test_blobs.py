"""Reading inline data that travels beside its job."""

import asyncio

import pytest

from compute.blobs import ANSWER_S, TRIES, blob_reader
from protocol import messages, subjects
from protocol.clock import ManualClock
from protocol.errors import TimedOut
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.questions import BlobAnswer


@pytest.mark.parametrize("lost", [0, TRIES - 1, TRIES])
async def test_a_piece_is_asked_for_again(lost: int) -> None:
    """A question or an answer that is lost costs some seconds and not the job's attempt; if none comes, that is told."""
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    read = blob_reader(MemoryBus(hub))
    async with MemoryBus(hub).subscribe(subjects.BLOB_READ) as asked:
        reading = asyncio.ensure_future(read("0" * 64, 0, 10))
        for _ in range(lost):
            await anext(asked)
            await clock.advance(ANSWER_S)
        if lost == TRIES:
            with pytest.raises(TimedOut):
                await reading
            return
        question = await anext(asked)
        assert question.respond is not None
        await question.respond(messages.encode(BlobAnswer(3, b"abc")))
        assert await reading == (3, b"abc")
