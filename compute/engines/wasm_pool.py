"""The worker processes of the WebAssembly engine, and which of them runs what.

Knows: processes, the sockets on which orders wait, and when to start or end a worker. Must not know: what an order says, or
wasmtime. A worker (`compute.engines.wasm_worker`) runs one program at a time and is used again.

Orders wait in the socket of a worker, a few ahead of the one that runs, so that a short program costs no turn of the node's
event loop. The node keeps the worker's end of that socket open too: what the worker has not taken can be taken back, and
it is certain who has it. That happens when the program ahead turns out to be a long one, and when a worker dies: only the
program that it had taken is lost.

There are as many workers as cores while programs are short, and one more for each long one; idle ones beyond `IDLE_KEPT`
end.
"""

import asyncio
import os
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from compute.engines.child import Child
from compute.engines.wasm_worker import ORDER_MAX_BYTES, STARTED, Answer
from protocol.errors import Fault, Unavailable

CORES: Final = os.cpu_count() or 1
IDLE_KEPT: Final = max(2, CORES)
AHEAD: Final = 8
"""Orders that a worker has at once, the running one included."""
LONG_S: Final = 0.1
"""A program that runs longer does not keep others waiting: starting another worker takes about as long."""
READY_S: Final = 30.0
"""A worker that is not ready by then is ill: it only has to import the runtime."""

_answer = msgspec.json.Decoder(Answer)


class Died(Struct, frozen=True):
    """The worker ended while it had the program; `status` is the process's exit status."""

    status: int


class Program:
    """One order on its way.

    `begun` is done when the program runs (None), was refused (`Answer`), took its worker with it, or finds none; `end` when
    it has ended, after it has begun.
    """

    __slots__ = ("begun", "end", "order", "worker")

    def __init__(self, order: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.order = order
        self.worker: Worker | None = None
        self.begun: asyncio.Future[Answer | Died | Fault | None] = loop.create_future()
        self.end: asyncio.Future[Answer | Died] = loop.create_future()

    def told(self, reply: Answer | Died | Fault | None) -> None:
        """What its worker says, or what became of that: None that it runs, anything else is the end."""
        if not self.begun.done():
            self.begun.set_result(reply)
        elif not self.end.done() and isinstance(reply, Answer | Died):
            self.end.set_result(reply)


class Worker:
    """One worker process, and the orders that it has."""

    def __init__(self, pool: "Pool") -> None:
        self.has: deque[Program] = deque()
        self.since = 0.0
        """When (monotonic seconds) it began with the first of them."""
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pool = pool
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._child = Child(self._told, self._ended)
        self._said = b""

    @property
    def is_there(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._child.is_there

    async def start(self, modules: Path) -> None:
        """Start it and wait until it is ready. Raises `Unavailable`."""
        theirs = self._theirs.fileno()
        command = [sys.executable, "-m", "compute.engines.wasm_worker", str(modules), str(theirs)]
        env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            await self._child.start(command, env, [theirs])
            async with asyncio.timeout(READY_S):
                ready = await self.ready
        except TimeoutError as error:
            self.kill()
            raise Unavailable(f"a WebAssembly worker was not ready within {READY_S:g} s") from error
        except BaseException:
            self.kill()
            raise
        if not ready:
            raise Unavailable(
                "a WebAssembly worker ended at its start", hint="See the node's standard error."
            )

    def give(self, program: Program) -> bool:
        """Put an order behind those it has; False if its socket takes no more just now."""
        try:
            self._ours.send(program.order)
        except BlockingIOError:
            return False
        except OSError:
            # It is dying; what it has comes back when it is gone.
            return False
        if not self.has:
            self.since = time.monotonic()
        self.has.append(program)
        program.worker = self
        return True

    def take_back(self) -> list[Program]:
        """The orders that it has not taken, in their order: it will never see them."""
        untaken = 0
        with suppress(OSError):
            while self._theirs.recv(ORDER_MAX_BYTES, socket.MSG_DONTWAIT):
                untaken += 1
        back = [self.has.pop() for _ in range(untaken)]
        for program in back:
            program.worker = None
        return back[::-1]

    def kill(self) -> None:
        """End it, now; `Pool` is told when it is gone."""
        self._child.kill()

    # What the process does

    def _told(self, data: bytes) -> None:
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            if not self.ready.done():
                self.ready.set_result(True)
            elif line == STARTED:
                self.has[0].told(None)
            else:
                self.has.popleft().told(_answer.decode(line))
                self.since = time.monotonic()
        if lines and self.ready.done():
            self._pool.freed(self)

    def _ended(self, status: int) -> None:
        """It has ended, and all that it said has been read."""
        back = self.take_back()
        lost, self.has = list(self.has), deque()
        self._ours.close()
        self._theirs.close()
        if not self.ready.done():
            self.ready.set_result(False)
        for program in lost:
            program.told(Died(status))
        self._pool.gone(self, back)


class Pool:
    """All workers of one engine. `modules` is the folder of compiled modules."""

    def __init__(self, modules: Path) -> None:
        self._modules = modules
        self._workers: list[Worker] = []
        self._leaving: set[Worker] = set()
        self._left = asyncio.Event()
        self._waiting: deque[Program] = deque()
        self._starting = asyncio.Lock()
        self._growth: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def idle(self) -> int:
        """How many workers have nothing to do."""
        return sum(not worker.has for worker in self._workers)

    @property
    def started(self) -> bool:
        """Whether there is a worker at all."""
        return bool(self._workers)

    async def ready(self) -> None:
        """Return when there is a worker at all. Raises `Unavailable`."""
        async with self._starting:
            if not self._workers:
                await self._start_one()

    def put(self, program: Program) -> None:
        """Have a program run."""
        self._waiting.append(program)
        self._hand_out()

    def withdraw(self, program: Program) -> None:
        """End a program, whether it runs or has not begun."""
        if program in self._waiting:
            self._waiting.remove(program)
            return
        worker = program.worker
        if worker is None or program not in worker.has:
            return
        back = worker.take_back()
        if program in back:
            back.remove(program)
        elif worker in self._workers:
            self._end(worker)
        self._return(back)

    async def close(self) -> None:
        """End all workers, and with them what they run."""
        self._closing = True
        if self._growth is not None:
            self._growth.cancel()
            await asyncio.gather(self._growth, return_exceptions=True)
        for worker in tuple(self._workers):
            self._end(worker)
        while self._leaving:
            self._left.clear()
            await self._left.wait()

    # What workers tell

    def freed(self, worker: Worker) -> None:
        """A worker has come further."""
        if self._waiting:
            self._hand_out()
        elif not worker.has and worker in self._workers and self.idle > IDLE_KEPT:
            self._end(worker)

    def gone(self, worker: Worker, back: list[Program]) -> None:
        """A worker has ended; `back` is what it had not taken."""
        if worker in self._workers:
            self._workers.remove(worker)
        self._leaving.discard(worker)
        self._left.set()
        self._return(back)

    # Who runs what

    def _return(self, programs: list[Program]) -> None:
        self._waiting.extendleft(reversed(programs))
        if self._waiting and not self._closing:
            self._hand_out()

    def _hand_out(self) -> None:
        """Give what waits to the workers with the least before it; long programs have nothing put behind them."""
        long_since = time.monotonic() - LONG_S
        while self._waiting:
            quick = [
                each
                for each in self._workers
                if len(each.has) < AHEAD and (not each.has or each.since > long_since)
            ]
            if not quick or not min(quick, key=lambda each: len(each.has)).give(self._waiting[0]):
                break
            self._waiting.popleft()
        if self._unbegun() and (self._growth is None or self._growth.done()):
            self._growth = asyncio.create_task(self._grow())

    def _unbegun(self) -> bool:
        return bool(self._waiting) or any(len(worker.has) > 1 for worker in self._workers)

    async def _grow(self) -> None:
        """For as long as programs wait: start workers, one after the other, where short programs do not come free."""
        while self._unbegun():
            if self._workers:
                await asyncio.sleep(LONG_S)
                long_since = time.monotonic() - LONG_S
                slow = [each for each in self._workers if each.has and each.since <= long_since]
                for worker in slow:
                    self._return(worker.take_back())
                if not self._unbegun() or len(self._workers) - len(slow) >= CORES:
                    continue
            try:
                async with self._starting:
                    await self._start_one()
            except Fault as fault:
                while self._waiting:
                    self._waiting.popleft().told(fault)
                return
            self._hand_out()

    def _end(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._leaving.add(worker)
        worker.kill()

    async def _start_one(self) -> None:
        self._modules.mkdir(parents=True, exist_ok=True, mode=0o700)
        worker = Worker(self)
        try:
            await worker.start(self._modules)
        except BaseException:
            if worker.is_there:
                self._leaving.add(worker)
            raise
        self._workers.append(worker)
