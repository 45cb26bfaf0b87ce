"""Whose turn it is to fetch: a bounded number at once, none of them for ever.

Knows: how many, and what counts as standing still. Must not know: what is fetched.

Whoever moves keeps its turn to the end. One that brings less than `SLOW_BYTES` in `SLOW_S` goes on, but without it: a source
that trickles or hangs takes nothing from the others.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

SLOW_S: Final = 5.0
SLOW_BYTES: Final = 5 << 20


class Turn:
    """One fetch's; `moved` is told how many bytes have come."""

    def __init__(self, turns: asyncio.Semaphore, slow_s: float) -> None:
        self._turns = turns
        self._slow_s = slow_s
        self._done_bytes = self._seen_bytes = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._look_later()

    def moved(self, done_bytes: int) -> None:
        """Say how many bytes have come in all."""
        self._done_bytes = done_bytes

    def end(self) -> None:
        """Give it back, if it was not given back before."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
            self._turns.release()

    def _look_later(self) -> None:
        self._alarm = asyncio.get_running_loop().call_later(self._slow_s, self._look)

    def _look(self) -> None:
        if self._done_bytes - self._seen_bytes < SLOW_BYTES:
            self.end()
        else:
            self._seen_bytes = self._done_bytes
            self._look_later()


class Turns:
    """`most` at once that move."""

    def __init__(self, most: int, *, slow_s: float = SLOW_S) -> None:
        self._free = asyncio.Semaphore(most)
        self._slow_s = slow_s

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[Turn]:
        """Wait for a turn, and have it while the context lasts."""
        await self._free.acquire()
        turn = Turn(self._free, self._slow_s)
        try:
            yield turn
        finally:
            turn.end()
