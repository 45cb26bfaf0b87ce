"""Takes old and deleted jobs out of the log, and inline data that no job names any more out of the blobs.

Knows: the rhythm, who else is there and how far each has written its read model. Must not know: what may go
(`requester.core.retention` decides that). What goes stays readable in the read models for as long as history is kept there;
a read model that is filled again from the log lacks it.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Final

import structlog

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Fault, TimedOut, Unavailable
from protocol.ids import ExecutionId, JobKey
from protocol.together import together
from requester.core.model import JobRecord
from requester.core.retention import RATE_MAX, Purge, blob_goes, purge_of, safe_position
from requester.jobs import Jobs
from requester.live import Live
from requester.presence import Presence
from requester.read_queries import BEGINNING, blobs_named, keys_of, last_of_open, over
from requester.recorder import Recorder
from requester.settings import Settings

_log = structlog.get_logger(__name__)
_AT_ONCE: Final = 500
"""Candidates looked at in one round."""
_OPEN_AT_ONCE: Final = 200
"""Open jobs looked at in one round."""
_ASKED_AT_ONCE: Final = 100
"""Jobs of which the log is asked side by side at the start: services may run for longer than closed jobs are kept."""
_AGAIN_S: Final = 0.5
"""The rest before the log is asked again."""


class Retention:
    """One requester's share of the work. `spoken_of` gives the executions in the newest beats of all nodes, `vanished` is
    told of a job that ended and left the log unseen."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        recorder: Recorder,
        presence: Presence,
        jobs: Jobs,
        spoken_of: Callable[[], Collection[ExecutionId]],
        vanished: Callable[[Live], Awaitable[None]],
        ready: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._recorder = recorder
        self._presence = presence
        self._jobs = jobs
        self._spoken_of = spoken_of
        self._vanished = vanished
        self._ready = ready
        self._looked_to = BEGINNING
        """When the open job that was looked at last was made, and its key."""
        self.purged = 0

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self._clock.sleep(self._settings.retention_s)
            if not self._ready():
                continue
            try:
                while await self.round() == _AT_ONCE:
                    pass
                await self.look_for_missed()
                while await self.history_round() == _AT_ONCE:
                    pass
            except Fault as fault:
                _log.debug("the log cannot be cleared just now", reason=fault.message)

    async def run_blobs(self) -> None:
        """Look at the blobs again and again until cancelled. One requester is enough, and two do no harm."""
        while True:
            await self._clock.sleep(self._settings.blob_retention_s)
            if not self._ready() or self._presence.rank("blobs"):
                continue
            try:
                await self.blobs_round()
            except Fault as fault:
                _log.debug("the blobs cannot be looked at just now", reason=fault.message)

    async def history_round(self) -> int:
        """Remove jobs from the read model that left the log and are older than is shown, at most `_AT_ONCE`; how many went.
        Each requester does that for itself."""
        history_s = self._settings.history_s
        if not history_s:
            return 0
        before = self._clock.now() - history_s
        gone = await self._recorder.outlived(before, _AT_ONCE, self._jobs.drop)
        if gone:
            _log.info("old jobs are not shown any more", jobs=gone)
        return gone

    async def blobs_round(self) -> int:
        """Remove the blobs that may go now; how many went."""
        gone = 0
        newest, kept = await self._bus.newest(), await self._bus.list_blobs()
        if self._recorder.written < newest:
            return 0
        named = await self._recorder.read(blobs_named)
        for digest in kept:
            if digest in named:
                continue
            # Looked at after what jobs name: a submission that is newer than that has made it new.
            seen = await self._bus.look_blob(digest)
            now, grace_s = self._clock.now(), self._settings.blob_grace_s
            if seen is not None and blob_goes(seen.at, now=now, grace_s=grace_s):
                gone += await self._bus.remove_blob(digest, seen)
        if gone:
            _log.info("inline data that no job names was removed", blobs=gone)
        return gone

    async def missed(self, records: Iterable[JobRecord]) -> set[JobKey]:
        """Which of the jobs that the read model has as open ended and left the log while this requester was away.

        That takes as long as a closed job is kept: only of jobs that have not moved since is the log asked.
        """
        keep_s, now = self._settings.keep_s, self._clock.now()
        stale = [each for each in records if keep_s and now - each.modified_at >= keep_s]
        gone: set[JobKey] = set()

        async def ask(record: JobRecord) -> None:
            if await self._has_left(record):
                gone.add(record.key)

        for first in range(0, len(stale), _ASKED_AT_ONCE):
            await together(map(ask, stale[first : first + _ASKED_AT_ONCE]))
        return gone

    async def _has_left(self, record: JobRecord) -> bool:
        """Whether the log has nothing of a job any more."""
        while True:
            try:
                found = await self._bus.last(record.key)
            except (Unavailable, TimedOut) as fault:
                _log.warning("waiting for the log", reason=fault.message)
                await self._clock.sleep(_AGAIN_S)
                continue
            if found is None:
                _log.warning("a job ended and left the log while this requester was away", job=record.id)
            return found is None

    async def look_for_missed(self) -> None:
        """Find open jobs whose end was missed: others do not wait with clearing the log for one who is not there.

        What has not moved for the keep time is asked after, a few in each round, and what stands before the log's first
        entry, whatever the clocks say. Nobody knows for certain when others took it for absent, so nothing else is gone by.
        And what this requester wrote just before it was cut off, if the log's reader has passed its place without it.
        """
        if not self._settings.keep_s:
            return
        before = self._clock.now() - self._settings.keep_s
        first = (await self._bus.log_state()).first
        found = await self._recorder.read(partial(last_of_open, after=self._looked_to, limit=_OPEN_AT_ONCE))
        self._looked_to = (found[-1][1], found[-1][0]) if len(found) == _OPEN_AT_ONCE else BEGINNING
        suspects = [key for key, _, at, last in found if at < before or last < first]
        suspects += [live.key for live in self._jobs.passed_over(self._recorder.written)[:_OPEN_AT_ONCE]]
        for key in suspects:
            live = self._jobs.get(key)
            record = live.record if live is not None else None
            if live is None or record is None or (record.closed and live.written >= record.revision):
                continue
            # One that only waits may have left memory while the log was asked.
            if await self._has_left(record) and (live := self._jobs.get(key)) and live.record is record:
                await self._vanished(live)

    async def round(self) -> int:
        """Take out what may go now, at most `_AT_ONCE` jobs; how many went."""
        created = self._recorder.created
        now, keep_s = self._clock.now(), self._settings.keep_s
        executions = self._spoken_of()
        spoken_of = await self._recorder.read(lambda database: keys_of(database, executions))
        before = now - keep_s if keep_s else 0.0
        found = await self._recorder.read(lambda database: over(database, before, _AT_ONCE))
        safe = safe_position(self._recorder.written, [beat.recorded for beat in self._presence.others()])
        first = (await self._bus.log_state()).first
        gone: list[Purge] = []
        try:
            for job in found:
                purge = purge_of(
                    job,
                    now=now,
                    keep_s=keep_s,
                    safe=safe,
                    spoken_of=spoken_of,
                    rank=self._presence.rank(job.key),
                )
                if purge is None:
                    continue
                # Of another log these may be open.
                if self._recorder.created != created:
                    gone.clear()
                    break
                # What stands before the log's first entry has been taken out by another.
                if purge.upto >= first:
                    await self._bus.purge(purge.key, purge.upto, log=created)
                    await self._clock.sleep(len(self._presence.there) / RATE_MAX)
                gone.append(purge)
        finally:
            await self._recorder.purged(gone)
        self.purged += len(gone)
        if gone:
            _log.info("jobs were taken out of the log", jobs=len(gone), safe=safe)
        return len(gone)
