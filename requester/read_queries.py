"""What is asked of the read model: one job, lists of jobs, a job's entries, who may leave the log.

Knows: queries, and which records are not kept because they follow from an entry. Must not know: when or by whom the tables
are written (`read_model`). Each function reads with the connection it is given, in whatever thread that is at home.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from protocol.ids import ExecutionId, JobKey, job_key, key_prefix
from protocol.jobs import Constraint
from protocol.spec.selectors import matches_all
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.newcomers import record_of
from requester.core.retention import Candidate
from requester.read_model import CHAIN
from requester.verbs import JobQuery

ORDERS: Final = {
    "created_at": "created_at",
    "modified_at": "modified_at",
    "id": "key",
    "priority": "priority",
}
BEGINNING: Final = (float("-inf"), "")
"""Before the oldest job, for reading them one part after the other."""
_STANDS: Final = """
SELECT EXISTS (SELECT 1 FROM jobs WHERE key = ?), coalesce((SELECT seq FROM deleted WHERE key = ?), 0)
"""
_DELETED: Final = """
SELECT key, seq, at, cut, EXISTS (SELECT 1 FROM jobs WHERE jobs.key = deleted.key) FROM deleted
WHERE cut = 0 OR at < ? ORDER BY at LIMIT ?
"""
_RECORD: Final = "record, (SELECT data FROM entries WHERE seq = record)"
"""A job's record, or the sequence of its only entry and that (`_job`)."""
_ENTRIES_OF: Final = CHAIN + "SELECT seq, data FROM entries WHERE seq IN (SELECT seq FROM chain) ORDER BY seq"
_COUNT_OF: Final = (
    CHAIN + "SELECT count(*) FROM entries WHERE seq IN (SELECT seq FROM chain) AND instr(data, ?)"
)
"""A name that was used again may have entries of both its jobs: of one are those that name it."""

_whole = msgspec.json.Decoder(JobRecord)
_execution = msgspec.json.Decoder(ExecutionRecord)


def over(database: sqlite3.Connection, before: float, limit: int) -> list[Candidate]:
    """Jobs that are still in the log and may leave it: deleted ones, and those closed before that time; the oldest first."""
    deleted = database.execute(_DELETED, (before, limit)).fetchall()
    closed = database.execute(
        "SELECT key, last, modified_at FROM jobs WHERE closed = 1 AND modified_at < ? ORDER BY modified_at LIMIT ?",
        (before, limit - len(deleted)),
    ).fetchall()
    return [
        Candidate(key, seq, at, deleted=True, cut=bool(cut), again=bool(again))
        for key, seq, at, cut, again in deleted
    ] + [Candidate(key, seq, at) for key, seq, at in closed]


def only_here(database: sqlite3.Connection, before: float, limit: int) -> list[JobKey]:
    """Jobs that have left the log and have not changed since that time; the oldest first."""
    rows = database.execute(
        "SELECT key FROM jobs WHERE closed = 2 AND modified_at < ? ORDER BY modified_at LIMIT ?",
        (before, limit),
    )
    return [row[0] for row in rows]


def keys_of(database: sqlite3.Connection, executions: Collection[ExecutionId]) -> set[JobKey]:
    """The jobs of some executions."""
    found: set[JobKey] = set()
    for execution in executions:
        row = database.execute("SELECT key FROM executions WHERE id = ?", (execution,)).fetchone()
        if row:
            found.add(row[0])
    return found


def keys(database: sqlite3.Connection, *, table: str, after: str, limit: int) -> list[JobKey]:
    """The next `limit` keys after `after`, in order, of the jobs there are (`jobs`), or of those deleted (`deleted`)."""
    rows = database.execute(f"SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT ?", (after, limit))
    return [row[0] for row in rows.fetchall()]


def blobs_named(database: sqlite3.Connection) -> set[str]:
    """The digests of all blobs that jobs in the log name, in any of their versions."""
    return {row[0] for row in database.execute("SELECT DISTINCT digest FROM blobs")}


def stands(database: sqlite3.Connection, key: JobKey) -> tuple[bool, int]:
    """Whether there is a job of this key, and the sequence of the entry that deleted one and is still in the log, else 0.

    Some 20 µs, most of them for taking and giving back the file's lock: so one question, not two. More in a file that is
    written meanwhile: what was read of it before is read again.
    """
    there, deleted = database.execute(_STANDS, (key, key)).fetchone()
    return bool(there), deleted


def load(database: sqlite3.Connection, key: JobKey) -> JobRecord | None:
    """One job with all its executions; None if there is none, or it cannot be read."""
    row = database.execute(f"SELECT {_RECORD} FROM jobs WHERE key = ?", (key,)).fetchone()
    return _with_executions(database, row) if row else None


def load_open(
    database: sqlite3.Connection, after: tuple[float, str], limit: int
) -> tuple[list[JobRecord], tuple[float, str] | None]:
    """Jobs that are not closed, the oldest first: so many behind the one of that time and key; and what to go on behind,
    None if that were all."""
    rows = database.execute(
        f"SELECT created_at, key, {_RECORD} FROM jobs WHERE closed = 0 AND (created_at, key) > (?, ?)"
        " ORDER BY created_at, key LIMIT ?",
        (*after, limit),
    ).fetchall()
    records = _readable(_with_executions(database, row[2:]) for row in rows)
    return list(records), rows[-1][:2] if rows else None


def last_of_open(
    database: sqlite3.Connection, after: tuple[float, str], limit: int
) -> list[tuple[JobKey, float, float, int]]:
    """Open jobs with when they were made and last moved and the sequence of that, the oldest first: so many behind the one
    of that time and key."""
    return database.execute(
        "SELECT key, created_at, modified_at, last FROM jobs WHERE closed = 0 AND (created_at, key) > (?, ?)"
        " ORDER BY created_at, key LIMIT ?",
        (*after, limit),
    ).fetchall()


def entries(database: sqlite3.Connection, key: JobKey) -> list[tuple[int, bytes]]:
    """The entries of one job, in order."""
    return database.execute(_ENTRIES_OF, (key,)).fetchall()


FOUND_MAX: Final = 20
"""Jobs that are named to a person who meant one of them."""


def find(
    database: sqlite3.Connection, *, name: str = "", prefix: str = "", limit: int = FOUND_MAX
) -> list[JobRecord]:
    """Jobs of a name in any namespace, or whose id begins with `prefix`; without their executions."""
    if name:
        return list(islice(_named(database, name), limit))
    key = key_prefix(prefix)
    rows = database.execute(
        f"SELECT {_RECORD} FROM jobs WHERE key >= ? AND key < ? AND id >= ? AND id < ? LIMIT ?",
        (key, key + "\x7f", prefix, prefix + "\x7f", limit),
    )
    return list(_readable(map(_job, rows)))


def _named(database: sqlite3.Connection, name: str) -> Iterator[JobRecord]:
    """The jobs of a name. Its key follows from namespace and name: each namespace is asked, some 10 µs, for no index."""
    for (namespace,) in database.execute("SELECT name FROM namespaces").fetchall():
        rows = database.execute(
            f"SELECT {_RECORD} FROM jobs WHERE key = ? AND name = ?", (job_key(namespace, name), name)
        )
        yield from _readable(map(_job, rows))


def select(
    database: sqlite3.Connection, query: JobQuery, labels: Sequence[Constraint]
) -> tuple[list[JobRecord], bool]:
    """Jobs in order, without their executions, and whether more follow. `labels` are what the query's selectors ask for."""
    matching = (
        record
        for record in _in_order(database, query)
        if not labels or matches_all(labels, record.spec.labels)
    )
    found = list(islice(matching, query.offset, query.offset + query.limit if query.limit else None))
    return found, bool(query.limit) and next(matching, None) is not None


def _in_order(database: sqlite3.Connection, query: JobQuery) -> Iterator[JobRecord]:
    """The jobs of a query's namespace and state, read as far as the caller goes on."""
    where: list[str] = []
    values: list[str] = []
    if query.namespace not in ("", "*"):
        where.append("namespace = ?")
        values.append(query.namespace)
    if query.state:
        where.append("state = ?")
        values.append(query.state.lower())
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    order = ORDERS[query.order_by or "created_at"]
    direction = "DESC" if query.reverse else "ASC"
    rows = database.execute(
        f"SELECT {_RECORD} FROM jobs {condition} ORDER BY {order} {direction}, key {direction}", values
    )
    return _readable(map(_job, rows))


def _job(row: tuple[Any, Any]) -> JobRecord | None:
    """The job of a row of `_RECORD`, without its executions; None if it has but an entry, and that cannot be read."""
    stored, entry = row
    return record_of(entry, stored) if isinstance(stored, int) else _whole.decode(stored)


def _readable(records: Iterable[JobRecord | None]) -> Iterator[JobRecord]:
    return (record for record in records if record is not None)


def _with_executions(database: sqlite3.Connection, row: tuple[Any, Any]) -> JobRecord | None:
    record = _job(row)
    if record is None or isinstance(row[0], int):
        return record
    rows: Sequence[tuple[bytes]] = database.execute(
        "SELECT record FROM executions WHERE key = ? ORDER BY rowid", (record.key,)
    ).fetchall()
    executions = [_execution.decode(row[0]) for row in rows]
    if not record.entries:
        # Written by a version that did not count them.
        (count,) = database.execute(_COUNT_OF, (record.key, record.id.encode())).fetchone()
        record = replace(record, entries=count)
    return replace(record, executions={each.id: each for each in executions if each.job == record.id})
