"""The bus in one process: a hub that stands for the server, and the buses connected to it.

Knows: every promise of `protocol.bus`, and how to break the ones that a network breaks. Must not know: NATS, or what the
messages and entries mean.

It is the twin that whole clusters are tested on, so it can misbehave on demand, by a seed: lose, repeat and delay messages,
cut a bus off, store an append and lose its answer, be full, begin a new log. With a `ManualClock` nothing in it waits for
real time.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

from msgspec import Struct

from protocol.bus import (
    Append,
    BlobLook,
    Bus,
    Cell,
    Listening,
    LogState,
    Message,
    Outcome,
    Record,
    check_cell_name,
    check_message,
    check_pattern,
)
from protocol.clock import Clock, SystemClock
from protocol.errors import Broken, NotFound, TimedOut, Unavailable
from protocol.ids import JobKey
from protocol.listener import Listener
from protocol.memory_log import READ_MAX, LogBackup, MemoryLog


class Mischief(Struct, frozen=True):
    """How often things go wrong: each a probability from 0 to 1, drawn for every message, request, answer or append.

    A delayed message waits up to `delay_s` on the hub's clock, so later ones may overtake it. `lose_answer` stores the
    entries and then raises `Unavailable`: the caller does not know.
    """

    drop: float = 0
    repeat: float = 0
    delay: float = 0
    delay_s: float = 0.05
    lose_answer: float = 0


class _Subscription(Struct, frozen=True, eq=False):
    bus: "MemoryBus"
    subject: str
    pattern: tuple[str, ...]
    group: str
    listener: Listener


class Blob(Struct, frozen=True):
    """What lies beside the log, and when it was put last."""

    data: bytes
    look: BlobLook


class Backup(Struct, frozen=True):
    """All that a hub held at one moment."""

    log: LogBackup
    cells: dict[str, Cell]
    revision: int
    blobs: dict[str, Blob]


class MemoryHub(MemoryLog):
    """What a server holds: subjects, the log, cells and blobs. `mischief` may be changed at any time."""

    def __init__(self, *, seed: int = 0, clock: Clock | None = None, limit_bytes: int = 1 << 40) -> None:
        super().__init__(limit_bytes)
        self.mischief = Mischief()
        self.clock: Clock = clock or SystemClock()
        self._random = Random(seed)
        self._exact: dict[str, list[_Subscription]] = {}
        self._wild: list[_Subscription] = []
        self._late: set[asyncio.Task[None]] = set()
        self.cells: dict[str, Cell] = {}
        self.revision = 0
        self.blobs: dict[str, Blob] = {}

    def backup(self) -> Backup:
        """All that it holds, as it is now."""
        return Backup(self.backup_log(), dict(self.cells), self.revision, dict(self.blobs))

    def restore(self, backup: Backup) -> None:
        """Be as it was then, except that the log is another one: every reader gets `Broken`."""
        self.cells, self.revision, self.blobs = dict(backup.cells), backup.revision, dict(backup.blobs)
        self.restore_log(backup.log)

    async def close(self) -> None:
        """Drop the messages that are still on their way."""
        late, self._late = self._late, set()
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability

    def remove_cell(self, name: str, revision: int) -> None:
        known = self.cells.get(name)
        if known is not None and known.revision <= revision:
            del self.cells[name]

    # Messages

    def join(self, subscription: _Subscription) -> None:
        self._line_of(subscription).append(subscription)

    def leave(self, subscription: _Subscription) -> None:
        self._line_of(subscription).remove(subscription)

    def _line_of(self, subscription: _Subscription) -> list[_Subscription]:
        if "*" in subscription.pattern or ">" in subscription.pattern:
            return self._wild
        return self._exact.setdefault(subscription.subject, [])

    def receivers(self, subject: str) -> list[_Subscription]:
        """Those without a group, and one member of each group."""
        tokens = tuple(subject.split("."))
        candidates = self._exact.get(subject, []) + [
            one for one in self._wild if _matches(one.pattern, tokens)
        ]
        there = [one for one in candidates if one.bus.connected]
        groups: dict[tuple[str, str], list[_Subscription]] = {}
        for one in there:
            if one.group:
                groups.setdefault((one.subject, one.group), []).append(one)
        return [one for one in there if not one.group] + [
            self._random.choice(each) for each in groups.values()
        ]

    def send(self, receivers: Sequence[_Subscription], message: Message) -> None:
        for receiver in receivers:
            self.carry(partial(_deliver, receiver, message))

    def carry(self, deliver: Callable[[], None]) -> None:
        """Take one thing over the network, with the mischief that is on."""
        mischief = self.mischief
        if self.happens(mischief.drop):
            return
        for _ in range(2 if self.happens(mischief.repeat) else 1):
            if self.happens(mischief.delay):
                task = asyncio.get_running_loop().create_task(
                    self._later(deliver, self._random.random() * mischief.delay_s)
                )
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            else:
                deliver()

    async def _later(self, deliver: Callable[[], None], seconds: float) -> None:
        await self.clock.sleep(seconds)
        deliver()


class MemoryBus:
    """One connection to a hub, with all that `protocol.bus.Bus` promises."""

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub
        self._cut = False
        self._closed = False
        self._listeners: dict[Listener, None] = {}

    @property
    def connected(self) -> bool:
        return not self._cut and not self._closed

    def cut(self) -> None:
        """Lose the hub: what is sent is lost, nothing arrives, readers stand still."""
        self._cut = True

    def mend(self) -> None:
        """Find the hub again: readers go on where they stood."""
        self._cut = False
        self._hub.tell_readers()

    def _reach(self) -> MemoryHub:
        if self._closed:
            raise Unavailable("the bus is closed")
        if self._cut:
            raise Unavailable("the bus is cut off", hint="It comes back by itself; try again.")
        return self._hub

    async def publish(self, subject: str, data: bytes) -> None:
        check_message(subject, data)
        if self._closed:
            raise Unavailable("the bus is closed")
        if self.connected:
            self._hub.send(self._hub.receivers(subject), Message(subject, data))
        await asyncio.sleep(0)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        check_message(subject, data)
        hub = self._reach()
        receivers = hub.receivers(subject)
        if not receivers:
            raise Unavailable(f"nobody listens on {subject}")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        hub.send(receivers, Message(subject, data, partial(self._take_answer, answer, subject)))
        alarm = asyncio.ensure_future(hub.clock.sleep(timeout_s))
        alarm.add_done_callback(partial(_give_up, answer, f"no answer on {subject} within {timeout_s:g} s"))
        try:
            return await answer
        finally:
            alarm.cancel()

    async def _take_answer(self, answer: asyncio.Future[bytes], subject: str, data: bytes) -> None:
        check_message(subject, data)
        self._hub.carry(partial(self._settle, answer, data))
        await asyncio.sleep(0)

    def _settle(self, answer: asyncio.Future[bytes], data: bytes) -> None:
        if self.connected and not answer.done():
            answer.set_result(data)

    @asynccontextmanager
    async def subscribe(
        self, subject: str, *, group: str = "", pending: int = 65_536
    ) -> AsyncIterator[Listening]:
        check_pattern(subject, group)
        if self._closed:
            raise Unavailable("the bus is closed")
        listener = Listener(subject, pending)
        subscription = _Subscription(self, subject, tuple(subject.split(".")), group, listener)
        self._listeners[listener] = None
        self._hub.join(subscription)
        try:
            yield listener
        finally:
            self._hub.leave(subscription)
            self._listeners.pop(listener, None)
            listener.close()

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        await asyncio.sleep(0)
        hub = self._reach()
        outcomes = [hub.append(entry) for entry in entries]
        hub.tell_readers()
        if hub.happens(hub.mischief.lose_answer):
            raise Unavailable(
                "the answer to an append was lost", hint="Ask again with the same op and guard."
            )
        return outcomes

    async def read(self, after: int) -> AsyncGenerator[list[Record], None]:
        hub, position = self._hub, after
        generation = hub.generation
        while not self._closed:
            last = len(hub.entries)
            if not self.connected or (hub.generation == generation and position == last):
                await hub.wait_for_news()
                continue
            if hub.generation != generation or position > last:
                raise Broken(f"the log was made anew, or ends at {last}, before position {position}")
            batch = list(hub.records(position))
            position = min(position + READ_MAX, last)
            if batch:
                yield batch

    async def last(self, key: JobKey) -> Record | None:
        hub = self._reach()
        await asyncio.sleep(0)
        sequences = hub.by_key.get(key)
        return hub.at(sequences[-1]).record if sequences else None

    async def newest(self) -> int:
        await asyncio.sleep(0)
        return self._reach().newest()

    async def log_state(self) -> LogState:
        await asyncio.sleep(0)
        return self._reach().state()

    async def purge(self, key: JobKey, upto: int, *, log: str = "") -> None:
        await asyncio.sleep(0)
        self._reach().purge(key, upto, log=log)

    async def get_cell(self, name: str) -> Cell | None:
        check_cell_name(name)
        await asyncio.sleep(0)
        return self._reach().cells.get(name)

    async def put_cell(self, name: str, data: bytes, *, revision: int) -> int | None:
        check_cell_name(name)
        await asyncio.sleep(0)
        hub = self._reach()
        known = hub.cells.get(name)
        if (known.revision if known else 0) != revision:
            return None
        hub.revision += 1
        hub.cells[name] = Cell(name, data, hub.revision)
        return hub.revision

    async def list_cells(self) -> list[Cell]:
        await asyncio.sleep(0)
        return list(self._reach().cells.values())

    async def remove_cell(self, name: str, revision: int) -> None:
        check_cell_name(name)
        await asyncio.sleep(0)
        self._reach().remove_cell(name, revision)

    async def put_blob(self, data: bytes) -> str:
        await asyncio.sleep(0)
        digest = sha256(data).hexdigest()
        hub = self._reach()
        hub.revision += 1
        hub.blobs[digest] = Blob(data, BlobLook(hub.clock.now(), hub.revision))
        return digest

    async def get_blob(self, digest: str, offset: int, limit_bytes: int) -> tuple[int, bytes]:
        await asyncio.sleep(0)
        blob = self._reach().blobs.get(digest)
        if blob is None:
            raise NotFound(f"there is no blob {digest}")
        return len(blob.data), blob.data[offset : offset + limit_bytes]

    async def list_blobs(self) -> list[str]:
        await asyncio.sleep(0)
        return list(self._reach().blobs)

    async def look_blob(self, digest: str) -> BlobLook | None:
        await asyncio.sleep(0)
        blob = self._reach().blobs.get(digest)
        return blob.look if blob is not None else None

    async def remove_blob(self, digest: str, seen: BlobLook) -> bool:
        await asyncio.sleep(0)
        blobs = self._reach().blobs
        if digest in blobs and blobs[digest].look.revision <= seen.revision:
            del blobs[digest]
        return digest not in blobs

    async def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            listener.close()
        self._hub.tell_readers()


def _matches(pattern: tuple[str, ...], tokens: tuple[str, ...]) -> bool:
    """Whether a subject fits a pattern: ``*`` is one token, a last ``>`` is one or more."""
    if pattern[-1] == ">":
        return len(tokens) >= len(pattern) and all(map(_token_matches, pattern[:-1], tokens))
    return len(pattern) == len(tokens) and all(map(_token_matches, pattern, tokens))


def _token_matches(pattern: str, token: str) -> bool:
    return pattern in ("*", token)


def _deliver(subscription: _Subscription, message: Message) -> None:
    if subscription.bus.connected:
        subscription.listener.offer(message)


def _give_up(answer: asyncio.Future[bytes], message: str, alarm: asyncio.Future[None]) -> None:
    if not alarm.cancelled() and not answer.done():
        answer.set_exception(TimedOut(message))


if TYPE_CHECKING:

    def _fits(bus: MemoryBus) -> Bus:
        return bus
