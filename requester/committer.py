"""The one way into the log: appends gathered while the previous commit is on its way.

Knows: when to append and how often to try. Must not know: what an entry says, or what follows from its outcome.

One commit is in flight; what arrives meanwhile goes into the next, so the disk's own rhythm decides how much travels
together. Every outcome is told exactly once, in the order of the appends. After those of a crowd the next commit lets a few
turns of the event loop pass: who was answered often asks for more at once, and much of what a commit costs the NATS server
and the nodes is the same for few entries and for many.

What gets no answer is asked for again, for as long as it takes: under the same guard an operation succeeds once only. Not so
the first entry of a job, whose guard is that there is none: it may have been stored, its job run, ended and taken out of the
log meanwhile, and then the guard holds again. So it is given up within the time that closed jobs are kept.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

import structlog

from protocol import failpoints
from protocol.bus import BATCH_MAX, Append, Bus, Outcome
from protocol.clock import Clock
from protocol.errors import Exhausted, Fault, Unavailable
from requester.agenda import BREATH

Done = Callable[[Outcome | Fault], None]

_log = structlog.get_logger(__name__)
CROWD: Final = 10
TURNS: Final = 3
"""So many a caller needs to get its answer and to have its next submission decided."""
_PAUSE_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0


class Committer:
    """Appends to the log. At most `waiting_max` entries wait; beyond that `put` refuses.

    `keep_s` is how long closed jobs stay in the log, 0 for ever.
    """

    def __init__(self, bus: Bus, clock: Clock, waiting_max: int, *, keep_s: float = 0.0) -> None:
        self._bus = bus
        self._clock = clock
        self._waiting_max = waiting_max
        # The other half of the time is for what is still on its way then, and for clocks that differ.
        self._doubt_s = keep_s / 2 if keep_s else inf
        self._waiting: deque[tuple[Append, Done]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self.writable_since: float | None = 0.0
        """Since when (unix seconds) the log has taken what it was given, or None while it cannot be reached."""

    def put(self, append: Append, done: Done, *, must: bool = False) -> None:
        """Let an entry wait for the next commit; `done` is called with its outcome, or with why nobody knows of any.

        Raises `Exhausted` if too many wait, unless it `must` go in because it is about a job that exists already.
        """
        if len(self._waiting) >= self._waiting_max and not must:
            raise Exhausted(
                f"{len(self._waiting)} entries wait for the log already",
                hint="Try again in a moment: the log takes fewer jobs a second than arrive.",
            )
        self._waiting.append((append, done))
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __len__(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            while not self._waiting:
                self._wake = asyncio.get_running_loop().create_future()
                with suppress(asyncio.InvalidStateError):
                    await self._wake
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
            outcomes = await self._commit([append for append, _ in group])
            for number, ((_, done), outcome) in enumerate(zip(group, outcomes, strict=True), 1):
                done(outcome)
                if number % BREATH == 0:
                    await asyncio.sleep(0)
            for _ in range(TURNS if len(group) >= CROWD else 0):
                await asyncio.sleep(0)

    async def _commit(self, appends: list[Append]) -> list[Outcome | Fault]:
        """Append until the log answers, or until it is too late to ask again."""
        outcomes: dict[str, Outcome | Fault] = {}
        begun, pause = (self._clock.elapsed(), self._clock.now()), _PAUSE_S
        while open_ := [each for each in appends if each.op not in outcomes]:
            failpoints.reached("requester.append.begun")
            try:
                answers = await self._bus.append(open_)
            except Unavailable as fault:
                if self.writable_since is not None:
                    _log.warning("the log cannot be reached", entries=len(open_), reason=fault.message)
                self.writable_since = None
                await self._clock.sleep(pause)
                pause = min(pause * 2, _PAUSE_MAX_S)
                # The second clock goes on while the machine sleeps.
                passed_s = max(self._clock.elapsed() - begun[0], self._clock.now() - begun[1])
                if passed_s >= self._doubt_s:
                    outcomes |= {each.op: _unknown(passed_s) for each in open_ if not each.guard}
                continue
            if self.writable_since is None:
                self.writable_since = self._clock.now()
                _log.info("the log can be reached again")
            failpoints.reached("requester.append.answered")
            if not outcomes:
                return list(answers)
            outcomes |= {each.op: outcome for each, outcome in zip(open_, answers, strict=True)}
        return [outcomes[each.op] for each in appends]


def _unknown(passed_s: float) -> Unavailable:
    return Unavailable(
        f"the log did not answer for {passed_s:.0f} s; whether the job was taken is not known",
        hint="Look for the job, or submit it again.",
    )
