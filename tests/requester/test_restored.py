"""A log and cells that were restored from a backup while requesters and nodes went on."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.errors import Conflict
from protocol.states import ExecutionState as S
from protocol.states import JobState
from tests.requester.cluster import a_cluster, a_job, closed, complete, happens, hold, submit


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
