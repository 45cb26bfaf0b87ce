"""The WebAssembly engine keeps the contract, and keeps a module apart from the node."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from compute.engines.contract import Engine, Exit, Mount, Run
from compute.engines.wasm import KILLED, WasmEngine
from compute.engines.wasm_pool import AHEAD, IDLE_KEPT
from protocol.errors import Fault, Invalid
from protocol.jobs import Amounts
from protocol.spec.engines import WasmParams
from tests.contracts.engine import (
    NODE,
    EngineContract,
    NewRun,
    Program,
    begin,
    chunks_of,
    ended,
    fresh_execution,
    ready,
    stop,
    text,
)

MODULES = Path(__file__).parents[2] / "examples" / "modules"
PROBE = Mount(MODULES / "probe.wasm", "/probe.wasm")
MIB = 1 << 20


def probe(*arguments: str) -> Program:
    """The module that does what its arguments say."""
    return Program(WasmParams(entry_module="/probe.wasm", parameters=list(arguments)), [PROBE])


class Compiled:
    """The suite's programs, in C."""

    def ends(self, code: int) -> Program:
        return probe("exit", str(code))

    def prints(self, out: str, err: str) -> Program:
        return probe("print", out, err)

    def counts(self, lines: int) -> Program:
        return probe("count", str(lines))

    def tells(self, name: str) -> Program:
        return probe("tell", name)

    def shows(self, path: str) -> Program:
        return probe("show", path)

    def writes(self, path: str, text: str) -> Program:
        return probe("write", path, text)

    def stays(self) -> Program:
        return probe("sleep", "100000")

    def obliges(self) -> Program:
        raise NotImplementedError("WASI preview 1 cannot ask a program anything")

    def invalid(self) -> list[Program]:
        return [
            Program(WasmParams(entry_module="/not-an-input.wasm"), [PROBE]),
            Program(WasmParams(entry_module="/probe.wasm", entrypoint="nothing"), [PROBE]),
            Program(WasmParams(entry_module="/probe.c"), [Mount(MODULES / "probe.c", "/probe.c")]),
        ]

    def missing(self) -> Program:
        return Program(WasmParams(entry_module="/in/gone.wasm"), [Mount(MODULES, "/in")])


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[WasmEngine]:
    """An engine whose runs and workers end with the test."""
    engine = WasmEngine(tmp_path / "compiled")
    yield engine
    await engine.close()


def run_of(
    module: bytes | bytearray, folder: Path, *, limit_bytes: int = 0, **params: Any
) -> Run[WasmParams]:
    """A run of a module that a test wrote itself."""
    path = folder / "own.wasm"
    path.write_bytes(module)
    job, execution = fresh_execution()
    own = folder / execution
    own.mkdir()
    given = WasmParams(entry_module="/own.wasm", **params)
    return Run(
        execution,
        job,
        NODE,
        given,
        own,
        mounts=[Mount(path, "/own.wasm")],
        amounts=Amounts(memory_bytes=limit_bytes),
    )


class TestWasm(EngineContract):
    """The contract, with real modules."""

    @pytest.fixture
    def programs(self) -> Compiled:
        return Compiled()


class TestIsolation:
    """A module harms nothing but itself."""

    async def test_a_trap_is_told(self, engine: Engine[Any], tmp_path: Path) -> None:
        """A module that traps fails with the trap's own words, and not with an exit code of its own."""
        run = run_of(wat2wasm('(module (func (export "_start") unreachable))'), tmp_path)

        end = await ended(await begin(engine, run))

        assert end.failure is not None
        assert end.failure.code == "ProgramFailed.Trap"
        assert "unreachable" in end.failure.message

    async def test_endless_recursion_is_a_trap(self, engine: Engine[Any], tmp_path: Path) -> None:
        """A module that exhausts its stack traps; the engine goes on."""
        run = run_of(wat2wasm('(module (func $f (export "_start") call $f))'), tmp_path)

        end = await ended(await begin(engine, run))

        assert end.failure is not None
        assert "stack" in end.failure.message

    async def test_memory_has_a_limit(self, engine: Engine[Any], tmp_path: Path) -> None:
        """A module gets no more memory than its task asked for, and the failure points at the limit."""
        run = run_of(
            (MODULES / "probe.wasm").read_bytes(), tmp_path, limit_bytes=32 * MIB, parameters=["grow"]
        )

        end = await ended(await begin(engine, run))

        assert end.failure is not None
        assert "Resources.Memory" in end.failure.hint

    async def test_a_busy_module_can_be_stopped(self, engine: Engine[Any], new_run: NewRun) -> None:
        """A module that never yields ends at once when it is stopped, and a later run is not disturbed."""
        running = await begin(engine, new_run(probe("spin")))
        await ready(running)

        await stop(running, grace_s=60)

        assert await ended(running) == Exit(code=KILLED)
        assert await ended(await begin(engine, new_run(probe("exit", "0")))) == Exit(code=0)

    async def test_no_path_leads_out(self, engine: Engine[Any], new_run: NewRun, tmp_path: Path) -> None:
        """Neither ``..`` nor a symbolic link in an input leads a module to the rest of the machine."""
        (tmp_path / "secret").write_text("secret")
        inside = tmp_path / "inside"
        inside.mkdir()
        (inside / "link").symlink_to(tmp_path / "secret")

        for path in ("/in/../secret", "/in/link", "/etc/passwd"):
            running = await begin(engine, new_run(probe("show", path), mounts=[Mount(inside, "/in")]))

            assert (await ended(running)).code == 2
            assert "secret" not in text(await chunks_of(running), 1)

    async def test_both_streams_in_the_order_written(self, engine: Engine[Any], new_run: NewRun) -> None:
        """Output of both streams comes in the one order in which the program wrote it."""
        script = '(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        script += '(memory (export "memory") 1) (data (i32.const 16) "ab") (func (export "_start")'
        for number in range(6):
            script += f"(i32.store (i32.const 0) (i32.const {16 + number % 2})) (i32.store (i32.const 4) (i32.const 1))"
            script += (
                f"(drop (call $w (i32.const {1 + number % 2}) (i32.const 0) (i32.const 1) (i32.const 8)))"
            )
        run = new_run(Program(WasmParams(entry_module="/own.wasm")))
        own = run_of(wat2wasm(script + "))"), run.folder)

        chunks = await chunks_of(await begin(engine, own))

        assert [(chunk.stream, chunk.data) for chunk in chunks] == [(1, b"a"), (2, b"b")] * 3

    @pytest.fixture
    def new_run(self, tmp_path: Path) -> NewRun:
        """As the suite makes runs."""
        return EngineContract().new_run.__wrapped__(EngineContract(), tmp_path)  # type: ignore[attr-defined,no-any-return]


class TestWorkers:
    """Worker processes come and go with the work."""

    async def test_a_module_is_compiled_once(self, engine: WasmEngine, tmp_path: Path) -> None:
        """The second run of the same bytes finds them compiled, whatever the file is called."""
        module = wat2wasm('(module (func (export "_start")))')
        await ended(await begin(engine, run_of(module, tmp_path)))
        compiled = {path: path.stat().st_mtime_ns for path in (tmp_path / "compiled").iterdir()}

        await ended(await begin(engine, run_of(module, tmp_path)))

        assert len(compiled) == 1
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "compiled").iterdir()} == compiled

    async def test_another_versions_code_is_compiled_anew(self, engine: WasmEngine, tmp_path: Path) -> None:
        """A stored module that this runtime cannot read is thrown away and made again."""
        module = wat2wasm('(module (func (export "_start")))')
        await ended(await begin(engine, run_of(module, tmp_path)))
        for path in (tmp_path / "compiled").iterdir():
            path.write_bytes(b"from another version")
        fresh = WasmEngine(tmp_path / "compiled")

        end = await ended(await begin(fresh, run_of(module, tmp_path)))

        await fresh.close()
        assert end == Exit(code=0)

    async def test_many_at_once(self, engine: WasmEngine, tmp_path: Path) -> None:
        """Many short runs at the same time share a few workers; all of them end."""
        module = wat2wasm('(module (func (export "_start")))')
        runs = [run_of(module, tmp_path) for _ in range(10 * AHEAD)]

        ends = await asyncio.gather(*(_whole(engine, run) for run in runs))

        assert set(ends) == {Exit(code=0)}
        assert engine.pool.idle <= IDLE_KEPT

    async def test_a_long_program_keeps_nobody_waiting(self, engine: WasmEngine, tmp_path: Path) -> None:
        """Runs that wait behind long ones are run by other workers, however many of those there are."""
        probe = (MODULES / "probe.wasm").read_bytes()
        short = [run_of(wat2wasm('(module (func (export "_start")))'), tmp_path) for _ in range(2 * AHEAD)]
        first = await asyncio.gather(
            *(begin(engine, run_of(probe, tmp_path, parameters=["sleep", "100000"])) for _ in range(3))
        )

        ends = await asyncio.gather(*(_whole(engine, run) for run in short))

        assert set(ends) == {Exit(code=0)}
        for running in first:
            await stop(running, grace_s=0)

    async def test_what_runs_on_is_known_to_have_begun(self, engine: WasmEngine, tmp_path: Path) -> None:
        """Whatever came before it at its worker (short runs, refused ones, such as end before their entry point), a long
        program is known to run while it does.
        """
        short = wat2wasm('(module (func (export "_start")))')
        refused = wat2wasm('(module (import "env" "magic" (func)) (func (export "_start")))')
        early = '(module (import "wasi_snapshot_preview1" "proc_exit" (func $x (param i32)))'
        early += '(memory (export "memory") 1) (func $s (call $x (i32.const 3))) (start $s) (func (export "_start")))'
        probe = (MODULES / "probe.wasm").read_bytes()
        for _ in range(2):
            runs = []
            for module in (short, refused, wat2wasm(early), short):
                own = tmp_path / fresh_execution()[1]
                own.mkdir()
                runs.append(run_of(module, own))
            before = [asyncio.create_task(_whole(engine, run)) for run in runs]
            long = await begin(engine, run_of(probe, tmp_path, parameters=["sleep", "100000"]))
            ends = await asyncio.gather(*before, return_exceptions=True)
            assert [each.code for each in ends if isinstance(each, Exit)] == [0, 3, 0]
            assert isinstance(ends[1], Invalid)
            await stop(long, grace_s=0)

    async def test_only_what_ran_dies_with_its_worker(self, engine: WasmEngine, tmp_path: Path) -> None:
        """Runs that wait in the line of a worker which is killed run elsewhere, each once."""
        await engine.pool.ready()
        (pid,) = _workers_of(os.getpid())
        marks = tmp_path / "marks"
        marks.mkdir()
        spin = run_of((MODULES / "probe.wasm").read_bytes(), tmp_path, parameters=["spin"])
        waiting = []
        for number in range(AHEAD):
            run = run_of(
                (MODULES / "probe.wasm").read_bytes(),
                tmp_path,
                parameters=["write", f"/marks/{number}", "x"],
            )
            mounts = [*run.mounts, Mount(marks, "/marks", read_only=False)]
            waiting.append(Run(run.execution, run.job, NODE, run.params, run.folder, mounts=mounts))
        running, *others = [asyncio.create_task(begin(engine, run)) for run in (spin, *waiting)]
        stuck = await running

        os.kill(pid, 9)

        assert (await ended(stuck)).failure is not None
        assert {(await ended(await other)).code for other in others} == {0}
        assert {path.name for path in marks.iterdir()} == {str(number) for number in range(AHEAD)}

    async def test_an_order_of_any_size(self, engine: WasmEngine, tmp_path: Path) -> None:
        """A program with more arguments than fit into a packet gets them all."""
        long = "x" * 100_000
        run = run_of((MODULES / "probe.wasm").read_bytes(), tmp_path, parameters=["print", long, ""])

        assert text(await chunks_of(await begin(engine, run)), 1) == long

    async def test_a_worker_that_dies_is_told(self, engine: WasmEngine, tmp_path: Path) -> None:
        """When the worker is killed from outside, the execution fails as something that may be tried again."""
        run = run_of((MODULES / "probe.wasm").read_bytes(), tmp_path, parameters=["sleep", "100000"])
        running = await begin(engine, run)
        await ready(running)
        (pid,) = _workers_of(os.getpid())

        os.kill(pid, 9)

        end = await ended(running)
        assert end.failure is not None
        assert end.failure.retryable

    async def test_a_module_that_wants_more_than_there_is(self, engine: WasmEngine, tmp_path: Path) -> None:
        """A module with an import that nobody offers is refused with the import's name."""
        run = run_of(wat2wasm('(module (import "env" "magic" (func)) (func (export "_start")))'), tmp_path)

        with pytest.raises(Invalid, match="magic"):
            await begin(engine, run)

    async def test_modules_can_import_modules(self, engine: WasmEngine, tmp_path: Path) -> None:
        """ImportModules are linked before the entry module, under the names of their files."""
        library = tmp_path / "library.wasm"
        library.write_bytes(wat2wasm('(module (func (export "seven") (result i32) i32.const 7))'))
        entry = '(module (import "library" "seven" (func $s (result i32)))'
        entry += '(import "wasi_snapshot_preview1" "proc_exit" (func $x (param i32)))'
        entry += '(memory (export "memory") 1) (func (export "_start") (call $x (call $s))))'
        run = run_of(wat2wasm(entry), tmp_path, import_modules=["/lib/library.wasm"])
        mounts = [*run.mounts, Mount(library, "/lib/library.wasm")]
        linked = Run(run.execution, run.job, NODE, run.params, run.folder, mounts=mounts)

        assert await ended(await begin(engine, linked)) == Exit(code=7)

    async def test_a_file_and_a_folder_at_one_place(self, engine: WasmEngine, tmp_path: Path) -> None:
        """A single file whose parent is another input cannot be shown to the module: that is said, with both."""
        run = run_of(wat2wasm('(module (func (export "_start")))'), tmp_path)
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        mounts = [*run.mounts, Mount(tmp_path / "folder", "/in"), Mount(tmp_path / "file", "/in/file")]
        mixed = Run(run.execution, run.job, NODE, run.params, run.folder, mounts=mounts)

        with pytest.raises(Fault, match="/in/file"):
            await begin(engine, mixed)


async def _whole(engine: WasmEngine, run: Run[WasmParams]) -> Exit:
    running = await begin(engine, run)
    end = await ended(running)
    await running.remove()
    return end


def _workers_of(parent: int) -> list[int]:
    """The worker processes of a process, from the kernel's own list."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent and b"wasm_worker" in command:
                found.append(int(entry.name))
    return found
