"""The WebAssembly engine: modules run by wasmtime in worker processes beside the node.

Knows: how a run becomes a worker's order, and its answer an exit. Must not know: wasmtime itself, which lives in
`compute.engines.wasm_worker`: a module that crashes the runtime takes a worker with it, never the node.

A worker runs one module at a time and is used again, so a small program costs a line written and a line read. Workers are
started one after the other while runs wait for one, so a burst of short programs shares a few and long ones each get
their own; idle ones beyond `IDLE_KEPT` end. Stopping a program means killing its worker, which no program can refuse or
delay; WASI preview 1 has no way to ask first. Runs do not outlive the node: `recover` finds nothing, and the node runs
them again.

What the program finds: folders at their targets, read-only unless they are results; a single file alone in its folder;
the environment; no network. A module without an exit code of its own that returns ends with 0.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
from msgspec import Struct

from compute.engines.contract import Chunk, Engine, Exit, Mount, Preparing, Run, Running
from compute.engines.wasm_worker import FRAME_HEAD, Answer, Order
from protocol.errors import Broken, Failure, Fault, Invalid, NotFound, Unavailable
from protocol.ids import ExecutionId
from protocol.nodes import Offer
from protocol.spec.engines import WasmParams

IDLE_KEPT: Final = max(2, os.cpu_count() or 1)
GROW_AFTER_S: Final = 0.05
"""So long a run waits for a busy worker before another is started: short programs are quicker than a start."""
READY_S: Final = 30.0
"""A worker that is not ready by then is ill: it only has to import the runtime."""
TAIL_S: Final = 0.05
"""How often a running program's output file is looked at."""
PIECE_BYTES: Final = 65_536
KILLED: Final = 137
"""The exit code of a program that was stopped: 128 and the signal's number, as a shell tells it."""

Shown = tuple[Path, Path]
"""A file, and the path at which a program shall find the same bytes."""


class _Reply(Struct, frozen=True):
    """Any line a worker says: one of the two words, or the fields of an `Answer`."""

    ready: bool = False
    started: bool = False
    code: int = 0
    fault: str = ""
    message: str = ""
    memory_bytes: int = 0

    def answer(self) -> Answer:
        return Answer(self.code, self.fault, self.message, self.memory_bytes)


class Worker:
    """One worker process. Not shared: whoever holds it gives it one order at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders = process.stdin
        self._answers = process.stdout

    @classmethod
    async def start(cls, modules: Path) -> "Worker":
        """Start one and wait until it is ready. Raises `Unavailable`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "compute.engines.wasm_worker",
            str(modules),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        worker = cls(process)
        try:
            async with asyncio.timeout(READY_S):
                reply = await worker.read()
        except TimeoutError as error:
            await worker.kill()
            raise Unavailable(f"a WebAssembly worker was not ready within {READY_S:g} s") from error
        except BaseException:
            await worker.kill()
            raise
        if reply is None:
            raise Unavailable("a WebAssembly worker ended at its start", hint="see the node's standard error")
        return worker

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    def order(self, order: Order) -> None:
        """Give it an order."""
        self._orders.write(msgspec.json.encode(order) + b"\n")

    async def read(self) -> _Reply | None:
        """Its next line, or None when it has ended."""
        line = await self._answers.readline()
        return msgspec.json.decode(line, type=_Reply) if line.endswith(b"\n") else None

    async def kill(self) -> int:
        """End it, now. Returns the process's exit status."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()

    async def ended(self) -> int:
        """The exit status of a worker whose output has ended."""
        return await self._process.wait()


class WasmRunning:
    """One program. Its fate is one task that reads the worker's answer; everyone else waits for that."""

    def __init__(self, engine: "WasmEngine", run: Run[WasmParams], output: Path) -> None:
        self._engine = engine
        self._run = run
        self._output = output
        self._worker: Worker | None = None
        self._stopped = False
        self._fate: asyncio.Task[Exit] | None = None

    async def begin(self, order: Order) -> None:
        """Hand the order to a worker and wait until the program runs. Raises the fault that prevents it."""
        self._worker = worker = await self._engine.take()
        try:
            worker.order(order)
            reply = await worker.read()
        except BaseException:
            self._engine.gone()
            await worker.kill()
            raise
        if reply is None:
            self._engine.gone()
            status = await worker.ended()
            raise Broken(f"the WebAssembly worker ended ({status}) while it compiled {order.module}")
        if not reply.started:
            self._engine.give_back(worker)
            raise _refusal(reply.answer(), self._run.params)
        self._fate = asyncio.create_task(self._follow(worker))

    async def wait(self) -> Exit:
        assert self._fate is not None
        return await asyncio.shield(self._fate)

    async def stop(self, grace_s: float) -> None:
        assert self._fate is not None
        assert self._worker is not None
        if not self._fate.done():
            self._stopped = True
            await self._worker.kill()
            await self.wait()

    async def remove(self) -> None:
        await self.stop(0)
        self._engine.forget(self._run.execution)

    async def output(self) -> AsyncIterator[Chunk]:
        assert self._fate is not None
        position = 0
        while True:
            # Asked before reading: what a program wrote before its end is then read for certain.
            ended = self._fate.done()
            while chunks := _frames(self._output, position):
                for chunk in chunks:
                    position += FRAME_HEAD + len(chunk.data)
                    yield chunk
            if ended:
                return
            await asyncio.wait({self._fate}, timeout=TAIL_S)

    async def _follow(self, worker: Worker) -> Exit:
        reply = await worker.read()
        if reply is None:
            self._engine.gone()
            status = await worker.ended()
            if self._stopped:
                return Exit(code=KILLED)
            failure = Failure(
                "Broken.Worker",
                f"the WebAssembly worker ended with {status} while the program ran",
                hint="the node's kernel log says whether memory ran out",
                retryable=True,
            )
            return Exit(code=KILLED, failure=failure)
        self._engine.give_back(worker)
        return _exit(reply.answer(), self._run)


class WasmEngine:
    """Runs WebAssembly modules with WASI preview 1. `folder` holds compiled modules and is the node's alone."""

    params: ClassVar[type] = WasmParams
    type: ClassVar[str] = "wasm"

    def __init__(self, folder: Path) -> None:
        self._modules = folder
        self._idle: list[Worker] = []
        self._runs: dict[ExecutionId, WasmRunning] = {}
        self._starting: dict[ExecutionId, asyncio.Lock] = {}
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._busy = 0
        self._growth: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[int]] = set()

    async def probe(self) -> Offer:
        """wasmtime comes with this package, so the engine is always there."""
        from importlib.metadata import version

        return Offer(type=self.type, version=f"wasmtime {version('wasmtime')}")

    async def prepare(self, params: WasmParams, preparing: Preparing) -> None:
        """The module arrives as an input; only a worker can be made ready before that."""
        if not self._idle:
            self.give_back(await self.take())

    async def start(self, run: Run[WasmParams]) -> Running:
        lock = self._starting.setdefault(run.execution, asyncio.Lock())
        try:
            async with lock:
                if run.execution not in self._runs:
                    self._runs[run.execution] = await self._begin(run)
                return self._runs[run.execution]
        finally:
            self._starting.pop(run.execution, None)

    async def _begin(self, run: Run[WasmParams]) -> WasmRunning:
        output = run.folder / "output"
        running = WasmRunning(self, run, output)
        order, shown = _order(run, output)
        if shown:
            await asyncio.to_thread(_show, shown)
        await running.begin(order)
        return running

    async def recover(self, execution: ExecutionId) -> Running | None:
        return self._runs.get(execution)

    async def leftovers(self) -> list[ExecutionId]:
        return list(self._runs)

    async def close(self) -> None:
        for running in list(self._runs.values()):
            await running.remove()
        if self._growth is not None:
            self._growth.cancel()
            await asyncio.gather(self._growth, return_exceptions=True)
        for worker in self._idle:
            await worker.kill()
        self._idle.clear()
        await asyncio.gather(*self._closing)

    async def take(self) -> Worker:
        """A worker for one order: idle, the next that gets free, or a new one. Raises `Unavailable`."""
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                self._busy += 1
                return worker
        waiter: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if self._growth is None or self._growth.done():
            self._growth = asyncio.create_task(self._grow())
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())
            raise

    def give_back(self, worker: Worker) -> None:
        """The worker has nothing to do any more."""
        self._busy -= 1
        self._place(worker)

    def gone(self) -> None:
        """A worker that was taken has ended."""
        self._busy -= 1

    def _place(self, worker: Worker) -> None:
        """Give a free worker to whoever waits longest, or keep it, or end it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._busy += 1
                waiter.set_result(worker)
                return
        if len(self._idle) < IDLE_KEPT:
            self._idle.append(worker)
            return
        ending = asyncio.create_task(worker.kill())
        self._closing.add(ending)
        ending.add_done_callback(self._closing.discard)

    async def _grow(self) -> None:
        """Start workers one after the other for as long as runs wait for one."""
        self._modules.mkdir(parents=True, exist_ok=True, mode=0o700)
        while any(not waiter.done() for waiter in self._waiting):
            if self._busy:
                oldest = self._waiting[0]
                await asyncio.wait({oldest}, timeout=GROW_AFTER_S)
                if oldest.done():
                    continue
            try:
                self._place(await Worker.start(self._modules))
            except Fault as fault:
                while self._waiting:
                    waiter = self._waiting.popleft()
                    if not waiter.done():
                        waiter.set_exception(fault)

    def forget(self, execution: ExecutionId) -> None:
        """Nothing is left of this run but its folder."""
        self._runs.pop(execution, None)


def _frames(path: Path, position: int) -> list[Chunk]:
    """The whole pieces in an output file from `position` on, up to about `PIECE_BYTES`."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(PIECE_BYTES)
            if len(data) >= FRAME_HEAD and (first := FRAME_HEAD + int.from_bytes(data[9:FRAME_HEAD])) > len(
                data
            ):
                data += file.read(first - len(data))
    except FileNotFoundError:
        return []
    chunks, start = [], 0
    while start + FRAME_HEAD <= len(data):
        end = start + FRAME_HEAD + int.from_bytes(data[start + 9 : start + FRAME_HEAD])
        if end > len(data):
            break
        at = int.from_bytes(data[start + 1 : start + 9]) / 1e6
        chunks.append(Chunk(stream=data[start], at=at, data=data[start + FRAME_HEAD : end]))
        start = end
    return chunks


def _order(run: Run[WasmParams], output: Path) -> tuple[Order, list[Shown]]:
    """What to tell a worker, and the files to show before. Raises `Invalid` and `NotFound`, naming the wrong parameter."""
    modules = _module_paths(run.params, run.mounts)
    folders, shown = _folders(run, set(modules))
    output.unlink(missing_ok=True)
    ports = {f"BACALHAU_PORT_{name}": str(port) for name, (port, _) in run.ports.items()}
    order = Order(
        module=str(modules[run.params.entry_module]),
        entrypoint=run.params.entrypoint or "_start",
        argv=[PurePosixPath(run.params.entry_module).name, *run.params.parameters],
        env={**run.env, **ports},
        folders=folders,
        output=str(output),
        imports=[(PurePosixPath(name).stem, str(modules[name])) for name in run.params.import_modules],
        memory_bytes=run.amounts.memory_bytes,
    )
    return order, shown


def _module_paths(params: WasmParams, mounts: list[Mount]) -> dict[str, Path]:
    """Where the modules lie: a module is named by an input's target, or by a path beneath one."""
    found = {}
    for field, name in [
        ("EntryModule", params.entry_module),
        *(("ImportModules", each) for each in params.import_modules),
    ]:
        path = next((at for mount in mounts if (at := _beneath(mount, name)) is not None), None)
        if path is None:
            targets = ", ".join(mount.target for mount in mounts) or "none"
            raise Invalid(f"{field} {name!r} is not the target of an input (there are: {targets})")
        if path.is_dir():
            path = _only_file(path, field, name)
        if not path.is_file():
            raise NotFound(f"{field} {name!r} is not among the fetched inputs", kind="Module")
        found[name] = path
    return found


def _beneath(mount: Mount, name: str) -> Path | None:
    if not PurePosixPath(name).is_relative_to(mount.target):
        return None
    inner = PurePosixPath(name).relative_to(mount.target)
    return None if ".." in inner.parts else mount.source / inner


def _only_file(folder: Path, field: str, name: str) -> Path:
    """S3 and URL inputs are folders; a module that lies alone in one is meant."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise Invalid(
            f"{field} {name!r} is a folder with {len(files)} files, not a module", hint="name the file in it"
        )
    return files[0]


def _folders(run: Run[WasmParams], modules: set[str]) -> tuple[list[tuple[str, str, bool]], list[Shown]]:
    """WASI opens folders only: each single file is shown alone in a folder that bears its parent's name."""
    files: list[Shown] = []
    folders = {
        mount.target: (str(mount.source), not mount.read_only)
        for mount in run.mounts
        if mount.source.is_dir()
    }
    for number, mount in enumerate(run.mounts):
        if mount.target in modules or mount.source.is_dir():
            continue
        target = PurePosixPath(mount.target)
        parent = str(target.parent)
        shown = run.folder / "files" / parent.strip("/").replace("/", "%")
        if folders.setdefault(parent, (str(shown), not mount.read_only))[0] != str(shown):
            raise Invalid(
                f"input {number} is a file at {mount.target}, where {parent} is an input or result folder too"
            )
        files.append((mount.source, shown / target.name))
    return [(host, inside, writable) for inside, (host, writable) in folders.items()], files


def _show(files: list[Shown]) -> None:
    """Let the same bytes appear at another path: by link, or by copy across file systems."""
    for source, at in files:
        at.parent.mkdir(parents=True, exist_ok=True)
        if not at.exists():
            _link(source, at)


def _link(source: Path, at: Path) -> None:
    try:
        os.link(source, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(source, at)


def _refusal(answer: Answer, params: WasmParams) -> Fault:
    if answer.fault == "module":
        return Invalid(f"module {params.entry_module}: {answer.message}", kind="Module")
    if answer.fault == "link":
        hint = "the engine offers WASI preview 1 and the job's ImportModules"
        return Invalid(
            f"module {params.entry_module} cannot be linked: {answer.message}", kind="Module", hint=hint
        )
    return Invalid(f"module {params.entry_module}: {answer.message}")


def _exit(answer: Answer, run: Run[WasmParams]) -> Exit:
    if answer.fault != "trap":
        return Exit(code=answer.code)
    limit = run.amounts.memory_bytes
    hint = "see the program's standard error (logs)"
    if limit and answer.memory_bytes > limit // 2:
        hint = f"its memory had grown to {answer.memory_bytes} of {limit} bytes; if that was it, raise Resources.Memory"
    return Exit(
        code=answer.code,
        failure=Failure("ProgramFailed.Trap", f"the module trapped: {answer.message}", hint=hint),
    )


if TYPE_CHECKING:

    def _fits(engine: WasmEngine, running: WasmRunning) -> tuple[Engine[WasmParams], Running]:
        return engine, running
