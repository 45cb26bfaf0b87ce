"""Has snapshots written of jobs that go on and on, and takes out of the log what stands before them.

Knows: the rhythm, who else is there, and in which order it is done. Must not know: when a snapshot is due or what it says
(`requester.core.snapshots`).

What stands before a snapshot goes when the next one is due, not at once. So the log and everybody's history always have
the entries of one span, whoever is away for a while finds what it missed, and by how many a job's count goes down is known
before it is written: the next snapshot says what is left. Who reads the log from its beginning finds the older of the two
as the job's first entry.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.entries import Entry, read_entry
from protocol.errors import Broken, Fault, TimedOut
from protocol.ids import JobKey
from requester.core.fold import Told
from requester.core.model import JobRecord
from requester.core.snapshots import Retelling, draft, is_due, that_matter, told_by
from requester.jobs import Jobs
from requester.live import Live
from requester.presence import Presence
from requester.recorder import Recorder
from requester.settings import Settings

_log = structlog.get_logger(__name__)
_WAIT_S: Final = 10.0
"""So long the log's reader is waited for."""
_AGAIN_AFTER: Final = 1.25
"""Where there can be no snapshot it is tried again with so many times as many entries: each try reads all of them."""


class Compaction:
    """One requester's share of the work. `decide` writes what follows about a job, a snapshot that is ready before all else;
    `reached` returns when the log has been read so far. `log_created` names the log that is followed, `entries_max` is how
    many entries that takes of one job."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        jobs: Jobs,
        recorder: Recorder,
        presence: Presence,
        decide: Callable[[Live], None],
        reached: Callable[[int], Awaitable[None]],
        log_created: Callable[[], str],
        entries_max: Callable[[], int],
        ready: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._jobs = jobs
        self._recorder = recorder
        self._presence = presence
        self._decide = decide
        self._reached = reached
        self._log_created = log_created
        self._entries_max = entries_max
        self._ready = ready
        self._not_before: dict[JobKey, int] = {}
        """Jobs of which there can be no snapshot yet, and with how many entries it is tried again."""

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self._clock.sleep(self._settings.snapshot_s)
            if not self._ready() or not all(each.snapshots for each in self._presence.others()):
                # A requester of a version that reads no snapshots would go on with what it had before.
                continue
            self._not_before = {
                key: entries for key, entries in self._not_before.items() if key in self._jobs.open
            }
            for live in self._due():
                try:
                    await self._compact(live)
                except Fault as fault:
                    _log.debug("no snapshot can be written just now", key=live.key, reason=fault.message)

    def _due(self) -> list[Live]:
        return [live for live in self._jobs.open.values() if self._is_due(live)]

    def _is_due(self, live: Live) -> bool:
        record = live.record
        if record is None or live.retelling is not None:
            return False
        rank, after = self._presence.rank(live.key), self._settings.snapshot_after
        may = record.entries >= self._not_before.get(live.key, 0)
        return may and is_due(record, after=after, entries_max=self._entries_max(), rank=rank)

    async def _compact(self, live: Live) -> None:
        """Take out what stands before a job's last snapshot, then have the next written."""
        record, created = live.record, self._log_created()
        if record is None or not self._jobs.holds(live) or not self._is_due(live):
            # Others were waited for since it was seen.
            return
        if record.snapshot:
            await self._bus.purge(record.key, record.snapshot - 1, log=created)
        now = live.record
        if self._jobs.get(live.key) is not live or now is None or now.closed:
            return
        if now.snapshot != record.snapshot:
            # Another requester was first: what stands before its snapshot is still there.
            return
        retelling = live.retelling = Retelling(self._settings.snapshot_attempts)
        try:
            await self._prepare(live, retelling, now)
        finally:
            if live.retelling is retelling and not retelling.ready:
                live.retelling = None
        if live.retelling is retelling:
            self._decide(live)

    async def _prepare(self, live: Live, retelling: Retelling, record: JobRecord) -> None:
        """Read a job's entries, and leave of them what matters; what is folded meanwhile comes to it by itself. Raises
        `TimedOut` if the log's reader stands still.
        """
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._reached(record.revision)
        except TimeoutError as error:
            raise TimedOut(f"the log was not read up to {record.revision} within {_WAIT_S:g} s") from error
        stored = await self._recorder.entries(record.key)
        if live.retelling is not retelling or live.record is None:
            # It has ended, or another requester was first.
            return
        if not stored or stored[-1][0] < record.revision:
            return
        record, later = live.record, retelling.behind(stored[-1][0])
        found = await asyncio.to_thread(
            partial(_read, stored, later, record, attempts=self._settings.snapshot_attempts)
        )
        if found is None:
            self._cannot(record)
        else:
            told, measure = found
            retelling.begin(told, record.revision, measure)
            self._not_before.pop(record.key, None)

    def _cannot(self, record: JobRecord) -> None:
        self._not_before[record.key] = int(record.entries * _AGAIN_AFTER) + 1
        _log.warning(
            "there can be no snapshot of a job: its entries stay in the log, which takes only so many of one job",
            job=record.id,
            name=record.spec.name,
            entries=record.entries,
            executions=len(record.executions),
            hint="It may have too many executions for one: as several jobs with a smaller Count they go on for ever.",
        )


def _read(
    stored: list[tuple[int, bytes]], later: list[tuple[int, Entry]], record: JobRecord, *, attempts: int
) -> tuple[list[Told], int] | None:
    """Of a job's entries what matters, with the measure by which it fits; None if there can be no snapshot, also because one
    of them cannot be read here: others may know what it says.
    """
    try:
        entries = [(seq, read_entry(data)) for seq, data in stored]
    except Broken:
        return None
    told = that_matter(told_by([*entries, *later], record.id), record)
    made = draft(told, record, attempts=attempts)
    return (told, made.measure) if made is not None else None
