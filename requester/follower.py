"""Reads the whole log in order and hands every entry on: to the fold first, then to the read model.

Knows: positions, and when a log is another one than before. Must not know: what entries mean. Whoever needs to have seen
the log up to some sequence waits here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from heapq import heappop, heappush
from typing import Final, TypeVar

import structlog

from protocol.bus import Bus, LogState, Record, ShortLog
from protocol.clock import Clock
from protocol.errors import Broken, Unavailable
from requester.recorder import Recorder

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_AGAIN_S: Final = 0.5
_END_S: Final = 5.0
"""Between two looks at where the log ends, while it is read for the first time."""
_BREATH: Final = 50
"""Entries folded before others get their turn on the loop: some 3 ms, and more where entries are large."""


class Follower:
    """The reader of the log.

    `take` folds one entry; `anew` forgets everything when the log was made anew.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        recorder: Recorder,
        take: Callable[[Record], Awaitable[None]],
        anew: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._recorder = recorder
        self._take = take
        self._anew = anew
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._end: int | None = None
        """The newest entry when the reading began, as long as that has not been reached."""
        self._read = asyncio.Event()
        self.advanced: Callable[[], None] = _nobody
        """Told after some entries have been folded."""
        self.begun_anew: Callable[[], None] = _nobody
        """Told when the log is another one, before anything of it is folded."""
        self.caught_up: Callable[[], None] = _nobody
        """Told when the log has been read to its end for the first time, and again whenever it is read anew."""
        self.created = ""
        self.position = 0
        """The sequence up to which every entry has been folded."""

    async def begin(self) -> LogState:
        """Find out where to go on: compare the read model with the log, and start over if they do not belong together. The
        log's state at that time.
        """
        created, position = await self._recorder.open()
        state = await self._state_beyond(created, position)
        if created != state.created or position > state.last:
            if created:
                _log.warning(
                    "the log was made anew: the read model is filled again", had=created, is_=state.created
                )
            await self._recorder.begin(state.created)
            position = 0
        self.created, self.position = state.created, position
        # Not the log's last sequence: that may have been purged, and then never comes.
        self._end = await self._asked(self._bus.newest)
        return state

    async def read_to_the_end(self) -> None:
        """Return when this requester knows what others knew when it began."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await self._read.wait()
                    return
            # What was the newest may have been taken out before it was read.
            newest = await self._asked(self._bus.newest)
            if self._end is not None:
                self._end = min(self._end, newest)
                self._tell()

    async def run(self) -> None:
        """Follow until cancelled."""
        self._tell()
        while True:
            try:
                async for batch in self._bus.read(self.position):
                    await self._fold(batch)
                await self._clock.sleep(0.1)
            except Broken as fault:
                _log.error("the log was made anew: all is folded again", reason=fault.message)
                state = await self._asked(self._bus.log_state)
                end = await self._asked(self._bus.newest)
                await self._recorder.begin(state.created)
                # At once after it, or a job would come back to memory from tables that are emptied under it.
                self._anew()
                self.created, self.position, self._end = state.created, 0, end
                self.begun_anew()
                self._tell()
            except Unavailable as fault:
                _log.warning("the log cannot be read", reason=fault.message)
                await self._clock.sleep(0.5)

    async def _fold(self, batch: list[Record]) -> None:
        for number, record in enumerate(batch, 1):
            await self._take(record)
            self.position = record.seq
            if number % _BREATH == 0:
                self._tell()
                await asyncio.sleep(0)
        self._tell()
        await self._recorder.room()

    async def reached(self, seq: int) -> None:
        """Return when everything up to `seq` has been folded."""
        if self.position >= seq:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heappush(self._waiting, (seq, self._count, waiter))
        await waiter

    def _tell(self) -> None:
        if self._end is not None and self.position >= self._end:
            self._end = None
            self._read.set()
            self.caught_up()
        self.advanced()
        while self._waiting and self._waiting[0][0] <= self.position:
            waiter = heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)

    async def _state_beyond(self, created: str, position: int) -> LogState:
        """The log's state, once it is that of a log that has our position, or of another one."""
        short = ShortLog()
        while True:
            state = await self._asked(self._bus.log_state)
            if state.created != created or not short.may_pass(state.last, position, self._clock.elapsed()):
                return state
            await self._clock.sleep(_AGAIN_S)

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The log's answer, however long it takes."""
        pause = 0.05
        while True:
            try:
                return await ask()
            except Unavailable as fault:
                _log.warning("waiting for the log", reason=fault.message)
                await self._clock.sleep(pause)
                pause = min(pause * 2, 2.0)


def _nobody() -> None:
    """Nobody wants to be told yet."""
