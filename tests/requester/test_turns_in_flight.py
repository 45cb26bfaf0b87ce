"""A job's entry is on its way at the moment when its turn comes, or when its time is over."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from protocol.bus import Append, Outcome
from protocol.clock import ManualClock
from protocol.jobs import Timeouts
from protocol.memory_bus import MemoryBus, MemoryHub
from requester.core.history import QUEUEING
from requester.service import Service
from requester.verbs import HistoryQuery
from tests.requester.cluster import QUICK, WITHIN_S, Cluster, a_cluster, a_job, closed, hold, submit, until

UNSWEPT = replace(QUICK, sweep_s=1_000.0)
"""Nobody looks at all jobs, so none is found that was forgotten."""


class LateAnswers(MemoryBus):
    """What is appended is stored and read at once; that it is stored is said only while `answering`."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.answering = asyncio.Event()
        self.answering.set()

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        outcomes = await super().append(entries)
        await self.answering.wait()
        return outcomes


async def test_a_turn_that_comes_too_early_is_kept(tmp_path: Path) -> None:
    """A job gets the room that appears while the log has its newest entry and has not yet said so."""
    async with a_cluster(tmp_path, settings=UNSWEPT) as cluster:
        bus = LateAnswers(cluster.hub)
        service = await _with_one_waiting(cluster, bus)

        bus.answering.clear()
        update = asyncio.create_task(submit(service, a_job("second", labels={"new": "1"})))
        await until(service, "second", lambda job: job.version == 2 and job.queued is not None)
        free = await cluster.node("n2", cores=1)
        # The node is heard, and the queue looked at, within a few turns of the loop.
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(await service.nodes()) == 2
        assert not update.done()
        bus.answering.set()

        async with asyncio.timeout(WITHIN_S):
            await update
            await free.until(lambda node: [run.version for run in node.runs] == [2])


class LateLog(MemoryBus):
    """What is appended reaches the log only while it is `open`."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        self.asked.set()
        await self.open.wait()
        return await super().append(entries)


async def test_nobody_waits_behind_a_job_that_has_its_place(tmp_path: Path) -> None:
    """While it is on its way to the log where a job runs that had waited, others that come take the room that is left."""
    async with a_cluster(tmp_path, settings=UNSWEPT) as cluster:
        bus = LateLog(cluster.hub)
        service = await _with_one_waiting(cluster, bus)

        bus.open.clear()
        bus.asked.clear()
        roomy = await cluster.node("n2", cores=2, script=hold)
        async with asyncio.timeout(WITHIN_S):
            await bus.asked.wait()
            third = asyncio.create_task(submit(service, a_job("third")))
            await asyncio.sleep(0)
            bus.open.set()
            await third
            await roomy.until(lambda node: len(node.runs) == 2)
        told = await service.history("third", HistoryQuery())
        assert QUEUEING not in [item.topic for item in told.items]


async def test_a_time_that_is_over_too_early_is_kept(tmp_path: Path) -> None:
    """A job is ended whose total timeout passes while the log has its newest entry and has not yet said so."""
    clock = ManualClock()
    async with a_cluster(tmp_path, settings=UNSWEPT, clock=clock) as cluster:
        bus = LateAnswers(cluster.hub)
        service = await cluster.requester(bus=bus)
        node = await cluster.node(script=hold)
        async with asyncio.timeout(WITHIN_S):
            await submit(service, a_job("brief"))
            await node.until(lambda node: len(node.runs) == 1)

        bus.answering.clear()
        brief = a_job("brief", timeouts=Timeouts(total_timeout=1))
        update = asyncio.create_task(submit(service, brief))
        await until(service, "brief", lambda job: job.version == 2)
        await clock.advance(1.5)
        assert not update.done()
        bus.answering.set()

        await update
        record = await closed(service, "brief")
        assert record.failure is not None
        assert record.failure.code == "TimedOut.Total"


async def _with_one_waiting(cluster: Cluster, bus: MemoryBus) -> Service:
    """A requester whose job "second" waits, since "first" has taken the only node."""
    service = await cluster.requester(bus=bus)
    full = await cluster.node("n1", cores=1, script=hold)
    await submit(service, a_job("first"))
    await full.until(lambda node: len(node.runs) == 1)
    await submit(service, a_job("second"))
    return service
