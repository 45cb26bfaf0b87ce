"""What every engine promises.

Knows: the Protocols `Engine` and `Running`, and the values that cross them. Must not know: any engine, storage driver or
message. The suite in ``tests/contracts/engine.py`` asks every engine for each sentence below.
"""

import builtins
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from msgspec import Struct, field

from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts, Network
from protocol.nodes import Gpu, Offer

P = TypeVar("P")


class Mount(Struct, frozen=True):
    """A host path and where the program sees it (absolute path inside)."""

    source: Path
    target: str
    read_only: bool = True


class Run(Struct, Generic[P], frozen=True):
    """One execution, ready to start: its inputs are there, its output folders exist and are empty.

    `env` is complete (the system's ``BACALHAU_…`` names included). `folder` is the engine's own folder for this execution,
    kept until `Running.remove`. `gpus` are its devices. `ports` maps a port's name to (host port, container port).
    """

    execution: ExecutionId
    job: JobId
    node: NodeId
    params: P
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    amounts: Amounts = field(default_factory=Amounts)
    network: Network = field(default_factory=Network)
    gpus: list[Gpu] = field(default_factory=list)
    ports: dict[str, tuple[int, int]] = field(default_factory=dict)


class Chunk(Struct, frozen=True):
    """A piece of what the program wrote: `stream` is `protocol.questions.STDOUT` or `STDERR`, `at` unix seconds."""

    stream: int
    at: float
    data: bytes


class Exit(Struct, frozen=True):
    """How the program ended. `failure` is set when it did not end by itself (memory limit, trap, engine gone)."""

    code: int
    failure: Failure | None = None


Preparing = Callable[[str, int, int | None], None]
"""Told while an engine prepares: what (``image``), bytes done, bytes in all or None."""


class Running(Protocol):
    """A started program."""

    def output(self) -> AsyncIterator[Chunk]:
        """All that it wrote and writes, from the beginning, until it has ended. May be called again after `recover`."""

    async def wait(self) -> Exit:
        """Its end; the same answer however often asked."""

    async def disk_bytes(self) -> int:
        """What it takes of this node's disk beside its mounts and `Run.folder` (a container's own layer), 0 for nothing.

        May be expensive to find out: ask seldom. Raises `Unavailable`.
        """

    async def stop(self, grace_s: float) -> None:
        """End it: ask first, force after `grace_s`. Harmless when it has ended. Afterwards `wait` returns."""

    async def remove(self) -> None:
        """Leave nothing behind (container, process, own files outside `Run.folder`). Harmless when repeated."""


class Engine(Protocol[P]):
    """Runs programs of one type.

    Faults: `Invalid` (params that can never work: field and reason), `NotFound` (image, module, entry point: named),
    `Denied`, `Unavailable` (the engine itself is ill, or does not answer in time: another node may do better), `Exhausted`.
    """

    type: ClassVar[str]
    params: ClassVar[builtins.type]

    async def probe(self) -> Offer:
        """Whether this engine works just now: version, or why not and what to do. Never raises."""

    async def changed(self) -> None:
        """Return once `probe` may answer otherwise than it last did. Never to return is right for what is always there."""

    def prepared(self, params: P) -> bool:
        """Whether `prepare` would find everything there just now, so that it need not be asked. False is always right."""

    async def prepare(self, params: P, preparing: Preparing) -> None:
        """Bring what the program needs and can be shared between runs (pull the image, compile the module).

        Runs beside the fetching of inputs and counts against the staging limit, never against the execution's own.
        An engine whose program arrives as an input prepares in `start`.
        """

    async def start(self, run: Run[P]) -> Running:
        """Start the program. The same execution id twice is the same run: it is found again, never started twice."""

    async def recover(self, execution: ExecutionId) -> Running | None:
        """Find a run again after this process was restarted: running or ended, or None if there is nothing to find."""

    async def leftovers(self) -> list[ExecutionId]:
        """All executions of this node that the engine still holds anything of, ended ones included."""

    async def close(self) -> None:
        """Let go of connections; programs that can outlive this process are left running."""
