"""The same requester on a real NATS server: what the twin of the bus promises has to hold there."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from deploy.servers import NatsServer
from protocol.errors import Exhausted
from protocol.ids import RequesterId
from protocol.jobs import Retry
from protocol.nats_bus import StreamSettings, connect
from protocol.states import JobState
from requester.serve import running
from tests.requester.cluster import WITHIN_S, a_job, closed, happens, hold, submit, until
from tests.requester.on_servers import PATIENT, a_node, a_requester
from tests.requester.test_compaction import Restarting, a_service, came_to_rest

LOG_BYTES = 400_000


async def test_jobs_on_a_real_server(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Two hundred jobs taken by two requesters all complete, each run once, and both requesters say so."""
    async with (
        a_requester([own_nats_server], tmp_path, "r1") as one,
        a_requester([own_nats_server], tmp_path, "r2") as two,
        a_node([own_nats_server], "n1") as first,
        a_node([own_nats_server], "n2") as second,
    ):
        takers = [one, two] * 100
        jobs = await asyncio.gather(*(submit(taker, a_job()) for taker in takers))
        for service in (one, two):
            records = await asyncio.gather(*(closed(service, job) for job in jobs))
            assert {record.state for record in records} == {JobState.COMPLETED}

        assert len(first.runs) + len(second.runs) == 200


async def test_the_server_is_killed(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Killing the NATS server in the middle loses no job: what was answered is there, and everything goes on after."""
    async with (
        a_requester([own_nats_server], tmp_path, "r1") as service,
        a_node([own_nats_server], "n1") as node,
    ):
        node.script = hold
        before = [await submit(service, a_job()) for _ in range(20)]
        await node.until(lambda node: len(node.runs) == 20)

        await own_nats_server.kill()
        after = [asyncio.create_task(submit(service, a_job())) for _ in range(5)]
        for run in node.runs:
            node.finish(run.execution)
        await own_nats_server.restart()
        jobs = before + [await task for task in after]
        await node.until(lambda node: len(node.runs) == 25)
        for run in node.runs[20:]:
            node.finish(run.execution)

        records = [await closed(service, job) for job in jobs]
        assert {record.state for record in records} == {JobState.COMPLETED}
        assert all(len(record.executions) == 1 for record in records)


async def test_a_full_log_takes_no_new_jobs_and_closes_old_ones(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """Where the server gives the log little room, submissions are refused from 80 % on; every job that was taken still comes
    to its end; and what leaves the log after its keep time makes room for new ones."""
    small = StreamSettings(log_bytes=LOG_BYTES)
    bus = await connect(
        own_nats_server.url,
        name="r1",
        role="requester",
        credentials=own_nats_server.requester("r1"),
        streams=small,
    )
    settings = replace(PATIENT, id=RequesterId("r1"), data_dir=tmp_path / "r1", keep_s=2.0, retention_s=0.1)
    try:
        async with running(bus, settings) as service, a_node([own_nats_server], "n1") as node:
            node.script = hold
            large = a_job(meta={"padding": "x" * 10_000}, cpu="0.1")
            jobs: list[str] = []

            async def fill() -> None:
                while len(jobs) < 40:
                    jobs.append(await submit(service, large))
                    share = (await bus.log_state()).size_bytes / LOG_BYTES
                    # What a requester knows of the log is a little old; it has to know before the log is full.
                    if share > 0.7:
                        await happens(lambda: service.facts()["log_share"] >= share)  # noqa: B023  called at once

            with pytest.raises(Exhausted, match="takes no new jobs") as refused:
                await fill()
            assert "nats stream edit JOBS --max-bytes" in refused.value.hint

            await node.until(lambda node: len(node.runs) == len(jobs))
            for run in node.runs:
                node.finish(run.execution)
            for job in jobs:
                assert (await closed(service, job)).state is JobState.COMPLETED
            node.states.clear()

            async with asyncio.timeout(WITHIN_S):
                while (await bus.log_state()).size_bytes > LOG_BYTES / 4:  # noqa: ASYNC110  no event tells
                    await asyncio.sleep(0.05)
            assert (await service.job(jobs[0])).closed
    finally:
        await bus.close()


async def test_a_job_in_a_loop_ends_before_the_log_takes_no_more_of_it(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """The server's log takes only so many entries of one job: a service that ends again and again fails before that, nothing
    of it goes on, and it can be deleted and submitted again under its name."""
    bus = await connect(
        own_nats_server.url,
        name="r1",
        role="requester",
        credentials=own_nats_server.requester("r1"),
        streams=StreamSettings(entries_max=100),
    )
    settings = replace(PATIENT, id=RequesterId("r1"), data_dir=tmp_path / "r1", retention_s=0.1)
    loop = a_job("loop", type="service", retry=Retry(backoff=0.001, backoff_max=0.001))
    try:
        async with running(bus, settings) as service, a_node([own_nats_server], "n1") as node:
            job = await submit(service, loop)
            record = await closed(service, job)

            assert (record.state, record.failure and record.failure.code) == (
                JobState.FAILED,
                "Exhausted.Entries",
            )
            assert service.entries_left(record) is None
            await happens(lambda: not node.states)
            await service.delete(job, namespace="", reason="", client="test")
            again = await submit(service, a_job("loop"))
            assert (await closed(service, again)).state is JobState.COMPLETED
    finally:
        await bus.close()


async def test_a_service_lives_beyond_what_the_log_takes(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """On a stream that takes 80 entries of one subject a service is started 100 times, and a requester that comes later
    knows it as it is."""
    often = replace(PATIENT, snapshot_after=20, snapshot_attempts=2, snapshot_s=0.05, cells_s=0.1)
    bus = await connect(
        own_nats_server.url,
        name="r1",
        role="requester",
        credentials=own_nats_server.requester("r1"),
        streams=StreamSettings(entries_max=80),
    )
    try:
        settings = replace(often, id=RequesterId("r1"), data_dir=tmp_path / "r1")
        async with running(bus, settings) as service, a_node([own_nats_server], "n1") as node:
            node.script = Restarting(100)
            job = await submit(service, a_service())
            record = await came_to_rest(service, job)
            assert [each.attempt for each in record.open()] == [101]

            async with a_requester([own_nats_server], tmp_path, "r2") as other:
                known = await until(other, job, lambda known: known.revision >= record.revision)
                assert known.executions == (await service.job(job)).executions
    finally:
        await bus.close()
