"""Keeps the read model close behind the fold, and reads it, without holding up the loop.

Knows: when a group is written and that reading and writing have a thread each. Must not know: tables (`read_model`), or
what entries mean. Nothing waits for a write but who asks to see everything.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog

from protocol import failpoints
from protocol.ids import JobKey
from protocol.threads import Threads
from requester.core.bloom import Bloom
from requester.core.model import JobRecord
from requester.core.newcomers import Newcomer, record_of
from requester.core.retention import Purge
from requester.live import Live
from requester.read_model import Group, Store
from requester.read_queries import BEGINNING, entries, keys, load, load_open, only_here, stands

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_REFUSED_S: Final = 2.0
"""The rest before the disk is asked again."""
_OPEN_AT_ONCE: Final = 250
"""Open jobs that are read together: there may be a million, of 256 KiB each."""
_KEYS_AT_ONCE: Final = 10_000
"""Keys that are read together, some milliseconds for the loop."""


class Recorder:
    """The read model's writer and reader. At most `group_max` entries or `group_max_bytes` of them wait before `room` holds
    the log's reader back; as many may be on their way to the disk meanwhile."""

    def __init__(self, path: Path, *, pause_s: float, group_max: int, group_max_bytes: int) -> None:
        self._path = path
        self._pause_s = pause_s
        self._group_max = group_max
        self._group_max_bytes = group_max_bytes
        self._writing = Threads(1)
        self._reading = Threads(1)
        self._store: Store | None = None
        self._reader: sqlite3.Connection | None = None
        self._index: sqlite3.Connection | None = None
        self.created = ""
        """The log that is in the tables."""
        self._changed: dict[JobKey, Live] = {}
        self._passing: dict[JobKey, Newcomer] = {}
        """New jobs that wait and are not in memory (`keep`), to be written with the next group;"""
        self._on_the_way: dict[JobKey, Newcomer] = {}
        """and those of the group that is being written."""
        self._fresh: set[JobKey] = set()
        """Keys of the next group of which the tables have nothing for sure."""
        self._deleted: dict[JobKey, tuple[int, float]] = {}
        """Jobs that were deleted and may still be in the tables: sequence and time of the entry that says so;"""
        self._again: set[JobKey] = set()
        """and those of them whose name another job has now."""
        self._entries: list[tuple[int, JobKey, bytes]] = []
        self._entries_bytes = 0
        self._position = 0
        self.written = 0
        """The sequence up to which everything is in the tables."""
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._full = asyncio.Event()
        """A whole group waits: it is written without a pause."""
        self._taken = asyncio.Event()
        """What waited has been taken to be written."""
        self._closing = False
        self.recorded: Callable[[], None] = _nobody
        """Told after a group has been written."""
        self._keys = Bloom()
        """The keys of all jobs that may be in the tables, or come to be: once `_learned`, no other has to be looked for."""
        self._learned = False
        self._begun = 0
        """How often the tables were emptied: what was read before is of no use after."""

    async def open(self) -> tuple[str, int]:
        """Open the file; returns the log's identity and the sequence it stands at."""
        self._store = await self._in(self._writing, partial(Store, self._path))
        self._reader = await self._in(self._reading, self._store.reader)
        self._index = self._store.reader()
        self.created, self.written = await self._in(self._writing, self._store.position)
        self._position = self.written
        return self.created, self.written

    async def begin(self, created: str) -> None:
        """Start over for another log."""
        async with self._lock:
            self._changed, self._passing, self._entries, self._entries_bytes = {}, {}, [], 0
            self._fresh, self._deleted, self._again = set(), {}, set()
            self._taken.set()
            await self._in(self._writing, self._opened().clear)
            self.created, self._position, self.written = created, 0, 0
            self._keys, self._learned = Bloom(), True
            self._begun += 1

    async def learn(self) -> None:
        """Learn the keys that are in the tables, so that a new name need not be looked for there."""
        begun = self._begun
        for table in ("jobs", "deleted"):
            after = ""
            while found := await self.read(partial(keys, table=table, after=after, limit=_KEYS_AT_ONCE)):
                if begun != self._begun:
                    return
                for key in found:
                    self._keys.add(key)
                after = found[-1]
        self._learned = True

    def note(self, live: Live | None, seq: int, key: JobKey, data: bytes) -> None:
        """Take an entry that has been folded, in the order of the log."""
        self._entries.append((seq, key, data))
        self._entries_bytes += len(data)
        self._position = seq
        if live is not None:
            self._changed[key] = live
            self._passing.pop(key, None)
            self._meet(key)
            if live.deleted is not None and live.deleted[0] == seq:
                self._deleted[key] = live.deleted
                self._again.discard(key)
            if not live.is_deleted:
                self._comes_again(key)
        self._news.set()

    def keep(self, new: Newcomer) -> None:
        """Have a new job that does not come to memory: `load_here` finds it from now on. Its entry is noted next."""
        self._passing[new.key] = new
        self._changed.pop(new.key, None)
        self._meet(new.key)
        self._comes_again(new.key)

    def _comes_again(self, key: JobKey) -> None:
        if key in self._deleted:
            self._again.add(key)

    def _meet(self, key: JobKey) -> None:
        if self._keys.add(key) and self._learned:
            self._fresh.add(key)

    async def room(self) -> None:
        """Return when no more than a group waits: the next one gathers while `run` writes it."""
        while len(self._entries) >= self._group_max or self._entries_bytes >= self._group_max_bytes:
            self._full.set()
            self._taken.clear()
            await self._taken.wait()

    async def run(self) -> None:
        """Write groups until cancelled, with a pause after each in which the next one gathers, unless that is full."""
        while True:
            await self._news.wait()
            await self.settle()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._full.wait()

    async def settle(self) -> None:
        """Return when everything noted so far is in the tables."""
        async with self._lock:
            self._news.clear()
            self._full.clear()
            if not self._entries:
                return
            changed = [(live, live.record, live.written) for live in self._changed.values()]
            group = Group(
                created=self.created,
                position=self._position,
                records=[(record, since) for _, record, since in changed if record is not None],
                newcomers=list(self._passing.values()),
                entries=self._entries,
                deleted=[(key, seq, at) for key, (seq, at) in self._deleted.items()],
                fresh=self._fresh,
            )
            taken, self._changed, self._entries, self._fresh = self._changed, {}, [], set()
            taken_bytes, self._entries_bytes = self._entries_bytes, 0
            self._on_the_way, self._passing = self._passing, {}
            self._taken.set()
            try:
                while not await self._in(self._writing, partial(self._write, group)):
                    if self._closing:
                        return
                    await asyncio.sleep(_REFUSED_S)
            except BaseException:
                # Whoever waited left: the group goes with the next one. Written twice is written once.
                self._entries[:0] = group.entries
                self._entries_bytes += taken_bytes
                self._fresh |= group.fresh
                self._changed = taken | self._changed
                left = {key: each for key, each in self._on_the_way.items() if key not in self._changed}
                self._passing, self._on_the_way = left | self._passing, {}
                self._news.set()
                raise
            failpoints.reached("requester.model.written")
            self.written = group.position
            self._on_the_way = {}
            self._deleted = {key: told for key, told in self._deleted.items() if told[0] > group.position}
            self._again &= self._deleted.keys()
            for live, record, _ in changed:
                if record is not None:
                    live.written = max(live.written, record.revision)
            self.recorded()

    def _write(self, group: Group) -> bool:
        """Write a group; False if the disk refuses. It is tried again, and the log's reader is held back meanwhile."""
        try:
            self._opened().write(group)
        except sqlite3.OperationalError as error:
            _log.error("the read model cannot be written", path=str(self._path), reason=str(error))
            return False
        return True

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Ask the tables something; what was noted last may not be in them yet (`settle`)."""
        assert self._reader is not None
        return await self._in(self._reading, partial(query, self._reader))

    async def every_open(self) -> AsyncIterator[list[JobRecord]]:
        """All open jobs as of the last group written, some at a time."""
        after: tuple[float, str] | None = BEGINNING
        while after is not None:
            found, after = await self.read(partial(load_open, after=after, limit=_OPEN_AT_ONCE))
            yield found

    def load_here(self, key: JobKey) -> JobRecord | None:
        """One job that is not in memory, read on the loop: some 50 µs, where a hop to a thread takes more."""
        assert self._index is not None
        new = self._passing.get(key) or self._on_the_way.get(key)
        return record_of(new.data, new.seq) if new is not None else load(self._index, key)

    async def load(self, key: JobKey) -> JobRecord | None:
        """One job as of the last group written."""
        record, _ = await self.look(key)
        return record

    async def look(self, key: JobKey) -> tuple[JobRecord | None, int]:
        """One job as of the last group written; or None, and the sequence of the entry that deleted it, 0 for none: the
        guard of what comes after. A deletion counts as soon as it is noted.

        Most names are new, and then the tables need not be asked. Else whether there is one is asked right here: a hop to a
        thread takes ten times as long.
        """
        assert self._index is not None
        while True:
            if self._is_gone(key):
                return None, self._deleted[key][0]
            if self._learned and key not in self._keys:
                return None, 0
            there, deleted = stands(self._index, key)
            if not there:
                return None, deleted
            begun = self._begun
            record = await self.read(lambda database: load(database, key))
            if begun == self._begun and not self._is_gone(key):
                return record, 0

    def _is_gone(self, key: JobKey) -> bool:
        return key in self._deleted and key not in self._again

    async def purged(self, gone: Sequence[Purge]) -> None:
        """Note what was taken out of the log."""
        if gone:
            await self._in(self._writing, partial(self._opened().purged, gone))

    async def outlived(self, before: float, limit: int, drop: Callable[[JobKey], bool]) -> int:
        """Remove jobs that have left the log and have not changed since that time, of the oldest `limit` those that memory
        can `drop`; how many went."""
        found = await self.read(partial(only_here, before=before, limit=limit))
        gone = [key for key in found if drop(key)]
        if gone:
            await self._in(self._writing, partial(self._opened().outlived, gone, before))
        return len(gone)

    async def forget(self, record: JobRecord) -> None:
        """Remove a job from the tables as far as this record goes."""
        await self.settle()
        async with self._lock:
            await self._in(self._writing, partial(self._opened().forget, record))

    async def entries(self, key: JobKey) -> list[tuple[int, bytes]]:
        """The entries of one job, all that were noted."""
        await self.settle()
        return await self.read(lambda database: entries(database, key))

    async def close(self) -> None:
        """Write what waits and close the file."""
        self._closing = True
        if self._store is not None:
            await self.settle()
            await self._in(self._writing, self._store.close)
        if self._reader is not None:
            await self._in(self._reading, self._reader.close)
        if self._index is not None:
            self._index.close()
        self._writing.shutdown()
        self._reading.shutdown()

    def _opened(self) -> Store:
        assert self._store is not None
        return self._store

    async def _in(self, threads: Threads, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def _nobody() -> None:
    """Nobody wants to be told yet."""
