"""Nodes that a person takes out of service, that fail too often, or that fall silent for a while."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from protocol.errors import Denied, Failure, NotFound
from protocol.ids import NodeId
from protocol.jobs import Amounts, Constraint, Disconnect, Network, Port, Retry, Timeouts
from protocol.memory_bus import MemoryBus
from protocol.messages import decode
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.policy import Policy
from requester.notes import NodeCell
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

FORGETFUL = replace(QUICK, silence_s=0.3, away_s=0.6)
PATIENT = replace(QUICK, policy=Policy(backoff_s=0.02, backoff_max_s=0.1, join_grace_s=0.2, healthy_s=0.05))


class Forbidding(MemoryBus):
    """A bus whose server does not let cells be removed. `refused` is how often it was asked to."""

    refused = 0

    async def remove_cell(self, name: str, revision: int) -> None:
        self.refused += 1
        raise Denied("not yours")


class Slow(MemoryBus):
    """A bus on which a cell is written, and its writer hears so later: when `heard` is set."""

    heard: asyncio.Event | None = None

    async def put_cell(self, name: str, data: bytes, *, revision: int) -> int | None:
        saved = await super().put_cell(name, data, revision=revision)
        if self.heard is not None:
            await self.heard.wait()
        return saved


def kept(cluster: Cluster) -> dict[str, NodeCell]:
    """What is kept of nodes, by name."""
    return {name: decode(cell.data, NodeCell) for name, cell in cluster.hub.cells.items()}


async def test_who_hangs_up_has_said_it(tmp_path: Path) -> None:
    """A word about a node counts at once, also if who said it does not wait until it is written."""
    async with a_cluster(tmp_path, settings=replace(QUICK, cells_s=1.0)) as cluster:
        bus = Slow(cluster.hub)
        one = await cluster.requester("r1", bus=bus)
        two = await cluster.requester("r2")
        await cluster.node("n1")
        await happens(lambda: "n1" in kept(cluster) and "n1" in two._jobs.fleet.nodes)
        bus.heard = asyncio.Event()
        saying = asyncio.create_task(one.set_membership("n1", "REJECTED", ""))
        await happens(lambda: kept(cluster)["n1"].membership == "REJECTED")
        saying.cancel()
        bus.heard.set()
        with pytest.raises(asyncio.CancelledError):
            await saying

        assert (await one.node("n1")).membership == "REJECTED"
        await happens(lambda: two._jobs.fleet.nodes[NodeId("n1")].membership == "REJECTED")


async def test_cordon_and_drain(tmp_path: Path) -> None:
    """A cordoned node gets nothing new from any requester; drained, its service moves at once and its batch work at the
    deadline; uncordoned, it is as before."""
    async with a_cluster(tmp_path, settings=PATIENT) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        first = await cluster.node("n1", script=hold)
        service = await submit(one, a_job("s", type="service"))
        batch = await submit(one, a_job("b"))
        await first.until(lambda node: len(node.runs) == 2)

        await two.cordon("n1", reason="new disk")
        second = await cluster.node("n2", script=hold)
        waiting = await submit(two, a_job("w"))
        await second.until(lambda node: [run.job for run in node.runs] == [waiting])

        await one.cordon("n1", reason="new disk", drain_s=1.0)
        moved = await until(one, service, lambda record: record.open()[0].node == "n2")
        assert [each.node for each in moved.executions.values()] == ["n1", "n2"]
        await until(one, batch, lambda record: record.open()[0].node == "n2")
        assert (await one.node("n1")).drain_by is not None
        await first.until(lambda node: len(node.cancelled) >= 2)

        await one.uncordon("n1")
        await happens(lambda: len(two._jobs.fleet.kept_away) == 0)
        await submit(one, a_job("again", cpu="4"))
        await first.until(lambda node: len(node.runs) == 3)


async def test_two_processes_speak_as_one_node(tmp_path: Path) -> None:
    """Of two the one that was started last is the node: the other's beats and reports do not count, it is told so, and
    people are, once. When the last one is gone the other one is the node, though its start was earlier."""
    async with a_cluster(tmp_path, settings=FORGETFUL) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1", labels={"machine": "first"}, script=hold)
        await happens(lambda: "n1" in service._jobs.fleet.nodes)
        before = await submit(service, a_job())
        await first.until(lambda node: bool(node.runs))
        bus = MemoryBus(cluster.hub)
        second = PretendNode(bus, "n1", clock=cluster.hub.clock, labels={"machine": "second"})
        second.incarnation = 2
        with capture_logs() as logs:
            work = asyncio.create_task(second.work())
            await first.until(lambda node: node.replaced[:2] == [2, 2])
        assert [line["event"] for line in logs if "two processes" in line["event"]] == [
            "two processes speak as one node: only the one that was started last counts"
        ]
        node = await service.node("n1")
        assert (node.info.labels, node.incarnation) == ({"machine": "second"}, 2)
        assert node.doubled_since > 0

        # What the first one has was ordered again from the second; its own end of it is dropped.
        record = await closed(service, before)
        assert [each.incarnation for each in record.executions.values()] == [2]
        first.finish(first.runs[0].execution)
        await first.until(lambda node: "replaced" in node.verdicts[node.runs[0].execution])

        bus.cut()
        await happens(lambda: service._jobs.fleet.nodes[first.id].incarnation == 1)
        assert not (await service.node("n1")).doubled_since
        first.script = complete
        record = await closed(service, await submit(service, a_job("again")))
        assert [each.incarnation for each in record.executions.values()] == [1]
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_a_process_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    """A node of a version that counts its starts in seconds, counts no ports and knows no word of being replaced takes jobs
    that listen. Once a process of this version speaks as that node too, that does the work, and no end of the other counts.
    """
    async with a_cluster(tmp_path, settings=FORGETFUL) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1", script=hold)
        first.earlier = True
        first.incarnation = int(cluster.hub.clock.now())
        network = Network("Host", ports=[Port("web"), Port("named", static=8_080)])
        job = a_job()
        before = await submit(service, replace(job, tasks=[replace(job.task, network=network)]))
        await first.until(lambda node: bool(node.runs))
        second = PretendNode(MemoryBus(cluster.hub), "n1", clock=cluster.hub.clock)
        second.info = replace(second.info, capacity=second.info.capacity + Amounts(dynamic_ports=100))
        second.incarnation = first.incarnation * 1_000
        work = asyncio.create_task(second.work())

        record = await closed(service, before)
        assert record.state is JobState.COMPLETED
        assert [each.incarnation for each in record.executions.values()] == [second.incarnation]
        first.finish(first.runs[0].execution)
        await first.until(lambda node: "replaced" in node.verdicts[node.runs[0].execution])
        assert not first.replaced
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_the_older_of_two_processes_goes(tmp_path: Path) -> None:
    """Once the older process is silent, nobody is told any more that there are two."""
    async with a_cluster(tmp_path, settings=FORGETFUL) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1")
        second = PretendNode(MemoryBus(cluster.hub), "n1", clock=cluster.hub.clock)
        second.incarnation = 2
        work = asyncio.create_task(second.work())
        await happens(lambda: service._jobs.fleet.nodes[first.id].doubled_since > 0)

        await cluster.lose(first)
        await happens(lambda: not service._jobs.fleet.nodes[first.id].doubled_since)
        assert (await service.node("n1")).connected
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_a_removed_node_comes_back_as_a_new_one(tmp_path: Path) -> None:
    """What people said of a node goes when they remove it: who starts under its name then takes work like any other."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1")
        await happens(lambda: "n1" in service._jobs.fleet.nodes)
        await service.cordon("n1", reason="old disk")
        await service.set_membership("n1", "DELETED", "replaced")
        assert await service.nodes() == []

        node.incarnation += 1
        await closed(service, await submit(service, a_job()))


async def test_a_node_is_removed_by_who_never_heard_it(tmp_path: Path) -> None:
    """A node that is gone is removed for all requesters, whichever of them is told: also by one that started later and knows
    of it only from what is kept. It is let in again when it starts anew."""
    async with a_cluster(tmp_path) as cluster:
        cells = cluster.hub.cells
        one = await cluster.requester("r1")
        node = await cluster.node("n1")
        await happens(lambda: "n1" in cells)
        # Started again since it joined: its cell has to say so.
        node.incarnation += 1
        await happens(lambda: decode(cells["n1"].data, NodeCell).incarnation == node.incarnation)
        await cluster.lose(node)
        two = await cluster.requester("r2")
        await happens(lambda: two.facts()["nodes"] == 1)

        await two.set_membership("n1", "DELETED", "burnt down")
        await happens(lambda: one.facts()["nodes"] == two.facts()["nodes"] == 0)

        node.incarnation += 1
        await cluster.find(node)
        await happens(lambda: one.facts()["nodes"] == two.facts()["nodes"] == 1)


def everything_kept(service: Service) -> list[Mapping[Any, Any]]:
    """All that a requester keeps by node."""
    cells, fleet = service._duties._cells, service._jobs.fleet
    beats, repair = (tell.__self__ for tell in cells._left)  # type: ignore[attr-defined]
    return [
        *(fleet.nodes, fleet._hosts, fleet._holders, fleet._holding, fleet.kept_away),
        *(fleet.hearing._there, fleet.hearing._missed, fleet.hearing._away),
        *(fleet.troubled, cells.notes, beats._last, cells._to_save, repair._listed),
    ]


async def test_a_node_that_stays_away_leaves_everything(tmp_path: Path) -> None:
    """Names that are made up for each machine cost nothing for ever: after a while nothing is left of a node, at any
    requester or in what is kept, whether it was removed or just did not come back; also if a requester was restarted
    meanwhile. Who comes under such a name later is a new node.
    """
    settings = replace(FORGETFUL, forget_s=1.5)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        nodes = [await cluster.node(f"n{number}") for number in range(4)]
        for node in nodes:
            node.held = {"an input": 7}
        await happens(lambda: len(cluster.hub.cells) == len(nodes))
        await closed(one, await submit(one, a_job(count=8)))
        await two.set_membership("n0", "DELETED", "sold")
        for node in nodes:
            await cluster.lose(node)
        await happens(lambda: sum(cell.away_since > 0 for cell in kept(cluster).values()) == len(nodes))
        await cluster.kill("r1")
        one = await cluster.requester("r1")

        await happens(lambda: not cluster.hub.cells)
        await happens(lambda: not any(map(len, [*everything_kept(one), *everything_kept(two)])))

        await cluster.find(nodes[1])
        await happens(lambda: len(cluster.hub.cells) == 1)
        await closed(two, await submit(two, a_job("again")))


async def test_a_word_against_a_node_is_not_forgotten(tmp_path: Path) -> None:
    """A node that a person has rejected or cordoned is remembered however long it is away: it does not come back as if
    nothing had been said. Once the word is taken back it goes, but not at that moment.
    """
    settings = replace(FORGETFUL, forget_s=0.5)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester()
        nodes = [await cluster.node(f"n{number}") for number in range(3)]
        await happens(lambda: len(cluster.hub.cells) == 3)
        await service.set_membership("n0", "REJECTED", "not ours")
        await service.cordon("n1", reason="a bad disk")
        for node in nodes:
            await cluster.lose(node)
        await happens(lambda: {*cluster.hub.cells} == {"n0", "n1"})
        marks = {name: cell.away_since for name, cell in kept(cluster).items()}

        await service.uncordon("n1")
        after = await service.node("n1")
        assert after.away_since > marks["n1"] > 0
        await happens(lambda: {*cluster.hub.cells} == {"n0"})
        assert [node.info.id for node in await service.nodes()] == ["n0"]
        await cluster.find(nodes[0])
        await happens(lambda: service._jobs.fleet.nodes[nodes[0].id].connected)
        assert (await service.node("n0")).membership == "REJECTED"


async def test_a_node_is_told_why_it_gets_no_work(tmp_path: Path) -> None:
    """One that waits for approval, was rejected or removed hears why, what the person said and what to do; however often it
    beats, and again when something else is said.
    """
    async with a_cluster(tmp_path, settings=replace(QUICK, manual_approval=True)) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1")

        async def hears(reason: str) -> None:
            await node.until(lambda node: bool(node.kept_out) and node.kept_out[-1].reason == reason)

        await hears("no person has approved it yet")
        for message in ("not ours", "still not ours"):
            await service.set_membership("n1", "REJECTED", message)
            await hears(f"a person rejected it: {message}")
            assert "shoal node approve n1" in node.kept_out[-1].hint
            await service.set_membership("n1", "APPROVED", "")
            await closed(service, await submit(service, a_job()))
            node.kept_out.clear()
        await service.set_membership("n1", "DELETED", "sold")
        await hears("a person removed it: sold")
        node.incarnation += 1
        await hears("no person has approved it yet")


async def test_an_earlier_node_is_kept_out_without_a_word(tmp_path: Path) -> None:
    """To a node of a version that does not know that it can be kept out nothing is told, and nobody warns of that."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1")
        node.earlier = True
        await happens(lambda: service.facts()["nodes"] == 1)
        with capture_logs() as logs:
            sent = service._orchestrator.dispatch.sent
            await service.set_membership("n1", "REJECTED", "not ours")
            await happens(lambda: service._orchestrator.dispatch.sent >= sent + 2)
        assert not node.kept_out
        assert [line for line in logs if line["log_level"] == "warning"] == []


async def test_a_word_that_was_taken_back_does_not_return(tmp_path: Path) -> None:
    """A requester that was cut off while a node was uncordoned and then forgotten does not write the cordon that it
    remembers down again: not when the node is back as well, and not if it is the only one that is left.
    """
    settings = replace(FORGETFUL, forget_s=0.5)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node("n1")
        await happens(lambda: "n1" in cluster.hub.cells)
        await one.cordon("n1", reason="a bad disk")
        await happens(lambda: two._jobs.fleet.cordoned(node.id))
        cluster.buses["r2"].cut()
        await one.uncordon("n1")
        await cluster.lose(node)
        await happens(lambda: not cluster.hub.cells)
        await cluster.kill("r1")

        cluster.buses["r2"].mend()
        await cluster.find(node)
        await happens(lambda: "n1" in cluster.hub.cells)
        assert kept(cluster)["n1"].cordon is None
        await closed(two, await submit(two, a_job()))


async def test_words_outlive_the_cells(tmp_path: Path) -> None:
    """Cells that vanish under everybody's eyes were not forgotten: what people said against nodes is written down again."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        for name in ("n1", "n2"):
            await cluster.node(name)
        await happens(lambda: len(cluster.hub.cells) == 2)
        await service.set_membership("n1", "REJECTED", "not ours")
        await service.cordon("n2", reason="a bad disk")

        cluster.hub.cells.clear()
        await happens(lambda: len(cluster.hub.cells) == 2)
        assert kept(cluster)["n1"].membership == "REJECTED"
        assert kept(cluster)["n2"].cordon is not None


async def test_a_node_that_holds_work_is_not_forgotten(tmp_path: Path) -> None:
    """A job that bears a long silence finds its node again."""
    settings = replace(FORGETFUL, forget_s=0.3)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester()
        node, other = await cluster.node("n1", script=hold), await cluster.node("n2", engines=())
        job = await submit(service, a_job(disconnect=Disconnect(60)))
        await node.until(lambda node: bool(node.runs))
        await happens(lambda: len(cluster.hub.cells) == 2)
        for each in (node, other):
            await cluster.lose(each)
        await happens(
            lambda: {*cluster.hub.cells} == {"n1"} and not service._jobs.fleet.nodes[node.id].expected
        )

        await cluster.find(node)
        node.finish(node.runs[0].execution)
        record = await closed(service, job)
        assert [(each.node, each.state) for each in record.executions.values()] == [("n1", S.COMPLETED)]


async def test_a_cell_that_cannot_be_removed(tmp_path: Path) -> None:
    """Where servers do not allow it yet, that is said once in a while, and all else goes on."""
    settings = replace(FORGETFUL, forget_s=0.1)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        bus = Forbidding(cluster.hub)
        with capture_logs() as logs:
            service = await cluster.requester(bus=bus)
            node = await cluster.node("n1")
            await happens(lambda: len(cluster.hub.cells) == 1)
            await cluster.lose(node)
            await happens(lambda: bus.refused > 0)
            await cluster.node("n2")
            await closed(service, await submit(service, a_job()))
            await happens(lambda: len(cluster.hub.cells) == 2)
        assert [line["reason"] for line in logs if "forgotten" in line["event"]] == ["not yours"]


async def test_a_word_about_a_node_that_was_just_removed(tmp_path: Path) -> None:
    """Who speaks of a node that another requester was told to forget a moment ago is told that there is none: the word does
    not wait for whoever comes under its name.
    """
    async with a_cluster(tmp_path) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node("n1")
        await happens(lambda: all("n1" in each._jobs.fleet.nodes for each in (one, two)))
        await one.set_membership("n1", "DELETED", "gone")
        with pytest.raises(NotFound):
            await two.cordon("n1", reason="not heard of that")

        node.incarnation += 1
        for service in (one, two):
            await closed(service, await submit(service, a_job()))


async def test_a_failing_node_is_set_aside(tmp_path: Path) -> None:
    """A node where one job after the other fails gets no more of them, says why, and is let back by a person's word."""
    ill = Failure("Unavailable.Engine", "the engine is ill", retryable=True)
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node("n1", cores=1)
        bad = await cluster.node("n2", cores=8, script=lambda _: ill, labels={"name": "n2"})
        await happens(lambda: service.facts()["nodes"] == 2)
        often = Retry(attempts=50)
        jobs = [await submit(service, a_job(f"j{number}", retry=often)) for number in range(6)]
        await asyncio.gather(*(closed(service, job) for job in jobs))

        node = await service.node("n2")
        assert node.aside is not None
        assert node.aside.reason.endswith("the last one: the engine is ill")
        there = await submit(service, a_job("there", constraints=[Constraint("name", "=", ["n2"])]))
        record = await until(service, there, lambda record: record.queued is not None)
        assert record.queued is not None
        assert record.queued.details["n2"].startswith("is set aside for ")
        runs = len(bad.runs)
        await service.uncordon("n2")
        await bad.until(lambda node: len(node.runs) > runs)


async def test_a_job_that_bears_a_longer_silence(tmp_path: Path) -> None:
    """A job with LostAfter keeps its work on a node that is cut off for a while; another one's work goes elsewhere; when
    the node is back its late report of that is dropped and the execution ended."""
    settings = replace(QUICK, silence_s=0.5)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1", script=hold)
        patient = await submit(service, a_job("patient", disconnect=Disconnect(60)))
        other = await submit(service, a_job("other"))
        await first.until(lambda node: len(node.runs) == 2)
        second = await cluster.node("n2", script=hold)

        await cluster.lose(first)
        await second.until(lambda node: [run.job for run in node.runs] == [other])
        await cluster.find(first)
        lost = next(run.execution for run in first.runs if run.job == other)
        await first.until(lambda node: lost in node.cancelled)
        kept = next(run.execution for run in first.runs if run.job == patient)
        first.finish(kept)

        record = await closed(service, patient)
        assert [(each.node, each.state) for each in record.executions.values()] == [("n1", S.COMPLETED)]


async def test_a_job_that_bore_the_silence_to_its_end(tmp_path: Path) -> None:
    """When the time that a job bears is over, its work goes elsewhere without delay."""
    settings = replace(QUICK, silence_s=0.3, sweep_s=60.0)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1", script=hold)
        job = await submit(service, a_job(disconnect=Disconnect(1.0)))
        await first.until(lambda node: bool(node.runs))
        await cluster.node("n2")
        await cluster.lose(first)

        record = await closed(service, job)
        assert [(each.node, each.state) for each in record.executions.values()] == [
            ("n1", S.LOST),
            ("n2", S.COMPLETED),
        ]


async def test_a_rolling_update(tmp_path: Path) -> None:
    """A service is updated one partition after the other, on a full cluster, and in the end all run the new version."""
    async with a_cluster(tmp_path, settings=PATIENT) as cluster:
        service = await cluster.requester()
        node = await cluster.node("n1", cores=3, script=hold)
        job = await submit(service, a_job("s", type="service", count=3))
        await node.until(lambda node: len(node.runs) == 3)
        await until(
            service, job, lambda record: all(each.state is S.RUNNING for each in record.executions.values())
        )
        await submit(service, a_job("s", type="service", count=3, labels={"v": "2"}))

        record = await until(service, job, lambda record: [each.version for each in record.open()] == [2] * 3)
        assert record.state is JobState.RUNNING
        assert sorted(each.partition for each in record.open()) == [0, 1, 2]
        assert len(record.executions) == 6


async def test_a_changed_label_and_a_new_node_wake_those_who_wait(tmp_path: Path) -> None:
    """Jobs that wait for a label begin when a node gets it, and a daemon reaches a node that joins later, without delay."""
    settings = replace(QUICK, sweep_s=60.0)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1", script=hold)
        await submit(service, a_job("d", type="daemon", count=0))
        wanted = [Constraint("disk", "=", ["ssd"])]
        waits = await submit(service, a_job("w", constraints=wanted, timeouts=Timeouts(queue_timeout=60)))
        await until(service, waits, lambda record: record.state is JobState.QUEUED)
        first.info = replace(first.info, labels={"disk": "ssd"})
        await first.until(lambda node: {run.job_name for run in node.runs} == {"d", "w"})

        second = await cluster.node("n2", script=hold)
        await second.until(lambda node: [run.job_name for run in node.runs] == ["d"])


@pytest.mark.parametrize("other", [False, True])
async def test_what_is_over_is_not_kept_for_the_room_that_it_lacked(tmp_path: Path, other: bool) -> None:
    """A requester keeps nothing of a job that lacked room on a node once that is stopped and deleted, there or at another
    requester, though that node never has room again."""
    async with a_cluster(tmp_path, settings=replace(QUICK, sweep_s=60.0)) as cluster:
        service = await cluster.requester()
        stops = await cluster.requester("r2") if other else service
        full = await cluster.node("n1", cores=1, script=hold)
        await submit(service, a_job("busy"))
        await full.until(lambda node: bool(node.runs))
        await cluster.node("n2", cores=1, script=hold)
        for name in ("d1", "d2"):
            await submit(service, a_job(name, type="daemon", count=0))
        lacking = [each._orchestrator._backlog._full_for for each in (service, stops)]
        assert any(lacking)

        for name in ("d1", "d2"):
            await stops.stop(name, namespace="", reason="", client="test")
        await stops.delete("d1", namespace="", reason="", client="test")
        await happens(lambda: not any(lacking))


async def test_freed_room_goes_first_to_what_can_be_nowhere_else(tmp_path: Path) -> None:
    """A daemon that runs elsewhere gets the room that it lacked on a node as soon as that is free, before what may wait for
    any node."""
    settings = replace(QUICK, sweep_s=60.0)
    async with a_cluster(tmp_path, settings=settings) as cluster:
        service = await cluster.requester()
        first = await cluster.node("n1", cores=1, script=hold)
        await submit(service, a_job("busy"))
        await first.until(lambda node: bool(node.runs))
        second = await cluster.node("n2", cores=1, script=hold)
        await submit(service, a_job("d", type="daemon", count=0))
        await second.until(lambda node: bool(node.runs))
        waits = await submit(service, a_job("w"))
        await until(service, waits, lambda record: record.queued is not None)

        first.finish(first.runs[0].execution)
        await first.until(lambda node: [run.job_name for run in node.runs] == ["busy", "d"])


async def test_a_log_tells_of_nodes_that_come(tmp_path: Path) -> None:
    """A requester's log has a line for a node that comes or is started again, and none for its room, which changes with each
    file that anybody writes there."""
    with capture_logs() as logs:
        async with a_cluster(tmp_path) as cluster:
            service = await cluster.requester()
            node = await cluster.node("n1")
            await happens(lambda: service.facts()["nodes"] == 1)
            for disk in (1 << 39, 1 << 38):
                less = replace(node.info.capacity, disk_bytes=disk)
                node.info = replace(node.info, capacity=less)
                await happens(lambda less=less: service._jobs.fleet.nodes[node.id].info.capacity == less)  # type: ignore[misc]
            node.incarnation += 1
            await happens(lambda: service._jobs.fleet.nodes[node.id].incarnation == node.incarnation)

    assert [
        each["node"] for each in logs if (each["event"], each["log_level"]) == ("a node is here", "info")
    ] == [
        "n1",
        "n1",
    ]
