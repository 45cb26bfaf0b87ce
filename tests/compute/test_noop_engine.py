"""The engine without programs keeps the contract, and lets a test decide how a program goes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from compute.engines.contract import Engine, Exit
from compute.engines.noop import NoopEngine, NoopWorld
from protocol.clock import ManualClock
from protocol.errors import Exhausted, Invalid, NotFound, Unavailable
from protocol.ids import NodeId
from protocol.spec.engines import NoopParams
from tests.contracts.engine import (
    NODE,
    AskingContract,
    EngineContract,
    NewRun,
    OutlivingContract,
    Program,
    Reopen,
    begin,
    ended,
    nothing,
)

FOREVER_S = 1e6


class Played:
    """The suite's programs, played."""

    def ends(self, code: int) -> Program:
        return Program(NoopParams(exit_code=code))

    def prints(self, out: str, err: str) -> Program:
        return Program(NoopParams(stdout=out, stderr=err))

    def counts(self, lines: int) -> Program:
        return Program(NoopParams(stdout="".join(f"{number}\n" for number in range(1, lines + 1))))

    def tells(self, name: str) -> Program:
        return Program(NoopParams(prints_env=[name]))

    def shows(self, path: str) -> Program:
        return Program(NoopParams(reads=[path]))

    def writes(self, path: str, text: str) -> Program:
        return Program(NoopParams(writes={path: text}))

    def stays(self) -> Program:
        return Program(NoopParams(stdout="ready\n", seconds=FOREVER_S, stubborn=True))

    def obliges(self) -> Program:
        return Program(NoopParams(stdout="ready\n", seconds=FOREVER_S, farewell="bye\n"))

    def invalid(self) -> list[Program]:
        return [Program(NoopParams(exit_code=256)), Program(NoopParams(seconds=-1))]

    def missing(self) -> Program:
        return Program(NoopParams(prepare_fails="NotFound.Image"))


class TestNoop(EngineContract, AskingContract, OutlivingContract):
    """The contract, on the machine's own clock."""

    @pytest.fixture
    def world(self) -> NoopWorld:
        return NoopWorld()

    @pytest.fixture
    async def engine(self, world: NoopWorld) -> Engine[Any]:
        return NoopEngine(NODE, world)

    @pytest.fixture
    def programs(self) -> Played:
        return Played()

    @pytest.fixture
    async def reopen(self, world: NoopWorld) -> Reopen:
        async def another() -> Engine[Any]:
            return NoopEngine(NODE, world)

        return another


class TestPlaying:
    """What a test can decide about a program."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def engine(self, clock: ManualClock) -> NoopEngine:
        return NoopEngine(NODE, NoopWorld(clock))

    new_run = EngineContract.new_run

    async def test_it_takes_its_time(self, engine: NoopEngine, clock: ManualClock, new_run: NewRun) -> None:
        """A program ends when its seconds have passed on the world's clock, not before."""
        end = asyncio.ensure_future(
            (await engine.start(new_run(Program(NoopParams(seconds=10, exit_code=2))))).wait()
        )

        await clock.advance(9.5)
        assert not end.done()
        await clock.advance(0.5)

        assert end.result() == Exit(2)

    async def test_grace_is_time_on_the_clock(
        self, engine: NoopEngine, clock: ManualClock, new_run: NewRun
    ) -> None:
        """A stubborn program is given the whole grace; one that ends within it ends by itself."""
        stubborn = await engine.start(new_run(Program(NoopParams(seconds=10, stubborn=True))))
        nearly = await engine.start(new_run(Program(NoopParams(seconds=3, stubborn=True, exit_code=5))))
        stops = [asyncio.ensure_future(running.stop(4)) for running in (stubborn, nearly)]

        await clock.advance(3)
        assert [stop.done() for stop in stops] == [False, True]
        await clock.advance(1)

        assert stops[0].done()
        assert ((await stubborn.wait()).code, (await nearly.wait()).code) == (137, 5)

    async def test_the_world_can_end_it(self, engine: NoopEngine, new_run: NewRun) -> None:
        """A test can end a program at the moment of its choice."""
        run = new_run(Program(NoopParams(seconds=FOREVER_S)))
        running = await engine.start(run)

        engine.world.end(run.execution, Exit(7))

        assert await running.wait() == Exit(7)

    async def test_after_a_reboot_nothing_is_found(self, engine: NoopEngine, new_run: NewRun) -> None:
        """A machine that was started anew has no programs; whoever waited is told."""
        run = new_run(Program(NoopParams(seconds=FOREVER_S)))
        end = asyncio.ensure_future((await engine.start(run)).wait())

        engine.world.reboot()

        killed = await end
        assert killed.failure is not None
        assert killed.failure.code == "Unavailable"
        assert await NoopEngine(NODE, engine.world).recover(run.execution) is None

    async def test_starts_are_counted(self, engine: NoopEngine, new_run: NewRun) -> None:
        """The world counts real starts, so that a test can see that none was repeated."""
        run = new_run(Program(NoopParams(seconds=FOREVER_S)))

        for _ in range(3):
            await engine.start(run)

        assert engine.world.starts == {run.execution: 1}

    async def test_faults_at_each_step(self, engine: NoopEngine, new_run: NewRun) -> None:
        """A test can have any fault while preparing, at the start and while running."""
        with pytest.raises(NotFound, match="prepare") as missing:
            await engine.prepare(NoopParams(prepare_fails="NotFound.Image"), nothing)
        with pytest.raises(Unavailable, match="start"):
            await begin(engine, new_run(Program(NoopParams(start_fails="Unavailable"))))
        killed = await ended(await begin(engine, new_run(Program(NoopParams(fails="Exhausted.Memory")))))

        assert missing.value.failure().code == "NotFound.Image"
        assert killed.failure is not None
        assert killed.failure.code == f"{Exhausted.code}.Memory"

    async def test_preparing_is_told(self, engine: NoopEngine, clock: ManualClock) -> None:
        """Preparing takes as long as asked, and tells of its progress."""
        told: list[tuple[str, int, int | None]] = []
        preparing = asyncio.ensure_future(
            engine.prepare(NoopParams(prepare_seconds=5), lambda *progress: told.append(progress))
        )

        await clock.advance(4)
        assert not preparing.done()
        await clock.advance(1)
        await preparing

        assert told == [("program", 0, 1), ("program", 1, 1)]

    async def test_nodes_on_one_world_are_apart(self, engine: NoopEngine, new_run: NewRun) -> None:
        """Several nodes may share a world; none sees another's programs."""
        run = new_run(Program(NoopParams(seconds=FOREVER_S)))
        await engine.start(run)

        other = NoopEngine(NodeId("n-other"), engine.world)

        assert await other.leftovers() == []
        assert await other.recover(run.execution) is None

    async def test_paths_stay_in_their_mounts(
        self, engine: NoopEngine, new_run: NewRun, tmp_path: Path
    ) -> None:
        """A played program reaches no file of the host but through its mounts."""
        outside = tmp_path / "outside"

        running = await begin(engine, new_run(Program(NoopParams(writes={f"/outputs/../{outside}": "x"}))))

        assert (await ended(running)).code == 1
        assert not outside.exists()

    async def test_bad_params_name_the_field(self, engine: NoopEngine) -> None:
        """A value that makes no sense is refused with its field's name."""
        with pytest.raises(Invalid, match="ExitCode 256"):
            await engine.prepare(NoopParams(exit_code=256), nothing)
