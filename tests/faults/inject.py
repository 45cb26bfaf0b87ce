"""Carries out faults: kills, stops and cuts off parts, at once or when they come to a step, and makes them whole again.

Knows: signals, cables and failpoints. Must not know: jobs, or what has to hold.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from deploy.servers import Server
from tests.faults.history import Done
from tests.faults.plan import Fault, clashes
from tests.faults.world import Placed, World

REACHED_S: Final = 20.0
"""So long may a process take to come to the step that it was armed for."""
LOOK_S: Final = 0.02

_log = structlog.get_logger(__name__)


class Injector:
    """Performs a plan until `enough` says so, at most `at_once` faults at a time; `done` is what was carried out."""

    def __init__(
        self, world: World, plan: Iterator[Fault], *, at_once: int, enough: Callable[[list[Done]], bool]
    ) -> None:
        self._world = world
        self._plan = plan
        self._enough = enough
        self._room = asyncio.Semaphore(at_once)
        self._current: list[Fault] = []
        self._began = asyncio.get_running_loop().time()
        self.done: list[Done] = []

    @property
    def kills(self) -> int:
        """How many processes were killed so far."""
        return sum(each.kind == "kill" and each.reached for each in self.done)

    async def run(self) -> None:
        """Perform faults, some at once, until there were enough; every part is left as it is then."""
        async with asyncio.TaskGroup() as tasks:
            while not self._enough(self.done):
                fault = next(self._plan)
                await asyncio.sleep(fault.after_s)
                if clashes(fault, self._current):
                    # Waiting for its turn it would come at the very start of the process, and hold up the others.
                    continue
                await self._world.keep([each.target for each in self._current])
                await self._room.acquire()
                self._current.append(fault)
                tasks.create_task(self._perform(fault))

    async def _perform(self, fault: Fault) -> None:
        part = self._world.parts[fault.target]
        done = Done(
            fault.kind, fault.target, self._now(), fault.for_s, fault.step, lived_s=part.process.lived_s
        )
        try:
            if fault.step and isinstance(part, Placed):
                await self._at_step(fault, part, done)
            else:
                await self._at_once(fault, part)
        finally:
            self.done.append(done)
            self._current.remove(fault)
            self._room.release()
            _log.info("fault", **{name: getattr(done, name) for name in done.__struct_fields__})

    async def _at_once(self, fault: Fault, part: Server) -> None:
        if fault.kind == "kill":
            await part.kill()
            await asyncio.sleep(fault.for_s)
            await part.start()
        elif fault.kind == "pause":
            os.kill(part.pid, signal.SIGSTOP)
            await asyncio.sleep(fault.for_s)
            _go_on(part)
        else:
            self._world.hosts[fault.target].cut()
            await asyncio.sleep(fault.for_s)
            self._world.hosts[fault.target].heal()

    async def _at_step(self, fault: Fault, part: Placed, done: Done) -> None:
        """Start the part anew with its failpoint armed; what it was armed for happens when it comes there."""
        action = "kill" if fault.kind == "kill" else "stop"
        part.armed = f"{fault.step}={action}@{fault.visit}"
        await self._anew(part)
        done.reached = await self._reached(part)
        done.at_s, done.lived_s = self._now(), part.process.lived_s
        if not done.reached:
            # Nothing may stop it later, when nobody looks.
            await self._anew(part)
        elif fault.kind == "kill":
            await asyncio.sleep(fault.for_s)
            await self._world.again(fault.target, wanted=signal.SIGKILL)
        elif fault.kind == "pause":
            await asyncio.sleep(fault.for_s)
            _go_on(part)
        else:
            self._world.hosts[fault.target].cut()
            _go_on(part)
            await asyncio.sleep(fault.for_s)
            self._world.hosts[fault.target].heal()

    async def _anew(self, part: Placed) -> None:
        """Kill it and start it at once."""
        self.done.append(Done("kill", part.name, self._now(), lived_s=part.process.lived_s))
        await part.kill()
        await part.start()

    async def _reached(self, part: Placed) -> bool:
        deadline = asyncio.get_running_loop().time() + REACHED_S
        while asyncio.get_running_loop().time() < deadline:
            if not part.process.running or _stands(part.pid):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    def _now(self) -> float:
        return round(asyncio.get_running_loop().time() - self._began, 3)


def _go_on(part: Server) -> None:
    with suppress(ProcessLookupError):
        os.kill(part.pid, signal.SIGCONT)


def _stands(pid: int) -> bool:
    """Whether a process is stopped (``T`` in /proc)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    return False
