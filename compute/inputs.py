"""How executions get their inputs: through the node's cache where they may, else each into its own folder.

Knows: the cache, the room on the disk that its entries take while they are held, and whose turn it is to fetch. Must not
know: what an execution is doing, or where data comes from.

**Whose disk it is.** What an execution holds by itself (its ``Disk``, its own copies) is in the ledger under its name;
what it reads from the cache is there once, however many read it. What the cache keeps for nobody is no part of it, nor
are results that the node keeps: they go when the room is needed.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from compute.admission import with_disk
from compute.capacity import Ledger
from compute.disk import Disk, Inode, inode_of
from compute.room import Room
from compute.turns import Turns
from protocol.errors import Exhausted
from protocol.ids import ExecutionId
from protocol.jobs import Amounts
from protocol.messages import InputRead
from protocol.spec.drivers import IN_PLACE
from protocol.spec.quantities import format_bytes
from storage.arrival import disk_faults
from storage.cache import Cache
from storage.cache_entries import key_of
from storage.contract import Fetched, Progress, Resolved
from storage.copying import copy, make_writable
from storage.local_publisher import LocalPublisher
from storage.shelf import Key
from storage.threads import Stop, in_thread

FETCHES_MAX: Final = 16
"""Inputs on their way at once, of all executions together; each driver has its own parallel connections beyond that."""


class Wanted(Struct, frozen=True):
    """One input of one execution: its driver with its params, what it resolved to, and the token that requesters know.

    `writes`: the program may change what it is given.
    """

    type: str
    source: Any
    params: Any
    resolved: Resolved
    token: str = ""
    writes: bool = False

    @property
    def key(self) -> Key:
        """The name it has in the cache."""
        return key_of(self.type, self.resolved.identity)

    @property
    def is_in_place(self) -> bool:
        """Whether it is mounted where it lies."""
        return self.type.lower() in IN_PLACE

    @property
    def is_own(self) -> bool:
        """Whether what the program finds is in its own folder."""
        return not self.is_in_place and (self.writes or not self.resolved.cacheable)

    @property
    def size_bytes(self) -> int:
        """Its size as far as it is known."""
        return self.resolved.size_bytes or 0


class Inputs:
    """The inputs of all executions of one node; `open` comes first. `folder` and its budget are the cache's, `results` is
    what keeps results on the same disk, if anything does. `spoiled` is told as in `storage.cache.Cache`.
    """

    def __init__(
        self,
        folder: Path,
        budget_bytes: int,
        room: Room,
        disk: Disk,
        tasks: asyncio.TaskGroup,
        results: LocalPublisher | None = None,
        *,
        spoiled: Callable[[Key, str], None] = lambda key, why: None,
    ) -> None:
        self.cache = Cache(folder, budget_bytes, tasks, changed=self._changed, spoiled=spoiled)
        self._room = room
        self._disk = disk
        self._results = results
        self._turns = Turns(FETCHES_MAX)

    async def open(self, read: Mapping[ExecutionId, Collection[InputRead]]) -> None:
        """Take up the cache of the last process, and what its executions read there."""
        await self.cache.open({execution: _keys_of(each) for execution, each in read.items()})

    @property
    def _ledger(self) -> Ledger:
        return self._room.ledger

    def claim(self, execution: ExecutionId, amounts: Amounts, shared: Mapping[Key, int]) -> bool:
        """Let the execution hold these amounts and those entries of the cache, if there is room for both; else neither."""
        with_entries = amounts + Amounts(disk_bytes=self.cache.shelf.cost(shared))
        if not self._ledger.could_grow(execution, with_entries):
            return False
        self._ledger.grow(execution, amounts)
        if shared:
            self.cache.claim(execution, shared)
        return True

    def grow(self, execution: ExecutionId, own_bytes: int) -> None:
        """More has come of an input whose size nobody knew: of what is the execution's own, so much is there now. Raises
        `Exhausted` when the node has no room for it, or for what has come into the cache.
        """
        held = self._ledger.held[execution].amounts
        if own_bytes > held.disk_bytes and not self._ledger.grow(execution, with_disk(held, own_bytes)):
            raise _full(own_bytes)
        if self._ledger.free.disk_bytes < 0:
            raise _full(own_bytes)

    def adopt(
        self, execution: ExecutionId, amounts: Amounts, gpus: list[int], read: Collection[InputRead]
    ) -> None:
        """After a restart: a program that a former process started has its room, whether there is any or not."""
        shared_bytes, _ = self.shared(read)
        self._ledger.hold(execution, with_disk(amounts, 0, shared_bytes), gpus)

    def release(self, execution: ExecutionId) -> None:
        """Nothing of the execution reads anything any more. Harmless when repeated."""
        self.cache.release(execution)

    def shared(self, read: Collection[InputRead]) -> tuple[int, set[Inode]]:
        """Of what an execution reads: the bytes that lie in the cache, and the files there that are no folders."""
        size_bytes, files = 0, set()
        for key in _keys_of(read):
            if key in self.cache.shelf:
                size_bytes += self.cache.shelf.size_of(key)
                path = self.cache.path_of(key)
                if path.is_file():
                    files.add(inode_of(path))
        return size_bytes, files

    async def bring(self, wanted: Wanted, into: Path, progress: Progress) -> tuple[Fetched, bool]:
        """Where the input is, and whether it was here already: an entry of the cache that was claimed, or at `into`.

        Raises what the source raises, and what `progress` does.
        """

        async def fetch(into: Path, progress: Progress) -> Fetched:
            async with self._turns.take() as turn:

                def told(done_bytes: int, total_bytes: int | None) -> None:
                    turn.moved(done_bytes)
                    if self._disk.spare_bytes() < 0:
                        raise _full(done_bytes)
                    progress(done_bytes, total_bytes)

                await self._have_room(wanted.size_bytes)
                fetched: Fetched = await wanted.source.fetch(wanted.params, wanted.resolved, into, told)
                return fetched

        if not wanted.resolved.cacheable:
            fetched, cached = await fetch(into, progress), False
        else:
            path, cached = await self.cache.bring(wanted.type, wanted.resolved, fetch, progress, wanted.token)
            fetched = Fetched(path, owned=False)
        if wanted.writes:
            await self._have_room(0 if fetched.owned else self.cache.shelf.size_of(wanted.key))
            await in_thread(partial(_make_own, fetched.path, into))
            fetched = Fetched(into, read_only=False)
        return fetched, cached

    async def make_room(self, size_bytes: int) -> None:
        """Free disk until `size_bytes` are spare, as far as anything may go: first inputs that nobody holds, because they
        can be fetched again, then results, the oldest first.
        """
        await self.cache.make_room(size_bytes - self._disk.spare_bytes())
        if self._results is not None and (short_bytes := size_bytes - self._disk.spare_bytes()) > 0:
            await self._results.make_room(short_bytes)

    async def _have_room(self, size_bytes: int) -> None:
        """Make room unless `size_bytes` are spare. Raises `Exhausted`."""
        if size_bytes > self._disk.spare_bytes():
            await self.make_room(size_bytes)
            if size_bytes > self._disk.spare_bytes():
                raise _full(size_bytes)

    def _changed(self) -> None:
        """The cache holds more for executions, or less: the others have the rest."""
        before, held = self._ledger.aside_bytes, self.cache.shelf.held_bytes
        self._ledger.aside_bytes = held
        if held < before:
            self._room.admit()


def _keys_of(read: Collection[InputRead]) -> set[Key]:
    return {key_of(each.type, each.identity) for each in read}


def _make_own(path: Path, into: Path, stop: Stop) -> None:
    """Have at `into` what is at `path`, for anyone to change."""
    with disk_faults(into):
        if path != into:
            copy(path, into, stop)
        make_writable(into, stop)


def _full(size_bytes: int) -> Exhausted:
    return Exhausted(
        f"there is no room for its {format_bytes(size_bytes)} on the disk beside the node's reserve",
        hint="Free some space or inodes (`df -h`, `df -i`), give the node a larger disk, or use another node.",
        kind="Disk",
    )
