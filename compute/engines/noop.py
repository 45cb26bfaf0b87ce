"""The engine without programs: it plays one that its parameters describe, inside this process.

Knows: how to play output, files, duration, exit codes and faults. Must not know: any real isolation; it is for tests,
rehearsals and measuring what everything but the program costs.

A `NoopWorld` stands for the machine: programs live there, not in an engine, so a new engine on the same world finds
them again as one would after its process was killed. Nothing runs in the background: a program's end is a moment on the
clock, and whoever waits sleeps until then.
"""

import asyncio
import builtins
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Final

from compute.engines.contract import Chunk, Engine, Exit, Mount, Preparing, Run, Running
from protocol.clock import Clock, SystemClock
from protocol.errors import Failure, Fault, Invalid, NotFound, Unavailable, fault_of
from protocol.ids import ExecutionId, NodeId
from protocol.nodes import Offer
from protocol.questions import STDERR, STDOUT
from protocol.spec.engines import NoopParams

VERSION: Final = "1"
TERMINATED: Final = 143
KILLED: Final = 137
"""128 and the signal's number, as a shell tells it."""
CLOCK_GRAIN_S: Final = 1e-6
"""Less than this is no time: a clock that counts from far away rounds more coarsely than seconds are added."""


class Program:
    """A program as the world has it: what it wrote, and the plan of its end, which stopping it changes."""

    def __init__(self, run: Run[NoopParams], clock: Clock) -> None:
        self.run = run
        self.clock = clock
        self.chunks: list[Chunk] = []
        self._ends_at = clock.elapsed() + run.params.seconds
        self._exit = _outcome(run.params)
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether its end has come."""
        return self._left_s() <= 0

    def write(self, stream: int, data: bytes) -> None:
        """Add to what it wrote, if that is anything."""
        if data:
            self.chunks.append(Chunk(stream, self.clock.now(), data))

    def end(self, exit: Exit, within_s: float = 0) -> None:
        """End it like this within that time, unless it ends by itself before."""
        if within_s < self._left_s():
            self._ends_at = self.clock.elapsed() + within_s
            self._exit = exit
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def break_off(self, exit: Exit) -> None:
        """End it like this at its very beginning, however short it was meant to be."""
        self._ends_at = self.clock.elapsed()
        self._exit = exit

    async def wait(self) -> Exit:
        """Its end, when it has come."""
        while not self.ended:
            await _first(self.clock, self._left_s(), self._changed)
        return self._exit

    def _left_s(self) -> float:
        left_s = self._ends_at - self.clock.elapsed()
        return left_s if left_s > CLOCK_GRAIN_S else 0


class NoopWorld:
    """The machine on which programs are played. `starts` counts how often each execution was really started.

    While `away` is set, whoever wants to find or stop a program is told that. `others_ports` are ports of the machine that
    somebody has whom no node knows.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.programs: dict[ExecutionId, Program] = {}
        self.starts: dict[ExecutionId, int] = {}
        self.away: Fault | None = None
        self.others_ports: frozenset[int] = frozenset()

    def start(self, run: Run[NoopParams]) -> Program:
        """Start a program and let it do all it does at its beginning: read, write output, write files."""
        self.starts[run.execution] = self.starts.get(run.execution, 0) + 1
        program = self.programs[run.execution] = Program(run, self.clock)
        _play(program)
        return program

    def end(self, execution: ExecutionId, exit: Exit | None = None) -> None:
        """End a program just now, with code 0 unless told otherwise. Raises ``KeyError`` for one that is not there."""
        self.programs[execution].end(exit or Exit(0))

    def reboot(self) -> None:
        """All programs are gone, as after a power cut; whoever still waits for one sees it killed."""
        for program in self.programs.values():
            program.end(Exit(KILLED, Failure("Unavailable", "the machine was started anew", retryable=True)))
        self.programs.clear()


class NoopRunning:
    """A program that is being played."""

    def __init__(self, world: NoopWorld, program: Program) -> None:
        self._world = world
        self._program = program

    async def output(self) -> AsyncIterator[Chunk]:
        """All chunks; it ends with the program."""
        for chunk in self._program.chunks:
            yield chunk
        told = len(self._program.chunks)
        await self._program.wait()
        for chunk in self._program.chunks[told:]:
            yield chunk

    async def wait(self) -> Exit:
        """Its end, as its params have it or as it was stopped."""
        return await self._program.wait()

    async def disk_bytes(self) -> int:
        """What is played takes no room."""
        return 0

    async def stop(self, grace_s: float) -> None:
        """Ask (it ends at once, unless it is stubborn), and force after the grace on the world's clock."""
        program = self._program
        if self._world.away is not None:
            raise self._world.away
        if program.ended:
            return
        if program.run.params.stubborn:
            program.end(Exit(KILLED), within_s=grace_s)
        else:
            program.write(STDERR, program.run.params.farewell.encode())
            program.end(Exit(TERMINATED))
        await program.wait()

    async def remove(self) -> None:
        """Forget it; one that still runs is killed."""
        self._program.end(Exit(KILLED))
        if self._world.programs.get(self._program.run.execution) is self._program:
            del self._world.programs[self._program.run.execution]


class NoopEngine:
    """Plays programs on a world. Engines of several nodes may share one world; each sees its own node's programs."""

    type: ClassVar[str] = "noop"
    params: ClassVar[builtins.type] = NoopParams

    def __init__(self, node: NodeId, world: NoopWorld | None = None) -> None:
        self._node = node
        self.world = world or NoopWorld()

    async def probe(self) -> Offer:
        """It is always there."""
        return Offer(self.type, version=VERSION)

    async def changed(self) -> None:
        """It is always there."""
        await asyncio.Event().wait()

    def prepared(self, params: NoopParams) -> bool:
        return not params.prepare_seconds and not params.prepare_fails

    async def prepare(self, params: NoopParams, preparing: Preparing) -> None:
        """Take the time and raise the fault that the params ask for."""
        _check(params)
        if params.prepare_seconds:
            preparing("program", 0, 1)
            await self.world.clock.sleep(params.prepare_seconds)
            preparing("program", 1, 1)
        _fail(params.prepare_fails, "prepare")

    async def start(self, run: Run[NoopParams]) -> Running:
        """Start it, or find it again. Raises what `StartFails` names, and `Invalid` for params that make no sense."""
        program = self.world.programs.get(run.execution)
        if program is None:
            _check(run.params)
            _fail(run.params.start_fails, "start")
            for name, (outside, _) in run.ports.items():
                if outside in self.world.others_ports:
                    raise Unavailable(f"port {name}: {outside} is taken on this node", kind="Port")
            program = self.world.start(run)
        return NoopRunning(self.world, program)

    async def recover(self, execution: ExecutionId) -> Running | None:
        """Find a program of this node."""
        if self.world.away is not None:
            raise self.world.away
        program = self.world.programs.get(execution)
        return NoopRunning(self.world, program) if program and program.run.node == self._node else None

    async def leftovers(self) -> list[ExecutionId]:
        """This node's programs, ended ones included."""
        return [name for name, program in self.world.programs.items() if program.run.node == self._node]

    async def close(self) -> None:
        """Nothing to let go of; the world goes on."""


def _check(params: NoopParams) -> None:
    if not 0 <= params.exit_code <= 255:
        raise Invalid(
            f"noop: ExitCode {params.exit_code} is not between 0 and 255", hint="Choose a code from 0 to 255."
        )
    if params.seconds < 0 or params.prepare_seconds < 0:
        raise Invalid("noop: Seconds and PrepareSeconds cannot be negative", hint="Give 0 or more.")


def _fail(code: str, when: str) -> None:
    if code:
        raise fault_of(Failure(code, f"noop: the params ask for {code} at {when}"))


def _outcome(params: NoopParams) -> Exit:
    if params.fails:
        return Exit(KILLED, Failure(params.fails, f"noop: the params ask for {params.fails} while running"))
    return Exit(params.exit_code)


def _play(program: Program) -> None:
    """What a program does at its beginning. A file it cannot read or write ends it with code 1, as `cat` would."""
    run = program.run
    program.write(STDOUT, run.params.stdout.encode())
    program.write(STDERR, run.params.stderr.encode())
    for name in run.params.prints_env:
        program.write(STDOUT, f"{name}={run.env.get(name, '')}\n".encode())
    try:
        for target in run.params.reads:
            program.write(STDOUT, _place(target, run.mounts, writing=False).read_bytes())
        for target, text in run.params.writes.items():
            path = _place(target, run.mounts, writing=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except (OSError, NotFound) as error:
        program.write(STDERR, f"{error}\n".encode())
        program.break_off(Exit(1))


def _place(target: str, mounts: list[Mount], *, writing: bool) -> Path:
    """Where a path that the program sees is on the host. Raises ``OSError`` as the program's file system would."""
    wanted = PurePosixPath(target)
    for mount in sorted(mounts, key=lambda mount: len(mount.target), reverse=True):
        if wanted.is_relative_to(mount.target) and ".." not in wanted.parts:
            if writing and mount.read_only:
                raise OSError(f"{target}: read-only file system")
            return mount.source / wanted.relative_to(mount.target)
    raise NotFound(f"{target}: no such file or directory")


async def _first(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Return when the seconds are over or the event is set."""
    waits = {asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


if TYPE_CHECKING:

    def _fits(engine: NoopEngine) -> Engine[NoopParams]:
        return engine
