"""Old and deleted jobs leave the log, and nothing that anyone still needs does."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.bus import Append, Bus, Outcome, Record
from protocol.entries import Entry
from protocol.errors import Conflict, Exhausted, NotFound, Unavailable
from protocol.ids import JobId, JobKey, job_id, job_key, key_of
from protocol.jobs import Timeouts
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import decode
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.retention import Candidate, Purge, purge_of, safe_position
from requester.service import Service
from requester.verbs import HistoryQuery, JobQuery
from tests.requester.cluster import (
    WITHIN_S,
    a_cluster,
    a_job,
    closed,
    happens,
    hold,
    submit,
    until,
)
from tests.requester.later import KEEP_S, KEEPING, later, pass_by

KEY = JobKey("0123456789abcde")


def in_log(bus: Bus, job: str) -> bool:
    """Whether the hub's log has entries of a job."""
    assert isinstance(bus, MemoryBus)
    key = key_of(JobId(job))
    return key in bus._hub.by_key


@pytest.mark.parametrize(
    ("job", "purge"),
    [
        (Candidate(KEY, 9, at=0), Purge(KEY, 9, whole=True)),
        (Candidate(KEY, 9, at=900), None),
        (Candidate(KEY, 11, at=0), None),
        (Candidate(KEY, 9, at=900, deleted=True), Purge(KEY, 8, whole=False)),
        (Candidate(KEY, 9, at=900, deleted=True, cut=True), None),
        (Candidate(KEY, 9, at=0, deleted=True, cut=True), Purge(KEY, 9, whole=True)),
        (Candidate(KEY, 9, at=900, deleted=True, again=True), Purge(KEY, 9, whole=True)),
        (Candidate(KEY, 11, at=900, deleted=True, again=True), None),
    ],
)
def test_what_may_go(job: Candidate, purge: Purge | None) -> None:
    """Closed for the keep time and in every read model: whole. Deleted: at once, but for the entry that says so, unless
    there is another job of its name: that says it too."""
    rules = {"now": 1_000.0, "keep_s": 500.0, "safe": 10}
    assert purge_of(job, spoken_of=(), rank=0, **rules) == purge  # type: ignore[arg-type]
    # What nodes speak of is the new job, where there is one of the name.
    spoken_of = purge if job.again else None
    assert purge_of(job, spoken_of={KEY}, rank=0, **rules) == spoken_of  # type: ignore[arg-type]
    assert purge_of(job, spoken_of=(), rank=20, **rules) is None  # type: ignore[arg-type]


def test_kept_for_ever() -> None:
    """A keep time of 0 keeps old jobs; and a requester that does not say how far it is holds everything."""
    assert purge_of(Candidate(KEY, 9, at=0), now=1e9, keep_s=0, safe=10, spoken_of=(), rank=0) is None
    assert safe_position(10, []) == 10
    assert safe_position(10, [7, 12]) == 7
    assert safe_position(10, [0]) == 0


async def test_an_old_job_leaves_the_log_and_stays_readable(tmp_path: Path) -> None:
    """Past its keep time a closed job is purged by its owner among two requesters; both still describe and list it with its
    history. An open job of the same age stays."""
    async with a_cluster(tmp_path, settings=KEEPING) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node()
        old = await submit(one, a_job("old"))
        await closed(one, old)
        node.script = hold
        still_open = await submit(one, a_job("open"))
        history = await one.history(old, HistoryQuery())
        node.states = {id_: state for id_, state in node.states.items() if state is S.RUNNING}
        await node.beat()

        services = await pass_by(cluster, KEEP_S + 120)
        await happens(lambda: not in_log(cluster.buses["r1"], old))

        assert in_log(cluster.buses["r1"], still_open)
        for service in services:
            assert (await service.job("old")).id == old
            assert {record.id for record in (await service.jobs(JobQuery()))[0]} == {old, still_open}
            assert await service.history(old, HistoryQuery()) == history


async def test_an_old_job_is_shown_until_its_history_is_over(tmp_path: Path) -> None:
    """Once it has left the log, an ended job is shown for as long as history is kept, and then leaves every read model with
    all that belongs to it; an open one as old stays, and so does one whose name is used again."""
    settings = replace(KEEPING, history_s=10 * KEEP_S)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node()
        old, again = await submit(one, a_job("old")), await submit(one, a_job("again"))
        for job in (old, again):
            await closed(one, job)
        node.script = hold
        still_open = await submit(one, a_job("open"))
        await until(one, still_open, lambda job: bool(job.executions))
        node.states = {id_: state for id_, state in node.states.items() if state is S.RUNNING}
        await node.beat()
        services = await pass_by(cluster, KEEP_S + 120)
        await happens(lambda: not in_log(cluster.buses["r1"], old))
        await happens(lambda: not in_log(cluster.buses["r1"], again))
        new = await submit(services[0], a_job("again", cpu="2"))
        for service in services:
            assert (await service.job("old")).id == old

        services = await pass_by(cluster, 11 * KEEP_S)

        for service in services:
            await deleted(service, old)
            assert {record.id for record in (await service.jobs(JobQuery()))[0]} == {new, still_open}
            left = await service._recorder.read(rows_of)
            assert left == {key_of(JobId(new)), key_of(JobId(still_open))}


async def test_a_job_in_the_log_outlives_its_history(tmp_path: Path) -> None:
    """However short history is kept, a job is shown for as long as the log has it."""
    settings = replace(KEEPING, keep_s=0.0, history_s=1.0)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one = await cluster.requester("r1")
        await cluster.node()
        old = await submit(one, a_job("old"))
        await closed(one, old)

        for service in await pass_by(cluster, KEEP_S):
            assert await service._recorder.outlived(service._clock.now(), 10, service._jobs.drop) == 0
            assert (await service.job("old")).id == old


def rows_of(database: sqlite3.Connection) -> set[str]:
    """The jobs of which a read model's tables have anything."""
    tables = ("jobs", "executions", "entries", "blobs")
    return {row[0] for table in tables for row in database.execute(f"SELECT key FROM {table}")}


async def test_a_job_that_a_node_speaks_of_stays(tmp_path: Path) -> None:
    """As long as an execution of it is in a beat, a job stays in the log, however old."""
    async with a_cluster(tmp_path, settings=KEEPING) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node()
        spoken, silent = await submit(one, a_job("a")), await submit(one, a_job("b"))
        await closed(one, spoken)
        await closed(one, silent)
        (execution,) = (await one.job(spoken)).executions
        node.states = {execution: S.COMPLETED}
        await cluster.kill("r1")
        later(cluster, KEEP_S + 1)
        await cluster.requester("r1")
        await node.beat()
        await happens(lambda: not in_log(cluster.buses["r1"], silent))
        assert in_log(cluster.buses["r1"], spoken)

        node.states = {}
        await happens(lambda: not in_log(cluster.buses["r1"], spoken))


async def test_a_name_is_used_again_after_its_job_left_the_log(tmp_path: Path) -> None:
    """Submitting a purged job's name begins a new job with another id and a history of its own, also at a requester that
    still has the old one in its read model."""
    async with a_cluster(tmp_path, settings=KEEPING) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node()
        old = await submit(one, a_job("again"))
        await closed(one, old)
        node.states = {}
        one, two = await pass_by(cluster, KEEP_S + 120)
        await happens(lambda: not in_log(cluster.buses["r1"], old))

        new = await submit(one, a_job("again", cpu="2"))

        assert new != old
        for service in (one, two):
            record = await closed(service, new)
            assert record.version == 1
            assert (await service.job("again")).id == new
            lines = (await service.history(new, HistoryQuery())).items
            assert {line.job for line in lines} == {new}


async def deleted(service: Service, job: str) -> None:
    """Wait until a requester knows nothing of a job."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await service.job(job)
            except NotFound:
                return
            await asyncio.sleep(0)


async def test_a_deleted_job_is_forgotten_by_all(tmp_path: Path) -> None:
    """Deleting a closed job takes it out of every requester's lists and out of the log, now and after a restart; its name is
    free at once. An open job cannot be deleted."""
    async with a_cluster(tmp_path, settings=KEEPING) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node()
        job = await submit(one, a_job("gone"))
        await closed(one, job)
        node.states = {}
        await node.beat()
        node.script = hold
        still_open = await submit(one, a_job("open"))
        with pytest.raises(Conflict, match="cannot delete"):
            await one.delete("open", namespace="", reason="", client="test")

        assert (await two.delete("gone", namespace="", reason="", client="test")).id == job

        for service in (one, two):
            await deleted(service, job)
            assert [record.id for record in (await service.jobs(JobQuery()))[0]] == [still_open]
        bus = cluster.buses["r1"]
        hub = bus._hub
        # Only the entry that says so stays, for those who are away.
        await happens(lambda: len(hub.by_key[job_key("default", "gone")]) == 1)
        await cluster.kill("r2")
        two = await cluster.requester("r2")
        await deleted(two, job)
        await happens(lambda: one.facts()["open_jobs"] == two.facts()["open_jobs"] == 1)
        node.script = lambda _: S.COMPLETED
        again = await submit(two, a_job("gone"))
        assert again != job
        for service in (one, two):
            assert (await closed(service, again)).version == 1


@pytest.mark.parametrize("written", [True, False], ids=["written between", "written together"])
async def test_a_name_that_is_used_again_at_once(tmp_path: Path, written: bool) -> None:
    """What a deleted job has left in the log is cleared away though another one of its name was submitted at once and
    runs: so that one has all the room of a job. A requester that reads the log later knows the new one alone, too."""
    settings = replace(KEEPING, retention_s=0.3, flush_s=0.1)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node()
        old = await submit(one, a_job("again"))
        await closed(one, old)
        node.states = {}
        node.script = hold

        await one.delete("again", namespace="", reason="", client="test")
        if written:
            await one.jobs(JobQuery())
        new = await submit(one, a_job("again"))
        await until(one, new, lambda record: record.state is JobState.RUNNING)
        await node.beat()

        hub, key = cluster.hub, job_key("default", "again")
        await happens(
            lambda: {decode(hub.at(seq).record.data, Entry).job for seq in hub.by_key[key]} == {new}
        )
        two = await cluster.requester("r2")
        for service in (one, two):
            record = await until(service, new, lambda record: record.state is JobState.RUNNING)
            assert record.entries == len(hub.by_key[key])
            lines = (await service.history(new, HistoryQuery())).items
            assert {line.job for line in lines} == {new}


async def test_a_name_whose_deleted_job_has_left_no_room(tmp_path: Path) -> None:
    """While the log has as many entries of a deleted job as it takes of one, another one of its name is refused, with
    the word that there will be room soon; and then there is."""
    settings = replace(KEEPING, retention_s=0.5)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester("r1")
        node = await cluster.node()
        await closed(service, await submit(service, a_job("full")))
        node.states = {}
        await node.beat()
        await service.delete("full", namespace="", reason="", client="test")
        hub, key = cluster.hub, job_key("default", "full")
        hub.entries_max = len(hub.by_key[key])

        with pytest.raises(Exhausted, match="deleted") as refused:
            await submit(service, a_job("full"))
        assert "again" in refused.value.hint
        await happens(lambda: len(hub.by_key[key]) == 1)
        await closed(service, await submit(service, a_job("full")))


class SlowReader(MemoryBus):
    """A bus on which the log can be held back from its reader."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def read(self, after: int) -> AsyncGenerator[list[Record], None]:
        async for batch in super().read(after):
            await self.go_on.wait()
            yield batch


async def test_a_deleted_job_stays_gone_while_the_log_is_read_slowly(tmp_path: Path) -> None:
    """Though a deadline of it passes before the log's reader has come to its deletion, a job is not shown again."""
    async with a_cluster(tmp_path) as cluster:
        bus = SlowReader(cluster.hub)
        service = await cluster.requester("r1", bus=bus)
        await cluster.node(script=lambda run: S.RUNNING if run.job_name == "held" else S.COMPLETED)
        job = await submit(service, a_job("gone", timeouts=Timeouts(total_timeout=1)))
        await closed(service, job)
        await service.jobs(JobQuery())

        bus.go_on.clear()
        await service.delete("gone", namespace="", reason="", client="test")
        held = await submit(service, a_job("held", timeouts=Timeouts(total_timeout=1)))
        await closed(service, held)
        with pytest.raises(Unavailable, match="is not known here"):
            await service.job(job)

        bus.go_on.set()
        await deleted(service, job)


class CutAfterAppend(MemoryBus):
    """A bus that is cut off when it has stored an append, before the answer comes back, or before anything is read."""

    answers = False
    appended = False

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        outcomes = await super().append(entries)
        if not self.appended:
            self.appended = True
            self.cut()
            if not self.answers:
                raise Unavailable("the answer was lost")
        return outcomes


async def test_a_submission_in_doubt_until_its_job_has_left_the_log(tmp_path: Path) -> None:
    """A requester that does not learn for so long whether a job was taken that it ran, ended and left the log, does not
    submit it anew when it is back: its caller is told that nobody knows, and it takes other jobs.
    """
    settings = replace(KEEPING, keep_s=0.3)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        other = await cluster.requester("r2")
        node = await cluster.node()
        bus = CutAfterAppend(cluster.hub)
        cut_off = await cluster.requester("r1", bus=bus)

        doubted = asyncio.create_task(submit(cut_off, a_job("once")))
        await happens(lambda: "once" in [each.record.spec.name for each in other._jobs.closed if each.record])
        await happens(lambda: not in_log(cluster.buses["r2"], job_id(job_key("default", "once"), 0)))
        with pytest.raises(Unavailable, match="not known"):
            await doubted
        bus.mend()
        await closed(cut_off, await submit(cut_off, a_job("next")))

        assert len(node.runs) == 2


async def test_a_job_that_was_written_and_never_read(tmp_path: Path) -> None:
    """A requester that was cut off right after it took a job, until that had run, ended and left the log, does not keep it
    as open for ever, though the log's reader never brought anything of it.
    """
    settings = replace(KEEPING, keep_s=0.3)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        other = await cluster.requester("r2")
        node = await cluster.node()
        bus = CutAfterAppend(cluster.hub)
        bus.answers = True
        cut_off = await cluster.requester("r1", bus=bus)

        job = await submit(cut_off, a_job("taken"))
        await closed(other, job)
        await happens(lambda: not in_log(cluster.buses["r2"], job))
        bus.mend()
        await closed(cut_off, await submit(cut_off, a_job("next")))

        await happens(lambda: cut_off.facts()["open_jobs"] == 0 and not cut_off._jobs.fleet.held(node.id))


async def test_an_end_that_was_missed(tmp_path: Path) -> None:
    """A requester that was cut off while a job ended and left the log lets it go when it is back: its room is free, who
    watches it is told to ask elsewhere, and a job of the same name that came meanwhile is the one it knows."""
    settings = replace(KEEPING, keep_s=0.3)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node(script=hold)
        names = ("missed", "replaced")
        jobs = [await submit(one, a_job(name)) for name in names]
        for job in jobs:
            await until(two, job, lambda record: record.state is JobState.RUNNING)
        watches = [asyncio.create_task(closed(two, job)) for job in jobs]
        await happens(lambda: sum(len(live.watchers) for live in two._jobs.open.values()) == len(names))
        await node.until(lambda each: len(each.runs) == len(names))

        cluster.buses["r2"].cut()
        for run in list(node.runs):
            node.finish(run.execution)
        await happens(lambda: not any(in_log(cluster.buses["r1"], job) for job in jobs))
        new = await submit(one, a_job("replaced", cpu="2"))
        cluster.buses["r2"].mend()

        await happens(lambda: all(watch.done() for watch in watches))
        for watch in watches:
            assert isinstance(watch.exception(), NotFound)
        with pytest.raises(NotFound):
            await two.job("missed")
        assert (await two.job("replaced")).id == new
        assert two.facts()["open_jobs"] == 1
        assert two._jobs.fleet.held(node.id).keys() == {each.id for each in await one.executions(new)}


@pytest.mark.parametrize("doing", ["rerun", "delete"])
async def test_a_job_that_left_the_log_is_still_in_hand(tmp_path: Path, doing: str) -> None:
    """A job that only the read models know can be run again, as its next version, and deleted; all requesters see it so, and
    so does one that reads the log from its beginning."""
    async with a_cluster(tmp_path, settings=KEEPING) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node()
        old = await submit(one, a_job("old"))
        await closed(one, old)
        node.states = {}
        services = await pass_by(cluster, KEEP_S + 120)
        await happens(lambda: not in_log(cluster.buses["r1"], old))

        if doing == "delete":
            await services[0].delete("old", namespace="", reason="", client="test")
            for service in services:
                await deleted(service, old)
            await happens(lambda: not any(service.facts()["open_jobs"] for service in services))
            return
        again = await services[0].rerun("old", namespace="", version=0, reason="", client="test")
        assert (again.job, again.version) == (old, 2)
        services.append(await cluster.requester("r3"))
        seen = [await closed(service, old) for service in services]
        for service in services:
            await service._lookup.settle()
        kept = [await service._recorder.load(seen[0].key) for service in services]
        assert all(record == seen[-1] for record in [*seen, *kept])


async def test_a_read_model_filled_again_is_equal(tmp_path: Path) -> None:
    """Whatever a job went through (versions, retries, a stop, a deletion), a read model made from nothing says the same of
    it as the one that was written on the way."""
    async with a_cluster(tmp_path) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node(cores=64)
        for number in range(60):
            await closed(one, await submit(one, a_job(f"job-{number}", count=1 + number % 3)))
            if number % 4 == 0:
                await closed(one, await submit(one, a_job(f"job-{number}", count=2, cpu="2")))
            if number % 10 == 3:
                await one.delete(f"job-{number}", namespace="", reason="", client="test")
        node.script = hold
        stopped = await submit(one, a_job("stopped"))
        await submit(one, a_job("open"))
        await one.stop(stopped, namespace="", reason="enough", client="test")
        last = (await cluster.buses["r1"].log_state()).last

        two = await cluster.requester("r2")
        await two._follower.reached(last)

        assert await everything(two) == await everything(one)


async def everything(service: Service) -> dict[str, object]:
    """All rows of a requester's read model."""
    jobs, _ = await service.jobs(JobQuery(limit=0))
    assert len(jobs) == 56
    tables = {"jobs": "key", "executions": "id", "entries": "seq", "deleted": "key", "position": "seq"}
    return {
        table: await service._recorder.read(
            lambda database, table=table, order=order: database.execute(  # type: ignore[misc]
                f"SELECT * FROM {table} ORDER BY {order}"
            ).fetchall()
        )
        for table, order in tables.items()
    }


async def test_a_full_log_takes_no_new_jobs_and_closes_old_ones(tmp_path: Path) -> None:
    """From 80 % on submissions are refused with the share and what to do; jobs that are open go on to their end."""
    async with a_cluster(tmp_path, settings=KEEPING) as cluster:
        one = await cluster.requester("r1")
        node = await cluster.node(script=hold)
        jobs = [await submit(one, a_job()) for _ in range(4)]
        size = (await cluster.buses["r1"].log_state()).size_bytes
        cluster.hub.limit_bytes = int(size / 0.85)
        await happens(lambda: one.facts()["log_share"] >= 0.8)

        with pytest.raises(Exhausted, match=r"log is 8\d% full") as caught:
            await submit(one, a_job())

        assert "KeepFor" in caught.value.hint
        cluster.hub.limit_bytes = size * 10
        for run in list(node.runs):
            node.finish(run.execution)
        for job in jobs:
            await closed(one, job)


async def test_a_requester_that_was_away_longer_than_jobs_are_kept(tmp_path: Path) -> None:
    """A job that it knew as open, and that ended and left the log while it was away, is not open for ever with its room."""
    async with a_cluster(tmp_path, settings=KEEPING) as cluster:
        one, two = await cluster.requester("r1"), await cluster.requester("r2")
        node = await cluster.node(script=hold)
        job = await submit(one, a_job("old"))
        await node.until(lambda node: bool(node.runs))
        assert not (await two.job(job)).closed
        await two.jobs(JobQuery())
        await cluster.kill("r2")
        node.finish(node.runs[0].execution)
        await closed(one, job)
        await cluster.kill("r1")

        later(cluster, KEEP_S + 120)
        await cluster.requester("r1")
        await happens(lambda: not in_log(cluster.buses["r1"], job))
        two = await cluster.requester("r2")

        assert two.facts()["open_jobs"] == 0
        assert (await two.jobs(JobQuery()))[0] == []
        await happens(lambda: two.facts()["nodes"] == 1)
        (known,) = await two.nodes()
        assert known.running == 0


# Blobs
