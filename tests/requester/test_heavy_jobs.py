"""Jobs with large specs: what a requester holds of them in memory has a bound in bytes, not in jobs alone."""

import asyncio
from pathlib import Path

from msgspec.structs import replace

from protocol.entries import Entry, Submitted
from protocol.ids import job_id, job_key
from protocol.messages import encode
from protocol.states import JobState
from requester.recorder import Recorder
from requester.verbs import JobQuery
from tests.requester.cluster import QUICK, a_cluster, a_job, closed, complete, happens, hold, submit

SPEC_BYTES = 20_000
JOBS = 30
KEPT = 4
HEAVY = replace(QUICK, keep_bytes=(KEPT + 1) * SPEC_BYTES)


async def test_heavy_jobs_leave_memory_early(tmp_path: Path) -> None:
    """Of jobs with large specs no more are in memory than there is room for, while they wait and when they have ended; all
    of them get their turn, and are described whole, on each requester."""
    labels = {"text": "x" * SPEC_BYTES}
    async with a_cluster(tmp_path, settings=HEAVY) as cluster:
        service, other = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node("n1", cores=1, script=hold)
        await submit(service, a_job("first"))
        await node.until(lambda node: len(node.runs) == 1)
        for number in range(JOBS):
            await submit(service, a_job(f"job-{number:02}", labels=labels))
        for each in (service, other):
            await happens(lambda each=each: each._jobs.away >= JOBS - KEPT)  # type: ignore[misc]

        node.script = complete
        node.finish(node.runs[0].execution)
        for number in range(JOBS):
            await closed(service, f"job-{number:02}")
        for each in (service, other):
            await happens(lambda each=each: 0 < len(each._jobs.closed) <= KEPT)  # type: ignore[misc]
            listed, _ = await each.jobs(JobQuery(limit=100))
            assert {record.state for record in listed} == {JobState.COMPLETED}
            assert (await each.job("job-00")).spec.labels == labels


async def test_heavy_entries_wait_for_their_turn(tmp_path: Path) -> None:
    """The log's reader goes on only when what it brought is on its way to the disk, however few entries that is."""
    recorder = Recorder(tmp_path / "model.sqlite", pause_s=60.0, group_max=1_000, group_max_bytes=SPEC_BYTES)
    await recorder.open()
    await recorder.begin("log")
    key = job_key("default", "job")
    job = a_job("job", labels={"text": "x" * SPEC_BYTES})
    recorder.note(None, 1, key, encode(Entry(job_id(key, 1), "op", "r1", 1.0, [Submitted(job, 1)])))
    reader = asyncio.create_task(recorder.room())
    await asyncio.sleep(0)
    assert not reader.done()

    await recorder.settle()

    await reader
    await recorder.close()
