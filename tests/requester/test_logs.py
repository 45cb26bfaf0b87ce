"""Reading a program's output from its node."""

import asyncio
from typing import Any, cast

import pytest

from protocol import subjects
from protocol.clock import ManualClock
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import LogChunk, LogsAnswer, encode
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord
from requester.logs import Logs

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

    async def job(self, id_: JobId) -> "Alone":
        return self


@pytest.mark.parametrize(("follow", "limit_s"), [(True, WAIT_S + ANSWER_S), (False, ANSWER_S)])
async def test_a_question_that_gets_lost_is_asked_again(follow: bool, limit_s: float) -> None:
    """One message that is lost on its way costs seconds, and no output, whether it is followed or not."""
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    logs = Logs(MemoryBus(hub), cast(Any, Alone()))
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
    logs = Logs(MemoryBus(hub), cast(Any, Alone()))
    async with MemoryBus(hub).subscribe(subjects.logs(RUNNING.node)) as asked:
        lines = logs.read(RUNNING, follow=False, tail=False)
        reading = asyncio.ensure_future(anext(lines))
        for _ in range(2):
            await anext(asked)
            await clock.advance(ANSWER_S)

        assert (await reading).failure is not None
        await lines.aclose()
