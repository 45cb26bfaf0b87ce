"""What must be there before a program can start: its inputs, whatever its engine prepares, its output folders, its ports.

Knows: drivers, and the layout of an execution's folder. Must not know: what comes before or after.

In the folder: ``input-<index>``, ``results/<name>`` (what is published, with ``stdout``, ``stderr`` and ``exitCode``),
``engine``. All are made when needed; a small job makes none.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from compute import admission
from compute.admission import IN_PLACE, Plan
from compute.capacity import Ports
from compute.engines.contract import Mount
from compute.faults import StepFailed, input_failure, place_of
from compute.ports import take_ports
from compute.room import Room
from protocol.errors import Fault
from protocol.ids import NodeId
from protocol.messages import InputRead, Run
from storage.contract import Progress, Resolved, Share

Told = Callable[[str], Progress]
"""Gives the progress for one part: ``image``, ``input /in``."""


class Ready(Struct, frozen=True):
    """What a program will find. `ports` maps a name to (port of this host, port the program sees)."""

    inputs: list[InputRead]
    mounts: list[Mount]
    ports: dict[str, tuple[int, int]]


class Staging:
    """The staging of one execution, whose room is held while this begins."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        folder: Path,
        node: NodeId,
        room: Room,
        ports: Ports,
        fetching: asyncio.Semaphore,
    ) -> None:
        self._run = run
        self._plan = plan
        self._folder = folder
        self._node = node
        self._room = room
        self._ports = ports
        self._fetching = fetching
        self._inputs = run.task.input_sources
        self._awaited: list[str] = []

    @property
    def outstanding(self) -> str:
        """What has not come yet, as a person is told."""
        return ", ".join(self._awaited)

    async def stage(self, told: Told) -> Ready:
        """Do it all; image and inputs side by side. Raises `StepFailed` naming the input, or the engine's fault."""
        resolved = await self._resolve()
        if resolved:
            self._folder.mkdir()
        mounts: list[Mount | None] = [None] * len(resolved)
        works: list[Coroutine[Any, Any, None]] = [self._prepare(told)]
        works += [self._fetch(index, each, mounts, told) for index, each in enumerate(resolved)]
        await _together(works)
        read = [
            InputRead(wanted.target, wanted.source.type, found.identity, found.size_bytes)
            for wanted, found in zip(self._inputs, resolved, strict=True)
        ]
        shown = [mount for mount in mounts if mount is not None] + self._result_folders()
        return Ready(read, shown, take_ports(self._run, self._ports))

    async def _resolve(self) -> list[Resolved]:
        """Pin down every input, and have room for those that are copied, as far as their size is known.

        Where there is not enough room now, all is given back and asked for anew: nobody holds while waiting for more.
        """
        if not self._inputs:
            return []
        execution, ledger = self._run.execution, self._room.ledger
        while True:
            resolved = [Resolved("")] * len(self._inputs)
            await _together([self._resolve_one(index, resolved) for index in range(len(self._inputs))])
            copied_bytes = sum(
                found.size_bytes or 0
                for wanted, found in zip(self._inputs, resolved, strict=True)
                if wanted.source.type.lower() not in IN_PLACE
            )
            wanted = admission.with_disk(self._run.amounts, copied_bytes)
            fault = admission.too_large(wanted, ledger.capacity)
            if fault is not None:
                raise StepFailed(fault.failure(), refused=True)
            if ledger.grow(execution, wanted):
                return resolved
            self._room.release(execution)
            await self._room.take(execution, wanted, self._run.priority)

    async def _resolve_one(self, index: int, resolved: list[Resolved]) -> None:
        source, params = self._plan.sources[index]
        with self._faults_of_input(index):
            resolved[index] = await source.resolve(params, Share(self._run.partition, self._run.partitions))

    async def _fetch(self, index: int, resolved: Resolved, mounts: list[Mount | None], told: Told) -> None:
        source, params = self._plan.sources[index]
        target = self._inputs[index].target
        with self._faults_of_input(index):
            into = self._folder / f"input-{index}"
            async with self._fetching:
                fetched = await source.fetch(params, resolved, into, told(f"input {target}"))
            mounts[index] = Mount(fetched.path, target, fetched.read_only)

    async def _prepare(self, told: Told) -> None:
        def preparing(what: str, done_bytes: int, total_bytes: int | None) -> None:
            told(what)(done_bytes, total_bytes)

        with self._awaiting(f"engine {self._run.task.engine.type}'s preparation"):
            await self._plan.engine.prepare(self._plan.engine_params, preparing)

    def _result_folders(self) -> list[Mount]:
        """A folder for each result path, which any user inside the program may write to, whatever our umask."""
        mounts = []
        for result in self._run.task.result_paths:
            folder = self._folder / "results" / result.name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            mounts.append(Mount(folder, result.path, read_only=False))
        return mounts

    @contextlib.contextmanager
    def _awaiting(self, what: str) -> Iterator[None]:
        """While in here, this is outstanding."""
        self._awaited.append(what)
        try:
            yield
        finally:
            self._awaited.remove(what)

    @contextlib.contextmanager
    def _faults_of_input(self, index: int) -> Iterator[None]:
        """A fault in here is about that input, and says so."""
        wanted = self._inputs[index]
        try:
            with self._awaiting(f"input {wanted.target} ({place_of(wanted.source)})"):
                yield
        except (Fault, OSError) as error:
            raise input_failure(error, index, wanted, self._node) from error


async def _together(works: list[Coroutine[Any, Any, None]]) -> None:
    """Do all side by side; the first that fails stops the others and is the one that is raised."""
    if len(works) == 1:
        await works[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as faults:
        first: Exception = faults
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__
