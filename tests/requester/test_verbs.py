"""What a requester can be asked beside running jobs: data, output, progress, nodes."""

import asyncio
import base64
from contextlib import aclosing, suppress
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol import subjects
from protocol.bus import Append
from protocol.entries import Entry, Submitted
from protocol.errors import NEVER_RAN, NO_SUITABLE_NODE, Conflict, Failure, Invalid, NotFound, Unavailable
from protocol.ids import JobKey, NodeId, job_id, job_key
from protocol.jobs import Input, Retry, Spec
from protocol.memory_bus import MemoryBus
from protocol.messages import Progress, Verdict, decode, encode
from protocol.questions import BlobAnswer, BlobRequest, LogChunk, LogsAnswer, LogsRequest
from protocol.spec.blobs import parse_blob_url
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.model import JobRecord
from requester.core.waiting import NO_ROOM
from requester.verbs import JobQuery, NextAttempt
from tests.requester.cluster import QUICK, a_cluster, a_job, closed, happens, hold, submit, until

AWAY = f"{NO_SUITABLE_NODE}.Away"


async def test_large_inline_data(tmp_path: Path) -> None:
    """Inline data too large for the log travels as a blob: the job names its digest, and nodes read it in pieces."""
    content = bytes(range(256)) * 2_000
    url = "data:;base64," + base64.b64encode(content).decode()
    job = a_job()
    task = replace(job.task, input_sources=[Input(Spec("inline", {"URL": url}), "/in")])
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        record = await service.job(await submit(service, replace(job, tasks=[task])))
        bus = MemoryBus(cluster.hub)
        blob = parse_blob_url(record.spec.task.input_sources[0].source.params["URL"])

        async def piece(digest: str, offset: int) -> BlobAnswer:
            wanted = encode(BlobRequest(digest, offset))
            return decode(await bus.request(subjects.BLOB_READ, wanted, timeout_s=5), BlobAnswer)

        read = b""
        while len(read) < blob.size_bytes:
            read += (await piece(blob.digest, len(read))).data
        missing = await piece(sha256(b"nothing").hexdigest(), 0)

        assert read == content
        assert missing.failure is not None
        assert missing.failure.code == "NotFound"


async def test_output(tmp_path: Path) -> None:
    """Output is read from the node that holds it, piece by piece; once that node is gone, from what its report told."""
    pieces = [b"one\n", b"two\n", b"three\n"]
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))

        async def answer() -> None:
            async with node.bus.subscribe(subjects.logs(node.id)) as messages:
                async for message in messages:
                    wanted = decode(message.data, LogsRequest)
                    chunks = [LogChunk(1, 1.0, piece) for piece in pieces[wanted.cursor : wanted.cursor + 1]]
                    end = wanted.cursor + 1
                    assert message.respond is not None
                    await message.respond(encode(LogsAnswer(end, chunks, ended=end == len(pieces))))
                    if end == len(pieces):
                        node.finish(wanted.execution)

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        read = [line.chunk.data async for line in service.logs(job, follow=True) if line.chunk is not None]
        answering.cancel()
        await closed(service, job)
        kept = [line.chunk.data async for line in service.logs(job) if line.chunk is not None]

        assert read == pieces
        assert kept == [b"hello\n"]


async def test_output_goes_on_with_the_next_attempt(tmp_path: Path) -> None:
    """Who follows a job whose program fails and is tried again reads what each attempt writes, is told between them why, and
    is let go behind the last one; who named an execution reads that one alone.
    """
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        crash = Failure("ProgramFailed", "program exited with code 3")
        node = await cluster.node(script=lambda run: crash if run.attempt == 1 else S.COMPLETED)
        job = await submit(service, a_job(retry=Retry(attempts=2, backoff=1, causes=["program"])))
        await node.until(lambda node: bool(node.runs))

        lines = [line async for line in service.logs(job, follow=True)]

        one, two = (run.execution for run in node.runs)
        again = [line.again for line in lines if line.again is not None]
        assert again == [NextAttempt(2, 1, node.id, crash)]
        assert [(line.execution, line.chunk.data) for line in lines if line.chunk is not None] == [
            (one, b"hello\n"),
            (two, b"hello\n"),
        ]
        assert [line.failure for line in lines if line.failure is not None] == []
        named = [line async for line in service.logs(job, follow=True, execution=one)]
        assert {line.execution for line in named} == {one}


async def test_output_before_it_runs(tmp_path: Path) -> None:
    """The output of a job that has no execution yet is not there, and says so."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        job = await submit(service, a_job())

        with pytest.raises(NotFound, match="has no execution yet"):
            _ = [line async for line in service.logs(job)]


async def test_output_of_what_never_ran(tmp_path: Path) -> None:
    """An execution that ended before its program began has no output, and it is told why."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node(script=lambda _: S.REFUSED)
        job = await submit(service, a_job())
        await closed(service, job)

        first, then = [line async for line in service.logs(job)]

        assert (first.executions, first.chunk, first.failure) == (1, None, None)
        assert then.failure is not None
        assert then.failure.code == NEVER_RAN
        assert then.failure.message.endswith("ended before its program began, it is refused")


async def test_why_a_job_waits_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks at a waiting job, lists it or watches it is told for what it waits now, though no entry says so."""
    monkeypatch.setattr("requester.service.REASON_EVERY_S", 0.05)
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold, cores=1)
        await submit(service, a_job())
        waiting = await submit(service, a_job())
        await until(service, waiting, lambda record: code(record) == NO_ROOM)
        async with aclosing(service.watch(waiting)) as updates:
            await anext(updates)
            await service.cordon(node.id, reason="a new disk")
            async for update in updates:
                if update.job is not None and code(update.job) == AWAY:
                    break

        record = await service.job(waiting)
        listed, _ = await service.jobs(JobQuery())

        assert code(record) == AWAY
        assert record.queued is not None
        assert "a new disk" in record.queued.details[node.id]
        assert [code(each) for each in listed if each.id == waiting] == [AWAY]
        assert record.entries == 1


def code(record: JobRecord) -> str:
    """Of why a job waits."""
    return record.queued.code if record.queued is not None else ""


async def test_progress(tmp_path: Path) -> None:
    """Who watches a job is told of progress between its changes, and only by the node that runs it."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        record = await until(service, job, lambda record: bool(record.executions))
        (execution,) = record.executions.values()

        def progress(done: int) -> bytes:
            return encode(
                Progress(
                    record.id, execution.id, node.id, S.STAGING, "input /in", done_bytes=done, total_bytes=9
                )
            )

        async with aclosing(service.watch(job)) as updates:
            await anext(updates)
            await node.bus.publish(subjects.progress(NodeId("n9")), progress(1))
            await node.bus.publish(subjects.progress(node.id), progress(5))
            async for update in updates:
                if update.progress is not None:
                    break

            assert update.progress is not None
            assert update.progress.done_bytes == 5


async def test_nodes_are_remembered(tmp_path: Path) -> None:
    """A requester that starts knows the nodes of before, though none of them is there."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester("r1")
        node = await cluster.node("n1", labels={"zone": "a"})
        await happens(lambda: "n1" in cluster.hub.cells)
        await cluster.lose(node)

        other = await cluster.requester("r2")
        await happens(lambda: other.facts()["nodes"] == 1)

        known = await other.node("n1")
        assert (known.connected, known.info.labels, known.membership) == (False, {"zone": "a"}, "APPROVED")
        assert (await service.node("n")).info == known.info


async def test_membership_reaches_all_requesters(tmp_path: Path) -> None:
    """A node that one requester rejects gets no work from any; a deleted one joins again when it starts anew."""
    async with a_cluster(tmp_path) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node("n1")
        await happens(lambda: one.facts()["nodes"] == two.facts()["nodes"] == 1)

        await one.set_membership("n1", "REJECTED", "old")
        while True:
            if (await two.node("n1")).membership == "REJECTED":
                break
            await asyncio.sleep(0.01)
        with pytest.raises(Conflict, match="already rejected"):
            await two.set_membership("n1", "REJECTED", "")
        await two.set_membership("n1", "DELETED", "")
        await happens(lambda: one.facts()["nodes"] == two.facts()["nodes"] == 0)
        node.incarnation += 1
        await happens(lambda: one.facts()["nodes"] == two.facts()["nodes"] == 1)

        assert (await one.node("n1")).membership == "APPROVED"
        with pytest.raises(Invalid):
            await one.set_membership("n1", "LOVED", "")


async def test_who_was_removed_with_a_fast_clock_keeps_nobody_out(tmp_path: Path) -> None:
    """A node is removed whose clock is an hour fast: a machine that is started in its place takes part at once, and the
    removed process does not, however long it goes on; nor for a requester that comes later."""
    async with a_cluster(tmp_path) as cluster:
        services = [await cluster.requester(name) for name in ("r1", "r2")]
        node = await cluster.node("n1")

        def known() -> set[int]:
            return {
                each.incarnation if (each := service._jobs.fleet.nodes.get(node.id)) is not None else 0
                for service in services
            }

        fast = int((cluster.hub.clock.now() + 3_600) * 1000)
        node.incarnation = fast
        await happens(lambda: known() == {fast})
        await services[0].set_membership("n1", "DELETED", "its clock is wrong")
        await happens(lambda: known() == {0})

        right = node.incarnation = int(cluster.hub.clock.now() * 1000) + 1
        await happens(lambda: known() == {right})
        await happens(lambda: b"APPROVED" in cluster.hub.cells["n1"].data)
        services.append(await cluster.requester("r3"))
        node.incarnation = fast
        for _ in range(5):
            await node.beat()
        node.incarnation, node.info = right, replace(node.info, labels={"heard": "yes"})
        await happens(
            lambda: all(service._jobs.fleet.nodes[node.id].info == node.info for service in services)
        )

        assert known() == {right}
        assert not node.replaced


async def test_words_about_nodes_travel_with_beats(tmp_path: Path) -> None:
    """What a person says of a node is known to other requesters at once, however seldom they read all cells; two words said
    to two requesters both hold for both, and a rejected node that beats is connected all the time."""
    async with a_cluster(tmp_path, settings=replace(QUICK, cells_s=3_600.0, beat_s=3_600.0)) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        await cluster.node("n1")
        await happens(lambda: one.facts()["nodes"] == two.facts()["nodes"] == 1)

        await one.cordon("n1", reason="disk")
        after = await two.set_membership("n1", "REJECTED", "old")

        assert (after.connected, after.cordon is not None) == (True, True)
        for service in (one, two):
            node = service._jobs.fleet.nodes
            await happens(
                lambda node=node: (
                    (node[NodeId("n1")].membership, bool(node[NodeId("n1")].cordon))  # type: ignore[misc]
                    == ("REJECTED", True)
                )
            )


async def test_names_with_one_hash(tmp_path: Path) -> None:
    """Two names with the same hash: the second is refused, with both names, and harms nothing."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        key = job_key("default", "second")
        first = Entry(job_id(key, 1), "op", "r0", 1.0, [Submitted(a_job("first"), 1)])
        cluster.hub.append(Append(key, 0, "op", encode(first)))
        cluster.hub.tell_readers()
        await happens(lambda: service.facts()["folded"] >= 1)

        with pytest.raises(Conflict, match="'second' has the same hash as 'first'"):
            await submit(service, a_job("second"))


async def test_unreadable_entries(tmp_path: Path) -> None:
    """An entry that cannot be read, names another job than its subject, or says nothing is passed over; the rest goes on."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node()
        foreign = encode(Entry(job_id(JobKey("0" * 15), 1), "op", "r0", 1.0, []))
        silent = encode(Entry(job_id(job_key("default", "name-2"), 1), "op", "r0", 1.0, []))
        for number, data in enumerate((b"{", foreign, silent)):
            key = job_key("default", f"name-{number}")
            cluster.hub.append(Append(key, 0, f"op-{number}", data))
        cluster.hub.tell_readers()

        jobs = [await submit(service, a_job(f"name-{number}")) for number in range(3)]

        assert {(await closed(service, job)).state for job in jobs} == {JobState.COMPLETED}


async def test_a_job_too_large_for_the_log(tmp_path: Path) -> None:
    """A job whose entry would be too large is refused with its size, and leaves nothing behind."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()

        with pytest.raises(Invalid, match="the log takes at most"):
            await submit(service, a_job("large", meta={"text": "x" * 600_000}))

        assert not cluster.hub.entries
        with pytest.raises(NotFound):
            await service.job("large")


async def test_unreadable_reports(tmp_path: Path) -> None:
    """A report that cannot be read is not lost (it may come again); one under another node's name is dropped."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))
        (run,) = node.runs

        async def answer(subject: str, data: bytes) -> Verdict:
            return decode(await node.bus.request(subject, data, timeout_s=5), Verdict)

        async def verdict(subject: str, data: bytes) -> str:
            return (await answer(subject, data)).verdict

        forged = encode({"node": "n1", "incarnation": 1, "seq": 1, "job": run.job, "version": 1})
        whole = encode(
            {
                "node": node.id,
                "incarnation": 1,
                "seq": run.seq,
                "job": run.job,
                "version": 1,
                "execution": run.execution,
                "state": "completed",
            }
        )

        assert await verdict(subjects.reports(node.id, run.job), b"{") == "later"
        assert await verdict(subjects.reports(node.id, run.job), forged) == "later"
        assert await verdict(subjects.reports(NodeId("n2"), run.job), whole) == "drop"
        assert (await service.job(job)).state is JobState.RUNNING

        many = subjects.many_reports(node.id)
        other = whole.replace(b'"node":"n1"', b'"node":"n2"')
        strange = whole.replace(run.execution.encode(), b"e-none")
        assert await verdict(many, b'{"reports":[%b,%b]}' % (whole, forged)) == "later"
        together = await answer(many, b'{"reports":[%b,%b,%b,%b]}' % (other, strange, whole, whole))
        assert [each.verdict for each in together.each] == ["drop", "drop", "stored", "stored"]
        assert (await service.job(job)).state is JobState.COMPLETED


async def test_a_full_queue_of_commits(tmp_path: Path) -> None:
    """When more wait for the log than it may hold, new jobs are refused and none is half taken."""
    async with a_cluster(tmp_path, settings=replace(QUICK, commits_max=3, submit_timeout_s=0.3)) as cluster:
        service = await cluster.requester()
        await cluster.node()
        cluster.buses["r1"].cut()
        tries = await asyncio.gather(*(submit(service, a_job()) for _ in range(12)), return_exceptions=True)
        cluster.buses["r1"].mend()

        kinds = [type(each).__name__ for each in tries]
        assert kinds.count("Exhausted") >= 8
        assert set(kinds) == {"Exhausted", "Unavailable"}
        # So short a limit may pass once more before a log that was away answers.
        job = ""
        while not job:
            with suppress(Unavailable):
                job = await submit(service, a_job())
        assert (await closed(service, job)).state is JobState.COMPLETED
