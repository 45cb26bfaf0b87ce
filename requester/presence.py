"""Which requesters are there: says that this one is, and listens for the others.

Knows: beats of requesters. Must not know: what a requester's absence leads to. A courtesy only: the guards of the log keep
two that both think themselves first from doing harm.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from protocol import subjects
from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Broken, Fault
from protocol.ids import RequesterId
from protocol.messages import RequesterBeat, decode, encode
from requester.core import owners
from requester.core.membership import silent

DEAF_BEATS: Final = 2
DEAF_S: Final = 1.0
"""How many of our own beats have to be missing, and for how long, before we count as deaf."""

LEAVE_S: Final = 1.0
"""How long it may take to say that we leave."""

RANKS_MAX: Final = 65_536
"""Ranks that are remembered: a node's is asked for with each of its beats, a job's with each of its entries."""

_log = structlog.get_logger(__name__)


class Presence:
    """The requesters that are there, this one (`me`) always among them."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        me: RequesterId,
        *,
        beat_s: float,
        version: str,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._beat_s = beat_s
        self._version = version
        self._heard: dict[RequesterId, tuple[RequesterBeat, float]] = {}
        self.changed: Callable[[], None] = _nobody
        """Told when requesters come or go."""
        self._echo_at = clock.elapsed()
        self.folded: Callable[[], int] = _nothing
        """Up to where the log is folded."""
        self.recorded: Callable[[], int] = _nothing
        """Up to where the read model is written."""
        self.decided = 0
        """The revision of the last word about a node that a person said here."""
        self.heard: Callable[[RequesterBeat], None] = _unheard
        """Told of each beat of another."""
        self.me = me
        self.there: tuple[RequesterId, ...] = (me,)
        self._ranks: dict[str, int] = {}
        self.address = ""

    def rank(self, key: str) -> int:
        """How many others come before this one for a job's key or a node's id."""
        if len(self.there) < 2:
            return 0
        rank = self._ranks.get(key)
        if rank is None:
            if len(self._ranks) >= RANKS_MAX:
                self._ranks.clear()
            rank = self._ranks[key] = owners.rank(self.me, self.there, key)
        return rank

    def others(self) -> list[RequesterBeat]:
        """The newest beats of the others that are there."""
        return [beat for beat, _ in self._heard.values()]

    @property
    def deaf(self) -> bool:
        """Whether our own beats do not come back from the bus: then nobody's beats do, and their silence says nothing.

        A connection that looks whole is no proof: a server that stands still, or a cable that was cut, leaves it so.
        """
        return self._clock.elapsed() - self._echo_at > max(DEAF_BEATS * self._beat_s, DEAF_S)

    async def beat(self) -> None:
        """Say that this one is there until cancelled; then that it leaves."""
        try:
            while True:
                await self.say()
                self._look()
                await self._clock.sleep(self._beat_s)
        finally:
            # Who cannot be told finds out by the silence: a bus that takes nothing is no fault of ours.
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self.say(leaving=True)

    async def tell_decided(self, revision: int) -> None:
        """A person has said something about a node: the others need not wait for the next beat to learn of it."""
        self.decided = max(self.decided, revision)
        await self.say()

    async def listen(self) -> None:
        """Take the others' beats until cancelled."""
        async with self._bus.subscribe(subjects.ALL_REQUESTER_BEATS) as messages:
            async for message in messages:
                try:
                    beat = decode(message.data, RequesterBeat)
                except Broken as fault:
                    _log.warning("a requester's beat cannot be read", reason=fault.message)
                    continue
                if beat.requester != subjects.requester_in(message.subject):
                    _log.warning("a requester's beat is in another's name", subject=message.subject)
                    continue
                if beat.requester == self.me:
                    self._echo_at = self._clock.elapsed()
                    continue
                if beat.leaving:
                    self._heard.pop(beat.requester, None)
                else:
                    self._heard[beat.requester] = (beat, self._clock.elapsed())
                    self.heard(beat)
                self._look()

    def _look(self) -> None:
        now = self._clock.elapsed()
        for requester, (_, heard_at) in list(self._heard.items()):
            if silent(heard_at, 0.0, now, 3 * self._beat_s):
                del self._heard[requester]
        there = tuple(sorted([self.me, *self._heard]))
        if there != self.there:
            self.there = there
            self._ranks.clear()
            _log.info("the requesters that are here", requesters=there)
            self.changed()

    async def say(self, *, leaving: bool = False) -> None:
        """Say once that this one is there, or that it leaves."""
        beat = RequesterBeat(
            requester=self.me,
            at=self._clock.now(),
            folded=self.folded(),
            version=self._version,
            address=self.address,
            leaving=leaving,
            recorded=self.recorded(),
            decided=self.decided,
            snapshots=True,
        )
        try:
            await self._bus.publish(subjects.requester_beats(self.me), encode(beat))
        except Fault as fault:
            _log.debug("a beat was not sent", reason=fault.message)


def _nobody() -> None:
    """Nobody wants to be told yet."""


def _unheard(_: RequesterBeat) -> None:
    """Nobody listens yet."""


def _nothing() -> int:
    """Nothing is written yet."""
    return 0
