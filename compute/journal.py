"""What a node must not forget when its process dies: a SQLite file in its data folder.

Knows: executions as they were last saved, how to make that durable in groups, and the numbers that outlive a process
(incarnation, highest sequence obeyed, which log they belong to). Must not know: what an execution's fields mean, but that
its order is one of them.

**When it is durable.** `save` only marks an execution; all that is marked is written in one transaction: at the next turn of
the event loop if somebody waits (`commit`), under load a moment later, together; else within `LAZY_S`.

**Why the loop writes itself.** In WAL mode with ``synchronous=NORMAL`` a commit is a write to the kernel's memory (some
50 µs), not a wait for the disk: cheaper than a hop to a thread. What waits for the disk, moving the log of writes into the
file, is done by a thread of its own.

**What a row costs.** An execution is written whole once, with its order, which never changes and may carry a quarter of a
megabyte; what becomes of it is written beside that, without the order. Only what a new process has to know is saved at once
(`compute.execution.must_be_kept`).

**Why numbers.** Rows have growing numbers and no other key: those of one time share pages, and a commit in a burst writes a
few pages instead of one for each execution.

**Why NORMAL is enough.** ``kill -9`` loses nothing that was committed. A power cut may lose the last commits, but then all
programs are gone too, and requesters, who have the truth, order again what the node's beats do not show.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from compute.execution import Execution
from protocol.errors import Broken, Exhausted, Fault
from protocol.ids import ExecutionId
from protocol.messages import InputRead, encode
from protocol.process import lock_folder

FILE: Final = "journal.db"
"""In a node's data folder, from its first start on."""
OWNER: Final = "node"
"""The name by which the owner of the data folder is told to others."""
INFO: Final = "info"
"""The name under which the node's own description is kept, as it told it last."""
LAZY_S: Final = 0.02
GATHER_S: Final = 0.002
CROWD: Final = 3
"""If at least this many waited for one commit, the next one waits `GATHER_S` for as many; otherwise it goes at once. A
single execution counts for two: its answer and its start."""
GONE_KEPT_S: Final = 3600.0
"""How long an execution that was forgotten is still known by name, so that a late copy of its order starts nothing."""
GONE_MAX: Final = 50_000
CHECKPOINT_COMMITS: Final = 500
CHECKPOINT_BYTES: Final = 8 << 20
"""After so many commits, or so much written, what stands in the log of writes is moved into the file."""
LOG_MAX_BYTES: Final = 32 << 20
"""A log of writes that is larger all the same is emptied, which makes the writer wait for some milliseconds. A journal of
a few hundred KB had one of 257 MB: while somebody writes, there is always something in it that has not been moved."""
ROOM_BYTES: Final = 1 << 20
"""With less than this free the disk is full, as far as SQLite is concerned."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS work (number INTEGER PRIMARY KEY, id TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS later (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ended (number INTEGER PRIMARY KEY, id TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_FROM_FIRST_FORM: Final = """
BEGIN;
INSERT INTO work (id, body) SELECT id, body FROM executions;
INSERT INTO ended (id, seq, at) SELECT id, seq, at FROM gone ORDER BY at;
DROP TABLE executions;
DROP TABLE gone;
COMMIT;
"""
"""Takes over what a journal of the first form holds, whose rows had the executions' ids as their keys."""
_ALL_WORK: Final = """
SELECT number, work.body, later.body FROM work LEFT JOIN later USING (number) ORDER BY number
"""
_TO_LOOK_AT: Final = "CREATE VIEW IF NOT EXISTS executions AS SELECT id, body FROM work"
"""For people and tests that look into a journal from outside."""
_FADE: Final = """
DELETE FROM ended WHERE number < coalesce(
  (SELECT number FROM ended WHERE at >= ? ORDER BY number LIMIT 1), (SELECT max(number) + 1 FROM ended))
"""
_BOUND: Final = "DELETE FROM ended WHERE number <= (SELECT max(number) FROM ended) - ?"

_log = structlog.get_logger(__name__)
_decoder = msgspec.json.Decoder(Execution)


class Remembered(Struct, frozen=True):
    """What the journal held when it was opened. `gone` maps what was forgotten to the sequence it was ended at."""

    incarnation: int
    upto: int
    log_created: str
    executions: list[Execution]
    gone: dict[ExecutionId, int]


class Journal:
    """One node's journal; owned by the event loop that opened it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = lock_folder(folder, OWNER)
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            self._db.executescript(_SCHEMA)
            if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'gone'").fetchone():
                self._db.executescript(_FROM_FIRST_FORM)
            self._db.execute(_TO_LOOK_AT)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise _sqlite_fault(self._path, error) from error
        self._numbers: dict[ExecutionId, int] = {}
        self._next = 1
        self._dirty: dict[ExecutionId, Execution] = {}
        self._gone: dict[ExecutionId, tuple[int, float] | None] = {}
        self._facts: dict[str, str] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._due: asyncio.Handle | None = None
        self._due_now = False
        self._crowded = False
        self._checkpoint: asyncio.Future[None] | None = None
        self.commits = 0
        self._moved = 0
        """How many commits there had been at the last checkpoint,"""
        self._written_bytes = 0
        """and what was written since."""

    def open(self, now: float) -> Remembered:
        """Read everything, and count this start: the incarnation is higher than ever before. Raises `Broken`.

        It is not before the time either, in milliseconds: another machine that takes a node's name is a later life of it,
        with a new folder or with a copy of this one (docs/adr/0037).
        """
        try:
            with self._transaction():
                return self._remembered(now)
        except sqlite3.Error as error:
            raise _sqlite_fault(self._path, error) from error

    def save(self, execution: Execution) -> None:
        """Keep this as the execution's newest."""
        self._dirty[execution.id] = execution
        self._plan(now=False)

    def forget(self, execution: ExecutionId, seq: int, now: float) -> None:
        """Keep nothing of it but its name, and the sequence that nothing about it may be older than."""
        self._dirty.pop(execution, None)
        self._gone[execution] = (seq, now)
        self._plan(now=False)

    def drop(self, execution: ExecutionId) -> None:
        """Keep nothing of it, not even its name: it may be ordered, and saved, anew."""
        self._dirty.pop(execution, None)
        self._gone[execution] = None
        self._plan(now=False)

    def note(self, name: str, value: str) -> None:
        """Keep a fact of the node itself: ``upto``, ``log_created``, `INFO`."""
        self._facts[name] = value
        self._plan(now=False)

    def noted(self, name: str) -> str:
        """A fact as it was when the journal was opened, empty if there was none."""
        return facts(self._db).get(name, "")

    async def commit(self, *, now: bool = True) -> None:
        """Return when all that was saved until now is durable: soon, or `now` False whenever that is due anyway.

        Raises `Exhausted` when the disk is full, `Broken`.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._plan(now=now)
        await waiter

    def flush(self) -> None:
        """Write all that is marked, now."""
        self._cancel_plan()
        waiting, self._waiting = self._waiting, []
        self._crowded = len(waiting) >= CROWD
        try:
            self._write()
        except sqlite3.Error as error:
            fault = _sqlite_fault(self._path, error)
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_exception(fault)
            if not waiting:
                # It stays marked; whoever next waits for it is told.
                self._plan(now=False)
            return
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._begin_checkpoint()

    def prune(self, now: float) -> None:
        """Forget the names of what is long gone."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute(_BOUND, (GONE_MAX,))
            self._db.execute(_FADE, (now - GONE_KEPT_S,))

    def forget_names(self) -> None:
        """Forget the names of all that is gone."""
        self.flush()
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("DELETE FROM ended")

    async def close(self) -> None:
        """Write what is marked and let go of the file."""
        self.flush()
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint])
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file as ``kill -9`` would: what was not committed is lost."""
        self._cancel_plan()
        self._db.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def _remembered(self, now: float) -> Remembered:
        noted = facts(self._db)
        incarnation = max(int(noted.get("incarnation", 0)), int(now * 1000)) + 1
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('incarnation', ?)", (str(incarnation),))
        self._db.execute(_FADE, (now - GONE_KEPT_S,))
        rows = self._db.execute(
            "SELECT id, seq FROM ended ORDER BY number DESC LIMIT ?", (GONE_MAX,)
        ).fetchall()
        found = []
        for number, execution in executions(self._db, self._path):
            found.append(execution)
            self._numbers[execution.id] = number
            self._next = number + 1
        return Remembered(
            incarnation=incarnation,
            upto=int(noted.get("upto", "0")),
            log_created=noted.get("log_created", ""),
            executions=found,
            # The newest word about each, in the order in which they went.
            gone={ExecutionId(name): seq for name, seq in reversed(rows)},
        )

    def _plan(self, *, now: bool) -> None:
        if self._due_now or (self._due is not None and not now):
            return
        loop = asyncio.get_running_loop()
        if now:
            self._cancel_plan()
            self._due_now = True
            self._due = loop.call_later(GATHER_S, self.flush) if self._crowded else loop.call_soon(self.flush)
        else:
            self._due = loop.call_later(LAZY_S, self.flush)

    def _cancel_plan(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due, self._due_now = None, False

    def _write(self) -> None:
        if not (self._dirty or self._gone or self._facts):
            return
        with self._transaction():
            if self._gone:
                numbers = [(self._numbers[name],) for name in self._gone if name in self._numbers]
                self._db.executemany("DELETE FROM work WHERE number = ?", numbers)
                self._db.executemany("DELETE FROM later WHERE number = ?", numbers)
                self._db.executemany(
                    "INSERT INTO ended (id, seq, at) VALUES (?, ?, ?)",
                    [(name, *word) for name, word in self._gone.items() if word is not None],
                )
            new = self._write_executions()
            if self._facts:
                self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", list(self._facts.items()))
        for name in self._gone:
            self._numbers.pop(name, None)
        self._numbers |= new
        self._dirty, self._gone, self._facts = {}, {}, {}
        self.commits += 1

    def _write_executions(self) -> dict[ExecutionId, int]:
        """Write what is marked, of what was written before all but its order; the rows of what is new.

        What cannot be written down must not keep the rest from it.
        """
        new, rows, changed = {}, [], []
        for name, execution in self._dirty.items():
            number = None if name in self._gone else self._numbers.get(name)
            kept = execution if number is None else msgspec.structs.replace(execution, run=None)
            try:
                body = encode(kept)
            except (TypeError, ValueError, msgspec.EncodeError):
                _log.exception("an execution cannot be kept in the journal", execution=name)
                continue
            self._written_bytes += len(body)
            if number is None:
                new[name] = self._next
                rows.append((self._next, name, body))
                self._next += 1
            else:
                changed.append((number, body))
        if rows:
            self._db.executemany("INSERT INTO work VALUES (?, ?, ?)", rows)
        if changed:
            self._db.executemany("INSERT OR REPLACE INTO later VALUES (?, ?)", changed)
        return new

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _begin_checkpoint(self) -> None:
        """Have the log of writes moved, if that is due and not under way."""
        if self.commits - self._moved < CHECKPOINT_COMMITS and self._written_bytes < CHECKPOINT_BYTES:
            return
        if self._checkpoint is None or self._checkpoint.done():
            self._moved, self._written_bytes = self.commits, 0
            self._checkpoint = asyncio.get_running_loop().run_in_executor(None, _checkpoint, self._path)


def inputs_read(folder: Path) -> list[InputRead]:
    """What the executions in a journal read, found as by `looked_into`. Raises `Broken`."""
    path = folder / FILE
    if not path.exists():
        return []
    with looked_into(folder) as db:
        return [read for _, execution in executions(db, path) for read in execution.inputs]


@contextlib.contextmanager
def looked_into(folder: Path) -> Iterator[sqlite3.Connection]:
    """A journal to be read without writing anything: there may be no room for that.

    The data folder must be the caller's (`lock_folder`). Raises `Broken`.
    """
    path = (folder / FILE).absolute()
    # Only a process that was killed leaves its log of writes, and what is needed to read it; else the file is whole.
    whole = not path.with_name(f"{FILE}-wal").exists()
    address = f"{path.as_uri()}?{'immutable=1' if whole else 'mode=ro'}"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
            yield db
    except sqlite3.Error as error:
        raise _sqlite_fault(path, error) from error


def facts(db: sqlite3.Connection) -> dict[str, str]:
    """What was noted of the node itself. Raises ``sqlite3.Error``."""
    return dict(db.execute("SELECT name, value FROM facts"))


def executions(db: sqlite3.Connection, path: Path) -> Iterator[tuple[int, Execution]]:
    """All that a journal holds, with the numbers of their rows. Raises `Broken` and ``sqlite3.Error``."""
    for number, body, later in db.execute(_ALL_WORK):
        try:
            yield number, _decoder.decode(body) if later is None else _with_order_of(body, later)
        except msgspec.DecodeError as error:
            raise Broken(
                f"{path}: execution {number} cannot be read: {error}",
                hint="Was it written by a newer version? Start that one, or move the data folder away.",
            ) from error


def _with_order_of(body: bytes, later: bytes) -> Execution:
    """An execution as it was last written, with the order that was written first. Raises ``DecodeError``."""
    run = msgspec.json.decode(body)["run"]
    return msgspec.convert({**msgspec.json.decode(later), "run": run}, Execution)


def _checkpoint(path: Path) -> None:
    """Move the log of writes into the file, on a connection of its own; the writer goes on meanwhile."""
    with (
        contextlib.suppress(sqlite3.Error, OSError),
        contextlib.closing(sqlite3.connect(path, timeout=5)) as db,
    ):
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if path.with_name(f"{path.name}-wal").stat().st_size > LOG_MAX_BYTES:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _is_full(path: Path, error: sqlite3.Error) -> bool:
    """Whether there is no room for what failed. SQLite says no more than "I/O error" where its shared memory has none."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code != sqlite3.SQLITE_IOERR:
        return bool(code == sqlite3.SQLITE_FULL)
    with contextlib.suppress(OSError):
        there = os.statvfs(path.parent)
        return there.f_bavail * there.f_frsize < ROOM_BYTES
    return False


def _sqlite_fault(path: Path, error: sqlite3.Error) -> Fault:
    if _is_full(path, error):
        hint = "Free some space on the disk of the node's data folder."
        return Exhausted(f"the journal {path} cannot be written: no space left", hint=hint, kind="Disk")
    return Broken(f"the journal {path} cannot be used: {error}", hint="Move it away to start anew.")
