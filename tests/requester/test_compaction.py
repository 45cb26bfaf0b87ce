"""A service may be started again for ever: snapshots take the place of its old entries, for everybody."""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from protocol import subjects
from protocol.entries import PLAIN_MAX_BYTES, Entry, read_entry
from protocol.errors import Broken
from protocol.ids import JobId, JobKey, RequesterId, key_of
from protocol.jobs import Job, Retry
from protocol.memory_bus import Backup, MemoryBus
from protocol.messages import RequesterBeat, Run, decode, encode
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.compaction import Compaction
from requester.core.fold import fold
from requester.core.model import JobRecord
from requester.read_queries import entries, load
from requester.service import Service
from requester.verbs import HistoryQuery
from tests.requester.cluster import QUICK, WITHIN_S, Cluster, a_cluster, a_job, closed, happens, submit, until

OFTEN: Final = replace(
    QUICK,
    silence_s=30.0,
    snapshot_after=20,
    snapshot_attempts=2,
    snapshot_s=0.02,
    cells_s=0.05,
)
"""Settings with which a snapshot is due after few entries."""
RESTLESS: Final = Retry(backoff=0.001, backoff_max=0.001)


class Restarting:
    """A node's script: an execution ends at once until the service was started so often, then one stays."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, run: Run) -> S:
        self.left -= 1
        return S.COMPLETED if self.left >= 0 else S.RUNNING


def a_service(priority: int = 0) -> Job:
    return a_job("service", type="service", retry=RESTLESS, priority=priority)


def in_log(cluster: Cluster, job: str) -> list[int]:
    """The sequences of a job's entries that the log has."""
    return list(cluster.hub.by_key[_key(job)])


def _key(job: str) -> JobKey:
    key = key_of(JobId(job))
    assert key is not None
    return key


def folded(cluster: Cluster, job: str) -> JobRecord | None:
    """The job as who reads the log from its beginning knows it."""
    record = None
    for seq in in_log(cluster, job):
        record = fold(record, read_entry(cluster.hub.at(seq).record.data), seq)
    return record


async def came_to_rest(service: Service, job: str) -> JobRecord:
    return await until(
        service,
        job,
        lambda record: (
            bool(record.snapshot)
            and [each.state for each in record.open()] == [S.RUNNING]
            and record.since > 0
        ),
    )


@pytest.mark.parametrize("plain_max_bytes", [PLAIN_MAX_BYTES, 1_200], ids=["plain", "packed"])
async def test_a_service_lives_beyond_what_the_log_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_max_bytes: int
) -> None:
    """In a log that takes 80 entries of one job a service is started 100 times; two requesters, and one that comes later and
    has nothing but the log, know the same of it; and it can be stopped. So too where its snapshots have to be packed."""
    for module in ("protocol.entries", "requester.core.snapshots"):
        monkeypatch.setattr(f"{module}.PLAIN_MAX_BYTES", plain_max_bytes)
    async with a_cluster(tmp_path, settings=OFTEN) as cluster:
        cluster.hub.entries_max = 80
        services = [await cluster.requester(name) for name in ("r1", "r2")]
        await cluster.node("n1", script=Restarting(100))
        job = await submit(services[0], a_service())
        await came_to_rest(services[0], job)
        services.append(await cluster.requester("r3"))
        # What stands before a snapshot leaves the log just before the next one is written, which tells of it.
        await happens(
            lambda: (it := folded(cluster, job)) is not None and it.since == in_log(cluster, job)[0]
        )

        record = folded(cluster, job)
        assert record is not None
        (last,) = record.open()
        assert last.attempt == 101
        assert record.entries >= len(in_log(cluster, job))
        assert in_log(cluster, job)[0] == record.since
        snapshot = decode(cluster.hub.at(record.since).record.data, Entry).snapshot
        assert snapshot is not None
        assert bool(snapshot.packed) == (plain_max_bytes != PLAIN_MAX_BYTES)
        for service in services:
            await service._follower.reached(record.revision)
            await service._recorder.settle()
            reader = service._recorder._reader
            assert reader is not None
            assert service._jobs.open[record.key].record == record
            assert load(reader, record.key) == record
            assert [seq for seq, _ in entries(reader, record.key)] == in_log(cluster, job)
        histories = [(await service.history(job, HistoryQuery())).items for service in services]
        assert histories[0] == histories[1] == histories[2]
        assert any("kept in part" in line.message for line in histories[0])

        await services[2].stop(job, namespace="", reason="enough", client="test")
        assert (await closed(services[0], job)).state is JobState.STOPPED


async def test_who_was_away_finds_a_snapshot(tmp_path: Path) -> None:
    """A requester that was away while entries were written and taken out of the log knows the job as the others do, and
    holds no room for what has ended."""
    async with a_cluster(tmp_path, settings=OFTEN) as cluster:
        stayed = await cluster.requester("r1")
        away = await cluster.requester("r2")
        node = await cluster.node("n1", script=lambda run: S.RUNNING)
        job = await submit(stayed, a_service())
        await node.until(lambda node: bool(node.runs))
        await until(away, job, lambda record: bool(record.open()))
        cluster.buses["r2"].cut()
        node.script = Restarting(60)
        node.finish(node.runs[0].execution)
        record = await came_to_rest(stayed, job)
        cluster.buses["r2"].mend()

        await until(away, job, lambda known: known.revision >= record.revision)
        fleet = away._jobs.fleet
        assert list(fleet.held(node.id)) == [each.id for each in record.open()]
        assert set(away._jobs.key_of_execution) == set(fleet.held(node.id))


async def test_none_is_written_while_an_older_requester_is_there(tmp_path: Path) -> None:
    """A requester that reads no snapshots is not sent any: the job's entries stay in the log until it is gone."""
    async with a_cluster(tmp_path, settings=OFTEN) as cluster:
        service = await cluster.requester("r1")
        older = MemoryBus(cluster.hub)

        async def beat() -> None:
            said = RequesterBeat(RequesterId("r0"), at=0.0, folded=0, version="0.1.0")
            while True:
                await older.publish(subjects.requester_beats(said.requester), encode(said))
                await asyncio.sleep(0.01)

        beating = asyncio.create_task(beat())
        await happens(lambda: len(service._presence.there) == 2)
        await cluster.node("n1", script=Restarting(30))
        job = await submit(service, a_service())
        record = await until(
            service,
            job,
            lambda record: record.forgotten == 0 and [each.attempt for each in record.open()] == [31],
        )
        assert record.snapshot == 0
        assert len(in_log(cluster, job)) == record.entries

        beating.cancel()
        record = await until(service, job, lambda record: bool(record.snapshot))
        assert [each.attempt for each in record.open()] == [31]


async def test_what_is_told_is_gone_with_the_entries(tmp_path: Path) -> None:
    """An earlier version can be run again as long as it is kept; then it is said that it is not."""
    async with a_cluster(tmp_path, settings=OFTEN) as cluster:
        service = await cluster.requester("r1")
        await cluster.node("n1", script=Restarting(40))
        job = await submit(service, a_service(priority=1))
        for priority in range(2, 4):
            await submit(service, a_service(priority=priority))
        await came_to_rest(service, job)

        assert [each.spec.priority for each in await service.versions(job)] == [1, 2, 3]
        again = await service.rerun(job, namespace="", version=1, reason="", client="test")
        assert (await service.job(job)).spec.priority == 1
        assert again.version == 4


class LostBeforePurging(MemoryBus):
    """A bus whose server is lost, and comes back with a backup, just before something is taken out of the log."""

    backup: Backup | None = None

    async def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        if self.backup is not None:
            self._hub.restore(self.backup)
            self.backup = None
        await super().purge(key, upto, log=log)


async def test_what_one_log_needs_no_more_stays_in_another(tmp_path: Path) -> None:
    """A log is lost and restored while a snapshot is due: nothing of the job is taken out of the restored one."""
    by_hand = replace(OFTEN, snapshot_s=3_600.0, cells_s=3_600.0)
    async with a_cluster(tmp_path, settings=by_hand) as cluster:
        bus = LostBeforePurging(cluster.hub)
        service = await cluster.requester("r1", bus=bus)
        node = await cluster.node("n1", script=Restarting(1))
        job = await submit(service, a_service())
        await until(service, job, lambda record: [each.attempt for each in record.open()] == [2])
        backup = cluster.hub.backup()
        compaction = Compaction(
            bus,
            cluster.hub.clock,
            by_hand,
            jobs=service._jobs,
            recorder=service._recorder,
            presence=service._presence,
            decide=service._orchestrator.decide,
            reached=service._follower.reached,
            log_created=lambda: service._follower.created,
            entries_max=lambda: 0,
            ready=lambda: True,
        )
        live = service._jobs.open[_key(job)]
        for attempt in (20, 40):
            node.script = Restarting(attempt - len(node.runs) - 1)
            node.finish(node.runs[-1].execution)
            await until(service, job, partial(_runs, attempt))
            before = in_log(cluster, job)
            if attempt == 40:
                bus.backup = backup
            with suppress(Broken):
                await compaction._compact(live)
            await happens(lambda: in_log(cluster, job) != before)  # noqa: B023

        there = backup.log.by_key[_key(job)]
        assert in_log(cluster, job) == there
        # It goes on there as it was.
        record = await until(
            service, job, lambda record: not record.snapshot and record.revision >= there[-1]
        )
        assert [each.attempt for each in record.open()] == [2]


async def test_a_log_that_is_not_read_on_ends_no_requester(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the log's reader stands still for longer than it is waited for, the snapshot is tried again later."""
    monkeypatch.setattr("requester.compaction._WAIT_S", 0.01)
    by_hand = replace(OFTEN, snapshot_s=3_600.0)
    async with a_cluster(tmp_path, settings=by_hand) as cluster:
        service = await cluster.requester("r1")
        await cluster.node("n1", script=Restarting(20))
        job = await submit(service, a_service())
        await until(service, job, partial(_runs, 21))
        waited: list[int] = []
        again = asyncio.Event()

        async def reached(seq: int) -> None:
            waited.append(seq)
            if len(waited) > 1:
                again.set()
            await asyncio.Event().wait()

        compaction = Compaction(
            MemoryBus(cluster.hub),
            cluster.hub.clock,
            replace(by_hand, snapshot_s=0.01),
            jobs=service._jobs,
            recorder=service._recorder,
            presence=service._presence,
            decide=service._orchestrator.decide,
            reached=reached,
            log_created=lambda: service._follower.created,
            entries_max=lambda: 0,
            ready=lambda: True,
        )
        looking = asyncio.create_task(compaction.run())
        trying = asyncio.create_task(again.wait())
        await asyncio.wait({looking, trying}, timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert len(waited) > 1


def _runs(attempt: int, record: JobRecord) -> bool:
    return [(each.attempt, each.state) for each in record.open()] == [(attempt, S.RUNNING)]
