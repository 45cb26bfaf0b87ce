"""Reading a program's output from its node."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from msgspec.structs import replace

from protocol import subjects
from protocol.bus import Message
from protocol.clock import ManualClock
from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import RunOutput, Stage, decode, encode
from protocol.questions import LogChunk, LogsAnswer, LogsRequest
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord
from requester.logs import Logs
from requester.verbs import JobUpdate, LogLine

RUNNING = ExecutionRecord(
    ExecutionId("e-1"),
    JobId("j-1"),
    1,
    0,
    1,
    NodeId("n-1"),
    Amounts(),
    ExecutionState.RUNNING,
    0,
    0,
    1,
    1,
)
ANSWER_S = 5.0
WAIT_S = 10.0
"""How long a node may hold a question of who follows."""


class Alone:
    """As much of the verbs as is asked: a job of which nothing more is known."""

    def __init__(self) -> None:
        self.executions: dict[ExecutionId, ExecutionRecord] = {}
        self.news: asyncio.Queue[ExecutionRecord] = asyncio.Queue()
        """What becomes known of executions to those who watch."""

    async def job(self, id_: JobId) -> "Alone":
        return self

    async def watch(self, ref: str) -> AsyncIterator[JobUpdate]:
        while True:
            yield JobUpdate(job=cast(Any, self))
            execution = await self.news.get()
            self.executions[execution.id] = execution


@pytest.mark.parametrize(("follow", "limit_s"), [(True, WAIT_S + ANSWER_S), (False, ANSWER_S)])
async def test_a_question_that_gets_lost_is_asked_again(follow: bool, limit_s: float) -> None:
    """One message that is lost on its way costs seconds, and no output, whether it is followed or not."""
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    logs = Logs(MemoryBus(hub), clock, cast(Any, Alone()))
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        lines = logs.read(RUNNING, follow=follow, tail=False)
        reading = asyncio.ensure_future(anext(lines))
        await anext(asked)
        await clock.advance(limit_s)
        question = await anext(asked)
        assert question.respond is not None
        await question.respond(encode(LogsAnswer(2, [LogChunk(1, 0.0, b"hi")], ended=True)))

        assert (await reading).chunk == LogChunk(1, 0.0, b"hi")
        await lines.aclose()


async def test_a_node_that_does_not_answer_is_told() -> None:
    """Who asks for the output of a node that is mute is told so after two questions, and does not wait for ever."""
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    logs = Logs(MemoryBus(hub), clock, cast(Any, Alone()))
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        lines = logs.read(RUNNING, follow=False, tail=False)
        reading = asyncio.ensure_future(anext(lines))
        for _ in range(2):
            await anext(asked)
            await clock.advance(ANSWER_S)

        failure = (await reading).failure
        assert failure is not None
        assert failure.message == "node n-1 does not answer, and the output of execution e-1 is kept there"
        await lines.aclose()


async def test_who_follows_waits_for_a_node_that_is_away() -> None:
    """Output that is followed goes on where it broke off when its node is back, unless the execution is given up."""
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    lines = Logs(MemoryBus(hub), clock, cast(Any, Alone())).read(RUNNING, follow=True, tail=False)
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        reading = asyncio.ensure_future(anext(lines))
        await _answer(await anext(asked), LogsAnswer(7, [LogChunk(1, 0.0, b"one")]))
        assert (await reading).chunk == LogChunk(1, 0.0, b"one")
    reading = asyncio.ensure_future(anext(lines))
    await clock.advance(3.0)
    assert not reading.done()
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        await clock.advance(1.0)
        question = await anext(asked)
        assert decode(question.data, LogsRequest).cursor == 7
        await _answer(question, LogsAnswer(9, [LogChunk(1, 0.0, b"two")], ended=True))

        assert (await reading).chunk == LogChunk(1, 0.0, b"two")
        await lines.aclose()


@pytest.mark.parametrize("truncated", [False, True])
async def test_what_was_reported_completes_what_was_followed(truncated: bool) -> None:
    """When a node goes away after its report, the rest of the output is what the report has; if that is cut, it is said."""
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    job = Alone()
    lines = Logs(MemoryBus(hub), clock, cast(Any, job)).read(RUNNING, follow=True, tail=False)
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        reading = asyncio.ensure_future(anext(lines))
        await _answer(await anext(asked), LogsAnswer(7, [LogChunk(1, 0.0, b"one ")]))
        await reading
    output = RunOutput("one two", stdout_truncated=truncated)
    job.executions[RUNNING.id] = replace(RUNNING, state=ExecutionState.COMPLETED, output=output)

    line = await anext(lines)

    assert (line.failure is not None) == truncated
    assert line.chunk == (None if truncated else LogChunk(1, RUNNING.modified_at, b"two"))


async def test_a_beginning_is_not_passed_off_as_all() -> None:
    """Who asks for the output of a node that has gone away for good gets what the log has of it, and is told that the
    rest is missing, and why.
    """
    job = Alone()
    output = RunOutput("the first of many lines\n", stdout_truncated=True)
    ended = job.executions[RUNNING.id] = replace(RUNNING, state=ExecutionState.COMPLETED, output=output)
    hub = MemoryHub()
    lines = Logs(MemoryBus(hub), ManualClock(), cast(Any, job)).read(ended, follow=False, tail=False)

    beginning, cut = [line async for line in lines]

    assert beginning.chunk == LogChunk(1, RUNNING.modified_at, b"the first of many lines\n")
    assert cut.failure is not None
    assert cut.failure.code.startswith("Unavailable")
    assert cut.failure.message.startswith(
        "this is only the beginning of what it wrote: node n-1 does not answer"
    )
    assert "shoal node describe" in cut.failure.hint


async def test_the_output_of_a_lost_execution_is_with_its_node() -> None:
    """Of an execution that was lost with its node it is said where its output is, and not that its program never began: how
    far it came nobody can tell."""
    job = Alone()
    why = Failure("NodeLost", "the node has disappeared")
    lost = job.executions[RUNNING.id] = replace(RUNNING, state=ExecutionState.LOST, failure=why)
    lines = Logs(MemoryBus(MemoryHub()), ManualClock(), cast(Any, job)).read(lost, follow=False, tail=False)

    (told,) = [line.failure async for line in lines]

    assert told is not None
    assert told.message == "node n-1 does not answer, and the output of execution e-1 is kept there"


@pytest.mark.parametrize("ran", [False, True])
async def test_why_nothing_was_written_is_told_when_it_is_known(ran: bool) -> None:
    """Who follows an execution whose program never begins is told why, though its node knows of its end a moment before
    the log does. A program that was silent is no failure.
    """
    job = Alone()
    staging = job.executions[RUNNING.id] = replace(RUNNING, state=ExecutionState.STAGING)
    hub = MemoryHub()
    lines = Logs(MemoryBus(hub), ManualClock(), cast(Any, job)).read(staging, follow=True, tail=False)
    stages = [Stage(ExecutionState.RUNNING, 1.0)] if ran else []
    failure = None if ran else Failure("NotFound", "input /in: nothing is there")
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        reading = asyncio.ensure_future(_all(lines))
        await _answer(await anext(asked), LogsAnswer(0, ended=True))
        state = ExecutionState.COMPLETED if ran else ExecutionState.FAILED
        job.news.put_nowait(replace(staging, state=state, stages=stages, failure=failure))

        told = [line.failure.message for line in await reading if line.failure is not None]
    why = "execution e-1 ended before its program began, it is failed: input /in: nothing is there"
    assert told == ([] if ran else [why])


async def test_an_end_that_nobody_reports_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows an execution whose node is gone right after its end is let go."""
    monkeypatch.setattr("requester.logs.REPORT_S", 0.0)
    job = Alone()
    staging = job.executions[RUNNING.id] = replace(RUNNING, state=ExecutionState.STAGING)
    hub = MemoryHub()
    lines = Logs(MemoryBus(hub), ManualClock(), cast(Any, job)).read(staging, follow=True, tail=False)
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        reading = asyncio.ensure_future(_all(lines))
        await _answer(await anext(asked), LogsAnswer(0, ended=True))

        assert await reading == []


async def _all(lines: AsyncIterator[LogLine]) -> list[LogLine]:
    return [line async for line in lines]


async def _answer(question: Message, answer: LogsAnswer) -> None:
    assert question.respond is not None
    await question.respond(encode(answer))
