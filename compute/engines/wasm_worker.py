"""The process that runs WebAssembly: one module at a time, apart from the node.

Knows: wasmtime, the orders that come one by one through a socket, and the lines it says on its standard output (see
`compute.engines.wasm_pool`). Must not know: jobs, messages, storage. A module that crashes the runtime, or is stopped, takes
this process with it and nothing else; the node starts another.

It ends when the node closes the socket, and the kernel kills it when the node dies (``PR_SET_PDEATHSIG``): a run never
outlives the node that would report it.

In: packets with an `Order`, or with the path of a file that holds a larger one. Out: a line when it is ready, then for each
order ``{"started":true}`` when the module is compiled and linked, and one `Answer`; or an `Answer` alone when it cannot be
started. It takes an order only when it is free: what it has not taken may be taken back.
"""

import contextlib
import ctypes
import functools
import os
import resource
import signal
import socket
import sys
import time
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import wasmtime
from msgspec import Struct, field

from compute.engines.wasm_reach import ARGUMENTS, MODULE, NAME, Way

FRAME_HEAD: Final = 13
"""Bytes before each piece in the output file: stream (1), unix microseconds (8), length (4), big-endian."""
ORDER_MAX_BYTES: Final = 65_536
"""The largest order that travels through the socket itself."""
STARTED: Final = b'{"started":true}'
MODULES_KEPT: Final = 32
PROGRAM_STACK_BYTES: Final = 1 << 20
PROC_EXIT: Final = ("wasi_snapshot_preview1", "proc_exit")


class Order(Struct, frozen=True):
    """Run this. `folders` are (host path, path inside, writable); `imports` are (name, path) in the order of loading;
    `way` is what it may reach by HTTP, nothing if None.
    """

    module: str
    entrypoint: str
    argv: list[str]
    env: dict[str, str]
    folders: list[tuple[str, str, bool]]
    output: str
    imports: list[tuple[str, str]] = field(default_factory=list)
    memory_bytes: int = 0
    way: Way | None = None


class Answer(Struct, frozen=True, omit_defaults=True):
    """How it ended. `fault` is ``module`` (cannot be compiled), ``link`` (imports, entry point), ``trap`` or ``folder``.

    `wrote`: there is an output file.
    """

    code: int = 0
    wrote: bool = False
    fault: str = ""
    message: str = ""
    memory_bytes: int = 0


class _Refused(Exception):
    """The order cannot be started; carries the answer."""

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(code=1, fault=fault, message=message)


class _Ended(Exception):
    """The program called ``proc_exit``."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Modules:
    """Compiled modules by the SHA-256 of their bytes: a few in memory, all in a folder that only the node may write.

    The folder's entries are machine code for this runtime and are trusted, so it must not be shared.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._engine = wasmtime.Engine(_config())
        self.requests = Requests()
        self._wasi = self.linker()
        self._kept: OrderedDict[str, wasmtime.Module] = OrderedDict()
        self._linked: dict[wasmtime.Module, wasmtime.InstancePre] = {}

    @property
    def engine(self) -> wasmtime.Engine:
        """The runtime that the modules were compiled for."""
        return self._engine

    def linker(self) -> wasmtime.Linker:
        """A linker that offers WASI preview 1, and HTTP."""
        linker = wasi_linker(self._engine)
        numbers = [wasmtime.ValType.i32()] * ARGUMENTS
        kind = wasmtime.FuncType(numbers, [wasmtime.ValType.i32()])
        linker.define_func(MODULE, NAME, kind, self.requests.ask, access_caller=True)
        return linker

    def load(self, path: str) -> wasmtime.Module:
        """The compiled form of a file. Raises `_Refused` if it is not a module."""
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except OSError as error:
            raise _Refused("module", f"cannot be read: {error.strerror}") from error
        digest = sha256(data).hexdigest()
        module = self._kept.pop(digest, None) or self._stored(digest) or self._compiled(digest, data)
        self._kept[digest] = module
        while len(self._kept) > MODULES_KEPT:
            self._linked.pop(self._kept.popitem(last=False)[1], None)
        return module

    def linked(self, module: wasmtime.Module) -> wasmtime.InstancePre:
        """A module that was loaded, with WASI for its imports: looked up once, for it takes a good part of a small run."""
        linked = self._linked.get(module)
        if linked is None:
            linked = self._linked[module] = self._wasi.instantiate_pre(module)
        return linked

    def _stored(self, digest: str) -> wasmtime.Module | None:
        path = self._folder / digest
        if not path.exists():
            return None
        try:
            return wasmtime.Module.deserialize_file(self._engine, str(path))
        except wasmtime.WasmtimeError:
            # Compiled by another version of the runtime.
            path.unlink(missing_ok=True)
            return None

    def _compiled(self, digest: str, data: bytes) -> wasmtime.Module:
        if data[:4] != b"\0asm":
            raise _Refused("module", "is not a WebAssembly module (it does not begin with \\0asm)")
        if data[4:8] == b"\x0d\x00\x01\x00":
            raise _Refused("module", "is a component; this engine runs core modules with WASI preview 1")
        try:
            module = wasmtime.Module(self._engine, data)
        except wasmtime.WasmtimeError as error:
            raise _Refused("module", f"cannot be compiled: {_first_line(error)}") from error
        beside = self._folder / f".{digest}.{os.getpid()}"
        beside.write_bytes(module.serialize())
        beside.replace(self._folder / digest)
        return module


class Requests:
    """HTTP for the run of the moment, which may go that `way`."""

    def __init__(self) -> None:
        self.way: Way | None = None

    def ask(self, caller: wasmtime.Caller, *numbers: int) -> int:
        """What a module calls."""
        # It costs a good part of a worker's start, and few modules ask.
        from compute.engines.wasm_http import Result, answer

        memory = caller.get("memory")
        return (
            answer(_Caller(caller, memory), self.way, numbers)
            if isinstance(memory, wasmtime.Memory)
            else Result.MEMORY
        )


class _Caller:
    """The memory of the module that calls: a `compute.engines.wasm_http.Memory`."""

    def __init__(self, caller: wasmtime.Caller, memory: wasmtime.Memory) -> None:
        self._caller = caller
        self._memory = memory

    def read(self, start: int, length: int) -> bytes:
        if start + length > self._memory.data_len(self._caller):
            raise IndexError(start)
        return bytes(self._memory.read(self._caller, start, start + length))

    def write(self, start: int, data: bytes) -> None:
        if start + len(data) > self._memory.data_len(self._caller):
            raise IndexError(start)
        self._memory.write(self._caller, data, start)


class Output:
    """What the program writes, in the order written, framed into one file; made, with its folder, for the first byte."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def write(self, stream: int, data: bytes) -> int:
        """Append a piece. Returns how much was taken (all of it)."""
        if self._file is None:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._file = open(self._path, "wb", buffering=0)  # noqa: SIM115 (it lives as long as the run)
        head = bytes([stream]) + int(time.time() * 1e6).to_bytes(8) + len(data).to_bytes(4)
        self._file.write(head + data)
        return len(data)

    @property
    def anything(self) -> bool:
        """Whether anything was written."""
        return self._file is not None

    def close(self) -> None:
        """No more comes."""
        if self._file is not None:
            self._file.close()


def run(order: Order, modules: Modules, started: Any) -> Answer:
    """Carry out one order; calls `started` when the program is about to begin."""
    output = Output(order.output)
    modules.requests.way = order.way
    with wasmtime.Store(modules.engine) as store:
        if order.memory_bytes:
            store.set_limits(memory_size=order.memory_bytes)
        try:
            store.set_wasi(_wasi(order, output))
            module = modules.load(order.module)
            instance, entry = _link(store, module, order, modules)
        except _Refused as refused:
            return refused.answer
        except _Ended as ended:
            # By its start function, before its entry point was called.
            started()
            output.close()
            return Answer(code=ended.code, wrote=output.anything)
        started()
        try:
            entry(store)
        except _Ended as ended:
            return Answer(code=ended.code, wrote=output.anything)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as trap:
            return Answer(
                code=1,
                wrote=output.anything,
                fault="trap",
                message=_trap_text(trap),
                memory_bytes=_memory(instance, store),
            )
        finally:
            output.close()
    return Answer(wrote=output.anything)


def _config() -> wasmtime.Config:
    config = wasmtime.Config()
    config.max_wasm_stack = PROGRAM_STACK_BYTES
    return config


def _wasi(order: Order, output: Output) -> wasmtime.WasiConfig:
    wasi = wasmtime.WasiConfig()
    wasi.argv = order.argv
    wasi.env = list(order.env.items())
    wasi.stdout_custom = lambda data: output.write(1, data)
    wasi.stderr_custom = lambda data: output.write(2, data)
    for host, inside, writable in order.folders:
        try:
            wasi.preopen_dir(host, inside, fs_mutable=writable)
        except wasmtime.WasmtimeError as error:
            raise _Refused("folder", f"{inside} cannot be opened for the program") from error
    return wasi


def _link(
    store: wasmtime.Store, module: wasmtime.Module, order: Order, modules: Modules
) -> tuple[wasmtime.Instance, wasmtime.Func]:
    try:
        if order.imports:
            linker = modules.linker()
            for name, path in order.imports:
                linker.define_instance(store, name, linker.instantiate(store, modules.load(path)))
            instance = linker.instantiate(store, module)
        else:
            instance = modules.linked(module).instantiate(store)
    except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
        raise _Refused("link", _first_line(error)) from error
    entry = instance.exports(store).get(order.entrypoint)
    if not isinstance(entry, wasmtime.Func):
        there = sorted(
            name for name, item in instance.exports(store).items() if isinstance(item, wasmtime.Func)
        )
        listed = ", ".join(there[:8]) or "nothing"
        raise _Refused("link", f"there is no exported function {order.entrypoint!r} (it exports {listed})")
    return instance, entry


def wasi_linker(engine: wasmtime.Engine) -> wasmtime.Linker:
    """A linker that offers WASI preview 1."""
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    # The runtime's own proc_exit takes a code above 125 for a trap; a program's exit code is its own affair.
    linker.allow_shadowing = True
    linker.define_func(*PROC_EXIT, wasmtime.FuncType([wasmtime.ValType.i32()], []), _proc_exit)
    return linker


def _proc_exit(code: int) -> None:
    raise _Ended(code & 0xFF)


def _first_line(error: Exception) -> str:
    """wasmtime tells a chain of causes; the last one says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line.split(": ", 1)[-1] for line in lines if line[:1].isdigit()]
    return (causes or lines or [type(error).__name__])[-1][:500]


def _trap_text(trap: Exception) -> str:
    if isinstance(trap, wasmtime.Trap):
        lines = [line.strip() for line in trap.message.splitlines()]
        return next(
            (line for line in reversed(lines) if line.startswith("wasm trap")), lines[0] if lines else "trap"
        )[:500]
    return _first_line(trap)


def _memory(instance: wasmtime.Instance, store: wasmtime.Store) -> int:
    """How large the program's own memory had grown, in bytes."""
    memory = instance.exports(store).get("memory")
    return memory.data_len(store) if isinstance(memory, wasmtime.Memory) else 0


def _stay_small() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> None:
    """Serve orders until the socket is closed. The arguments: the folder of compiled modules, the socket's descriptor."""
    _stay_small()
    modules = Modules(Path(sys.argv[1]))
    orders = socket.socket(fileno=int(sys.argv[2]))
    read = msgspec.json.Decoder(Order).decode
    say = functools.partial(os.write, sys.stdout.fileno())
    # The node may have been killed before it ever heard of us.
    with contextlib.suppress(BrokenPipeError):
        say(b"{}\n")
    while packet := orders.recv(ORDER_MAX_BYTES):
        order = read(packet if packet[:1] == b"{" else Path(os.fsdecode(packet)).read_bytes())
        answer = run(order, modules, lambda: say(STARTED + b"\n"))
        say(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
