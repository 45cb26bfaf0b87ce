"""The WebAssembly engine: modules run by wasmtime in worker processes beside the node.

Knows: what became of a run, and where its output lies. Must not know: which worker runs what (`compute.engines.wasm_pool`),
what a program finds (`compute.engines.wasm_order`), or wasmtime itself (`compute.engines.wasm_worker`): a module that
crashes the runtime takes a worker with it, never the node.

Stopping a program means killing its worker, which no program can refuse or delay; WASI preview 1 has no way to ask first.
Runs do not outlive the node: `recover` finds nothing, and the node runs them again. A module without an exit code of its
own that returns ends with 0.
"""

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from compute.engines.contract import Chunk, Engine, Exit, Preparing, Run, Running
from compute.engines.wasm_order import order_of, show
from compute.engines.wasm_pool import Died, Pool, Program
from compute.engines.wasm_reach import Way
from compute.engines.wasm_worker import FRAME_HEAD, ORDER_MAX_BYTES, Answer, Order
from protocol.errors import PROGRAM_FAILED, Broken, Failure, Fault, Invalid
from protocol.ids import ExecutionId
from protocol.nodes import Offer
from protocol.spec.engines import WasmParams

VERSION: Final = version("wasmtime")
"""That which this process began with: it may be replaced on the disk meanwhile."""
TAIL_S: Final = 0.05
"""How often a running program's output file is looked at."""
PIECE_BYTES: Final = 65_536
OUTPUT: Final = "output"
"""What the program wrote, in the engine's folder of its execution."""
KILLED: Final = 137
"""The exit code of a program that was stopped: 128 and the signal's number, as a shell tells it."""


class WasmRunning:
    """One program; the pool tells of its end."""

    def __init__(self, engine: "WasmEngine", run: Run[WasmParams], program: Program) -> None:
        self._engine = engine
        self._run = run
        self._program = program
        self._stopped = False

    async def wait(self) -> Exit:
        end = self._program.end
        return self._exit(end.result() if end.done() else await asyncio.shield(end))

    async def disk_bytes(self) -> int:
        """A module can write to its mounts only."""
        return 0

    async def stop(self, grace_s: float) -> None:
        if not self._program.end.done():
            self._stopped = True
            self._engine.pool.withdraw(self._program)
            await self.wait()

    async def remove(self) -> None:
        await self.stop(0)
        self._engine.forget(self._run.execution)

    async def output(self) -> AsyncIterator[Chunk]:
        position = 0
        while True:
            # Asked before reading: what a program wrote before its end is then read for certain.
            end = self._program.end.result() if self._program.end.done() else None
            if isinstance(end, Answer) and not end.wrote:
                return
            while chunks := _frames(self._run.folder / OUTPUT, position):
                for chunk in chunks:
                    position += FRAME_HEAD + len(chunk.data)
                    yield chunk
            if end is not None:
                return
            await asyncio.wait({self._program.end}, timeout=TAIL_S)

    def _exit(self, end: Answer | Died) -> Exit:
        if isinstance(end, Answer):
            return _exit(end, self._run)
        if self._stopped:
            return Exit(code=KILLED)
        failure = Failure(
            "Broken.Worker",
            f"the WebAssembly worker ended with {end.status} while the program ran",
            hint="The node's kernel log says whether memory ran out.",
            retryable=True,
        )
        return Exit(code=KILLED, failure=failure)


class WasmEngine:
    """Runs WebAssembly modules with WASI preview 1. `folder` holds compiled modules and is the node's alone; `reach` is what
    modules may reach by HTTP, nothing if None.
    """

    params: ClassVar[type] = WasmParams
    type: ClassVar[str] = "wasm"

    def __init__(self, folder: Path, reach: Way | None = None) -> None:
        self.pool = Pool(folder)
        self._reach = reach
        self._runs: dict[ExecutionId, WasmRunning] = {}
        self._starting: dict[ExecutionId, asyncio.Future[None]] = {}

    async def probe(self) -> Offer:
        """wasmtime comes with this package, so the engine is always there."""
        return Offer(type=self.type, version=f"wasmtime {VERSION}")

    async def changed(self) -> None:
        """It is always there."""
        await asyncio.Event().wait()

    def prepared(self, params: WasmParams) -> bool:
        return self.pool.started

    async def prepare(self, params: WasmParams, preparing: Preparing) -> None:
        """The module arrives as an input; only a worker can be made ready before that."""
        await self.pool.ready()

    async def start(self, run: Run[WasmParams]) -> Running:
        while (starting := self._starting.get(run.execution)) is not None:
            await asyncio.wait({starting})
        running = self._runs.get(run.execution)
        if running is None:
            starting = self._starting[run.execution] = asyncio.get_running_loop().create_future()
            try:
                running = self._runs[run.execution] = await self._begin(run)
            finally:
                del self._starting[run.execution]
                starting.set_result(None)
        return running

    async def _begin(self, run: Run[WasmParams]) -> WasmRunning:
        order, shown = order_of(run, f"{run.folder}/{OUTPUT}", self._reach)
        if shown:
            await asyncio.to_thread(show, shown)
        program = Program(_packet(order, run.folder))
        self.pool.put(program)
        try:
            begun = await program.begun
        except asyncio.CancelledError:
            self.pool.withdraw(program)
            raise
        if isinstance(begun, Fault):
            raise begun
        if isinstance(begun, Died):
            raise Broken(f"the WebAssembly worker ended ({begun.status}) while it compiled {order.module}")
        if begun is not None:
            raise _refusal(begun, run.params)
        return WasmRunning(self, run, program)

    async def recover(self, execution: ExecutionId) -> Running | None:
        return self._runs.get(execution)

    async def leftovers(self) -> list[ExecutionId]:
        return list(self._runs)

    async def close(self) -> None:
        for running in list(self._runs.values()):
            await running.remove()
        await self.pool.close()

    def forget(self, execution: ExecutionId) -> None:
        """Nothing is left of this run but its folder."""
        self._runs.pop(execution, None)


def _packet(order: Order, folder: Path) -> bytes:
    """An order as a worker takes it: a large one by the path of a file."""
    packet = msgspec.json.encode(order)
    if len(packet) <= ORDER_MAX_BYTES:
        return packet
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "order").write_bytes(packet)
    return bytes(folder / "order")


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


def _refusal(answer: Answer, params: WasmParams) -> Fault:
    if answer.fault == "module":
        return Invalid(f"module {params.entry_module}: {answer.message}", kind="Module")
    if answer.fault == "link":
        hint = "The engine offers WASI preview 1, http_request and the job's ImportModules."
        return Invalid(
            f"module {params.entry_module} cannot be linked: {answer.message}", kind="Module", hint=hint
        )
    return Invalid(f"module {params.entry_module}: {answer.message}")


def _exit(answer: Answer, run: Run[WasmParams]) -> Exit:
    if answer.fault != "trap":
        return Exit(code=answer.code)
    limit = run.amounts.memory_bytes
    hint = "See the program's standard error (logs)."
    if limit and answer.memory_bytes > limit // 2:
        hint = f"Its memory had grown to {answer.memory_bytes} of {limit} bytes; if that was it, raise Resources.Memory."
    return Exit(
        code=answer.code,
        failure=Failure(f"{PROGRAM_FAILED}.Trap", f"the module trapped: {answer.message}", hint=hint),
    )


if TYPE_CHECKING:

    def _fits(engine: WasmEngine, running: WasmRunning) -> tuple[Engine[WasmParams], Running]:
        return engine, running
