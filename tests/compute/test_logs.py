"""What programs wrote: in order, from any position, while they write and after."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.engines.contract import Chunk
from compute.logs import FLUSH_BYTES, Logs, LogSettings, OutputLog
from protocol.errors import NotFound
from protocol.ids import ExecutionId
from protocol.questions import STDERR, STDOUT
from protocol.states import ExecutionState
from tests.compute.twins import FakeRequester, NodeOnTest, noop, order

ONE, TWO, THREE = (ExecutionId(f"e-{number}") for number in range(3))
Nodes = Callable[..., NodeOnTest]
pieces = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=30)


def fill(log: OutputLog, *texts: bytes) -> None:
    """Write each text to standard output."""
    for text in texts:
        log.write(Chunk(1, 1.5, text))


@given(pieces, st.integers(1, 700))
def test_it_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[int, bytes]], limit: int
) -> None:
    """However large the answers, reading on from each cursor gives all bytes of both streams in the order written."""
    logs = Logs(tmp_path_factory.mktemp("logs"), LogSettings())
    log = logs.open(ONE)
    for number, (stream, data) in enumerate(written):
        log.write(Chunk(stream, 100.0 + number, data))
        if number % 7 == 0:
            log.flush()
    logs.end(ONE, 1.0)
    read: list[tuple[int, bytes]] = []
    cursor = 0
    while True:
        answer = logs.answer(ONE, cursor, limit)
        read += [(chunk.stream, chunk.data) for chunk in answer.chunks]
        cursor = answer.cursor
        if answer.ended:
            break
        assert answer.chunks, "an answer with nothing in it would be asked for ever"
    assert read == [(stream, data) for stream, data in written if data]
    assert [(frame.stream, frame.data) for frame in log.frames()] == read


def test_a_program_that_writes_nothing_costs_no_file(tmp_path: Path) -> None:
    """The log is a file from its first bytes on."""
    logs = Logs(tmp_path, LogSettings())
    logs.open(ONE)
    logs.end(ONE, 1.0)
    assert list(tmp_path.iterdir()) == []
    assert logs.answer(ONE, 0, 100).ended


def test_output_beyond_the_limit_is_dropped_and_said(tmp_path: Path) -> None:
    """A log ends with a line that says that more was written."""
    logs = Logs(tmp_path, LogSettings(file_bytes=200))
    fill(logs.open(ONE), b"a" * 100, b"b" * 200, b"c")
    chunks = logs.answer(ONE, 0, 10_000).chunks
    assert [chunk.data[:1] for chunk in chunks] == [b"a", b"\n"]
    assert b"beyond 200 bytes" in chunks[-1].data


def test_the_present_end_can_be_asked_for(tmp_path: Path) -> None:
    """From cursor -1 on, only what is written later is read."""
    logs = Logs(tmp_path, LogSettings())
    log = logs.open(ONE)
    fill(log, b"old" * FLUSH_BYTES)
    cursor = logs.answer(ONE, -1, 100).cursor
    fill(log, b"new")
    assert [chunk.data for chunk in logs.answer(ONE, cursor, 100).chunks] == [b"new"]


@given(st.integers(-(1 << 62), 1 << 62), st.integers(-1, 1 << 40))
def test_a_cursor_that_is_none_harms_nothing(
    tmp_path_factory: pytest.TempPathFactory, cursor: int, limit: int
) -> None:
    """Whatever cursor and limit are asked with, an ended log is read to its end in bounded answers."""
    logs = Logs(tmp_path_factory.mktemp("logs"), LogSettings())
    fill(logs.open(ONE), b"some", b"output", b"x" * 300)
    logs.end(ONE, 1.0)
    for _ in range(5):
        answer = logs.answer(ONE, cursor, limit)
        cursor = answer.cursor
        if answer.ended:
            break
    assert logs.answer(ONE, cursor, limit).ended


def test_old_output_goes_first(tmp_path: Path) -> None:
    """Ended outputs are kept for their time, and within the bounds of bytes and count; the oldest are removed."""
    logs = Logs(tmp_path, LogSettings(keep_s=100, keep_bytes=250))
    for number, name in enumerate((ONE, TWO, THREE)):
        fill(logs.open(name), b"x" * 100)
        logs.end(name, float(number))
    with pytest.raises(NotFound, match="no output"):
        logs.find(ONE)
    logs.prune(101.5)
    with pytest.raises(NotFound):
        logs.find(TWO)
    logs.find(THREE)
    assert [path.stem for path in tmp_path.iterdir()] == [THREE]


def test_the_next_process_serves_what_was_kept(tmp_path: Path) -> None:
    """Output of executions that ended before a restart can be read after it."""
    before = Logs(tmp_path, LogSettings())
    fill(before.open(ONE), b"kept")
    before.end(ONE, 1.0)
    answer = Logs(tmp_path, LogSettings()).answer(ONE, 0, 100)
    assert [chunk.data for chunk in answer.chunks] == [b"kept"]
    assert answer.ended


async def test_output_is_followed_while_it_is_written(nodes: Nodes, requester: FakeRequester) -> None:
    """A reader that asks with the last cursor and waits is answered when there is more, and told when it has ended."""
    node = nodes()
    await node.start()
    run = order(task=noop({"Seconds": 3600, "Stdout": "one\n"}))
    await requester.run(run)
    await requester.reached(run, ExecutionState.RUNNING)
    first = await requester.logs(run, wait_s=10)
    assert [chunk.data for chunk in first.chunks] == [b"one\n"]
    assert not first.ended

    more = asyncio.create_task(requester.logs(run, first.cursor, wait_s=10))
    node.world.programs[run.execution].write(STDERR, b"two\n")
    node.world.end(run.execution)
    second = await more
    assert [(chunk.stream, chunk.data) for chunk in second.chunks] == [(STDERR, b"two\n")]
    last = await requester.logs(run, second.cursor, wait_s=10)
    assert last.chunks == []
    assert last.ended


@pytest.mark.parametrize("reader_first", [True, False])
async def test_output_is_wanted_once_somebody_waits(tmp_path: Path, reader_first: bool) -> None:
    """Whoever writes is called when the first reader waits, also when that one came first, and only once."""
    log, calls = OutputLog(str(tmp_path / "log"), 1000), list[str]()
    if not reader_first:
        log.call_when_wanted(lambda: calls.append("wanted"))
    assert calls == []
    async with asyncio.TaskGroup() as readers:
        for _ in range(2):
            readers.create_task(log.news())
            await asyncio.sleep(0)
        if reader_first:
            log.call_when_wanted(lambda: calls.append("wanted"))
        log.write(Chunk(1, 1.5, b"x"))
    assert calls == ["wanted"]


async def test_output_of_a_short_program_is_never_empty(nodes: Nodes, requester: FakeRequester) -> None:
    """However short a program is, what it wrote can be read after its end."""
    node = nodes()
    await node.start()
    for number in range(1, 21):
        run = order(number, noop({"Stdout": f"{number}"}))
        await requester.run(run)
        await requester.ended(run)
        await requester.quiet(node)
        answer = await requester.logs(run, wait_s=10)
        assert [(chunk.stream, chunk.data) for chunk in answer.chunks] == [(STDOUT, f"{number}".encode())]
        assert answer.ended


async def test_unknown_output_is_not_found(nodes: Nodes, requester: FakeRequester) -> None:
    """Asking for an execution that never was here is answered at once, with what that may mean."""
    node = nodes()
    await node.start()
    answer = await requester.logs(order(3), wait_s=10)
    assert answer.failure is not None
    assert answer.failure.code == "NotFound.Logs"
    assert answer.failure.hint
    assert answer.ended
