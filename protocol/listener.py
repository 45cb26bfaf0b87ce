"""The waiting line behind a subscription: bounded, with one reader, filled without waiting.

Knows: how to hold messages back until they are read, and what to do when too many wait. Must not know: where they come
from. Both buses use it, so a slow listener loses the same messages under either.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import structlog

from protocol.bus import Listening, Message

_log = structlog.get_logger(__name__)


class Listener:
    """An async iterator over the messages that were offered; it ends after `close`, once what waits has been read.

    At most `pending` messages wait. The newest are dropped beyond that, and the loss is logged when it begins and, with
    the count, when the reader has caught up.
    """

    __slots__ = ("_closed", "_dropped", "_pending", "_subject", "_waiter", "_waiting")

    def __init__(self, subject: str, pending: int) -> None:
        self._subject = subject
        self._pending = pending
        self._waiting: deque[Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._dropped = 0
        self._closed = False

    def offer(self, message: Message) -> bool:
        """Put a message at the end of the line; False if the line is full or closed."""
        if self._closed:
            return False
        if len(self._waiting) >= self._pending:
            if not self._dropped:
                _log.warning(
                    "messages dropped: their listener is too slow",
                    subject=self._subject,
                    pending=self._pending,
                )
            self._dropped += 1
            return False
        self._waiting.append(message)
        if self._waiter is not None:
            self._wake()
        return True

    def close(self) -> None:
        """Take no more; the iterator ends when it has given out what waits. Twice is harmless."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __aiter__(self) -> "Listener":
        return self

    async def __anext__(self) -> Message:
        if not self._waiting and not await self._more():
            raise StopAsyncIteration
        return self._waiting.popleft()

    async def several(self) -> list[Message]:
        """See `protocol.bus.Listening`."""
        if not self._waiting:
            await self._more()
        some = list(self._waiting)
        self._waiting.clear()
        return some

    async def _more(self) -> bool:
        """Wait until something waits; False if nothing will."""
        while not self._waiting:
            if self._dropped:
                _log.warning("a slow listener caught up", subject=self._subject, dropped=self._dropped)
                self._dropped = 0
            if self._closed:
                return False
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return True


if TYPE_CHECKING:

    def _fits(listener: Listener) -> Listening:
        return listener
