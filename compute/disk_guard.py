"""Watches what a running program takes of the disk, and says when it is more than its task's ``Disk``.

Knows: all the places where an execution's bytes are: its folder, what it reads from the cache, its log, and what its engine
keeps for it. Must not know: what becomes of an execution that takes too much.

It looks seldom enough to cost little: after a look it rests fifty times as long as that took, and never less than a second.
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Final

from compute.admission import over_disk
from compute.disk import taken_bytes
from compute.engines.contract import Running
from compute.inputs import Inputs
from compute.logs import OutputLog
from protocol.clock import Clock
from protocol.errors import Exhausted, Fault
from protocol.messages import InputRead
from storage.threads import in_thread

REST_S: Final = 1.0
REST_TIMES: Final = 50


class DiskGuard:
    """One execution's. `limit_bytes` 0 is none; `read` is what it reads from the cache."""

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        read: Collection[InputRead],
        inputs: Inputs,
        running: Running,
        log: OutputLog,
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._read = read
        self._inputs = inputs
        self._running = running
        self._log = log

    async def taken_bytes(self, *, layer: bool = True) -> int:
        """The bytes that it takes now; with `layer` also what its engine keeps, which is expensive to find out. Raises
        what the engine raises."""
        shared_bytes, others = self._inputs.shared(self._read)
        own_bytes = await in_thread(partial(taken_bytes, self._folder, others))
        layer_bytes = await self._running.disk_bytes() if layer else 0
        return own_bytes + layer_bytes + shared_bytes + self._log.size_bytes

    async def excess(self, *, layer: bool = True) -> Exhausted | None:
        """The fault of taking too much, if it does now."""
        if not self._limit_bytes:
            return None
        return over_disk(self._limit_bytes, await self.taken_bytes(layer=layer), "it takes")

    async def watch(self, clock: Clock) -> Exhausted:
        """Return when it takes too much. While its engine cannot tell, the rest is looked at."""
        await clock.sleep(REST_S)
        while True:
            began = clock.elapsed()
            try:
                found = await self.excess()
            except Fault:
                found = await self.excess(layer=False)
            if found is not None:
                return found
            await clock.sleep(max(REST_S, (clock.elapsed() - began) * REST_TIMES))
