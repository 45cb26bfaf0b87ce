"""Several requesters on one log, and one that comes back."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol import subjects
from protocol.bus import Append, Outcome, Record
from protocol.errors import Broken, Exhausted, NotFound, Unavailable
from protocol.ids import JobId, job_key, key_of
from protocol.memory_bus import MemoryBus, MemoryHub, Mischief
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.model import JobRecord
from requester.service import Service
from requester.verbs import HistoryQuery, JobQuery
from tests.requester.cluster import (
    QUICK,
    WITHIN_S,
    a_cluster,
    a_job,
    closed,
    complete,
    happens,
    hold,
    submit,
    until,
)


class HalfRead(MemoryBus):
    """A bus on which the log is once taken for another one, and then given out up to an entry and no further for a while."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.upto = 0
        self.go_on = asyncio.Event()

    async def read(self, after: int) -> AsyncGenerator[list[Record], None]:
        begun = self.upto
        async for batch in super().read(after):
            if self.upto and not begun:
                raise Broken("the log is taken for another one")
            if begun and not self.go_on.is_set():
                yield [record for record in batch if record.seq <= self.upto]
                await self.go_on.wait()
                batch = [record for record in batch if record.seq > self.upto]
            yield batch


class Doubting(MemoryBus):
    """A bus on which the log is once taken for another one, while the answer to an append is still on its way."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.doubt = False
        self.read_anew = 0
        """The sequence up to which the log was given out again."""
        self._again = False
        self._answered = asyncio.Event()
        self._answered.set()

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        if self.doubt:
            self._answered.clear()
        outcomes = await super().append(entries)
        await self._answered.wait()
        return outcomes

    async def read(self, after: int) -> AsyncGenerator[list[Record], None]:
        if self._again:
            self._answered.set()
            # Whoever waited for the answer has it before anything is read again.
            for _ in range(10):
                await asyncio.sleep(0)
        async for batch in super().read(after):
            if self.doubt:
                self.doubt, self._again = False, True
                raise Broken("the log is taken for another one")
            if self._again:
                self.read_anew = batch[-1].seq
            yield batch


async def known(service: Service, job: str) -> None:
    """Wait until a requester has heard of a job."""
    await service.job(job)


@pytest.mark.parametrize("count", [2, 3])
async def test_any_takes_submissions(tmp_path: Path, count: int) -> None:
    """Whichever requester is asked takes the job, and every one of them answers for it."""
    async with a_cluster(tmp_path) as cluster:
        services = [await cluster.requester(f"r{number}") for number in range(count)]
        nodes = [await cluster.node(f"n{number}") for number in range(2)]

        jobs = await asyncio.gather(
            *(submit(services[number % count], a_job(f"job-{number}")) for number in range(100))
        )
        for service in services:
            records = await asyncio.gather(*(closed(service, job) for job in jobs))
            assert {record.state for record in records} == {JobState.COMPLETED}

        assert sum(len(node.runs) for node in nodes) == 100


async def test_takeover(tmp_path: Path) -> None:
    """When a requester is killed its jobs go on: queued ones are placed, lost ones run again, all by the others."""
    async with a_cluster(tmp_path) as cluster:
        doomed = await cluster.requester("r1")
        other = await cluster.requester("r2")
        node = await cluster.node(cores=2, script=hold)
        jobs = [await submit(doomed, a_job()) for _ in range(12)]
        await node.until(lambda node: len(node.runs) == 2)

        await cluster.kill("r1")
        for number in range(12):
            await node.until(lambda node, number=number: len(node.runs) > number)  # type: ignore[misc]
            node.finish(node.runs[number].execution)

        records = [await closed(other, job) for job in jobs]
        assert {record.state for record in records} == {JobState.COMPLETED}
        assert len(node.runs) == 12


async def test_both_at_once(tmp_path: Path) -> None:
    """Two requesters that each think themselves first cost refused appends, never a second attempt."""
    # The second never hears the first, so it takes all jobs for its own; and the jobs wait for nodes that come late.
    alone = replace(QUICK, beat_s=1_000.0, policy=replace(QUICK.policy, join_grace_s=30.0))
    async with a_cluster(tmp_path, settings=alone) as cluster:
        services = [await cluster.requester(name) for name in ("r1", "r2")]
        jobs = [await submit(services[0], a_job()) for _ in range(20)]
        for job in jobs:
            await known(services[1], job)

        nodes = [await cluster.node(f"n{number}", cores=20) for number in range(2)]
        records = [await closed(services[1], job) for job in jobs]

        assert sum(service.facts()["stale"] for service in services) > 0
        assert {len(record.executions) for record in records} == {1}
        assert sum(len(node.runs) for node in nodes) == 20
        assert all(record.state is JobState.COMPLETED for record in records)


async def test_one_name_at_two_requesters(tmp_path: Path) -> None:
    """One name submitted to two requesters at the same moment becomes two versions of one job."""
    async with a_cluster(tmp_path) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        await cluster.node()

        both = await asyncio.gather(
            one.submit(a_job("named"), warnings=[], client="a"),
            two.submit(a_job("named", cpu="2"), warnings=[], client="b"),
        )

        assert len({each.job for each in both}) == 1
        assert sorted(each.version for each in both) == [1, 2]
        assert (await closed(one, "named")).version == 2


async def test_restart(tmp_path: Path) -> None:
    """A requester that was killed comes back with its read model, interrupts nothing, and finishes what it began."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(cores=1, script=hold)
        jobs = [await submit(service, a_job()) for _ in range(3)]
        await node.until(lambda node: len(node.runs) == 1)
        await cluster.kill("r1")
        node.finish(node.runs[0].execution)

        service = await cluster.requester()
        for number in (1, 2):
            await node.until(lambda node, number=number: len(node.runs) == number + 1)  # type: ignore[misc]
            node.finish(node.runs[number].execution)
        records = [await closed(service, job) for job in jobs]

        assert {record.state for record in records} == {JobState.COMPLETED}
        assert {each.state for record in records for each in record.executions.values()} == {S.COMPLETED}
        assert not node.cancelled


@pytest.mark.parametrize("deleted", [False, True], ids=["kept", "deleted"])
async def test_the_read_model_is_derived(tmp_path: Path, deleted: bool) -> None:
    """Jobs, executions and history are the same after a restart, with the read model kept or deleted."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node(cores=3)
        done = [await submit(service, a_job(f"done-{number}")) for number in range(5)]
        for job in done:
            await closed(service, job)
        waiting = await submit(service, a_job("waiting", count=5, timeouts=a_job().task.timeouts))
        await closed(service, waiting)
        await service.submit(a_job("done-1", cpu="2"), warnings=[], client="test")
        await closed(service, "done-1")
        names = [*(f"done-{number}" for number in range(5)), "waiting"]

        async def all_of(service: Service) -> list[object]:
            return [
                [await service.job(name) for name in names],
                [await service.executions(name, all_versions=True) for name in names],
                [await service.history(name, HistoryQuery(all_versions=True)) for name in names],
                await service.jobs(JobQuery()),
            ]

        before = await all_of(service)
        await cluster.kill("r1")
        if deleted:
            for file in (tmp_path / "r1").iterdir():
                file.unlink()
        after = await all_of(await cluster.requester())

        assert before == after


async def test_an_old_job_goes_on(tmp_path: Path) -> None:
    """A closed job that has left memory gets its next version, with all that came before."""
    async with a_cluster(tmp_path, settings=replace(QUICK, keep_closed=0)) as cluster:
        one = await cluster.requester("r1")
        two = await cluster.requester("r2")
        await cluster.node()
        for number in range(3):
            await closed(one, await submit(one, a_job(f"job-{number}")))
        for service in (one, two):
            await service.jobs(JobQuery())

        await two.submit(a_job("job-0", cpu="2"), warnings=[], client="test")
        records = [await closed(service, "job-0") for service in (one, two)]

        assert records[0] == records[1]
        assert [each.version for each in records[0].executions.values()] == [1, 2]


async def test_a_job_can_be_stopped_where_nobody_has_heard_of_it_yet(tmp_path: Path) -> None:
    """A requester that was cut off while a job was submitted elsewhere stops it as soon as it is back."""
    async with a_cluster(tmp_path) as cluster:
        one, two = [await cluster.requester(name) for name in ("r1", "r2")]
        await cluster.node(script=hold)
        bus = cluster.buses["r2"]
        bus.cut()
        job = await submit(one, a_job())
        bus.mend()

        record = await two.stop(job, namespace="", reason="enough", client="test")

        assert (record.id, record.state) == (job, JobState.STOPPED)


async def test_a_watch_that_comes_just_as_its_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches a job is told how it ended, also if it ended and left memory while the watch looked for it."""
    async with a_cluster(tmp_path, settings=replace(QUICK, keep_closed=1)) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        found = [await until(service, job, lambda record: bool(record.executions))]
        look = service._lookup.job

        async def looked(ref: str, namespace: str, version: int = 0) -> JobRecord:
            return found.pop() if found else await look(ref, namespace, version)

        await node.until(lambda node: bool(node.runs))
        node.finish(node.runs[0].execution)
        await closed(service, job)
        node.script = complete
        while key_of(JobId(job)) in service._jobs.closed:
            await closed(service, await submit(service, a_job()))
            await service.jobs(JobQuery())
        monkeypatch.setattr(service._lookup, "job", looked)

        assert [update.job.closed async for update in service.watch(job) if update.job] == [True]


async def test_lost_answers(tmp_path: Path) -> None:
    """Appends whose answers are lost neither lose a job nor run one twice."""
    async with a_cluster(tmp_path, seed=3) as cluster:
        service = await cluster.requester()
        node = await cluster.node()
        cluster.hub.mischief = Mischief(lose_answer=0.3)

        jobs = await asyncio.gather(*(submit(service, a_job()) for _ in range(50)))
        records = await asyncio.gather(*(closed(service, job) for job in jobs))

        assert {record.state for record in records} == {JobState.COMPLETED}
        assert len(node.runs) == 50


@pytest.mark.parametrize("seed", range(5))
async def test_a_bad_network(tmp_path: Path, seed: int) -> None:
    """With messages lost, repeated and late, and answers of the log lost, every job still closes, and each once."""
    async with a_cluster(tmp_path, seed=seed, settings=replace(QUICK, silence_s=3.0)) as cluster:
        services = [await cluster.requester(name) for name in ("r1", "r2")]
        for number in range(3):
            await cluster.node(f"n{number}")
        cluster.hub.mischief = Mischief(drop=0.1, repeat=0.1, delay=0.2, delay_s=0.05, lose_answer=0.1)

        jobs = await asyncio.gather(
            *(submit(services[number % 2], a_job(count=1 + number % 3)) for number in range(30))
        )
        records = [await closed(services[0], job) for job in jobs]

        assert {record.state for record in records} == {JobState.COMPLETED}
        for record in records:
            completed = [each.partition for each in record.executions.values() if each.state is S.COMPLETED]
            assert sorted(completed) == list(range(record.spec.count))


async def test_log_unreachable(tmp_path: Path) -> None:
    """While a requester is cut off it declares nobody lost; when the bus is back the work counts that went on."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))

        cluster.buses["r1"].cut()
        await asyncio.sleep(
            2 * QUICK.silence_s
        )  # Longer than a node may be silent, which is what is promised.
        cluster.buses["r1"].mend()
        node.finish(node.runs[0].execution)
        record = await closed(service, job)

        assert [each.state for each in record.executions.values()] == [S.COMPLETED]


async def test_what_is_not_known_is_not_called_unknown(tmp_path: Path) -> None:
    """While the log cannot be read a job that is not known here may have been taken elsewhere: that is what is told."""
    async with a_cluster(tmp_path) as cluster:
        one, other = await cluster.requester("r1"), await cluster.requester("r2")
        cluster.buses["r2"].cut()
        job = await submit(one, a_job())

        with pytest.raises(Unavailable, match=job):
            await other.job(job)
        cluster.buses["r2"].mend()

        assert (await other.job(job)).id == job


async def test_a_bus_that_stands_still(tmp_path: Path) -> None:
    """A bus that takes everything and delivers nothing, as a server that is stopped does, makes nobody lost."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))

        cluster.hub.mischief = Mischief(drop=1.0)
        await asyncio.sleep(2 * QUICK.silence_s)  # As above.
        cluster.hub.mischief = Mischief()
        node.finish(node.runs[0].execution)
        record = await closed(service, job)

        assert [each.state for each in record.executions.values()] == [S.COMPLETED]


async def test_full_log(tmp_path: Path) -> None:
    """A full log refuses new jobs with the reason, and lets open ones close once there is room."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node(script=hold)
        job = await submit(service, a_job())
        await node.until(lambda node: bool(node.runs))
        cluster.hub.limit_bytes = 1

        with pytest.raises(Exhausted):
            await submit(service, a_job())
        node.finish(node.runs[0].execution)
        await node.until(lambda node: "later" in node.verdicts.get(node.runs[0].execution, []))
        cluster.hub.limit_bytes = 1 << 30

        assert (await closed(service, job)).state is JobState.COMPLETED


async def test_who_waits_while_the_log_is_full(tmp_path: Path) -> None:
    """Who asked behind an entry that a full log refused is answered, also if another requester closes the job first."""
    async with a_cluster(tmp_path) as cluster:
        one, other = await cluster.requester("r1"), await cluster.requester("r2")
        await cluster.node(script=hold)
        job = await submit(one, a_job())
        await known(other, job)
        cluster.hub.limit_bytes = 1

        first, second = [
            asyncio.create_task(one.stop(job, namespace="", reason="enough", client="test")) for _ in range(2)
        ]
        with pytest.raises(Exhausted):
            await first
        cluster.hub.limit_bytes = 1 << 30
        await other.stop(job, namespace="", reason="enough", client="test")

        assert (await second).state is JobState.STOPPED


async def test_two_of_one_name_while_the_log_is_full(tmp_path: Path) -> None:
    """Of two submissions of a name that is new, each is told that the log is full: none waits until its caller gives up."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        cluster.hub.limit_bytes = 1

        told = await asyncio.gather(
            *(submit(service, a_job("same")) for _ in range(2)), return_exceptions=True
        )

        assert [type(each) for each in told] == [Exhausted, Exhausted]


async def test_a_log_that_is_read_anew_while_something_is_written(tmp_path: Path) -> None:
    """A requester that fills its read model again loses nothing of a job about which it just wrote, nor its watchers."""
    async with a_cluster(tmp_path) as cluster:
        bus = Doubting(cluster.hub)
        service = await cluster.requester("r1", bus=bus)
        node = await cluster.node(script=hold)
        job = await submit(service, a_job(count=2))
        await node.until(lambda node: len(node.runs) == 2)
        node.finish(node.runs[0].execution)
        await until(service, job, lambda record: len(record.open()) == 1)
        await service.jobs(JobQuery())

        bus.doubt = True
        node.finish(node.runs[1].execution)
        seen = await closed(service, job)
        await happens(lambda: bus.read_anew == cluster.hub.state().last)
        await cluster.kill("r1")
        after = await closed(await cluster.requester("r1"), job)

        assert [each.state for each in seen.executions.values()] == [S.COMPLETED, S.COMPLETED]
        assert after.executions == seen.executions


async def test_nothing_is_ordered_while_the_log_is_read_anew(tmp_path: Path) -> None:
    """A requester that fills its read model again orders nothing by what it has read so far: a job that ended long ago looks
    open then, and its node may have forgotten that it ran it.
    """
    async with a_cluster(tmp_path) as cluster:
        bus = HalfRead(cluster.hub)
        service = await cluster.requester("r1", bus=bus)
        node = await cluster.node()
        await happens(lambda: service.facts()["nodes"] == 1)
        ended = await submit(service, a_job("ended"))
        await closed(service, ended)

        # So far it has been read that the job was given to the node, and nothing of its end.
        bus.upto = cluster.hub.by_key[job_key("default", "ended")][0]
        more = await submit(service, a_job("more"))
        await happens(lambda: service._follower.position == bus.upto)
        async with node.bus.subscribe(subjects.beats(node.id)) as beats:
            for _ in range(5):
                await anext(beats)
        bus.go_on.set()
        for job in (ended, more):
            await closed(service, job)

        assert service.facts()["repairs"] == 0


async def test_what_nobody_waits_for_is_not_written(tmp_path: Path) -> None:
    """What a requester could not write as long as its caller waited is not written later: meanwhile people said other
    things to another requester.
    """
    async with a_cluster(tmp_path) as cluster:
        cut_off, other = [await cluster.requester(name) for name in ("r1", "r2")]
        await cluster.node(script=hold)
        cluster.buses["r1"].cut()
        asking = asyncio.create_task(submit(cut_off, a_job("same", count=1)))
        await happens(lambda: not cut_off.facts()["writable"])
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await submit(other, a_job("same", count=2))

        cluster.buses["r1"].mend()
        await submit(cut_off, a_job("another"))
        held = cut_off._jobs.open[job_key("default", "same")]
        await happens(lambda: not held.undecided)

        for service in (cut_off, other):
            record = await service.job("same")
            assert (record.version, record.spec.count) == (1, 2)


async def test_a_watch_ends_though_the_log_has_nothing_of_its_job_any_more(tmp_path: Path) -> None:
    """Who watches a job is told if the log was made anew meanwhile and does not have it, and does not wait for ever."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        await cluster.node(script=hold)
        job = await submit(service, a_job("watched"))
        async with aclosing(service.watch(job)) as updates:
            async for update in updates:
                if update.job is not None and all(each.state is S.RUNNING for each in update.job.open()):
                    break
            cluster.hub.begin_anew()
            with pytest.raises(NotFound, match="left the log while this requester was away"):
                await asyncio.wait_for(anext(updates), WITHIN_S)
        await happens(lambda: not service.facts()["open_jobs"])


async def test_log_made_anew(tmp_path: Path) -> None:
    """When the log is made anew the requester starts over with it, tells its nodes, and takes jobs again."""
    async with a_cluster(tmp_path) as cluster:
        service = await cluster.requester()
        node = await cluster.node()
        old = await submit(service, a_job("old"))
        await closed(service, old)

        cluster.hub.begin_anew()
        await happens(lambda: service.facts()["log"] != "0")
        await node.until(lambda node: node.lists[-1].created == service.facts()["log"])
        job = await submit(service, a_job("old"))
        await until(service, job, lambda record: record.closed)

        assert (await service.jobs(JobQuery()))[0][0].id == job
        assert job != old
