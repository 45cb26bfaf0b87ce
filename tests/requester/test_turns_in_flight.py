"""A job that waits, and an entry of it that is on its way at the moment its turn comes."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from protocol.bus import Append, Outcome
from protocol.memory_bus import MemoryBus, MemoryHub
from tests.requester.cluster import QUICK, WITHIN_S, a_cluster, a_job, hold, submit, until

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
        service = await cluster.requester(bus=bus)
        full = await cluster.node("n1", cores=1, script=hold)
        await submit(service, a_job("first"))
        await full.until(lambda node: len(node.runs) == 1)
        await submit(service, a_job("second"))

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
