"""Brings what people want of a job before its next decision, and waits until it is in the log.

Knows: how a job comes to memory, and what came of what was brought. Must not know: what is wanted, or what is decided.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from protocol.bus import Stored
from protocol.entries import Event
from protocol.errors import Exhausted, Fault, Invalid, Unavailable
from protocol.ids import JobId, JobKey
from protocol.patience import Patience
from requester.core.model import JobRecord
from requester.jobs import Jobs
from requester.live import Input, Live, Settled
from requester.recorder import Recorder

ROOM_HINT: Final = (
    "Delete closed jobs, shorten Orchestrator.KeepFor, or give it more room: nats stream edit JOBS --max-bytes N, with the "
    "credentials of shoal cluster admin."
)


class Intake:
    """One requester's. `put` brings an input before a job's next decision; nobody waits for longer than `timeout_s`."""

    def __init__(
        self, jobs: Jobs, recorder: Recorder, put: Callable[[Live, Input], None], *, timeout_s: float
    ) -> None:
        self._jobs = jobs
        self._recorder = recorder
        self._put = put
        self._timeout_s = timeout_s
        self._patience = Patience(timeout_s)

    async def live(self, key: JobKey) -> Live:
        """A job in memory, brought there from the read model if it has left."""
        live = self._jobs.get(key)
        if live is None:
            record, deleted = await self._recorder.look(key)
            live = self._jobs.adopt(record) if record is not None else self._jobs.make(key)
            live.guard = max(live.guard, deleted)
        return live

    async def still(self, live: Live) -> Live:
        """The same job, also if all was forgotten meanwhile and read anew."""
        left = live.record is not None and not self._jobs.holds(live)
        return await self.live(live.key) if left else live

    async def written(
        self, live: Live, event: Callable[[JobRecord | None], Event], job: JobId | None = None
    ) -> Settled:
        """Wait until an input is in the log. Raises its fault; returns None if it would have changed nothing."""
        waiter: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()

        def done(outcome: Settled) -> None:
            if not waiter.done():
                waiter.set_result(outcome)

        item = Input(event, done, job)
        self._put(live, item)
        try:
            with self._patience.once():
                outcome = await waiter
        except TimeoutError as error:
            raise Unavailable(
                f"the log did not answer within {self._timeout_s:g} s; "
                "whether the request was taken is not known",
                hint="Ask for the job, or submit it again under the same name.",
            ) from error
        finally:
            item.wanted = False
        if isinstance(outcome, Fault):
            raise outcome
        if outcome is None or isinstance(outcome, Stored):
            return outcome
        reason = getattr(outcome, "reason", "")
        if getattr(outcome, "full", False):
            raise Exhausted(f"the log is full: {reason}", hint=ROOM_HINT)
        if live.record is None and live.guard:
            raise Exhausted(
                f"a job of this name was deleted, and what the log still has of it leaves no room: {reason}",
                hint="Try again in a minute: it is cleared away by then.",
                kind="Entries",
            )
        raise Invalid(f"the log refused the entry: {reason}")
