"""What becomes of a submission that finds no room, while work ends all the time and while it does not."""

import asyncio
from pathlib import Path

import pytest

from protocol.bus import Append
from protocol.clock import ManualClock
from protocol.entries import Closed, Entry, Event, Submitted
from protocol.errors import Conflict
from protocol.ids import job_id, job_key
from protocol.memory_bus import MemoryBus
from protocol.messages import encode
from protocol.states import JobState
from requester.core.blocked import HELD_S
from requester.core.history import QUEUEING
from requester.service import Service
from requester.verbs import HistoryQuery, JobQuery
from tests.requester.cluster import (
    QUICK,
    WITHIN_S,
    Cluster,
    PretendNode,
    a_cluster,
    a_job,
    happens,
    hold,
    submit,
)

Submitting = asyncio.Task[str]


async def test_room_that_comes_at_once_saves_a_new_job_an_entry(tmp_path: Path) -> None:
    """A submission that finds no room is answered when there is some a moment later: it never waited, and has one entry."""
    clock = ManualClock()
    async with a_cluster(tmp_path, clock=clock) as cluster:
        service, node = await _full(cluster, clock)
        second = await _held_back(service, "second")

        node.finish(node.runs[0].execution)

        job = await _answered(second)
        record = await service.job(job)
        assert (record.entries, record.queued) == (1, None)
        told = await service.history("second", HistoryQuery())
        assert QUEUEING not in [item.topic for item in told.items]


async def test_a_new_job_is_not_held_back_for_long(tmp_path: Path) -> None:
    """Without room a moment later it is taken all the same, and waits; those that come after it are taken at once."""
    clock = ManualClock()
    async with a_cluster(tmp_path, clock=clock) as cluster:
        service, node = await _full(cluster, clock)
        second, third = await _held_back(service, "second"), await _held_back(service, "third")

        await clock.advance(HELD_S + QUICK.tick_s)

        for job in (await _answered(second), await _answered(third), await submit(service, a_job("fourth"))):
            assert (await service.job(job)).queued is not None
        node.finish(node.runs[0].execution)
        async with asyncio.timeout(WITHIN_S):
            await node.until(lambda node: len(node.runs) == 3)


async def test_new_jobs_that_are_held_back_have_their_turns_in_order(tmp_path: Path) -> None:
    """Room goes to the one that came first; one that needs more than there is holds up no other."""
    clock = ManualClock()
    async with a_cluster(tmp_path, clock=clock) as cluster:
        service, node = await _full(cluster, clock)
        large = await _held_back(service, "large", cpu="2")
        second, third = await _held_back(service, "second"), await _held_back(service, "third")

        node.finish(node.runs[0].execution)

        await _answered(second)
        assert not large.done()
        assert not third.done()


async def test_who_gives_up_leaves_its_turn_to_the_next(tmp_path: Path) -> None:
    """A caller that goes away while its job is held back has submitted nothing."""
    clock = ManualClock()
    async with a_cluster(tmp_path, clock=clock) as cluster:
        service, node = await _full(cluster, clock)
        second, third = await _held_back(service, "second"), await _held_back(service, "third")

        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        node.finish(node.runs[0].execution)

        assert await _answered(third)
        found, _ = await service.jobs(JobQuery(namespace="default"))
        assert {record.spec.name for record in found} == {"first", "other", "third"}


async def test_a_submission_is_answered_that_another_requester_took_meanwhile(tmp_path: Path) -> None:
    """While a submission is held back the same job is submitted elsewhere, and is over at once: the first caller is told
    what there is, and does not wait for ever."""
    clock = ManualClock()
    async with a_cluster(tmp_path, clock=clock) as cluster:
        service, _ = await _full(cluster, clock)
        second = await _held_back(service, "second")
        key = job_key("default", "second")
        events: list[Event] = [Submitted(a_job("second"), 1), Closed(JobState.FAILED)]
        entry = Entry(job_id(key, 7), "op-7", "r2", clock.now(), events)
        await MemoryBus(cluster.hub).append([Append(key, 0, entry.op, encode(entry))])
        await service._follower.reached(cluster.hub.newest())

        await clock.advance(HELD_S + QUICK.tick_s)

        with pytest.raises(Conflict):
            await _answered(second)


async def _full(cluster: Cluster, clock: ManualClock) -> tuple[Service, PretendNode]:
    """A requester that has heard of all nodes, and the only one: it has two cores, and two jobs that go on."""
    service = await cluster.requester()
    node = await cluster.node(cores=2, script=hold)
    await happens(lambda: service.facts()["nodes"] == 1 and service.facts()["acting"])
    await clock.advance(QUICK.policy.join_grace_s + 5 * QUICK.tick_s)
    async with asyncio.timeout(WITHIN_S):
        await submit(service, a_job("first"))
        await submit(service, a_job("other"))
        await node.until(lambda node: len(node.runs) == 2)
    return service, node


async def _held_back(service: Service, name: str, cpu: str = "1") -> Submitting:
    """A submission that is not answered, though it was looked at."""
    task = asyncio.create_task(submit(service, a_job(name, cpu=cpu)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def _answered(task: Submitting) -> str:
    async with asyncio.timeout(WITHIN_S):
        return await task
