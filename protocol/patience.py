"""Limits of time for very many waits of one length, with one timer for all of them.

Knows: whose time is over. Must not know: what anyone waits for. `asyncio.timeout` sets a timer for each wait and takes it
back: with a thousand waits a second that was a thirtieth of a requester's work, and a fiftieth of a node's.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Final

LOOK_S: Final = 0.1
"""The time between two looks at those who wait, and so how much longer than its limit a wait may take."""


class Patience:
    """``with patience.once(): await …`` raises `TimeoutError` when that takes longer than `limit_s` (infinite: never)."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._waits: deque[_Wait] = deque()
        self._looking = False

    def once(self) -> "_Wait":
        """One wait of the task that asks, beginning now."""
        loop = asyncio.get_running_loop()
        wait = _Wait(loop.time() + self.limit_s)
        self._waits.append(wait)
        if not self._looking:
            self._looking = True
            loop.call_later(LOOK_S, self._look, loop)
        return wait

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the waits that are over. They began in order, so the first that is not over is the last to look at."""
        now, waits = loop.time(), self._waits
        while waits and (waits[0].ended or waits[0].until <= now):
            waits.popleft().expire()
        self._looking = bool(waits)
        if waits:
            loop.call_later(LOOK_S, self._look, loop)


class _Wait:
    """One wait. It ends as `asyncio.timeout` does: by a cancellation that becomes `TimeoutError` where the wait began."""

    __slots__ = ("_cancelling", "_expired", "_task", "ended", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.ended = False
        self._expired = False
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def expire(self) -> None:
        if self._task is not None and not self.ended:
            self._expired = True
            self._task.cancel()

    def __enter__(self) -> None:
        task = self._task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self.ended = True
        if not self._expired or task is None:
            return
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
