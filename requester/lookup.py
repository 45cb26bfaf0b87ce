"""Finds the job that a person means, by name, by id or by the beginning of an id: as it is now, and as it was.

Knows: where jobs are found: in memory, in the read model, in what the log's reader still has to bring. Must not know: what
is done with them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, TypeVar

from protocol.bus import Bus
from protocol.entries import Entry, read_entry
from protocol.errors import Conflict, NotFound, TimedOut, Unavailable
from protocol.ids import JobId, JobKey, job_key, key_of
from protocol.jobs import NAMESPACE_DEFAULT
from requester.core.history import of_log
from requester.core.model import HistoryItem, JobRecord
from requester.follower import Follower
from requester.jobs import Jobs
from requester.read_queries import FOUND_MAX, find
from requester.recorder import Recorder

T = TypeVar("T")
Stored = list[tuple[int, bytes]]
"""Entries with their sequences, not read yet."""

MANY: Final = 500
"""From this many entries of one job on, some 50 ms of work, they are folded in a thread."""


class Lookup:
    """Records by reference, each the newest that this requester knows. It waits `wait_s` at most for the log's reader."""

    def __init__(
        self, bus: Bus, jobs: Jobs, recorder: Recorder, follower: Follower, *, wait_s: float
    ) -> None:
        self._bus = bus
        self._jobs = jobs
        self._recorder = recorder
        self._follower = follower
        self._wait_s = wait_s

    async def job(self, ref: str, namespace: str, version: int = 0) -> JobRecord:
        """The job that `ref` names, as it is, or as it was when the version after `version` came.

        Raises `NotFound`, `Conflict.MultipleJobsFound` with the candidates, and `Unavailable` while nobody can say whether
        there is such a job.
        """
        try:
            record = await self._known(ref, namespace)
        except NotFound as unknown:
            if not await self._catch_up():
                raise Unavailable(
                    f"whether there is a job {ref} is not known here: the log cannot be read just now",
                    hint="Ask again in a moment, or ask another requester.",
                ) from unknown
            record = await self._known(ref, namespace)
        if not version or version == record.version:
            return record
        return await self.at_version(record, version)

    async def _catch_up(self) -> bool:
        """Read the log to its end: a job that is not known yet may have been submitted elsewhere a moment ago.

        False if that cannot be done now.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                await self._follower.reached(await self._bus.newest())
        except (TimeoutError, Unavailable, TimedOut):
            return False
        return True

    async def versions(self, record: JobRecord) -> list[JobRecord]:
        """A job as it was at the end of each of its versions, oldest first; the last is its present state."""
        stored = await self._entries(record)
        return await _worked_out(lambda: _versions(stored, record.id), len(stored))

    async def history(
        self, record: JobRecord, meant: Callable[[HistoryItem], bool], *, limit: int, newest: bool
    ) -> tuple[list[HistoryItem], bool]:
        """The lines of a job's history that are meant, and whether there are more than `limit` (0: any number) of them: the
        first ones are told then, or the `newest`.
        """
        stored = await self._entries(record)
        return await _worked_out(lambda: _lines(stored, record.id, meant, limit, newest), len(stored))

    async def at_version(self, record: JobRecord, version: int) -> JobRecord:
        """A job as it was when its next version came."""
        known = await self.versions(record)
        found = next((each for each in known if each.version == version), None)
        if found is None:
            gone = 0 < version < record.version
            raise NotFound(
                f"job {record.id} has its version {version} no more"
                if gone
                else f"job {record.id} has no version {version}",
                kind="JobVersion",
                hint="List them with: job versions",
            )
        return found

    async def _entries(self, record: JobRecord) -> list[tuple[int, bytes]]:
        """All entries of a job's name, with their sequences, in order."""
        await self._read_up_to(record.revision)
        return await self._recorder.entries(record.key)

    async def settle(self) -> None:
        """Have everything in the read model that anyone was told here."""
        await self._read_up_to(self._jobs.newest)
        await self._recorder.settle()

    async def _read_up_to(self, seq: int) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._follower.reached(seq)
        except TimeoutError:
            pass  # What has been read so far is told.

    async def by_key(self, key: JobKey) -> JobRecord | None:
        """The job of a key: from memory, else from the read model."""
        live = self._jobs.get(key)
        if live is not None and live.record is not None:
            return live.present()
        if live is not None and live.is_deleted:
            # The tables may still have it: the log's reader has not come so far.
            return None
        return await self._recorder.load(key)

    async def _known(self, ref: str, namespace: str) -> JobRecord:
        """The job that `ref` names, if it is known here already."""
        if key_of(ref) is not None:
            record = await self._with_id(ref, namespace) or await self._named(ref, namespace)
        else:
            record = await self._named(ref, namespace) or await self._with_id(ref, namespace)
        if record is None:
            raise NotFound(f"job {ref} not found", kind="Job", hint="List jobs with: job list")
        return record

    async def _named(self, name: str, namespace: str) -> JobRecord | None:
        if not name:
            return None
        wanted = NAMESPACE_DEFAULT if namespace in ("", "*") else namespace
        found = await self.by_key(job_key(wanted, name))
        if found is not None and found.spec.name == name and found.spec.namespace == wanted:
            return found
        if namespace not in ("", "*"):
            return None
        await self.settle()
        named = await self._recorder.read(lambda database: find(database, name=name))
        return await self._only(name, [record for record in named if record.id != name])

    async def _with_id(self, ref: str, namespace: str) -> JobRecord | None:
        key = key_of(ref)
        if key is not None:
            found = await self.by_key(key)
            matches = [found] if found is not None and found.id == ref else []
        elif ref.startswith("j-"):
            await self.settle()
            matches = await self._recorder.read(lambda database: find(database, prefix=ref))
        else:
            return None
        if namespace not in ("", "*"):
            matches = [record for record in matches if record.spec.namespace == namespace]
        return await self._only(ref, matches)

    async def _only(self, ref: str, found: list[JobRecord]) -> JobRecord | None:
        if len(found) > 1:
            more = " or more" if len(found) == FOUND_MAX else ""
            raise Conflict(
                f"{ref} could be any of {len(found)}{more} jobs",
                kind="MultipleJobsFound",
                hint="Use more of the id, or the namespace.",
                details={record.id: f"{record.spec.name} in {record.spec.namespace}" for record in found},
            )
        return await self.by_key(found[0].key) if found else None


async def _worked_out(work: Callable[[], T], entries: int) -> T:
    """Fold that many entries. A job may have a hundred thousand: then only whoever asked waits for it."""
    return work() if entries < MANY else await asyncio.to_thread(work)


def _read(stored: Stored, job: JobId) -> Iterator[tuple[int, Entry]]:
    """The entries of a job: a name that was used again after its first job was purged or deleted has those of both."""
    for seq, data in stored:
        entry = read_entry(data)
        if entry.job == job:
            yield seq, entry


def _versions(stored: Stored, job: JobId) -> list[JobRecord]:
    last: dict[int, JobRecord] = {}
    for record, _ in of_log(_read(stored, job)):
        if record is not None and record.id == job:
            last[record.version] = record
    return list(last.values())


def _lines(
    stored: Stored, job: JobId, meant: Callable[[HistoryItem], bool], limit: int, newest: bool
) -> tuple[list[HistoryItem], bool]:
    lines = (item for _, items in of_log(_read(stored, job)) for item in items if meant(item))
    if not limit:
        return list(lines), False
    # One more than is told, to see whether there is.
    found = list(deque(lines, limit + 1) if newest else islice(lines, limit + 1))
    return found[-limit:] if newest else found[:limit], len(found) > limit
