"""A source and a publisher for simulated nodes: they take virtual time, fail when told, and remember what was published.

Knows: the contracts that real drivers keep. Must not know: processes, or who asks.
"""

import asyncio
import errno
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct

from protocol.clock import Clock
from protocol.errors import Failure, fault_of
from protocol.jobs import Spec
from protocol.nodes import Offer
from storage.contract import Drivers, Fetched, Form, Label, Progress, Resolved, Share

if TYPE_CHECKING:
    from protocol.ids import ExecutionId


class SimulatedParams(Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    """`fails` is a failure code such as ``NotFound.Key``, raised after `seconds`."""

    seconds: float = 0.0
    fails: str = ""
    text: str = ""


class OlderParams(Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    """What the version before reads: `text` is new since then."""

    seconds: float = 0.0
    fails: str = ""

    @property
    def text(self) -> str:
        """Always the same."""
        return ""


class Disk:
    """A node's disk, as far as drivers see it."""

    def __init__(self) -> None:
        self.full = False


class Shelf:
    """Where results are published: what each execution left, as a digest of its files."""

    def __init__(self) -> None:
        self.results: dict[ExecutionId, str] = {}


class SimulatedSource:
    """Brings one small file."""

    type: ClassVar[str] = "sim"
    params: ClassVar[Form] = SimulatedParams

    def __init__(self, disk: Disk, clock: Clock) -> None:
        self._disk = disk
        self._clock = clock

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def resolve(self, params: SimulatedParams, share: Share) -> Resolved:
        await asyncio.sleep(params.seconds / 4)
        return Resolved(f"sim:{params.text}", len(params.text))

    async def fetch(
        self, params: SimulatedParams, resolved: Resolved, into: Path, progress: Progress
    ) -> Fetched:
        progress(0, len(params.text))
        await asyncio.sleep(params.seconds)
        if params.fails:
            raise fault_of(Failure(params.fails, f"sim: asked for {params.fails}"))
        if self._disk.full:
            raise OSError(errno.ENOSPC, "no space left on device", str(into))
        into.write_text(params.text)
        return Fetched(into)


class OlderSource(SimulatedSource):
    """The source as it was in the version before."""

    params: ClassVar[Form] = OlderParams


class SimulatedPublisher:
    """Keeps the digest of what it was given."""

    type: ClassVar[str] = "sim"
    params: ClassVar[Form] = SimulatedParams

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def publish(self, folder: Path, params: SimulatedParams, label: Label, progress: Progress) -> Spec:
        await asyncio.sleep(params.seconds)
        if params.fails:
            raise fault_of(Failure(params.fails, f"sim: asked for {params.fails}"))
        digest = sha256()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
        self._shelf.results[label.execution] = digest.hexdigest()
        return Spec("sim", {"Execution": label.execution, "Digest": digest.hexdigest()})


def simulated_drivers(shelf: Shelf, disk: Disk, clock: Clock, *, older: bool) -> Drivers:
    """The drivers of a simulated node, of the present version or the one before."""
    source = OlderSource if older else SimulatedSource
    return Drivers({"sim": source(disk, clock)}, {"sim": SimulatedPublisher(shelf)})
