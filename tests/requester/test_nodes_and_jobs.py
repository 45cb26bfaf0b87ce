"""What becomes of work when its node, or a word to it, is lost, and when people say something of nodes."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.bus import Append, Outcome
from protocol.ids import JobId, JobKey, key_of
from protocol.jobs import Network, Port
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.live import Live
from requester.service import Service
from tests.requester.cluster import (
    QUICK,
    Cluster,
    PretendNode,
    a_cluster,
    a_job,
    closed,
    complete,
    happens,
    hold,
    submit,
    until,
)


async def at_work(cluster: Cluster) -> tuple[Service, PretendNode, str]:
    """A requester, its node n1, and a job that runs there until the test ends it."""
    service = await cluster.requester()
    node = await cluster.node("n1", script=hold)
    job = await submit(service, a_job())
    await node.until(lambda node: bool(node.runs))
    return service, node, job


async def test_what_a_node_holds_is_known_until_it_says_otherwise(tmp_path: Path) -> None:
    """A beat that says nothing of inputs leaves what was said before; one that says there are none is believed."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1")

        def held() -> dict[str, int]:
            return service._jobs.fleet.nodes[node.id].held

        for said, known in (({"a": 1}, {"a": 1}), (None, {"a": 1}), ({"b": 2}, {"b": 2}), ({}, {})):
            node.held = said
            await node.beat()
            await happens(lambda known=known: held() == known)  # type: ignore[misc]


async def test_lost_command(tmp_path: Path) -> None:
    """A command that never reached its node is sent again after a beat that shows it missing."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node()
        await node.until(lambda node: bool(node.lists))
        node.deaf = True
        job = await submit(service, a_job())
        await happens(lambda: service.facts()["commands"] > 1)
        node.deaf = False

        assert (await closed(service, job)).state is JobState.COMPLETED
        assert len(node.runs) == 1


async def test_a_node_that_is_done_with_what_the_log_has_open(tmp_path: Path) -> None:
    """An execution is given up whose node is done with it while the log knows no end of it; what it was is said, and it is
    tried again."""
    async with a_cluster(tmp_path) as cluster:
        service, node, job = await at_work(cluster)
        node.script = complete
        forgotten = node.runs[0].execution
        node.done_with[forgotten] = service._follower.created
        del node.states[forgotten]

        record = await closed(service, job)
        assert record.state is JobState.COMPLETED
        first, second = record.executions.values()
        assert (first.id, first.state, second.state) == (forgotten, S.LOST, S.COMPLETED)
        assert first.failure is not None
        assert first.failure.code == "Unavailable.NodeForgot"
        assert "n1 is done with it" in first.failure.message


async def test_a_node_that_goes_by_another_logs_names(tmp_path: Path) -> None:
    """What a node remembers of another log ends nothing: it is ordered again until the node has come over to this one."""
    async with a_cluster(tmp_path) as cluster:
        service, node, job = await at_work(cluster)
        node.script = complete
        execution = node.runs[0].execution
        node.done_with[execution] = "another log"
        del node.states[execution]
        await happens(lambda: len(node.repeated) >= 3)
        node.runs.clear()
        del node.done_with[execution]

        record = await closed(service, job)
        assert [(each.id, each.state) for each in record.executions.values()] == [(execution, S.COMPLETED)]


async def test_lost_node(tmp_path: Path) -> None:
    """A node that falls silent is given up and its work runs elsewhere; what it brings later does not count."""
    async with a_cluster(tmp_path) as cluster:
        service, first, job = await at_work(cluster)
        await cluster.node("n2")
        await cluster.lose(first)

        record = await closed(service, job)
        await cluster.find(first)
        first.finish(first.runs[0].execution)
        await first.until(lambda node: "drop" in node.verdicts.get(node.runs[0].execution, []))

        assert record.state is JobState.COMPLETED
        assert [(each.node, each.state) for each in record.executions.values()] == [
            ("n1", S.LOST),
            ("n2", S.COMPLETED),
        ]
        assert await service.job(job) == record


async def test_a_node_that_stays_away(tmp_path: Path) -> None:
    """A job waits for a node that is gone, but not for ever: after a while it fails, with what would change that."""
    async with a_cluster(tmp_path, settings=replace(QUICK, away_s=1.0)) as cluster:
        service = await cluster.requester()
        await cluster.lose(await cluster.node("n1"))
        job = await submit(service, a_job())

        record = await closed(service, job)

        assert record.failure is not None
        assert record.failure.code == "NoSuitableNode"
        assert "node delete" in record.failure.details["n1"]


async def test_an_execution_nobody_ordered(tmp_path: Path) -> None:
    """What a node goes on with though it is not assigned there is cancelled after its beat."""
    async with a_cluster(tmp_path) as cluster:
        service, node, job = await at_work(cluster)
        (run,) = node.runs
        await cluster.lose(node)
        await service.stop(job, namespace="", reason="", client="test")

        await cluster.find(node)
        await node.until(lambda node: node.cancelled == [run.execution])


async def test_a_node_that_is_back_keeps_what_it_is_given(tmp_path: Path) -> None:
    """A job whose node was lost goes to that node as soon as it is back, and is not given up once more for a silence that is
    over."""
    async with a_cluster(tmp_path, settings=replace(QUICK, tick_s=0.5, silence_s=0.5)) as cluster:
        service, node, job = await at_work(cluster)
        (run,) = node.runs
        await cluster.lose(node)
        await until(service, job, lambda record: not record.executions[run.execution].open)
        node.script = complete
        await cluster.find(node)

        record = await closed(service, job)
        assert [each.state for each in record.executions.values()] == [S.LOST, S.COMPLETED]


async def test_rejected_node(tmp_path: Path) -> None:
    """Work on a node that a person rejects goes elsewhere, and no new work comes to it."""
    async with a_cluster(tmp_path) as cluster:
        service, _, job = await at_work(cluster)
        await cluster.node("n2")

        await service.set_membership("n1", "REJECTED", "old")
        record = await closed(service, job)

        assert record.state is JobState.COMPLETED
        assert [each.node for each in record.executions.values()] == ["n1", "n2"]
        assert (await service.node("n1")).membership == "REJECTED"


@pytest.mark.parametrize("membership", ["REJECTED", "DELETED"])
@pytest.mark.parametrize("away", [False, True])
async def test_a_node_that_is_not_wanted_ends_what_it_has(
    tmp_path: Path, membership: str, away: bool
) -> None:
    """The process of a node that a person rejects or deletes ends what it runs and takes no more, also if it was away at the
    time; the work is done elsewhere."""
    async with a_cluster(tmp_path) as cluster:
        service, node, job = await at_work(cluster)
        (run,) = node.runs
        if away:
            await cluster.lose(node)
            await until(service, job, lambda record: not record.executions[run.execution].open)
        await service.set_membership("n1", membership, "old")
        await cluster.node("n2")
        assert (await closed(service, job)).state is JobState.COMPLETED

        if away:
            await cluster.find(node)

        await node.until(lambda node: run.execution in node.cancelled)
        assert node.runs == [run]


async def test_manual_approval(tmp_path: Path) -> None:
    """Where nodes are approved by hand a job waits until one is."""
    async with a_cluster(tmp_path, settings=replace(QUICK, manual_approval=True)) as cluster:
        service = await cluster.requester()
        node = await cluster.node()
        job = await submit(service, a_job())
        record = await until(service, job, lambda record: record.queued is not None)
        await happens(lambda: service.facts()["nodes"] == 1)

        await service.set_membership("n1", "APPROVED", "")

        assert record.state is JobState.QUEUED
        assert (await closed(service, job)).state is JobState.COMPLETED
        assert len(node.runs) == 1


class Slow(MemoryBus):
    """A bus whose log takes entries that give work only once it is `opened`; `asked` is set by the first."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.asked = asyncio.Event()
        self.opened = asyncio.Event()

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        if any(b'"assigned"' in entry.data for entry in entries):
            self.asked.set()
            await self.opened.wait()
        return await super().append(entries)


async def test_a_node_that_is_rejected_while_it_is_given_work(tmp_path: Path) -> None:
    """Work that was on its way into the log when its node was rejected leaves the node at once."""
    seldom = replace(QUICK, sweep_s=3_600.0)
    async with a_cluster(tmp_path, settings=seldom) as cluster:
        bus = Slow(cluster.hub)
        service = await cluster.requester(bus=bus)
        node = await cluster.node("n1", script=hold)
        await happens(lambda: len(cluster.hub.cells) == 1)
        submission = asyncio.create_task(submit(service, a_job()))
        await bus.asked.wait()
        await service.set_membership("n1", "REJECTED", "old")
        bus.opened.set()

        job = await submission
        record = await until(service, job, lambda record: not record.open() and bool(record.executions))
        assert [each.state for each in record.executions.values()] == [S.CANCELLED]
        await node.until(lambda node: bool(node.cancelled))


async def test_a_node_that_is_back_before_its_silence_was_judged_again(tmp_path: Path) -> None:
    """Work that a node is given at the moment of its return is not given up again and again for the silence before."""
    async with a_cluster(tmp_path, settings=replace(QUICK, tick_s=3_600.0, sweep_s=3_600.0)) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1", script=hold)
        await happens(lambda: service.facts()["nodes"] == 1)
        service._orchestrator.gone = {node.id: 9.0}
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))
        service._orchestrator.gone = {}
        node.finish(node.runs[-1].execution)

        record = await closed(service, job)
        assert [each.state for each in record.executions.values()] == [S.COMPLETED]


async def test_a_port_that_is_let_go_concerns_only_who_waits_for_it(tmp_path: Path) -> None:
    """When another program of a node's machine lets a port go, the daemon that lacked it runs there, and no other is looked
    at."""
    async with a_cluster(tmp_path, settings=replace(QUICK, silence_s=30.0, sweep_s=3_600.0)) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1", script=hold)
        node.ports_taken = [8_080]
        fleet, decider = service._jobs.fleet, service._orchestrator._decider
        await happens(lambda: node.id in fleet.nodes and fleet.nodes[node.id].ports_taken == [8_080])
        other = await submit(service, a_job("other", type="daemon", count=0))
        await until(service, other, lambda record: record.state is JobState.RUNNING)
        plain = a_job("waits", type="daemon", count=0)
        task = replace(plain.task, network=Network("Host", ports=[Port("web", static=8_080)]))
        waits = await submit(service, replace(plain, tasks=[task]))
        await until(service, waits, lambda record: record.queued is not None)
        await happens(lambda: service._orchestrator.settled and not service._orchestrator._agenda)

        looked_at: list[JobKey] = []
        decide = decider.decide

        def noted(live: Live) -> None:
            looked_at.append(live.key)
            decide(live)

        decider.decide = noted  # type: ignore[method-assign]
        node.ports_taken = []
        await until(service, waits, lambda record: bool(record.open()))
        assert key_of(JobId(waits)) in looked_at
        assert key_of(JobId(other)) not in looked_at
