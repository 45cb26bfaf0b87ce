"""Inline data that travelled beside its job, read from a requester in pieces.

Knows: the request and its answer. Must not know: what the bytes are for; whoever asks checks their digest. Whoever had the
question may have been killed, and its answer may be lost while accounts change (``docs/credentials.md``): it is asked again.
"""

from contextlib import suppress
from typing import Final

from protocol import messages, subjects
from protocol.bus import Messages
from protocol.errors import TimedOut, fault_of
from protocol.messages import BlobAnswer, BlobRequest
from storage.inline import BlobReader

ANSWER_S: Final = 5.0
TRIES: Final = 3


def blob_reader(bus: Messages) -> BlobReader:
    """Reads pieces of blobs over `bus`. The reader raises what the requester answers, `Unavailable` and `TimedOut`."""

    async def read(digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        asked = messages.encode(BlobRequest(digest, offset, limit_bytes))
        answer = messages.decode(await _ask(bus, asked), BlobAnswer)
        if answer.failure is not None:
            raise fault_of(answer.failure)
        return answer.size_bytes, answer.data

    return read


async def _ask(bus: Messages, asked: bytes) -> bytes:
    for _ in range(TRIES - 1):
        with suppress(TimedOut):
            return await bus.request(subjects.BLOB_READ, asked, timeout_s=ANSWER_S)
    return await bus.request(subjects.BLOB_READ, asked, timeout_s=ANSWER_S)
