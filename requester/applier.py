"""Applies what the log says to the jobs in memory: each entry that its reader brings, and what was missed of a job.

Knows: where the job of an entry is (in memory, in the read model, nowhere yet), and how to learn why a guard did not hold.
Must not know: how entries add up (`requester.core.fold`), or what is decided; that follows elsewhere.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from protocol.bus import Bus, Record
from protocol.clock import Clock
from protocol.entries import Entry, read_entry
from protocol.errors import Broken, TimedOut, Unavailable
from protocol.ids import JobKey, NodeId, key_of
from requester.agenda import Agenda
from requester.backlog import Backlog
from requester.core.fold import begins_anew
from requester.core.model import JobRecord
from requester.core.newcomers import Newcomer, Newcomers
from requester.deadlines import Deadlines
from requester.jobs import Jobs
from requester.live import Live
from requester.recorder import Recorder

_log = structlog.get_logger(__name__)
_AGAIN_S: Final = 0.01
"""The rest before asking the log again while another's append is in flight."""
LATER_S: Final = 1.0
"""The rest before looking again at a job whose entries are still to come."""


class Applier:
    """One requester's. `position` is how far the log has been read, `decide` writes what follows about a job."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        *,
        jobs: Jobs,
        recorder: Recorder,
        newcomers: Newcomers,
        agenda: Agenda,
        deadlines: Deadlines,
        backlog: Backlog,
        position: Callable[[], int],
        decide: Callable[[Live], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._jobs = jobs
        self._recorder = recorder
        self._newcomers = newcomers
        self._agenda = agenda
        self._deadlines = deadlines
        self._backlog = backlog
        self._position = position
        self._decide = decide
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the tasks that ask for what was missed, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.Event().wait()

    async def take(self, record: Record) -> None:
        """Fold an entry that the log's reader brings; one that this requester wrote is folded already."""
        live = self._jobs.get(record.key)
        if live is None or not live.has_folded(record.seq):
            live = await self._fold(live, record)
        self._recorder.note(live, record.seq, record.key, record.data)
        if live is not None and live.record is None:
            self._jobs.forget(live)

    async def _fold(self, live: Live | None, record: Record) -> Live | None:
        if live is None and self._passes_by(record):
            return None
        try:
            entry = _read(live, record)
        except Broken as fault:
            _log.error("an entry is passed over", seq=record.seq, key=record.key, reason=fault.message)
            if live is not None:
                live.guard = max(live.guard, record.seq)
            return live
        if live is None or live.record is None:
            live = await self._recall(record.key, entry) or self._jobs.make(record.key)
            if live.has_folded(record.seq):
                # This requester wrote it, and heard so while the read model was asked.
                return live
        freed = self._jobs.fold(live, entry, record.seq)
        if live.behind and live.guard >= live.behind:
            live.behind = 0
            self._decide(live)
        self.after(live, freed)
        return live

    def _passes_by(self, record: Record) -> bool:
        """Whether this is another requester's new job that has to wait in a queue that is long already: until its turn comes
        it is in the queue and in the read model, and never was in memory.
        """
        if not self._jobs.crowded:
            return False
        new = self._newcomers.read(record.key, record.seq, record.data)
        if new is None:
            return False
        self._jobs.pass_by(new)
        self._recorder.keep(new)
        self.passed_by(new)
        return True

    async def _recall(self, key: JobKey, entry: Entry) -> Live | None:
        """A closed job that has left memory and goes on (a new version) comes back from the read model."""
        if getattr(entry.first, "version", 0) == 1:
            return None
        record = await self._recorder.load(key)
        if record is None or begins_anew(record, entry):
            return None
        live = self._jobs.get(key)
        if live is not None and live.record is None and not live.inflight:
            self._jobs.restore(live, record)
        return live or self._jobs.adopt(record)

    def after(self, live: Live, freed: set[NodeId]) -> None:
        """What a folded entry leads to: the next deadline, and a look at the queue if room was freed."""
        if live.record is not None:
            # What became due between the decision and now, for the log was slow, was not seen by it.
            self._deadlines.await_next(live, min(live.record.modified_at, self._clock.now()))
        if live.record is None or live.record.closed:
            self._backlog.left(live.key)
        self._backlog.freed(freed)
        self._backlog.joined(live.key)

    def passed_by(self, job: JobRecord | Newcomer) -> None:
        """What the arrival of a job leads to that is not in memory."""
        self._deadlines.await_first(job)
        self._backlog.joined(job.key)

    def reread(self, live: Live) -> None:
        """Learn from the log what a job's newest entry is, if nobody brings it: a guard did not hold."""
        if self._tasks is not None:
            live.behind = live.behind or live.guard + 1
            self._tasks.create_task(self._read_last(live))

    async def _read_last(self, live: Live) -> None:
        """A guard did not hold and the log's reader does not bring why: ask for the job's newest entry."""
        await self._clock.sleep(_AGAIN_S)
        try:
            last = await self._bus.last(live.key)
        except (Unavailable, TimedOut):
            self._agenda.remind(self._clock.now() + LATER_S, live.key)
            return
        if not live.behind or not self._jobs.holds(live):
            return
        if last is None:
            await self.vanished(live)
            return
        if last.seq > self._position():
            live.behind = last.seq
            self._agenda.remind(self._clock.now() + LATER_S, live.key)
            return
        if last.seq > live.guard:
            await self._recorder.settle()
            record = await self._recorder.load(live.key)
            if not self._jobs.holds(live):
                return
            if live.record is None and record is not None:
                self._jobs.restore(live, record)
            live.guard = max(live.guard, last.seq)
        live.behind = 0
        self._decide(live)

    async def vanished(self, live: Live) -> None:
        """The log has nothing of a job any more. If it was open here, its end was missed, and the read model is wrong."""
        record = live.record
        if record is not None and not record.closed:
            await self._recorder.forget(record)
            if live.record is not record or not self._jobs.holds(live):
                return
        self._backlog.left(live.key)
        self._backlog.freed(self._jobs.vanished(live))
        live.behind = 0
        self._decide(live)


def _read(live: Live | None, record: Record) -> Entry:
    """The entry in a record of the log. Raises `Broken` if it cannot be read or belongs to another subject."""
    if live is not None and live.flying is not None and live.flying[0] == record.data:
        return live.flying[1]
    entry = read_entry(record.data)
    if key_of(entry.job) != record.key:
        raise Broken(f"it names {entry.job}, which is not this subject's job")
    return entry
