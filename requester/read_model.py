"""The read model: every job, execution and entry in SQLite, for lists, old jobs and history.

Knows: the tables and how they are written. Must not know: what is asked of them (`read_queries`), or what entries mean. It
is derived from the log alone: it may be deleted at any time and is filled again; it is written in groups behind the fold and
remembers how far it has come, so a kill at any moment costs nothing but the reading of a few entries once more.

`Store` does the work, in whatever thread it is called; one thread writes and one reads. Keys and ids are random, so with a
million jobs each index over them is one page more that is written for nearly every row: there are as few as can be. What the
key says (a name in its namespace, the beginning of an id, the order of ids) is looked up by the key, a job's entries are a
chain of which its row has the last one, what cannot change is not written again, and what follows from a job's only entry is
not written at all: in the place of its record, its row has that entry's sequence.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from protocol.ids import JobKey
from protocol.states import JobState
from requester.core.model import JobRecord
from requester.core.newcomers import Newcomer
from requester.core.retention import Purge

SCHEMA: Final = 4
"""Raised when the tables or the records in them change. A file of an earlier schema is brought up to it, for it knows of
jobs that have left the log; any other is filled again."""
_WITHOUT_LEFTOVERS: Final = 4
"""From this schema on a file keeps nothing of a deleted job whose name was used again."""

_CACHE_KIB: Final = 65_536
"""The keys of a million jobs are 35 MiB, and a new one may belong on any of their pages."""
_CHECKPOINT_PAGES: Final = 16_384
"""Written to the file behind the journal: a page that many groups change (of 4 KiB) is carried over once, not with each."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), created TEXT, seq INTEGER);
CREATE TABLE IF NOT EXISTS jobs (key TEXT PRIMARY KEY, id TEXT, namespace TEXT, name TEXT, state TEXT, closed INTEGER,
  priority INTEGER, created_at REAL, modified_at REAL, last INTEGER, record BLOB);
CREATE TABLE IF NOT EXISTS namespaces (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_created ON jobs (created_at, key);
CREATE INDEX IF NOT EXISTS jobs_modified ON jobs (modified_at, key);
CREATE INDEX IF NOT EXISTS jobs_going ON jobs (created_at, key) WHERE closed = 0;
CREATE INDEX IF NOT EXISTS jobs_kept ON jobs (modified_at) WHERE closed = 1;
CREATE TABLE IF NOT EXISTS deleted (key TEXT PRIMARY KEY, seq INTEGER, at REAL, cut INTEGER);
CREATE TABLE IF NOT EXISTS executions (id TEXT PRIMARY KEY, key TEXT, record BLOB);
CREATE INDEX IF NOT EXISTS executions_key ON executions (key);
CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, key TEXT, before INTEGER, data BLOB);
CREATE TABLE IF NOT EXISTS blobs (digest TEXT, key TEXT, seq INTEGER, PRIMARY KEY (digest, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blobs_key ON blobs (key);
"""
_FROM_1: Final = """
ALTER TABLE jobs ADD COLUMN last INTEGER;
ALTER TABLE entries ADD COLUMN before INTEGER;
CREATE INDEX IF NOT EXISTS entries_key ON entries (key, seq);
UPDATE jobs SET last = coalesce((SELECT MAX(seq) FROM entries WHERE entries.key = jobs.key), 0);
UPDATE entries SET before = coalesce(
  (SELECT MAX(older.seq) FROM entries AS older WHERE older.key = entries.key AND older.seq < entries.seq), 0);
INSERT OR IGNORE INTO namespaces SELECT DISTINCT namespace FROM jobs;
DROP INDEX entries_key;
DROP INDEX IF EXISTS jobs_name;
DROP INDEX IF EXISTS jobs_id;
DROP INDEX IF EXISTS jobs_open;
"""
"""A file of schema 1 had an index where there is a chain now. One of schema 2 has the records of all its jobs in their rows,
which may be."""
_FROM_3: Final = """
DELETE FROM executions
  WHERE json_extract(CAST(record AS TEXT), '$.job') IS NOT (SELECT id FROM jobs WHERE jobs.key = executions.key);
CREATE TEMP TABLE others AS SELECT entries.seq, entries.key, jobs.created_at AS at
  FROM entries JOIN jobs ON jobs.key = entries.key
  WHERE NOT instr(entries.data, CAST('"job":"' || jobs.id || '"' AS BLOB));
DELETE FROM entries WHERE seq IN (SELECT seq FROM others);
DELETE FROM blobs WHERE seq IN (SELECT seq FROM others);
INSERT OR REPLACE INTO deleted SELECT key, MAX(seq), MIN(at), 0 FROM others GROUP BY key;
DROP TABLE others;
"""
"""Where a deleted job's name was used again at once, a file of schema 3 or before may have kept what the deleted one left:
its executions and entries as the other's. They go; what of it is still in the log is found as that of any deleted job."""
_PUT_JOBS: Final = """
INSERT INTO jobs (key, id, namespace, name, state, closed, priority, created_at, modified_at, last, record) VALUES {}
ON CONFLICT (key) DO UPDATE SET
  id = excluded.id, state = excluded.state, closed = excluded.closed, priority = excluded.priority,
  created_at = excluded.created_at, modified_at = excluded.modified_at, last = excluded.last, record = excluded.record
"""
_PUT_NAMESPACE: Final = "INSERT OR IGNORE INTO namespaces VALUES (?)"
_LAST_OF: Final = "SELECT key, last FROM jobs WHERE key IN (SELECT value FROM json_each(?))"
_PUT_LAST: Final = "UPDATE jobs SET last = ? WHERE key = ?"
CHAIN: Final = """
WITH RECURSIVE chain (seq, before) AS (
  SELECT seq, before FROM entries WHERE seq = (SELECT last FROM jobs WHERE key = ?)
  UNION ALL SELECT entries.seq, entries.before FROM chain JOIN entries ON entries.seq = chain.before)
"""
"""A job's entries, from the last one on. One that was forgotten ends it: nothing stands before it."""
_PUT_EXECUTIONS: Final = (
    "INSERT INTO executions VALUES {} ON CONFLICT (id) DO UPDATE SET record = excluded.record"
)
_FORGET_EXECUTIONS: Final = (
    "DELETE FROM executions WHERE key = ? AND id NOT IN (SELECT value FROM json_each(?))"
)
_FORGET_JOB: Final = "DELETE FROM jobs WHERE key = ?1 AND (last <= ?2 OR record <= ?2)"
"""Also one that still has news, if its record was that of an entry that is gone."""
_PUT_ENTRIES: Final = "INSERT OR REPLACE INTO entries (seq, key, before, data) VALUES {}"
_FORGET_ENTRIES: Final = CHAIN + "DELETE FROM entries WHERE seq <= ? AND seq IN (SELECT seq FROM chain)"
_PUT_BLOB: Final = "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)"
_FORGET_BLOBS: Final = "DELETE FROM blobs WHERE key = ? AND seq <= ?"
_OLDER_ENTRIES: Final = """
SELECT seq, key, data FROM entries WHERE instr(data, ?) AND key IN (SELECT key FROM jobs WHERE closed < 2)
"""
_THERE_AGAIN: Final = "UPDATE deleted SET cut = 0 WHERE cut = 1 AND key IN (SELECT value FROM json_each(?))"
"""The entry that says that a job was deleted is kept no longer when there is another of its name."""
_TOGETHER: Final = (2_048, 256, 32, 4, 1)
"""Rows of one statement. Each statement lets go of the interpreter and has to get it back from a busy event loop: that costs
both of them more than a row. A job's row has eleven values, and SQLite takes 32,766 with a statement."""
_PUT_POSITION: Final = "INSERT OR REPLACE INTO position VALUES (1, ?, ?)"

_BLOB_URL: Final = b"blob:sha256:"
_BLOB_URLS: Final = re.compile(_BLOB_URL + rb"([0-9a-f]{64})")

_encode = msgspec.json.Encoder().encode


class Group(Struct):
    """What is written at once: records newer than those written before (`since` by key), entries, and how far that is."""

    created: str
    position: int
    records: list[tuple[JobRecord, int]] = field(default_factory=list)
    newcomers: list[Newcomer] = field(default_factory=list)
    """New jobs that wait, each with one entry, which is among these."""
    entries: list[tuple[int, JobKey, bytes]] = field(default_factory=list)
    deleted: list[tuple[JobKey, int, float]] = field(default_factory=list)
    """Jobs that were deleted: the sequence of the entry that says so, and its time. There may be another one of the name."""
    fresh: set[JobKey] = field(default_factory=set)
    """Keys of which the tables have nothing: they are not asked."""


class Store:
    """The tables. Opening an older or damaged file begins a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._opened()
        except sqlite3.DatabaseError:
            self._delete()
            return self._opened()

    def _opened(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if not 0 <= version <= SCHEMA:
                raise sqlite3.DatabaseError(f"the read model has schema {version}, not {SCHEMA}")
            named = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'blobs'").fetchone()
            columns = {row[0] for row in database.execute("SELECT name FROM pragma_table_info('entries')")}
            database.executescript(_TABLES)
            if columns and "before" not in columns:
                database.executescript(f"BEGIN; {_FROM_1} COMMIT")
            if columns and version < _WITHOUT_LEFTOVERS:
                database.executescript(f"BEGIN; {_FROM_3} COMMIT")
            if not named:
                # A file of a version before blobs were looked at: its entries name them all the same.
                found = database.execute(_OLDER_ENTRIES, (_BLOB_URL,)).fetchall()
                database.executemany(_PUT_BLOB, list(_blobs_in(found)))
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def reader(self) -> sqlite3.Connection:
        """Another connection to the same file, for reading."""
        return sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)

    def close(self) -> None:
        self._db.close()

    def position(self) -> tuple[str, int]:
        """The log's identity and the sequence up to which everything is here; empty and 0 at first."""
        row = self._db.execute("SELECT created, seq FROM position").fetchone()
        return (row[0], row[1]) if row else ("", 0)

    def clear(self) -> None:
        """Forget everything."""
        for table in ("position", "jobs", "namespaces", "executions", "entries", "deleted", "blobs"):
            self._db.execute(f"DELETE FROM {table}")

    def write(self, group: Group) -> None:
        """Write a group as a whole or not at all."""
        database = self._db
        executions, forgotten = _executions(group)
        database.execute("BEGIN")
        try:
            database.executemany(_PUT_BLOB, list(_blobs_in(group.entries)))
            self._delete_jobs(group.deleted)
            keys = self._write_jobs(group)
            self._cut_histories(group.records)
            _put(database, _PUT_EXECUTIONS, executions)
            database.executemany(_FORGET_EXECUTIONS, forgotten)
            if database.execute("SELECT EXISTS (SELECT 1 FROM deleted)").fetchone()[0]:
                database.execute(_THERE_AGAIN, (_text([key for key in keys if key not in group.fresh]),))
            database.execute(_PUT_POSITION, (group.created, group.position))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    def _delete_jobs(self, deleted: Sequence[tuple[JobKey, int, float]]) -> None:
        """Take out all there is of deleted jobs, and note that they are."""
        for key, seq, at in deleted:
            self._remove(key, seq)
            self._db.execute("INSERT OR REPLACE INTO deleted VALUES (?, ?, ?, 0)", (key, seq, at))

    def _remove(self, key: JobKey, upto: int) -> None:
        """Take out a job, whose last entry has the sequence `upto`."""
        self._forget_entries(key, upto)
        for table in ("executions", "jobs"):
            self._db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))

    def _forget_entries(self, key: JobKey, upto: int) -> None:
        """Take out a job's entries up to a sequence, and what they name. Its row must be there: it leads to them."""
        for statement in (_FORGET_ENTRIES, _FORGET_BLOBS):
            self._db.execute(statement, (key, upto))

    def _write_jobs(self, group: Group) -> list[JobKey]:
        """Write entries, and the rows of the jobs that they are of; the keys of those that have a record."""
        database = self._db
        linked, last = _linked(database, group)
        _put(database, _PUT_ENTRIES, linked)
        first = {key: seq for seq, key, before, _ in linked if not before}
        rows = [
            _row(record, last.pop(record.key, record.revision), first.get(record.key))
            for record, _ in group.records
        ]
        rows += [_row_of_newcomer(new, last.pop(new.key, new.seq)) for new in group.newcomers]
        _put(database, _PUT_JOBS, rows)
        # Those that have news without a record are jobs all the same.
        database.executemany(_PUT_LAST, [(seq, key) for key, seq in last.items()])
        namespaces = {record.spec.namespace for record, _ in group.records}
        namespaces.update([new.namespace for new in group.newcomers])
        database.executemany(_PUT_NAMESPACE, [(each,) for each in sorted(namespaces)])
        return [row[0] for row in rows]

    def _cut_histories(self, records: Sequence[tuple[JobRecord, int]]) -> None:
        """Forget what the log has no more of jobs with a new snapshot: a reader that comes later does not have it either."""
        for record, written in records:
            if record.since and record.snapshot > written:
                self._forget_entries(record.key, record.since - 1)

    def forget(self, record: JobRecord) -> None:
        """Remove a job as far as this record goes. What has come under its name since is left as it is."""
        self._forget_entries(record.key, record.revision)
        self._db.execute(_FORGET_JOB, (record.key, record.revision))
        self._db.executemany("DELETE FROM executions WHERE id = ?", [(each,) for each in record.executions])

    def outlived(self, keys: Sequence[JobKey], before: float) -> None:
        """Remove jobs that have left the log and have not changed since that time; what came under a name since stays."""
        database = self._db
        with database:
            database.execute("BEGIN")
            for key in keys:
                old = "SELECT last FROM jobs WHERE key = ? AND closed = 2 AND modified_at < ?"
                row = database.execute(old, (key, before)).fetchone()
                if row is not None:
                    self._remove(key, row[0])

    def purged(self, gone: Sequence[Purge]) -> None:
        """Note what was taken out of the log. A job that went on meanwhile is left as it is."""
        database = self._db
        for purge in gone:
            database.execute(
                "UPDATE jobs SET closed = 2 WHERE key = ? AND closed = 1 AND last <= ?",
                (purge.key, purge.upto),
            )
            if purge.whole:
                database.execute(_FORGET_BLOBS, (purge.key, purge.upto))
                database.execute("DELETE FROM deleted WHERE key = ? AND seq <= ?", (purge.key, purge.upto))
            else:
                database.execute(
                    "UPDATE deleted SET cut = 1 WHERE key = ? AND seq > ?", (purge.key, purge.upto)
                )


def _executions(group: Group) -> tuple[list[tuple[Any, ...]], list[tuple[JobKey, str]]]:
    """The rows of executions that are new or have changed; and all that a job has which may have others in the tables."""
    rows: list[tuple[Any, ...]] = []
    only: list[tuple[JobKey, str]] = []
    deleted = {key for key, _, _ in group.deleted}
    for record, written in group.records:
        # Where another job of the name is deleted, all that the tables have of either goes first. A snapshot may tell less
        # of executions than was written.
        since = written if record.key not in deleted and record.snapshot <= written else 0
        # Its first record here: there may be an earlier life of it, which has left the log.
        if record.forgotten or (record.version > 1 and not since):
            only.append((record.key, _text(list(record.executions))))
        changed = [each for each in record.executions.values() if each.revision > since]
        rows += [(each.id, record.key, _encode(each)) for each in changed]
    return rows, only


def _put(database: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Put rows into a table, in their order, as many as may be with each statement."""
    begin = 0
    for count in _TOGETHER:
        while len(rows) - begin >= count:
            together = rows[begin : begin + count]
            database.execute(
                _with_rows(statement, count, len(together[0])), list(chain.from_iterable(together))
            )
            begin += count


@cache
def _with_rows(statement: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return statement.format(", ".join([row] * rows))


def _linked(database: sqlite3.Connection, group: Group) -> tuple[list[tuple[Any, ...]], dict[JobKey, int]]:
    """A group's entries, each with the one before it of the same job, and the last of each job that has one.

    What belongs to no job, or to one that was deleted, is of no use to anybody; and what is there already is left as it is.
    """
    deleted = {key: seq for key, seq, _ in group.deleted}
    keys = {key for _, key, _ in group.entries}.difference(group.fresh, deleted)
    last: dict[JobKey, int] = dict(database.execute(_LAST_OF, (_text(list(keys)),)).fetchall())
    jobs = last.keys() | {record.key for record, _ in group.records} | {new.key for new in group.newcomers}
    # A job that came after one was deleted may be here before its own entries are.
    last |= dict.fromkeys(deleted.keys() & jobs, 0)
    linked = []
    for seq, key, data in group.entries:
        before = last.get(key, 0)
        if key in jobs and max(before, deleted.get(key, 0)) < seq:
            linked.append((seq, key, before, data))
            last[key] = seq
    return linked, last


def _blobs_in(entries: Iterable[tuple[int, JobKey, bytes]]) -> Iterator[tuple[str, JobKey, int]]:
    """Which blobs entries name, wherever in them."""
    for seq, key, data in entries:
        if _BLOB_URL in data:
            for digest in set(_BLOB_URLS.findall(data)):
                yield digest.decode(), key, seq


def _text(items: list[Any]) -> str:
    """A list as SQLite's `json_each` takes it."""
    return _encode(items).decode()


def _row_of_newcomer(new: Newcomer, last: int) -> tuple[Any, ...]:
    return (
        new.key,
        new.id,
        new.namespace,
        new.name,
        JobState.QUEUED.value,
        0,
        new.priority,
        new.at,
        new.at,
        last,
        new.seq,
    )


def _row(record: JobRecord, last: int, first: int | None) -> tuple[Any, ...]:
    """A job's row. If its record is no more than what follows from its `first` entry, that one's sequence says it all."""
    spec = record.spec
    follows = record.revision == first and not record.executions
    return (
        record.key,
        record.id,
        spec.namespace,
        spec.name,
        record.state.value,
        int(record.closed),
        spec.priority,
        record.created_at,
        record.modified_at,
        last,
        first if follows else _encode(replace(record, executions={}) if record.executions else record),
    )
