"""The read model's file: what is in it is found by what people say, whichever version of ours wrote it."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.clock import SystemClock
from protocol.entries import (
    Assigned,
    Cancelled,
    Closed,
    Deleted,
    Entry,
    Event,
    Queued,
    StopRequested,
    Submitted,
)
from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, JobKey, NodeId, job_id, job_key
from protocol.jobs import Amounts, Timeouts
from protocol.messages import encode
from protocol.states import JobState
from requester.core.fleet import Fleet
from requester.core.fold import fold
from requester.core.model import JobRecord
from requester.core.retention import Candidate
from requester.jobs import Jobs
from requester.live import Live
from requester.read_model import SCHEMA, Group, Store
from requester.read_queries import BEGINNING, entries, find, keys_of, load, load_open, over, select
from requester.recorder import Recorder
from requester.service import Service
from requester.verbs import JobQuery
from tests.requester.cluster import BUSY, a_cluster, a_job, closed, happens, submit

TO_SCHEMA_1 = """
ALTER TABLE jobs DROP COLUMN last;
ALTER TABLE entries DROP COLUMN before;
DROP TABLE namespaces;
CREATE INDEX jobs_name ON jobs (name);
CREATE INDEX entries_key ON entries (key, seq);
PRAGMA user_version = 1;
"""


def to_schema_2(path: Path) -> None:
    """Every row has its job's record."""
    with sqlite3.connect(path) as database:
        for key, (record, _) in content(database).items():
            assert record is not None
            row = (encode(replace(record, executions={})), key)
            database.execute("UPDATE jobs SET record = ? WHERE key = ?", row)
        database.execute("PRAGMA user_version = 2")


def to_schema_1(path: Path) -> None:
    """And an index takes the place of the chain."""
    to_schema_2(path)
    with sqlite3.connect(path) as database:
        database.executescript(TO_SCHEMA_1)


async def some_jobs(service: Service) -> Path:
    """Jobs with two versions, in two namespaces, one that was deleted and came again, and one that waits; their file."""
    first = [
        await submit(service, a_job(f"job-{number}", namespace=namespace))
        for namespace in ("default", "other")
        for number in range(3)
    ]
    for job in first:
        await closed(service, job)
    await service.delete("job-1", namespace="other", reason="", client="test")
    await service.delete("job-2", namespace="other", reason="", client="test")
    again = [a_job("job-0", count=2), a_job("job-1", namespace="other", count=3)]
    for job in [await submit(service, each) for each in again]:
        await closed(service, job)
    await submit(service, a_job("large", cpu="100", timeouts=Timeouts(queue_timeout=3_600)))
    await service.jobs(JobQuery())
    return service._recorder._path


def content(database: sqlite3.Connection) -> dict[JobKey, tuple[JobRecord | None, list[tuple[int, bytes]]]]:
    """Every job with its executions, and all its entries."""
    keys = [row[0] for row in database.execute("SELECT key FROM jobs ORDER BY key")]
    return {key: (load(database, key), entries(database, key)) for key in keys}


@pytest.mark.parametrize("to_earlier", [to_schema_1, to_schema_2])
async def test_a_file_of_an_earlier_schema_is_kept(
    tmp_path: Path, to_earlier: Callable[[Path], None]
) -> None:
    """A requester that is upgraded has all that its read model had, also of jobs that have left the log: records, histories
    and names; and what comes later joins it."""
    async with a_cluster(tmp_path, settings=BUSY) as cluster:
        service = await cluster.requester("r1")
        await cluster.node(cores=8)
        path = await some_jobs(service)
        before = content(service._recorder._opened().reader())
        assert len(before) == 6
        await cluster.kill("r1")
        to_earlier(path)

        store = Store(path)
        assert content(store.reader()) == before
        assert {record.spec.namespace for record in find(store.reader(), name="job-0")} == {
            "default",
            "other",
        }
        assert store.reader().execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        store.close()

        service = await cluster.requester("r1")
        await closed(service, await submit(service, a_job("job-0", count=3)))
        assert [each.version for each in await service.versions("job-0")] == [1, 2, 3]
        assert not [key for key, (_, has) in content(service._recorder._opened().reader()).items() if not has]


async def test_entries_that_nobody_counted_are_counted(tmp_path: Path) -> None:
    """Of a job that an earlier version recorded it is known as well how many entries it has in the log."""
    async with a_cluster(tmp_path, settings=BUSY) as cluster:
        service = await cluster.requester("r1")
        await cluster.node(cores=8)
        path = await some_jobs(service)
        before = content(service._recorder._opened().reader())
        assert max(record.entries for record, _ in before.values() if record is not None) > 2
        await cluster.kill("r1")
        with sqlite3.connect(path) as database:
            database.execute(
                "UPDATE jobs SET record = CAST(json_remove(record, '$.entries') AS BLOB) WHERE typeof(record) = 'blob'"
            )

        store = Store(path)
        assert content(store.reader()) == before
        store.close()


async def test_names_of_old_jobs_are_known(tmp_path: Path) -> None:
    """A requester that begins again has no job in memory that has ended, and knows their names: one that is used again is
    the next version, one that was deleted begins anew, and a new one is new."""
    async with a_cluster(tmp_path, settings=BUSY) as cluster:
        service = await cluster.requester("r1")
        await cluster.node(cores=8)
        await some_jobs(service)
        await cluster.kill("r1")

        service = await cluster.requester("r1")
        await happens(lambda: service._recorder._learned)
        assert not service._jobs.closed
        for name, namespace, version in (
            ("job-1", "default", 2),
            ("job-2", "other", 1),
            ("new", "default", 1),
        ):
            job = a_job(name, namespace=namespace, count=3)
            submission = await service.submit(job, warnings=[], client="test")
            assert submission.version == version
            await closed(service, submission.job)


def test_what_an_earlier_version_left_of_a_name_that_was_used_again_goes(tmp_path: Path) -> None:
    """Where a name was used again at once, an earlier version kept what the deleted job had left as the new one's. A
    requester that is upgraded has none of it, and clears away what of it is in the log; other jobs stay as they are.
    """
    path = tmp_path / "model.sqlite"
    key, other = job_key("default", "again"), job_key("default", "other")
    spec = a_job("again")
    begun: list[Event] = [Submitted(spec, 1), Assigned(ExecutionId("e-1"), 0, 1, NodeId("n-1"), Amounts(1.0))]
    ended = Failure("Cancelled", "enough")
    told: list[tuple[JobId, JobKey, list[Event]]] = [
        (job_id(key, 1), key, [*begun, Cancelled(ExecutionId("e-1"), ended), Closed(JobState.FAILED)]),
        (job_id(other, 1), other, [Submitted(a_job("other"), 1)]),
        (job_id(key, 1), key, [Deleted()]),
        (job_id(key, 2), key, [Submitted(spec, 1)]),
        (job_id(key, 2), key, [StopRequested("enough")]),
    ]
    records: dict[JobKey, JobRecord | None] = {}
    store = Store(path)
    for first, last in ((0, 2), (2, 5)):
        written = []
        for seq, (id_, its, events) in enumerate(told[first:last], first + 1):
            entry = Entry(id_, f"op{seq}", "r1", float(seq), events)
            records[its] = fold(records.get(its), entry, seq)
            written.append((seq, its, encode(entry)))
        changed = {its: record for _, its, _ in written if (record := records[its]) is not None}
        # What was deleted meanwhile such a version did not say here.
        store.write(Group("log", last, [(each, first) for each in changed.values()], [], written))
    store.close()
    with sqlite3.connect(path) as database:
        assert len(entries(database, key)) == 4
        assert keys_of(database, [ExecutionId("e-1")]) == {key}
        database.execute("PRAGMA user_version = 3")

    store = Store(path)
    reader = store.reader()
    assert [load(reader, its) for its in (key, other)] == [records[key], records[other]]
    assert [[seq for seq, _ in entries(reader, its)] for its in (key, other)] == [[4, 5], [2]]
    assert not keys_of(reader, [ExecutionId("e-1")])
    assert over(reader, 0.0, 10) == [Candidate(key, 3, 4.0, deleted=True, again=True)]
    store.close()


async def test_what_follows_from_one_entry_is_read_as_if_it_were_kept(tmp_path: Path) -> None:
    """A job with a single entry is told as any other, whoever asks for it and however; also once more has come of it, and
    when its key only seemed to be known."""
    recorder = Recorder(tmp_path / "model.sqlite", pause_s=0.01, group_max=10, group_max_bytes=1 << 20)
    await recorder.open()
    await recorder.begin("log")
    reason = Failure("Exhausted.NoRoom", "no node has room", retryable=True)
    assigned = Assigned(ExecutionId("e-1"), 0, 1, NodeId("n-1"), Amounts(1.0))
    begun: dict[str, list[Event]] = {"bare": [], "waits": [Queued(reason)], "runs": [assigned], "seems": []}
    recorder._keys.add(job_key("default", "seems"))
    lives = {name: Live(job_key("default", name)) for name in begun}

    def comes(seq: int, name: str, events: list[Event]) -> None:
        live = lives[name]
        entry = Entry(job_id(live.key, 1), f"op{seq}", "r1", float(seq), events)
        live.record = fold(live.record, entry, seq)
        recorder.note(live, seq, live.key, encode(entry))

    async def is_all_there() -> None:
        await recorder.settle()
        records = [live.record for live in lives.values() if live.record is not None]
        bare = [replace(each, executions={}) for each in records]
        last = records[-1].created_at
        assert [await recorder.load(live.key) for live in lives.values()] == records
        assert await recorder.read(lambda database: load_open(database, BEGINNING, 10)) == (
            records,
            (last, records[-1].key),
        )
        assert await recorder.read(lambda database: select(database, JobQuery(), [])) == (bare, False)
        for record, alone in zip(records, bare, strict=True):
            named = await recorder.read(lambda database, name=record.spec.name: find(database, name=name))  # type: ignore[misc]
            begins = await recorder.read(lambda database, id_=record.id: find(database, prefix=id_[:12]))  # type: ignore[misc]
            assert named == begins == [alone]

    for seq, (name, more) in enumerate(begun.items(), 1):
        comes(seq, name, [Submitted(a_job(name), 1), *more])
    await is_all_there()
    for seq, name in enumerate(begun, 10):
        comes(seq, name, [StopRequested("enough")])
        await is_all_there()
    await recorder.close()


def test_however_many_jobs_come_at_once_each_is_there_afterwards(tmp_path: Path) -> None:
    """A requester that joins a cluster with a long queue writes thousands of jobs together, and finds each of them."""
    group = Group("log", position=2_500)
    for seq in range(1, group.position + 1):
        key = job_key("default", f"job-{seq}")
        entry = Entry(job_id(key, seq), f"op{seq}", "r1", float(seq), [Submitted(a_job(f"job-{seq}"), 1)])
        record = fold(None, entry, seq)
        assert record is not None
        group.records.append((record, 0))
        group.entries.append((seq, key, encode(entry)))
    store = Store(tmp_path / "model.sqlite")
    store.write(group)
    store.close()

    with sqlite3.connect(tmp_path / "model.sqlite") as database:
        found, _ = load_open(database, BEGINNING, group.position + 1)

    assert found == [record for record, _ in group.records]


@pytest.mark.parametrize("ahead", [0, 1, 3], ids=["in step", "just ahead", "far ahead"])
async def test_a_job_that_comes_right_after_another_of_its_name_was_deleted(
    tmp_path: Path, ahead: int
) -> None:
    """The read model has all of the new job in the end and nothing of the old one but that it may leave the log; also if the
    new one is known here before the log's reader has brought its entries, or the old one's last.
    """
    recorder = Recorder(tmp_path / "model.sqlite", pause_s=0.01, group_max=10, group_max_bytes=1 << 20)
    await recorder.open()
    await recorder.begin("log")
    jobs = Jobs(
        Fleet(), SystemClock(), closed_max=1, waiting_max=1, size_max_bytes=1 << 20, load=recorder.load_here
    )
    live = jobs.make(job_key("default", "job"))
    old, new = [job_id(live.key, number) for number in (1, 2)]
    events: list[tuple[JobId, Event]] = [
        (old, Submitted(a_job("job"), 1)),
        (old, Closed(JobState.STOPPED)),
        (old, Deleted()),
        (new, Submitted(a_job("job"), 1)),
        (new, Assigned(ExecutionId("e-1"), 0, 1, NodeId("n-1"), Amounts(1.0))),
        (new, StopRequested("enough")),
    ]
    log = [
        (seq, Entry(job, f"op{seq}", "r1", float(seq), [event])) for seq, (job, event) in enumerate(events, 1)
    ]
    folded = 0
    for seq, entry in log:
        while folded < min(seq + ahead, len(log)):
            folded, each = log[folded]
            jobs.fold(live, each, folded)
        recorder.note(live, seq, live.key, encode(entry))
        await recorder.settle()

    assert await recorder.load(live.key) == live.record
    assert await recorder.entries(live.key) == [
        (seq, encode(entry)) for seq, entry in log if entry.job == new
    ]
    assert await recorder.read(lambda database: over(database, 0.0, 10)) == [
        Candidate(live.key, 3, 3.0, deleted=True, again=True)
    ]
    await recorder.close()


async def test_a_job_of_one_entry_goes_as_a_whole(tmp_path: Path) -> None:
    """A job that has left the log unseen is forgotten, also if what came of it last could not be read."""
    recorder = Recorder(tmp_path / "model.sqlite", pause_s=0.01, group_max=10, group_max_bytes=1 << 20)
    await recorder.open()
    await recorder.begin("log")
    live = Live(job_key("default", "job"))
    entry = Entry(job_id(live.key, 1), "op1", "r1", 1.0, [Submitted(a_job("job"), 1)])
    live.record = fold(None, entry, 1)
    assert live.record is not None
    recorder.note(live, 1, live.key, encode(entry))
    recorder.note(live, 2, live.key, b"no entry")
    await recorder.settle()
    assert await recorder.load(live.key) == live.record

    await recorder.forget(live.record)
    assert await recorder.load(live.key) is None
    assert await recorder.read(lambda database: load_open(database, BEGINNING, 10)) == ([], None)
    await recorder.close()


async def test_who_leaves_takes_nothing_along(tmp_path: Path) -> None:
    """Whoever waits for a write may go away in the middle of it: the log's reader is held back no longer than for a group,
    and every entry comes into the tables, once and in its place."""
    recorder = Recorder(tmp_path / "model.sqlite", pause_s=0.01, group_max=10, group_max_bytes=1 << 20)
    await recorder.open()
    await recorder.begin("log")
    lives: dict[JobKey, Live] = {}
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(recorder.run())
        for seq in range(1, 301):
            key = job_key("default", f"job-{seq % 7}")
            live = lives.setdefault(key, Live(key))
            version = 1 + (seq - 1) // 7
            entry = Entry(
                job_id(key, 1), f"op{seq}", "r1", float(seq), [Submitted(a_job(f"job-{seq % 7}"), version)]
            )
            live.record = fold(live.record, entry, seq)
            recorder.note(live, seq, key, encode(entry))
            leaving = tasks.create_task(recorder.settle())
            await asyncio.sleep(0)
            leaving.cancel()
            await recorder.room()
            assert len(recorder._entries) < 10
        await recorder.settle()
        writing.cancel()
    assert recorder.written == 300
    for key, live in lives.items():
        assert await recorder.load(key) == live.record
        expected = [seq for seq in range(1, 301) if job_key("default", f"job-{seq % 7}") == key]
        assert [seq for seq, _ in await recorder.entries(key)] == expected
    await recorder.close()
