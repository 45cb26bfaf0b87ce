"""A log and cells that were restored from a backup while requesters and nodes went on."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.entries import Closed, read_entry
from protocol.errors import Broken, Conflict
from protocol.ids import JobKey
from protocol.memory_bus import Backup, MemoryBus, MemoryHub
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.retention import Retention
from tests.requester.cluster import QUICK, WITHIN_S, a_cluster, a_job, closed, complete, happens, hold, submit


async def test_a_report_of_what_another_log_ordered(tmp_path: Path) -> None:
    """An end that is reported of a name which the restored log has given again is not taken for the new one's: its node ends
    it, and runs what the name means now."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1", script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))
        run = node.runs.pop()
        node.runs.append(replace(run, seq=run.seq + 7))
        node.finish(run.execution)
        await node.until(lambda node: "replaced" in node.verdicts.get(run.execution, []))
        node.runs.clear()
        node.script = complete

        record = await closed(service, job)
        assert [(each.id, each.state) for each in record.executions.values()] == [
            (run.execution, S.COMPLETED)
        ]
        assert [again.seq for again in node.runs] == [run.seq]


async def test_words_about_nodes_are_those_of_the_backup(tmp_path: Path) -> None:
    """What was said of a node after the backup is forgotten by requesters that run on, what was said before holds again; and
    what they learn of nodes then is kept."""
    async with a_cluster(tmp_path) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node("n1")
        await happens(lambda: one.facts()["nodes"] == two.facts()["nodes"] == 1 and bool(cluster.hub.cells))
        await one.cordon("n1", reason="before")
        backup = cluster.hub.backup()
        for _ in range(3):
            await two.uncordon("n1")

        cluster.hub.restore(backup)
        for service in (one, two):
            await happens(
                lambda service=service: (  # type: ignore[misc]
                    (cordon := service._jobs.fleet.nodes[node.id].cordon) is not None
                    and cordon.reason == "before"
                )
            )
        node.info = replace(node.info, labels={"since": "then"})
        await happens(lambda: b'"since"' in cluster.hub.cells["n1"].data)


async def test_a_job_that_is_open_again_is_not_deleted(tmp_path: Path) -> None:
    """Who wants a job deleted that has ended, and that the restored log has open again, is told so."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1", script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))
        backup = cluster.hub.backup()
        node.finish(node.runs[0].execution)
        assert (await closed(service, job)).state is JobState.COMPLETED

        cluster.buses["r1"].cut()
        deleting = asyncio.create_task(service.delete(job, namespace="default", reason="old", client="test"))
        await asyncio.sleep(0)
        cluster.hub.restore(backup)
        cluster.buses["r1"].mend()
        with pytest.raises(Conflict, match="cannot delete job in state"):
            await deleting


class LostWhilePurging(MemoryBus):
    """A bus whose server is lost at the first purge, and comes back with a backup. `too_early` are the jobs that were taken
    out of that though they were open there."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.backup: Backup | None = None
        self.restored = asyncio.Event()
        self.too_early: list[JobKey] = []

    async def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        if self.backup is not None and not self.restored.is_set():
            self._hub.restore(self.backup)
            self.restored.set()
            return
        last = await self.last(key)
        await super().purge(key, upto, log=log)
        if last is not None and not any(isinstance(each, Closed) for each in read_entry(last.data).events):
            self.too_early.append(key)


async def test_what_may_leave_one_log_stays_in_another(tmp_path: Path) -> None:
    """While old jobs are taken out of a log it is lost and restored: jobs that are open again there stay in it."""
    brief = replace(QUICK, keep_s=0.001, retention_s=3_600.0)
    async with a_cluster(tmp_path, settings=brief) as cluster:
        bus = LostWhilePurging(cluster.hub)
        service = await cluster.requester(bus=bus)
        node = await cluster.node("n1", script=hold)
        jobs = [await submit(service, a_job()) for _ in range(4)]
        await node.until(lambda node: len(node.runs) == 4)
        bus.backup = cluster.hub.backup()
        for run in node.runs:
            node.finish(run.execution)
        for job in jobs:
            await closed(service, job)
        await service._lookup.settle()
        # It remembers no order of the lost log, and does again what the restored one has open.
        await node.until(lambda node: not node.states)
        node.runs.clear()
        node.script = complete
        retention = Retention(
            bus,
            cluster.hub.clock,
            brief,
            recorder=service._recorder,
            presence=service._presence,
            jobs=service._jobs,
            spoken_of=set,
            vanished=service._orchestrator.applier.vanished,
            ready=lambda: True,
        )
        async with asyncio.timeout(WITHIN_S):
            while not bus.restored.is_set():
                with suppress(Broken):
                    await retention.round()
        assert not bus.too_early

        await happens(lambda: len(node.runs) == 4)
        for job in jobs:
            assert (await closed(service, job)).state is JobState.COMPLETED
