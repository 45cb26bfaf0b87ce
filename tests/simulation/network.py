"""The network between simulated processes and the server that all of them are connected to.

Knows: links, delays and losses. Must not know: what messages and entries mean. The server is the memory bus's hub, whose
promises the real server keeps too (``tests/contracts``); what is added here is the way there and back.

Each process has one link, up to the server and down from it. What is on its way goes on when its sender is killed: an entry
may be stored whose writer never learns of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any, TypeVar

from protocol.bus import (
    Append,
    Cell,
    LogState,
    Message,
    Outcome,
    Record,
    Refused,
    Stale,
    Stored,
    check_cell_name,
    check_message,
)
from protocol.errors import Broken, Fault, TimedOut, Unavailable
from protocol.ids import JobKey
from protocol.listener import Listener
from protocol.memory_bus import MemoryBus, MemoryHub
from tests.simulation.loop import Scheduler

T = TypeVar("T")

GIVE_UP_S = 1.5
"""After so long without an answer the bus says that the server cannot be reached."""
ECHO_S = 15.0
SINGLES_MAX = 9
"""So many entries travel one by one, more as one atomic batch."""


class Weather:
    """How bad the network is just now, for everybody: probabilities from 0 to 1, times in seconds."""

    def __init__(self) -> None:
        self.drop = 0.0
        self.repeat = 0.0
        self.overtake = 0.0
        self.stray = 0.0
        """How often an append meets another one in flight and is told to ask again."""
        self.lose_answer = 0.0
        self.echo = 0.0
        """How often a message comes once more, long after."""


class Link:
    """One process's way to the server. A closed direction loses what is sent; `noticed` says that its client knows. One
    whose credentials are `revoked` is closed both ways until it has others.
    """

    def __init__(self, fastest_s: float, slowest_s: float) -> None:
        self.fastest_s = fastest_s
        self.slowest_s = slowest_s
        self.up = True
        self.down = True
        self.noticed = False
        self.revoked = False
        self.revocations = 0
        self.lag_s = 0.0
        """How much later than others this process reads the log."""

    def mend(self) -> None:
        self.up = self.down = not self.revoked
        self.noticed = self.revoked


class SimulatedHub(MemoryHub):
    """The server. `stored` is told of each entry as it becomes part of the log, `note` of what is worth telling."""

    def __init__(self, scheduler: Scheduler, seed: str) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.random = self._random = Random(f"{seed} network")
        self.weather = Weather()
        self.there = True
        self.log_there = True
        """Whether the log and the cells have a leader."""
        self.stored: Callable[[str, Append, int], None] = lambda who, entry, seq: None
        self.heard: Callable[[str, str, str, bytes], None] = lambda kind, source, target, data: None
        self.cleared: Callable[[JobKey], None] = lambda key: None
        """Told of each job of which the log has nothing any more."""
        self.says_all: Callable[[Record], bool] = lambda first: False
        """Asked of a job's first entry that is left whether nobody lacks what stood before it."""
        self.written: Callable[[str, Cell], None] = lambda who, cell: None
        """Told of each cell that was changed, and by whom."""
        self.removed: Callable[[str, str], None] = lambda who, name: None
        """Told of each cell that was removed, and by whom."""
        self.full_of_one: Callable[[str, JobKey], None] = lambda who, key: None
        """Told of each entry that is refused because its job has so many already."""
        self.accounts = 0
        """How often the accounts were changed: what was asked before is not answered after (``docs/credentials.md``)."""
        self.thinned: set[JobKey] = set()
        """Jobs that went on while their earlier versions were taken out of the log."""
        self._last_arrival: dict[tuple[int, int], float] = {}

    # The way

    def _latency(self, *links: Link) -> float:
        draw, latency = self.random.random, 0.0
        for link in links:
            share = draw()
            latency += link.fastest_s + (link.slowest_s - link.fastest_s) * share * share * share
        return latency

    def carry_message(
        self, source: "SimulatedBus", target: "SimulatedBus", line: int, arrive: Callable[[], None]
    ) -> None:
        """Take a message from one process to another, or lose it, or bring it twice."""
        weather, draw = self.weather, self.random.random
        if not source.link.up or not self.there or (weather.drop and draw() < weather.drop):
            return
        copies = 2 if weather.repeat and draw() < weather.repeat else 1
        for _ in range(copies):
            due = self.scheduler.now + self._latency(source.link, target.link)
            if not (weather.overtake and draw() < weather.overtake):
                key = (source.number, line)
                due = self._last_arrival[key] = max(due, self._last_arrival.get(key, 0.0))
            self.scheduler.at(due, self._arrive, target, arrive)
        if weather.echo and draw() < weather.echo:
            self.scheduler.after(ECHO_S * (0.1 + draw()), self._arrive, target, arrive)

    def _arrive(self, target: "SimulatedBus", arrive: Callable[[], None]) -> None:
        if target.link.down and self.there and not target.dead:
            arrive()

    def ask(
        self, bus: "SimulatedBus", work: Callable[[], T], answer: "asyncio.Future[T]", *, late: bool = False
    ) -> None:
        """Have the server do something and answer; it may do it and the answer be lost."""
        self.scheduler.after(GIVE_UP_S, _fail, answer, "the server does not answer")
        if bus.link.up and self.there:
            self.scheduler.after(self._latency(bus.link), self._do, bus, work, answer, late)

    def _do(
        self, bus: "SimulatedBus", work: Callable[[], T], answer: "asyncio.Future[T]", late: bool
    ) -> None:
        if not bus.link.up or not self.there or not self.log_there:
            return
        try:
            result = work()
        except Fault as fault:
            self.scheduler.after(self._latency(bus.link), _raise, answer, fault)
            return
        if late and self.weather.lose_answer and self.random.random() < self.weather.lose_answer:
            return
        self.scheduler.after(self._latency(bus.link), self._answer, bus, answer, result)

    def _answer(self, bus: "SimulatedBus", answer: "asyncio.Future[T]", result: T) -> None:
        if bus.link.down and self.there and self.log_there and not bus.dead and not answer.done():
            answer.set_result(result)

    # The log

    def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        there = key in self.by_key
        super().purge(key, upto, log=log)
        if there and key not in self.by_key:
            self.cleared(key)
        elif there and not self.says_all(self.at(self.by_key[key][0]).record):
            self.thinned.add(key)

    def take(self, who: str, entries: Sequence[Append]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for entry in entries:
            if self.weather.stray and self.random.random() < self.weather.stray:
                outcomes.append(Stale())
                continue
            before = len(self.entries)
            outcome = self.append(entry)
            if isinstance(outcome, Stored) and outcome.seq > before:
                self.stored(who, entry, outcome.seq)
            if isinstance(outcome, Refused) and not outcome.full:
                self.full_of_one(who, entry.key)
            outcomes.append(outcome)
        self.tell_readers()
        return outcomes


def _fail(answer: "asyncio.Future[Any]", why: str) -> None:
    if not answer.done():
        answer.set_exception(Unavailable(why))


def _raise(answer: "asyncio.Future[Any]", fault: Fault) -> None:
    if not answer.done():
        answer.set_exception(fault)


class SimulatedBus(MemoryBus):
    """One process's connection, from its start to its end."""

    _numbers = 0

    def __init__(self, hub: SimulatedHub, name: str, link: Link) -> None:
        super().__init__(hub)
        self._server = hub
        self.name = name
        self.link = link
        self.dead = False
        self.doubts = False
        """Its reader takes the log for another one at its next look."""
        SimulatedBus._numbers += 1
        self.number = SimulatedBus._numbers

    @property
    def connected(self) -> bool:
        """What the client believes: a loss that nobody has noticed yet is not one."""
        return not self._closed and not (self.link.noticed and not (self.link.up and self.link.down))

    def die(self) -> None:
        """The process is gone: the server drops its subscriptions, and nothing reaches it."""
        self.dead = True
        for line in [*self._server._exact.values(), self._server._wild]:
            line[:] = [each for each in line if each.bus is not self]

    # Messages

    async def publish(self, subject: str, data: bytes) -> None:
        check_message(subject, data)
        if self._closed:
            raise Unavailable("the bus is closed")
        self._send(subject, data, None)
        await asyncio.sleep(0)

    def _send(self, subject: str, data: bytes, answer: "asyncio.Future[bytes] | None") -> int:
        receivers = self._server.receivers(subject)
        for receiver in receivers:
            target = receiver.bus
            assert isinstance(target, SimulatedBus)
            asked = self._server.accounts
            respond = partial(target._respond, self, answer, asked) if answer is not None else None
            message = Message(subject, data, respond)
            self._server.carry_message(
                self, target, id(receiver.listener), partial(self._offer, receiver.listener, message, target)
            )
        return len(receivers)

    def _offer(self, listener: Listener, message: Message, target: "SimulatedBus") -> None:
        self._server.heard(message.subject, self.name, target.name, message.data)
        target._hear(listener, message)

    def _hear(self, listener: Listener, message: Message) -> None:
        listener.offer(message)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        check_message(subject, data)
        self._check_reach()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if not self._send(subject, data, answer) and self._reaches():
            await asyncio.sleep(2 * self.link.fastest_s)
            raise Unavailable(f"nobody listens on {subject}")
        alarm = asyncio.get_running_loop().call_later(
            timeout_s, _time_out, answer, f"no answer on {subject} within {timeout_s:g} s"
        )
        try:
            return await answer
        finally:
            alarm.cancel()

    async def _respond(
        self, asker: "SimulatedBus", answer: "asyncio.Future[bytes]", asked: int, data: bytes
    ) -> None:
        """Answer a request that came here, made when the accounts had been changed so often."""
        self._server.carry_message(self, asker, -1, partial(self._settle_answer, asker, answer, asked, data))
        await asyncio.sleep(0)

    def _settle_answer(
        self, asker: "SimulatedBus", answer: "asyncio.Future[bytes]", asked: int, data: bytes
    ) -> None:
        if not answer.done() and asked == self._server.accounts:
            self._server.heard("answer", self.name, asker.name, data)
            answer.set_result(data)

    @asynccontextmanager
    async def subscribe(self, subject: str, *, group: str = "", pending: int = 65_536) -> Any:
        async with super().subscribe(subject, group=group, pending=pending) as listener:
            yield listener

    # The log and the rest

    def _reaches(self) -> bool:
        """Whether the way to the server and back is open just now."""
        return self.link.up and self.link.down and self._server.there

    def _reads(self) -> bool:
        return self._reaches() and self._server.log_there

    def _check_reach(self) -> None:
        if self._closed:
            raise Unavailable("the bus is closed")
        if not self.connected:
            raise Unavailable("the bus is cut off", hint="It comes back by itself; try again.")

    async def _ask(self, work: Callable[[], T], *, late: bool = False) -> T:
        self._check_reach()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._server.ask(self, work, answer, late=late)
        return await answer

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        if len(entries) > SINGLES_MAX:
            return await self._ask(partial(self._server.take, self.name, entries), late=True)
        asked = [
            asyncio.ensure_future(self._ask(partial(self._server.take, self.name, [entry]), late=True))
            for entry in entries
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        outcomes: list[Outcome] = []
        for each in answers:
            if isinstance(each, BaseException):
                raise each
            outcomes += each
        return outcomes

    async def read(self, after: int) -> AsyncGenerator[list[Record], None]:
        server: SimulatedHub
        server, position = self._server, after
        generation = server.generation
        while not self._closed:
            last = len(server.entries)
            if self.doubts:
                self.doubts = False
                raise Broken("the log is taken for another one")
            if not self._reads() or (server.generation == generation and position == last):
                await server.wait_for_news()
                continue
            await asyncio.sleep(server._latency(self.link) + self.link.lag_s * server.random.random())
            if not self._reads():
                continue
            if server.generation != generation or position > len(server.entries):
                raise Broken(f"the log was made anew, or ends at {last}, before position {position}")
            batch = list(server.records(position))
            position = len(server.entries)
            if batch:
                yield batch

    async def last(self, key: JobKey) -> Record | None:
        return await self._ask(partial(self._last, key))

    def _last(self, key: JobKey) -> Record | None:
        sequences = self._server.by_key.get(key)
        return self._server.at(sequences[-1]).record if sequences else None

    async def newest(self) -> int:
        return await self._ask(self._server.newest)

    async def log_state(self) -> LogState:
        return await self._ask(self._server.state)

    async def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        await self._ask(partial(self._server.purge, key, upto, log=log))

    async def get_cell(self, name: str) -> Cell | None:
        check_cell_name(name)
        return await self._ask(partial(self._server.cells.get, name))

    async def put_cell(self, name: str, data: bytes, *, revision: int) -> int | None:
        check_cell_name(name)
        return await self._ask(partial(self._put_cell, name, data, revision))

    def _put_cell(self, name: str, data: bytes, revision: int) -> int | None:
        server = self._server
        known = server.cells.get(name)
        if (known.revision if known else 0) != revision:
            return None
        server.revision += 1
        cell = server.cells[name] = Cell(name, data, server.revision)
        server.written(self.name, cell)
        return server.revision

    async def list_cells(self) -> list[Cell]:
        return await self._ask(lambda: list(self._server.cells.values()))

    async def remove_cell(self, name: str, revision: int) -> None:
        check_cell_name(name)
        await self._ask(partial(self._remove_cell, name, revision))

    def _remove_cell(self, name: str, revision: int) -> None:
        server = self._server
        there = name in server.cells
        server.remove_cell(name, revision)
        if there and name not in server.cells:
            server.removed(self.name, name)


def _time_out(answer: "asyncio.Future[bytes]", why: str) -> None:
    if not answer.done():
        answer.set_exception(TimedOut(why))
