"""What must be there before a program can start: its inputs, whatever its engine prepares, its output folders, its ports.

Knows: drivers, and the layout of an execution's folder. Must not know: what comes before or after.

In the folder: ``input-<index>``, ``results/<name>`` (what is published, with ``stdout``, ``stderr`` and ``exitCode``),
``engine``. All are made when needed; a small job makes none.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from compute import admission
from compute.admission import Plan
from compute.capacity import Ports
from compute.engines.contract import Mount
from compute.execution import is_copied
from compute.faults import StepFailed, input_failure, place_of, publisher_failure
from compute.inputs import Inputs, Wanted
from compute.ports import take_ports
from compute.publishing import label_of
from compute.room import Room
from protocol.clock import Clock
from protocol.errors import Fault, TimedOut
from protocol.held import input_token
from protocol.ids import NodeId
from protocol.jobs import Amounts
from protocol.messages import InputRead, Run
from protocol.patience import Patience
from protocol.together import together
from storage.contract import Foreseeing, Progress, Share

RESOLVING_MAX: Final = 32
"""Inputs of one execution that are looked at side by side."""
FORESEEING_S: Final = 5.0
"""A store that does not answer by then is asked when there is a result."""
_ENGINE: Final = -1
"""Stands beside the indexes of inputs for what the engine prepares."""

Told = Callable[[str], Progress]
"""Gives the progress for one part: ``image``, ``input /in``."""


class Brought(Struct, frozen=True):
    """An input that is there: what is told of it, and where the program finds it."""

    read: InputRead
    mount: Mount


class Ready(Struct, frozen=True):
    """What a program will find. `ports` maps a name to (port of this host, port the program sees)."""

    inputs: list[InputRead]
    mounts: list[Mount]
    ports: dict[str, tuple[int, int]]

    @property
    def host_ports(self) -> dict[str, int]:
        """The ports of this host by name."""
        return {name: outside for name, (outside, _) in self.ports.items()}


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
        inputs: Inputs,
        clock: Clock,
        resolving: Patience,
    ) -> None:
        self._run = run
        self._plan = plan
        self._folder = folder
        self._node = node
        self._room = room
        self._ports = ports
        self._shared = inputs
        self._clock = clock
        self._resolving = resolving
        self._inputs = run.task.input_sources
        self._wanted: list[Wanted] = []
        self._came: list[int] = []
        """The bytes of each input: those that it is said to have, or those that came if they are more."""
        self._awaited: dict[int, None] = {}

    @property
    def outstanding(self) -> str:
        """What has not come yet, as a person is told."""
        return ", ".join(self._name_of(index) for index in self._awaited)

    def _name_of(self, index: int) -> str:
        if index == _ENGINE:
            return f"engine {self._run.task.engine.type}'s preparation"
        wanted = self._inputs[index]
        return f"input {wanted.target} ({place_of(wanted.source)})"

    async def stage(self, told: Told) -> Ready:
        """Do it all; image and inputs side by side. Raises `StepFailed` naming the input, or the engine's fault."""
        wanted = await self._claim()
        if any(each.is_own for each in wanted):
            self._folder.mkdir()
        brought: list[Brought | None] = [None] * len(wanted)
        works = [self._fetch(index, each, brought, told) for index, each in enumerate(wanted)]
        if not self._plan.engine.prepared(self._plan.engine_params):
            works.append(self._prepare(told))
        if self._plan.publisher is not None:
            publisher, params = self._plan.publisher
            if isinstance(publisher, Foreseeing):
                works.append(self._foresee(publisher, params))
        if len(works) == 1:
            await works[0]
        else:
            await together(works)
        there = [each for each in brought if each is not None]
        mounts = [each.mount for each in there] + self._result_folders()
        return Ready([each.read for each in there], mounts, take_ports(self._run, self._ports))

    async def _claim(self) -> list[Wanted]:
        """Pin down every input, and have room for all that is not mounted in place, as far as its size is known.

        Where there is not enough room now, all is given back and asked for anew: nobody holds while waiting for more.
        """
        if not self._inputs:
            return []
        asked = self._run.amounts
        while True:
            wanted = await self._resolve()
            taking = [each for each in wanted if not each.is_in_place]
            shared = {each.key: each.size_bytes for each in taking if each.resolved.cacheable}
            read = {each.key: each.size_bytes for each in taking if not each.is_own}
            own_bytes = sum(each.size_bytes for each in taking if each.is_own)
            fault = admission.over_disk(
                asked.disk_bytes, sum(each.size_bytes for each in taking), "its inputs have"
            )
            if fault is not None:
                raise StepFailed(fault.failure())
            amounts = admission.with_disk(asked, own_bytes, sum(read.values()))
            # A copy of its own is beside the one that others read.
            alone = amounts + Amounts(disk_bytes=sum(shared.values()))
            fault = admission.too_large(alone, self._room.ledger.capacity)
            if fault is not None:
                raise StepFailed(fault.failure(), refused=True)
            if self._shared.claim(self._run.execution, amounts, shared):
                self._wanted = wanted
                self._came = [0 if each.is_in_place else each.size_bytes for each in wanted]
                return wanted
            self._room.release(self._run.execution)
            await self._room.take(self._run.execution, alone, self._run.priority)

    async def _resolve(self) -> list[Wanted]:
        """All inputs, some at a time, each within its limit."""
        if len(self._inputs) == 1:
            return [await self._resolve_one(0)]
        found: list[Wanted | None] = [None] * len(self._inputs)
        turns = asyncio.Semaphore(RESOLVING_MAX)

        async def resolve(index: int) -> None:
            async with turns:
                found[index] = await self._resolve_one(index)

        await together([resolve(index) for index in range(len(self._inputs))])
        return [each for each in found if each is not None]

    async def _resolve_one(self, index: int) -> Wanted:
        source, params = self._plan.sources[index]
        spec = self._inputs[index].source
        share = Share(self._run.partition, self._run.partitions)
        self._awaited[index] = None
        try:
            with self._resolving.once():
                resolved = await source.resolve(params, share)
        except TimeoutError as error:
            message = f"what it is was not to be learned within {self._resolving.limit_s:g} s"
            hint = "See that its server answers; a node's owner can raise Compute.ResolvingTimeout."
            fault = TimedOut(message, hint=hint, kind="Resolving")
            raise self._failure_of(index, fault) from error
        except (Fault, OSError) as error:
            raise self._failure_of(index, error) from error
        finally:
            del self._awaited[index]
        token = input_token(spec, share.index, share.count)
        return Wanted(spec.type, source, params, resolved, token, writes=is_copied(self._run.task, index))

    async def _fetch(self, index: int, wanted: Wanted, brought: list[Brought | None], told: Told) -> None:
        target = self._inputs[index].target
        into = self._folder / f"input-{index}"
        progress = self._bounded(index, wanted, told(f"input {target}"))
        self._awaited[index] = None
        try:
            fetched, cached = await self._shared.bring(wanted, into, progress)
        except (Fault, OSError) as error:
            raise self._failure_of(index, error) from error
        finally:
            del self._awaited[index]
        size_bytes = self._size_of(index, wanted)
        read = InputRead(target, wanted.type, wanted.resolved.identity, size_bytes, cached)
        brought[index] = Brought(read, Mount(fetched.path, target, fetched.read_only and not wanted.writes))

    def _size_of(self, index: int, wanted: Wanted) -> int | None:
        """The bytes of an input that is there: where its source did not say, those that came."""
        if wanted.resolved.size_bytes is not None or wanted.is_in_place:
            return wanted.resolved.size_bytes
        if wanted.resolved.cacheable:
            return self._shared.cache.shelf.size_of(wanted.key)
        return self._came[index]

    def _bounded(self, index: int, wanted: Wanted, progress: Progress) -> Progress:
        """`progress` that raises `Exhausted` when more has come than the task's Disk allows, or than the node has."""
        limit_bytes = self._run.amounts.disk_bytes
        if wanted.is_in_place:
            return progress

        def told(done_bytes: int, total_bytes: int | None) -> None:
            self._came[index] = max(done_bytes, wanted.size_bytes)
            fault = admission.over_disk(limit_bytes, sum(self._came), "its inputs have more than")
            if fault is not None:
                raise fault
            if wanted.resolved.size_bytes is None:
                own = (came for each, came in zip(self._wanted, self._came, strict=True) if each.is_own)
                self._shared.grow(self._run.execution, sum(own))
            progress(done_bytes, total_bytes)

        return told

    async def _prepare(self, told: Told) -> None:
        def preparing(what: str, done_bytes: int, total_bytes: int | None) -> None:
            told(what)(done_bytes, total_bytes)

        self._awaited[_ENGINE] = None
        try:
            await self._plan.engine.prepare(self._plan.engine_params, preparing)
        finally:
            del self._awaited[_ENGINE]

    async def _foresee(self, publisher: Foreseeing[Any], params: Any) -> None:
        """Find out what keeps the result from being published while nothing is lost by it. Raises `StepFailed`."""
        label = label_of(self._run, self._node, self._clock.now())
        try:
            async with asyncio.timeout(FORESEEING_S):
                await publisher.foresee(params, label)
        except TimeoutError:
            return
        except Fault as fault:
            raise StepFailed(publisher_failure(fault, self._run.task.publisher, self._node)) from fault

    def _result_folders(self) -> list[Mount]:
        """A folder for each result path, which any user inside the program may write to, whatever our umask."""
        mounts = []
        for result in self._run.task.result_paths:
            folder = self._folder / "results" / result.name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            mounts.append(Mount(folder, result.path, read_only=False))
        return mounts

    def _failure_of(self, index: int, error: Exception) -> StepFailed:
        """A fault that is about that input, and says so."""
        return input_failure(error, index, self._inputs[index], self._node)
