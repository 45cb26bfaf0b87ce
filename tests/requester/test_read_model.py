"""The read model's file: what is in it is found by what people say, whichever version of ours wrote it."""

import asyncio
import sqlite3
from pathlib import Path

from protocol.entries import Entry, Submitted
from protocol.ids import JobKey, job_id, job_key
from protocol.messages import encode
from requester.core.fold import fold
from requester.core.model import JobRecord
from requester.live import Live
from requester.read_model import SCHEMA, Store
from requester.read_queries import entries, find, load
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


async def some_jobs(service: Service) -> Path:
    """Jobs with two versions, in two namespaces, and one that was deleted and came again; the file they are in."""
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
    await service.jobs(JobQuery())
    return service._recorder._path


def content(database: sqlite3.Connection) -> dict[JobKey, tuple[JobRecord | None, list[tuple[int, bytes]]]]:
    """Every job with its executions, and all its entries."""
    keys = [row[0] for row in database.execute("SELECT key FROM jobs ORDER BY key")]
    return {key: (load(database, key), entries(database, key)) for key in keys}


async def test_a_file_of_the_schema_before_is_kept(tmp_path: Path) -> None:
    """A requester that is upgraded has all that its read model had, also of jobs that have left the log: records, histories
    and names; and what comes later joins it."""
    async with a_cluster(tmp_path, settings=BUSY) as cluster:
        service = await cluster.requester("r1")
        await cluster.node(cores=8)
        path = await some_jobs(service)
        before = content(service._recorder._opened().reader())
        assert len(before) == 5
        await cluster.kill("r1")
        with sqlite3.connect(path) as database:
            database.executescript(TO_SCHEMA_1)

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


async def test_who_leaves_takes_nothing_along(tmp_path: Path) -> None:
    """Whoever waits for a write may go away in the middle of it: the log's reader is held back no longer than for a group,
    and every entry comes into the tables, once and in its place."""
    recorder = Recorder(tmp_path / "model.sqlite", pause_s=0.01, group_max=10)
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
