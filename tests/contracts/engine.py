"""What every engine promises, asked of each: see `compute.engines.contract`.

An engine's test inherits `EngineContract` and supplies the fixtures ``engine`` (of node `NODE`; whatever a test leaves in
it is removed with it) and ``programs`` (a `Programs`). It inherits `AskingContract` too if its programs can be asked to end,
and `OutlivingContract` if they outlive the node's process, with a fixture ``reopen`` (a `Reopen`).
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import pytest
from msgspec import Struct

from compute.engines.contract import Chunk, Engine, Exit, Mount, Run, Running
from protocol.errors import Invalid, NotFound
from protocol.ids import ExecutionId, JobId, NodeId, execution_id, job_id

NODE = NodeId("n-contract")
LIMIT_S = 60.0
"""How long a test waits for what was promised; far more than it takes."""
GRACE_S = 0.5
SHORT_RUNS = 20
LINES = 3_000


class Program(Struct, frozen=True):
    """A program for an engine: its parameters, and mounts that it cannot run without (its own module)."""

    params: Any
    mounts: Sequence[Mount] = ()


class Programs(Protocol):
    """How an engine's test writes the programs that the suite needs."""

    def ends(self, code: int) -> Program:
        """Ends at once with this code."""

    def prints(self, out: str, err: str) -> Program:
        """Writes both texts, each in one piece to its stream, and ends."""

    def counts(self, lines: int) -> Program:
        """Writes the numbers from 1 to `lines`, one a line, to standard output."""

    def tells(self, name: str) -> Program:
        """Prints the environment variable as ``NAME=value`` and a line break."""

    def shows(self, path: str) -> Program:
        """Prints the content of a file."""

    def writes(self, path: str, text: str) -> Program:
        """Puts the text into a file; ends with another code than 0 if it cannot."""

    def stays(self) -> Program:
        """Prints ``ready`` and a line break, and goes on for far longer than any test. Need not heed being asked."""

    def obliges(self) -> Program:
        """Like `stays`; asked to end, it prints ``bye`` and a line break to standard error and ends by itself."""

    def invalid(self) -> list[Program]:
        """Some that can never work, whatever the machine has."""

    def missing(self) -> Program:
        """One that needs something (image, module) that is not there."""


NewRun = Callable[..., Run[Any]]
Reopen = Callable[[], Awaitable[Engine[Any]]]
"""Makes another engine for the same node, as a node does after ``kill -9``: the first is not closed, only dropped."""


def nothing(what: str, done_bytes: int, total_bytes: int | None) -> None:
    """Whoever prepares and does not want to hear of it."""


def fresh_execution() -> tuple[JobId, ExecutionId]:
    """A job and an execution that nobody has."""
    job = job_id(secrets.token_hex(8)[:15], secrets.randbits(62))  # type: ignore[arg-type]
    return job, execution_id(job, 1, 0, 1)


async def begin(engine: Engine[Any], run: Run[Any]) -> Running:
    """Prepare and start, as the node does."""
    async with asyncio.timeout(LIMIT_S):
        await engine.prepare(run.params, nothing)
        return await engine.start(run)


async def chunks_of(running: Running) -> list[Chunk]:
    """All that it wrote, piece by piece, when it has ended."""
    async with asyncio.timeout(LIMIT_S):
        return [chunk async for chunk in running.output()]


def text(chunks: list[Chunk], stream: int) -> str:
    """What went to one stream."""
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream).decode()


async def ended(running: Running) -> Exit:
    """Its end."""
    async with asyncio.timeout(LIMIT_S):
        return await running.wait()


async def ready(running: Running) -> None:
    """Return when it has said ``ready``."""
    said = b""
    async with asyncio.timeout(LIMIT_S), aclosing(running.output()) as output:  # type: ignore[type-var]
        while b"ready\n" not in said:
            said += (await anext(output)).data


async def stop(running: Running, grace_s: float) -> None:
    """Stop it, within reason."""
    async with asyncio.timeout(LIMIT_S):
        await running.stop(grace_s)


class EngineContract:
    """The sentences of the contract."""

    @pytest.fixture
    def new_run(self, tmp_path: Path) -> NewRun:
        """Make a run of a program, with an execution, a job and a folder of its own."""

        def make(
            program: Program, env: dict[str, str] | None = None, mounts: Sequence[Mount] = ()
        ) -> Run[Any]:
            job, execution = fresh_execution()
            folder = tmp_path / execution
            folder.mkdir()
            every = [*program.mounts, *mounts]
            return Run(execution, job, NODE, program.params, folder, env=env or {}, mounts=every)

        return make

    async def test_it_says_that_it_is_here(self, engine: Engine[Any]) -> None:
        """An engine that works offers its type and its version."""
        offer = await engine.probe()

        assert offer.available, offer
        assert (offer.type, offer.type.lower()) == (engine.type, engine.type)
        assert offer.version

    @pytest.mark.parametrize("code", [0, 3, 255])
    async def test_exit_code_is_the_programs(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun, code: int
    ) -> None:
        """The exit code is the program's own, and an end of its own is no failure."""
        running = await begin(engine, new_run(programs.ends(code)))

        assert await ended(running) == Exit(code)

    async def test_wait_gives_the_same_answer(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """However often and from however many sides it is asked, the end is the same."""
        running = await begin(engine, new_run(programs.ends(3)))

        together = await asyncio.gather(*(ended(running) for _ in range(4)))
        later = await ended(running)

        assert {end.code for end in [*together, later]} == {3}

    async def test_waiting_can_be_given_up(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """Someone who stops waiting neither ends the program nor keeps others from its end."""
        running = await begin(engine, new_run(programs.stays()))
        impatient = asyncio.ensure_future(running.wait())
        patient = asyncio.ensure_future(ended(running))
        await ready(running)

        impatient.cancel()
        await asyncio.wait({impatient})
        assert not patient.done()
        await stop(running, 0)

        assert impatient.cancelled()
        assert await patient == await ended(running)

    async def test_output_of_short_programs_is_complete(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """Nothing of a program's output is lost, however soon it ends, and each piece says where it was written."""

        async def one() -> tuple[str, str]:
            chunks = await chunks_of(await begin(engine, new_run(programs.prints("to out\n", "to err\n"))))
            return text(chunks, 1), text(chunks, 2)

        seen = []
        for _ in range(SHORT_RUNS // 4):
            seen += await asyncio.gather(*(one() for _ in range(4)))

        assert seen == [("to out\n", "to err\n")] * SHORT_RUNS

    async def test_output_is_exact(self, engine: Engine[Any], programs: Programs, new_run: NewRun) -> None:
        """Output arrives as it was written: other scripts, control characters, and no line break at the end."""
        out = "grüße \N{SNOWMAN}\ttab \x1b[31m\x07\r\n\n  last line without an end"
        running = await begin(engine, new_run(programs.prints(out, "")))

        chunks = await chunks_of(running)

        assert text(chunks, 1) == out
        assert text(chunks, 2) == ""

    async def test_output_is_in_order(self, engine: Engine[Any], programs: Programs, new_run: NewRun) -> None:
        """What a program writes to a stream is read in the order in which it was written, with times that never go back."""
        running = await begin(engine, new_run(programs.counts(LINES)))

        chunks = await chunks_of(running)

        assert text(chunks, 1).splitlines() == [str(number) for number in range(1, LINES + 1)]
        times = [chunk.at for chunk in chunks]
        assert times == sorted(times)

    async def test_output_can_be_read_again(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """Output can be read from its beginning as often as wanted, by several at once and after the end."""
        running = await begin(engine, new_run(programs.prints("one\ntwo\n", "three\n")))

        together = await asyncio.gather(chunks_of(running), chunks_of(running))
        await ended(running)
        later = await chunks_of(running)

        assert [(text(chunks, 1), text(chunks, 2)) for chunks in [*together, later]] == [
            ("one\ntwo\n", "three\n")
        ] * 3

    async def test_output_is_read_while_it_runs(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """What a program has written can be read while it goes on; reading ends when the program ends."""
        running = await begin(engine, new_run(programs.stays()))
        whole = asyncio.ensure_future(chunks_of(running))

        await ready(running)
        assert not whole.done()
        await stop(running, 0)

        assert text(await whole, 1) == "ready\n"

    async def test_environment(self, engine: Engine[Any], programs: Programs, new_run: NewRun) -> None:
        """The program sees the variables it was given, whatever is in them."""
        value = "a=b \"c\" $HOME 'd' ü\nsecond line"
        running = await begin(engine, new_run(programs.tells("SETTING"), env={"SETTING": value}))

        assert text(await chunks_of(running), 1) == f"SETTING={value}\n"
        assert (await ended(running)).code == 0

    async def test_inputs_are_read(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun, tmp_path: Path
    ) -> None:
        """Each input, folder or single file, is where it was asked for."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "data").write_text("in a folder\n")
        (tmp_path / "single").write_text("alone\n")
        mounts = [
            Mount(tmp_path / "folder", "/inputs/folder"),
            Mount(tmp_path / "single", "/given/single.txt"),
        ]

        folder = await begin(engine, new_run(programs.shows("/inputs/folder/data"), mounts=mounts))
        single = await begin(engine, new_run(programs.shows("/given/single.txt"), mounts=mounts))

        assert text(await chunks_of(folder), 1) == "in a folder\n"
        assert text(await chunks_of(single), 1) == "alone\n"

    async def test_read_only_inputs_refuse_writes(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun, tmp_path: Path
    ) -> None:
        """A program can neither change a read-only input nor add to it."""
        (tmp_path / "inputs").mkdir()
        (tmp_path / "inputs" / "data").write_text("as it was")
        mounts = [Mount(tmp_path / "inputs", "/inputs")]

        for target in ("/inputs/data", "/inputs/new"):
            running = await begin(engine, new_run(programs.writes(target, "changed"), mounts=mounts))
            assert (await ended(running)).code != 0

        assert {path.name: path.read_text() for path in (tmp_path / "inputs").iterdir()} == {
            "data": "as it was"
        }

    async def test_outputs_are_written(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun, tmp_path: Path
    ) -> None:
        """What a program writes into an output folder is on the host when it has ended, and stays when it is removed."""
        (tmp_path / "outputs").mkdir()
        mounts = [Mount(tmp_path / "outputs", "/outputs", read_only=False)]
        running = await begin(engine, new_run(programs.writes("/outputs/result", "42"), mounts=mounts))

        assert await ended(running) == Exit(0)
        await running.remove()

        assert (tmp_path / "outputs" / "result").read_text() == "42"

    async def test_started_twice_is_one_run(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """The same execution started twice, at once or later or after its end, is one run."""
        run = new_run(programs.stays())
        await engine.prepare(run.params, nothing)

        first, second = await asyncio.gather(engine.start(run), engine.start(run))
        await ready(first)
        third = await engine.start(run)
        assert (await engine.leftovers()).count(run.execution) == 1
        await stop(first, 0)
        fourth = await engine.start(run)

        assert len({(await ended(each)).code for each in (first, second, third, fourth)}) == 1
        for each in (first, second, third, fourth):
            assert text(await chunks_of(each), 1) == "ready\n"

    async def test_stop_forces(self, engine: Engine[Any], programs: Programs, new_run: NewRun) -> None:
        """A program that does not end when asked is forced to, and does not look as if it had done its work."""
        running = await begin(engine, new_run(programs.stays()))
        await ready(running)

        await stop(running, GRACE_S)

        assert (await ended(running)).code != 0

    async def test_its_room_on_the_disk_is_told(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """What a program takes beside its mounts is a number of bytes, small for one that writes nothing."""
        running = await begin(engine, new_run(programs.ends(0)))
        await ended(running)

        assert 0 <= await running.disk_bytes() < 1 << 20

    async def test_stop_after_the_end_is_harmless(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """Stopping what has ended changes nothing."""
        running = await begin(engine, new_run(programs.ends(3)))
        end = await ended(running)

        await stop(running, GRACE_S)

        assert await ended(running) == end

    async def test_remove_leaves_nothing(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """After removal the engine knows nothing of the run; removing it again is harmless."""
        run = new_run(programs.ends(0))
        running = await begin(engine, run)
        await ended(running)

        await running.remove()
        await running.remove()

        assert run.execution not in await engine.leftovers()
        assert await engine.recover(run.execution) is None

    async def test_remove_ends_what_runs(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """Removing a program that runs ends it, and its end can still be had."""
        run = new_run(programs.stays())
        running = await begin(engine, run)
        await ready(running)
        waiting = asyncio.ensure_future(ended(running))

        async with asyncio.timeout(LIMIT_S):
            await running.remove()

        assert (await waiting).code != 0
        assert run.execution not in await engine.leftovers()

    async def test_leftovers(self, engine: Engine[Any], programs: Programs, new_run: NewRun) -> None:
        """All runs that the engine holds anything of are listed, ended ones too, until they are removed."""
        going, gone, removed = (
            new_run(program) for program in (programs.stays(), programs.ends(0), programs.ends(0))
        )
        await ready(await begin(engine, going))
        await ended(await begin(engine, gone))
        await (await begin(engine, removed)).remove()

        mine = {run.execution for run in (going, gone, removed)}

        assert mine & set(await engine.leftovers()) == {going.execution, gone.execution}

    async def test_nothing_to_recover(self, engine: Engine[Any]) -> None:
        """An execution that was never started cannot be recovered."""
        assert await engine.recover(fresh_execution()[1]) is None

    async def test_bad_params_are_invalid(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """Params that can never work are refused as such before anything runs, and leave nothing behind."""
        bad = programs.invalid()
        assert bad
        for program in bad:
            run = new_run(program)
            with pytest.raises(Invalid):
                await begin(engine, run)
            assert run.execution not in await engine.leftovers()

    async def test_what_is_missing_is_named(
        self, engine: Engine[Any], programs: Programs, new_run: NewRun
    ) -> None:
        """A program that is not there is `NotFound`, and leaves nothing behind."""
        run = new_run(programs.missing())

        with pytest.raises(NotFound) as caught:
            await begin(engine, run)

        assert caught.value.message
        assert run.execution not in await engine.leftovers()


class AskingContract:
    """For engines whose programs can be asked to end."""

    async def test_stop_asks_first(self, engine: Engine[Any], programs: Programs, new_run: NewRun) -> None:
        """A program that ends when asked does so in its own way, long before the grace is over."""
        running = await begin(engine, new_run(programs.obliges()))
        await ready(running)

        await stop(running, LIMIT_S / 2)

        assert text(await chunks_of(running), 2) == "bye\n"


class OutlivingContract:
    """For engines whose programs outlive the node's process."""

    async def test_recover_a_running_program(
        self,
        engine: Engine[Any],
        programs: Programs,
        new_run: NewRun,
        reopen: Reopen,
    ) -> None:
        """A program that runs is found again: its output from the beginning, its end, and the means to stop it."""
        run = new_run(programs.stays())
        await ready(await begin(engine, run))

        recovered = await (await reopen()).recover(run.execution)

        assert recovered is not None
        await ready(recovered)
        await stop(recovered, 0)
        assert (await ended(recovered)).code != 0
        assert text(await chunks_of(recovered), 1) == "ready\n"

    async def test_recover_an_ended_program(
        self,
        engine: Engine[Any],
        programs: Programs,
        new_run: NewRun,
        reopen: Reopen,
    ) -> None:
        """A program that ended meanwhile is found again, with its exit code and all its output."""
        printing, ending = new_run(programs.prints("out\n", "err\n")), new_run(programs.ends(3))
        for run in (printing, ending):
            await ended(await begin(engine, run))

        other = await reopen()
        printed, over = await other.recover(printing.execution), await other.recover(ending.execution)

        assert printed is not None
        assert over is not None
        chunks = await chunks_of(printed)
        assert (text(chunks, 1), text(chunks, 2)) == ("out\n", "err\n")
        assert await ended(printed) == Exit(0)
        assert await ended(over) == Exit(3)

    async def test_started_again_after_a_crash_is_one_run(
        self,
        engine: Engine[Any],
        programs: Programs,
        new_run: NewRun,
        reopen: Reopen,
    ) -> None:
        """A node that starts an execution again after a crash finds the one that runs."""
        run = new_run(programs.stays())
        await ready(await begin(engine, run))

        other = await reopen()
        again = await begin(other, run)
        await stop(again, 0)

        assert text(await chunks_of(again), 1) == "ready\n"
        assert (await other.leftovers()).count(run.execution) == 1

    async def test_programs_outlive_the_engine(
        self,
        engine: Engine[Any],
        programs: Programs,
        new_run: NewRun,
        reopen: Reopen,
    ) -> None:
        """Closing an engine leaves its programs running."""
        run = new_run(programs.stays())
        await ready(await begin(engine, run))

        await engine.close()
        other = await reopen()
        recovered = await other.recover(run.execution)

        assert recovered is not None
        assert run.execution in await other.leftovers()
        end = asyncio.ensure_future(ended(recovered))
        await ready(recovered)
        assert not end.done()
        await stop(recovered, 0)
        await end
