"""Inline data that travelled beside its job, read from a requester in pieces.

Knows: the request and its answer. Must not know: what the bytes are for; whoever asks checks their digest.
"""

from typing import Final

from protocol import messages, subjects
from protocol.asking import ask
from protocol.bus import Messages
from protocol.errors import fault_of
from protocol.questions import BlobAnswer, BlobRequest
from storage.inline import BlobReader

ANSWER_S: Final = 5.0
TRIES: Final = 3


def blob_reader(bus: Messages) -> BlobReader:
    """Reads pieces of blobs over `bus`. The reader raises what the requester answers, `Unavailable` and `TimedOut`."""

    async def read(digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        asked = messages.encode(BlobRequest(digest, offset, limit_bytes))
        data = await ask(bus, subjects.BLOB_READ, asked, timeout_s=ANSWER_S, tries=TRIES)
        answer = messages.decode(data, BlobAnswer)
        if answer.failure is not None:
            raise fault_of(answer.failure)
        return answer.size_bytes, answer.data

    return read
