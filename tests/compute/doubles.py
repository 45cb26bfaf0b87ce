"""A source and a publisher that do as their test says, through the contracts that real ones keep."""

import asyncio
import base64
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from protocol.jobs import Spec
from protocol.nodes import Offer
from storage.contract import Drivers, Fetched, Form, Label, Progress, Resolved, Share


def inline(text: str) -> Spec:
    """An inline source of that text."""
    return Spec("inline", {"URL": "data:text/plain;base64," + base64.b64encode(text.encode()).decode()})


class Nothing(Struct, frozen=True):
    """No parameters."""


class StagedSource:
    """A source that does as its test says: `fault` when fetched, `size_bytes` known, `gate` before it has fetched.

    `moves` is what its progress tells, in bytes of which nobody knows the sum.
    """

    type: ClassVar[str] = "test"
    params: ClassVar[Form] = Nothing

    def __init__(
        self, fault: Exception | None = None, size_bytes: int | None = None, *, cacheable: bool = False
    ) -> None:
        self.fault = fault
        self.size_bytes = size_bytes
        self.cacheable = cacheable
        self.identity = "test:1"
        self.data = "data"
        self.moves: list[int] = []
        self.fetches = 0
        self.resolving = asyncio.Event()
        self.resolving.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.fetching = asyncio.Event()

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def resolve(self, params: Nothing, share: Share) -> Resolved:
        await self.resolving.wait()
        return Resolved(self.identity, self.size_bytes, cacheable=self.cacheable)

    async def fetch(self, params: Nothing, resolved: Resolved, into: Path, progress: Progress) -> Fetched:
        self.fetches += 1
        progress(1, 2)
        self.fetching.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        for done_bytes in self.moves:
            progress(done_bytes, None)
        into.write_text(self.data)
        return Fetched(into)


class StagedPublisher:
    """A publisher that remembers what it saw, or fails, and waits at its `gate`."""

    type: ClassVar[str] = "test"
    params: ClassVar[Form] = Nothing

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.gate = asyncio.Event()
        self.gate.set()
        self.publishing = asyncio.Event()
        self.times = 0
        self.seen: dict[str, str] = {}
        self.labels: list[Label] = []

    async def probe(self) -> Offer:
        return Offer(self.type)

    async def publish(self, folder: Path, params: Nothing, label: Label, progress: Progress) -> Spec:
        self.times += 1
        self.labels.append(label)
        self.publishing.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.seen = {str(path.relative_to(folder)): path.read_text() for path in files}
        return Spec("test", {"at": label.execution})


def drivers(source: StagedSource | None = None, publisher: StagedPublisher | None = None) -> Drivers:
    """The test's own drivers."""
    return Drivers({"test": source or StagedSource()}, {"test": publisher or StagedPublisher()})
