"""Inputs that executions share: brought once, kept while anyone reads them, counted once, and within each task's Disk."""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from compute.limits import Limits
from compute.turns import Turns
from protocol.clock import ManualClock
from protocol.held import input_token
from protocol.jobs import Amounts, Input, ResultPath, Spec
from protocol.messages import Report, Run
from protocol.states import ExecutionState
from storage.archive import pieces
from storage.cache_entries import DATA, SPOILED, key_of
from storage.mismatch import mismatch
from tests.compute.doubles import StagedSource, drivers
from tests.compute.twins import FakeRequester, NodeOnTest, noop, order

S = ExecutionState
Nodes = Callable[..., NodeOnTest]
INPUT = Input(Spec("test"), "/in")
READING = noop({"Reads": ["/in"]}, input_sources=[INPUT])
KEY = key_of("test", "test:1")


def all_read(reports: list[Report], cached: bool | None = None) -> None:
    """Each was completed, having read the data."""
    for report in reports:
        assert report.state is S.COMPLETED, report.failure
        assert report.output is not None
        assert report.output.stdout == "data"
        assert [read.identity for read in report.inputs] == ["test:1"]
        assert cached is None or [read.cached for read in report.inputs] == [cached]


async def test_executions_that_start_together_fetch_once(nodes: Nodes, requester: FakeRequester) -> None:
    """Twenty executions that start together over one input fetch it once; a later one starts without a fetch, and so does
    one after the node was killed.
    """
    source = StagedSource(cacheable=True)
    node = nodes(drivers=drivers(source))
    await node.start()
    source.gate.clear()
    runs = [order(number, READING) for number in range(1, 21)]
    for run in runs:
        await requester.run(run)
    await source.fetching.wait()
    await requester.until(lambda: len({each.execution for each in requester.progress}) == 20)
    source.gate.set()
    all_read([await requester.ended(run) for run in runs], cached=False)
    again = order(21, READING)
    await requester.run(again)
    all_read([await requester.ended(again)], cached=True)
    await requester.quiet(node)
    await node.crash()
    await node.start()
    last = order(22, READING)
    await requester.run(last)
    all_read([await requester.ended(last)], cached=True)
    await requester.quiet(node)
    assert source.fetches == 1
    assert node.leftovers() == []


async def test_one_that_is_cancelled_leaves_the_others_their_fetch(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """Cancelling an execution that waits for a shared fetch does not end the fetch for the others."""
    source = StagedSource(cacheable=True)
    node = nodes(drivers=drivers(source))
    await node.start()
    source.gate.clear()
    first, second = order(1, READING), order(2, READING)
    for run in (first, second):
        await requester.run(run)
    await requester.until(lambda: len({each.execution for each in requester.progress}) == 2)
    await requester.cancel(first)
    assert (await requester.ended(first)).state is S.CANCELLED
    source.gate.set()
    all_read([await requester.ended(second)])
    assert source.fetches == 1


async def test_what_is_shared_takes_its_room_once(nodes: Nodes, requester: FakeRequester) -> None:
    """Executions that read the same large input run side by side where the disk holds it once."""
    source = StagedSource(size_bytes=6_000_000_000, cacheable=True)
    node = nodes(drivers=drivers(source))
    await node.start()
    task = noop({"Seconds": 3600}, input_sources=[INPUT])
    runs = [order(number, task, amounts=Amounts(cpu=1, disk_bytes=7_000_000_000)) for number in (1, 2)]
    for run in runs:
        await requester.run(run)
    for run in runs:
        await requester.reached(run, S.RUNNING)
    # Each has the seventh gigabyte for itself. What is there turned out to be smaller than was said.
    assert node.here._room.ledger.used.disk_bytes == 2_000_000_000
    assert node.here._room.ledger.aside_bytes == len("data")


async def test_running_programs_keep_what_they_read(nodes: Nodes, requester: FakeRequester) -> None:
    """An input stays as long as a program reads it, also when the node was killed meanwhile and adopted the program."""
    source = StagedSource(cacheable=True)
    node = nodes(drivers=drivers(source))
    await node.start()
    asked = Amounts(cpu=0.1, disk_bytes=1000)
    run = order(1, noop({"Seconds": 3600}, input_sources=[INPUT]), amounts=asked)
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    await node.kept(run.execution, lambda execution: execution.state is S.RUNNING)
    assert node.journal is not None
    await node.journal.commit()
    await node.crash()
    await node.start()
    assert node.here.inputs is not None
    cache = node.here.inputs.cache
    assert node.here._room.ledger.aside_bytes == len("data")
    assert node.here._room.ledger.used.disk_bytes == 1000 - len("data")
    await cache.make_room(1 << 40)
    assert (node.folder / "cache" / KEY / DATA).read_text() == "data"
    node.world.end(run.execution)
    all_done = await requester.ended(run)
    await requester.quiet(node)
    assert all_done.state is S.COMPLETED
    await cache.make_room(1 << 40)
    assert not (node.folder / "cache" / KEY).exists()


@pytest.mark.parametrize("budget_bytes", [1, 1 << 30])
async def test_a_new_process_keeps_what_programs_read(
    nodes: Nodes, requester: FakeRequester, budget_bytes: int
) -> None:
    """A node that is started again keeps what a program reads, also an input that is larger than its cache may be."""
    node = nodes(drivers=drivers(StagedSource(cacheable=True)))
    node.settings = replace(node.settings, cache_bytes=budget_bytes)
    run = await running(node, requester)
    await node.crash()
    await node.start()
    assert (node.folder / "cache" / KEY / DATA).read_text() == "data"
    node.world.end(run.execution)
    assert (await requester.ended(run)).state is S.COMPLETED
    await requester.quiet(node)
    assert (node.folder / "cache" / KEY).exists() is (budget_bytes > 1)


@pytest.mark.parametrize("seen", ["in time", "when it is asked for"])
async def test_what_was_made_of_spoiled_bytes_does_not_count(
    nodes: Nodes, requester: FakeRequester, seen: str
) -> None:
    """When an input is found to be spoiled while a program reads it, that execution fails, says why, and may be tried
    again; one that has a copy of its own goes on, and the next one has the input fetched anew."""
    source = StagedSource(cacheable=True, size_bytes=4)
    clock = ManualClock()
    node = nodes(drivers=drivers(source), clock=clock)
    await node.start()
    async with asyncio.TaskGroup() as tasks:
        passing = tasks.create_task(pass_time(clock))
        await spoil(node, requester, seen)
        passing.cancel()
    assert source.fetches == 2


async def pass_time(clock: ManualClock) -> None:
    """Let a clock go on."""
    while True:
        await clock.advance(0.1)


async def spoil(node: NodeOnTest, requester: FakeRequester, seen: str) -> None:
    """Spoil what one program reads and another has a copy of."""
    reading = order(1, noop({"Seconds": 3e6}, input_sources=[INPUT]))
    own = order(2, noop({"Seconds": 3e6}, input_sources=[Input(Spec("test"), "/in", read_write=True)]))
    for run in (reading, own):
        await requester.run(run)
        await requester.reached(run, S.RUNNING)
    (node.folder / "cache" / KEY / SPOILED).touch()
    again = order(3, READING)
    if seen == "when it is asked for":
        await requester.run(again)

    failure = (await requester.ended(reading)).failure

    assert failure is not None
    assert (failure.code, failure.retryable) == ("Broken.Cached", True)
    assert failure.message.startswith("input /in (test): it was spoiled in the node's cache")
    if seen == "in time":
        await requester.run(again)
    all_read([await requester.ended(again)], cached=False)
    assert node.here.runners[own.execution].execution.state is S.RUNNING


async def running(node: NodeOnTest, requester: FakeRequester) -> Run:
    """Start the node, and a program on it that reads the input and has no end of its own; both are written down."""
    await node.start()
    run = order(1, noop({"Seconds": 3600}, input_sources=[INPUT]))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    await node.kept(run.execution, lambda execution: execution.state is S.RUNNING)
    assert node.journal is not None
    await node.journal.commit()
    return run


async def test_beats_say_which_inputs_are_here(nodes: Nodes, requester: FakeRequester) -> None:
    """A requester learns by token which inputs a node holds, when that changes."""
    node = nodes(drivers=drivers(StagedSource(cacheable=True)))
    await node.start()
    run = order(1, READING)
    await requester.run(run)
    await requester.ended(run)
    held = {input_token(INPUT.source): len("data")}
    await requester.until(lambda: any(beat.held == held for beat in requester.beats))
    told = [beat.held for beat in requester.beats if beat.held is not None]
    assert told == [{}, held]


@pytest.mark.parametrize("cacheable", [True, False])
async def test_who_writes_has_a_copy_of_its_own(
    nodes: Nodes, requester: FakeRequester, cacheable: bool
) -> None:
    """A program that wants to change an input changes its own copy; the next one finds the input as it came."""
    source = StagedSource(cacheable=cacheable, size_bytes=4)
    node = nodes(drivers=drivers(source))
    await node.start()
    mine = Input(Spec("test"), "/in", read_write=True)
    writing = order(1, noop({"Writes": {"/in": "changed"}, "Seconds": 3600}, input_sources=[mine]))
    await requester.run(writing)
    await requester.reached(writing, S.RUNNING)
    own = node.folder / "executions" / writing.execution / "input-0"
    assert own.read_text() == "changed"
    assert own.stat().st_mode & 0o666 == 0o666
    for number, wanted in ((2, INPUT), (3, mine)):
        reading = order(number, noop({"Reads": ["/in"]}, input_sources=[wanted]))
        await requester.run(reading)
        all_read([await requester.ended(reading)])
    node.world.end(writing.execution)
    await requester.ended(writing)
    await requester.quiet(node)
    assert source.fetches == (1 if cacheable else 3)
    assert node.leftovers() == []


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("disk_bytes", [150_000, 90_000])
async def test_a_copy_of_its_own_counts_once(
    nodes: Nodes, requester: FakeRequester, known: bool, disk_bytes: int
) -> None:
    """What a program has a copy of takes its Disk once: the one in the cache is others'. The node has room for both."""
    source = StagedSource(cacheable=True, size_bytes=100_000 if known else None)
    source.data = "x" * 100_000
    source.moves = [100_000]
    node = nodes(drivers=drivers(source))
    await node.start()
    mine = Input(Spec("test"), "/in", read_write=True)
    run = order(
        1, noop({"Seconds": 3600}, input_sources=[mine]), amounts=Amounts(cpu=1, disk_bytes=disk_bytes)
    )
    if disk_bytes < 100_000:
        assert (await failed(requester, run)).code == "Exhausted.DiskLimit"
        return
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    ledger = node.here._room.ledger
    assert (ledger.used.disk_bytes, ledger.aside_bytes) == (disk_bytes, 100_000)
    node.world.end(run.execution)
    report = await requester.ended(run)
    assert report.state is S.COMPLETED, report.failure


@pytest.mark.parametrize("cacheable", [True, False])
async def test_all_copies_of_unknown_size_take_room(
    nodes: Nodes, requester: FakeRequester, cacheable: bool
) -> None:
    """Of several inputs whose sizes nobody knows, what has come of each is held together, without a Disk too."""
    source = StagedSource(cacheable=cacheable)
    source.moves = [100_000]
    node = nodes(drivers=drivers(source))
    await node.start()
    inputs = [Input(Spec("test"), target, read_write=True) for target in ("/a", "/b")]
    run = order(1, noop({"Seconds": 3600}, input_sources=inputs))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    assert node.here._room.ledger.used.disk_bytes == 200_000


@pytest.mark.parametrize("below", ["input", "result", "none"])
async def test_what_has_another_below_it_is_a_copy_of_its_own(
    nodes: Nodes, requester: FakeRequester, below: str
) -> None:
    """An input or a result path may lie below another input, as with Bacalhau: the place for it is made in a copy, never
    among the bytes that others read."""
    node = nodes(drivers=drivers(StagedSource(cacheable=True, size_bytes=4)))
    await node.start()
    beside = {"input": "/in/deep/other", "none": "/in-other"}.get(below)
    task = noop(
        {"Seconds": 3600},
        input_sources=[Input(Spec("test"), "/in"), *([Input(Spec("test"), beside)] if beside else [])],
        publisher=Spec("test"),
        result_paths=[ResultPath("out", "/in/out")] if below == "result" else [],
    )
    run = order(1, task)
    await requester.run(run)
    await requester.reached(run, S.RUNNING)

    own = node.folder / "executions" / run.execution / "input-0"
    assert own.exists() is (below != "none")
    node.world.end(run.execution)
    await requester.ended(run)


@pytest.mark.parametrize("cacheable", [True, False])
async def test_known_sizes_count_before_anything_is_fetched(
    nodes: Nodes, requester: FakeRequester, cacheable: bool
) -> None:
    """Inputs larger than the task's Disk fail it before a byte is fetched, naming both sizes; no other node is tried."""
    source = StagedSource(size_bytes=2_000_000, cacheable=cacheable)
    node = nodes(drivers=drivers(source))
    await node.start()
    run = order(1, READING, amounts=Amounts(cpu=0.1, disk_bytes=1_000_000))
    failure = await failed(requester, run)
    assert (failure.code, failure.retryable) == ("Exhausted.DiskLimit", False)
    assert "1.9 MiB, and the task's Disk is 976.6 KiB" in failure.message
    assert source.fetches == 0


@pytest.mark.parametrize("cacheable", [True, False])
async def test_real_bytes_count_while_they_come(
    nodes: Nodes, requester: FakeRequester, cacheable: bool
) -> None:
    """A fetch of unknown size that brings more than the task's Disk is stopped, and leaves nothing."""
    source = StagedSource(cacheable=cacheable)
    source.moves = [400_000, 900_000, 1_100_000]
    node = nodes(drivers=drivers(source))
    await node.start()
    run = order(1, READING, amounts=Amounts(cpu=0.1, disk_bytes=1_000_000))
    failure = await failed(requester, run)
    assert failure.code == "Exhausted.DiskLimit"
    assert "/in" in failure.message
    await requester.quiet(node)
    assert node.leftovers() == []
    assert list((node.folder / "cache").iterdir()) == []
    source.moves = [900_000]
    run = order(2, READING, amounts=Amounts(cpu=0.1, disk_bytes=1_000_000))
    await requester.run(run)
    all_read([await requester.ended(run)])


async def test_what_an_archive_unpacks_to_counts_while_it_does(
    nodes: Nodes, requester: FakeRequester, tmp_path: Path
) -> None:
    """A small archive inside a job that is a large input is stopped at the task's Disk, before its program starts."""
    (tmp_path / "packing").mkdir()
    (tmp_path / "packing" / "zeros").write_bytes(bytes(30_000_000))
    packed = base64.b64encode(b"".join(pieces(tmp_path / "packing"))).decode()
    node = nodes()
    await node.start()
    source = Spec("inline", {"URL": f"data:application/gzip;base64,{packed}"})
    task = noop(input_sources=[Input(source, "/in")])
    failure = await failed(requester, order(1, task, amounts=Amounts(cpu=0.1, disk_bytes=1_000_000)))
    assert failure.code == "Exhausted.DiskLimit"
    assert "its inputs have more than" in failure.message
    assert list((node.folder / "cache").iterdir()) == []


@pytest.mark.parametrize("cacheable", [True, False])
async def test_what_came_is_recorded_where_nobody_said_a_size(
    nodes: Nodes, requester: FakeRequester, cacheable: bool
) -> None:
    """Of an input whose source says no size the record has the bytes that came, for whoever finds it in the cache too."""
    source = StagedSource(cacheable=cacheable)
    source.moves = [len("data")]
    node = nodes(drivers=drivers(source))
    await node.start()
    for number in (1, 2):
        run = order(number, READING)
        await requester.run(run)
        report = await requester.ended(run)
        all_read([report], cached=cacheable and number == 2)
        assert [read.size_bytes for read in report.inputs] == [len("data")]


@pytest.mark.parametrize("cacheable", [True, False])
async def test_the_node_has_its_limit_too(nodes: Nodes, requester: FakeRequester, cacheable: bool) -> None:
    """A fetch of unknown size that brings more than the node gives is stopped, and may be tried elsewhere."""
    source = StagedSource(cacheable=cacheable)
    source.moves = [1 << 30, 1 << 40]
    node = nodes(drivers=drivers(source))
    await node.start()
    failure = await failed(requester, order(1, READING))
    assert (failure.code, failure.retryable) == ("Exhausted.Disk", True)


async def test_other_bytes_than_the_job_names_are_not_asked_for_again(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """An input that is not what the job says of it fails the job with both values: no other attempt would find another."""
    node = nodes(drivers=drivers(StagedSource(mismatch("it", "6 bytes", "Size", "5"))))
    await node.start()
    failure = await failed(requester, order(1, READING))
    assert (failure.code, failure.retryable) == ("Broken.Mismatch", False)
    assert failure.message == "input /in (test): it has 6 bytes, and Size says 5"
    assert failure.hint.startswith("Correct Size")


async def test_a_source_that_never_answers_has_an_end(nodes: Nodes, requester: FakeRequester) -> None:
    """Finding out what an input is has a limit of its own; the fault names the input, and others have not waited."""
    source = StagedSource()
    source.resolving.clear()
    node = nodes(drivers=drivers(source), limits=Limits(resolving_s=0.2))
    await node.start()
    stuck = order(1, READING)
    await requester.run(stuck)
    plain = order(2)
    await requester.run(plain)
    await requester.ended(plain)
    failure = await failed(requester, stuck)
    assert (failure.code, failure.retryable) == ("TimedOut.Resolving", True)
    assert "input /in" in failure.message


async def failed(requester: FakeRequester, run: Run):  # type: ignore[no-untyped-def]
    """The failure of a run that must fail."""
    await requester.run(run)
    report = await requester.ended(run)
    assert report.state in (S.FAILED, S.REFUSED)
    assert report.failure is not None
    return report.failure


async def test_a_slow_fetch_takes_nobodys_turn() -> None:
    """Fetches that bring nothing for a while go on without a turn; those that move keep theirs, so that few run at once."""
    turns = Turns(1, slow_s=0.02)
    ended = asyncio.Event()

    async def hang() -> None:
        async with turns.take():
            await ended.wait()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(hang())
        async with turns.take() as turn:
            turn.moved(1 << 40)
        ended.set()
    async with turns.take():
        pass
