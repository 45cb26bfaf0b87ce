"""Questions that are on their way to a server together.

Knows: which are answered, and whether the others still can be. Must not know: how they are sent.
"""

import asyncio
from collections.abc import Sequence

from protocol.errors import Denied
from protocol.nats import refusals
from protocol.nats.frames import Answer, Request


class Volley:
    """Questions that were sent together, and their answers, None for one that did not come. It has `ended` when all are
    answered, the connection was lost, or the server refused one."""

    __slots__ = ("_open", "_refusal", "_waiter", "answers", "ended", "requests", "tokens")

    def __init__(self, requests: Sequence[Request], tokens: range) -> None:
        self.requests = requests
        self.tokens = tokens
        self.answers: list[Answer | None] = [None] * len(requests)
        self.ended = not requests
        self._open = len(requests)
        self._refusal = ""
        self._waiter: asyncio.Future[None] | None = None

    async def within(self, wait_s: float) -> bool:
        """Wait until it has ended, but no longer than that; whether it has."""
        if not self.ended:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            alarm = loop.call_later(wait_s, self._wake)
            try:
                await self._waiter
            finally:
                alarm.cancel()
                self._waiter = None
        return self.ended

    def told(self) -> list[Answer | None]:
        """The answers, in the order of the questions. Raises `Denied` if this user may not ask there."""
        if self._refusal:
            raise Denied(f"the NATS server refuses {self._refusal} to this user", hint=refusals.HINT)
        return self.answers

    def take(self, index: int, answer: Answer) -> None:
        self.answers[index] = answer
        self._open -= 1
        if not self._open:
            self.end()

    def end(self, *, refusal: str = "") -> None:
        self.ended = True
        self._refusal = self._refusal or refusal
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
