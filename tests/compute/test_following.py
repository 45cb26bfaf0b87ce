"""What a program has written and its node has not read yet when it ends: in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from compute.engines.contract import Chunk
from compute.following import Following
from compute.logs import HEAD_BYTES, OutputLog
from protocol.ids import ExecutionId, NodeId
from protocol.questions import STDERR, STDOUT
from tests.simulation.loop import Loop, Scheduler

LIMIT_S = 10.0


class Slow:
    """A program that has ended, whose output comes a piece after each of these rests (seconds)."""

    def __init__(self, *rests_s: float) -> None:
        self._rests_s = rests_s
        self.read = 0

    async def output(self) -> AsyncIterator[Chunk]:
        for number, rest_s in enumerate(self._rests_s):
            await asyncio.sleep(rest_s)
            self.read += 1
            yield Chunk(STDOUT, 1.0, b"piece %d\n" % number)


class World:
    """A program's log, and time that passes at once."""

    def __init__(self, path: Path) -> None:
        self.log = OutputLog(str(path), limit_bytes=1 << 20)
        self._scheduler = Scheduler("following")
        self._loop = Loop(self._scheduler, "node")  # type: ignore[abstract]

    def following(self, program: Slow) -> Following:
        tasks = cast(Any, self._loop)
        no_fault = cast(Any, None)
        return Following(ExecutionId("e-1"), NodeId("n-1"), cast(Any, program), self.log, tasks, no_fault)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._scheduler.run(1_000.0)
        task.result()

    def written(self, stream: int) -> str:
        return b"".join(chunk.data for chunk in self.log.frames() if chunk.stream == stream).decode()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "log")


async def finished(following: Following, *, begun: bool) -> None:
    if begun:
        following.begin()
        await asyncio.sleep(0.1)
    await following.finish(LIMIT_S)


@pytest.mark.parametrize("begun", [False, True])
def test_output_that_goes_on_coming_is_read_to_its_end(world: World, begun: bool) -> None:
    """What a program wrote faster than its node can read is all there, however long the rest takes after its end."""
    world.run(finished(world.following(Slow(*[LIMIT_S * 0.9] * 20)), begun=begun))

    assert world.written(STDOUT) == "".join(f"piece {number}\n" for number in range(20))
    assert world.written(STDERR) == ""


@pytest.mark.parametrize("begun", [False, True])
def test_output_that_stops_coming_is_told(world: World, begun: bool) -> None:
    """If the rest of the output stops coming, that is not awaited for ever, and the output says that it is not whole."""
    following = world.following(Slow(1.0, LIMIT_S * 2, 1.0))
    world.run(finished(following, begun=begun))

    assert world.written(STDOUT) == "piece 0\n"
    assert "nothing came for 10 s after the program had ended: the rest of its output is missing" in (
        world.written(STDERR)
    )
    assert "is missing" in following.head.output(0, "").stderr


def test_no_more_is_read_than_is_kept(world: World) -> None:
    """Of a program that has ended no more is read than its log keeps."""
    world.log = OutputLog(world.log._path, limit_bytes=3 * (HEAD_BYTES + len("piece 0\n")))
    program = Slow(*[1.0] * 100)
    world.run(finished(world.following(program), begun=False))

    assert program.read <= 5
    assert "output beyond" in world.written(STDERR)
