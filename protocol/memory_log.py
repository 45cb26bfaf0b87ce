"""The log of the bus in one process: what the server's stream is to the real one.

Knows: guards, bounds and purges as `protocol.bus` promises them. Must not know: how anyone reaches it, or what entries mean.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from protocol.bus import ENTRY_MAX_BYTES, Append, LogState, Outcome, Record, Refused, Stale, Stored
from protocol.errors import Broken
from protocol.ids import JobKey

READ_MAX: Final = 4_096
"""Records that are read at once."""


class _Entry(Struct, frozen=True):
    op: str
    record: Record


class LogBackup(Struct, frozen=True):
    """All that a log had at one moment."""

    entries: list[_Entry | None]
    by_key: dict[JobKey, list[int]]
    size_bytes: int


class MemoryLog:
    """One log after the other: `generation` counts them.

    `limit_bytes` and `entries_max` may be changed at any time: `limit_bytes` at or below the log's size refuses as full, so
    many entries of one job refuse any further one of it (0: never).
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.entries_max = 0
        self.generation = 0
        self.entries: list[_Entry | None] = []
        self.by_key: dict[JobKey, list[int]] = {}
        self._size_bytes = 0
        self._news: dict[asyncio.Future[None], None] = {}

    def begin_anew(self) -> None:
        """Forget the log and begin another under the same name: every reader gets `Broken`."""
        self.restore_log(LogBackup([], {}, 0))

    def backup_log(self) -> LogBackup:
        """All that it has now."""
        by_key = {key: list(sequences) for key, sequences in self.by_key.items()}
        return LogBackup(list(self.entries), by_key, self._size_bytes)

    def restore_log(self, backup: LogBackup) -> None:
        """Begin another log, with what there was then."""
        self.generation += 1
        self.entries, self._size_bytes = list(backup.entries), backup.size_bytes
        self.by_key = {key: list(sequences) for key, sequences in backup.by_key.items()}
        self.tell_readers()

    def _is_another(self, log: str) -> bool:
        """Whether something was decided by another log than this."""
        return log not in ("", str(self.generation))

    def append(self, entry: Append) -> Outcome:
        if len(entry.data) > ENTRY_MAX_BYTES:
            return Refused(f"the entry has {len(entry.data)} bytes, the log takes at most {ENTRY_MAX_BYTES}")
        if self._is_another(entry.log):
            return Stale()
        sequences = self.by_key.get(entry.key, [])
        last = sequences[-1] if sequences else 0
        if last != entry.guard:
            return next(
                (Stored(seq) for seq in sequences if seq > entry.guard and self.at(seq).op == entry.op),
                Stale(last),
            )
        if self._size_bytes + len(entry.data) > self.limit_bytes:
            return Refused("the log is full", full=True)
        if self.entries_max and len(sequences) >= self.entries_max:
            return Refused("maximum messages per subject exceeded")
        seq = len(self.entries) + 1
        self.entries.append(_Entry(entry.op, Record(entry.key, seq, entry.data)))
        self.by_key.setdefault(entry.key, []).append(seq)
        self._size_bytes += len(entry.data)
        return Stored(seq)

    def at(self, seq: int) -> _Entry:
        entry = self.entries[seq - 1]
        if entry is None:
            raise LookupError(f"entry {seq} was purged")
        return entry

    def records(self, after: int) -> Iterator[Record]:
        return (entry.record for entry in self.entries[after : after + READ_MAX] if entry is not None)

    def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        if self._is_another(log):
            raise Broken("the log was made anew")
        sequences = self.by_key.pop(key, [])
        for seq in sequences:
            if seq <= upto:
                self._size_bytes -= len(self.at(seq).record.data)
                self.entries[seq - 1] = None
        if left := [seq for seq in sequences if seq > upto]:
            self.by_key[key] = left

    def newest(self) -> int:
        return next((seq for seq in range(len(self.entries), 0, -1) if self.entries[seq - 1] is not None), 0)

    def state(self) -> LogState:
        last = len(self.entries)
        first = next((seq for seq, entry in enumerate(self.entries, 1) if entry is not None), last + 1)
        return LogState(
            str(self.generation),
            first if last else 0,
            last,
            self._size_bytes,
            self.limit_bytes,
            self.entries_max,
        )

    def tell_readers(self) -> None:
        news, self._news = self._news, {}
        for waiter in news:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for_news(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news[waiter] = None
        try:
            await waiter
        finally:
            self._news.pop(waiter, None)
