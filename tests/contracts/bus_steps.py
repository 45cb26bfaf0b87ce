"""Steps that the tests of buses share: fresh names, appending, collecting, answering."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from protocol.bus import (
    Append,
    Bus,
    Message,
    Messages,
    Record,
    Refused,
    Stale,
    Stored,
)
from protocol.ids import JobKey

Buses = tuple[Bus, Bus]
LIMIT_S = 30.0
"""How long a test waits for what was promised; far more than it takes."""


def fresh_key() -> JobKey:
    """The key of a job that nobody has."""
    return JobKey(secrets.token_hex(8)[:15])


def fresh_subject() -> str:
    """A subject that nobody else has, at which a requester of the name "requester" may speak."""
    return f"req.requester.{secrets.token_hex(6)}"


def entry(key: JobKey, guard: int = 0, data: bytes = b"{}") -> Append:
    """An append with an operation of its own."""
    return Append(key, guard, secrets.token_hex(8), data)


async def append_one(bus: Bus, one: Append) -> Stored | Stale | Refused:
    """Append a single entry."""
    (outcome,) = await bus.append([one])
    return outcome


async def stored(bus: Bus, key: JobKey, guard: int = 0, data: bytes = b"{}") -> int:
    """Append an entry that must be stored; its sequence."""
    outcome = await append_one(bus, entry(key, guard, data))
    assert isinstance(outcome, Stored)
    return outcome.seq


async def collect(bus: Bus, after: int, count: int) -> list[Record]:
    """The next `count` records behind `after` that a reader gives out, and whatever came with them."""
    records: list[Record] = []
    async with asyncio.timeout(LIMIT_S), aclosing(bus.read(after)) as batches:
        while len(records) < count:
            batch = await anext(batches)
            assert batch
            records += batch
    return records


async def take(messages: AsyncIterator[Message], count: int) -> list[Message]:
    """The next `count` messages."""
    async with asyncio.timeout(LIMIT_S):
        return [await anext(messages) for _ in range(count)]


async def arrived(bus: Messages) -> None:
    """Return when all that a bus has sent so far, and all that was sent to it before, has arrived."""
    async with bus.subscribe(mark := fresh_subject()) as marks:
        await bus.publish(mark, b"")
        await take(marks, 1)


@asynccontextmanager
async def answering(bus: Messages, subject: str, group: str = "") -> AsyncIterator[list[bytes]]:
    """Somebody who answers every request on a subject with its data and ``!``; gives the list of what was asked."""
    asked: list[bytes] = []

    async def serve(messages: AsyncIterator[Message]) -> None:
        async for message in messages:
            asked.append(message.data)
            if message.respond is not None:
                await message.respond(message.data + b"!")

    async with bus.subscribe(subject, group=group) as messages, asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(messages))
        try:
            yield asked
        finally:
            server.cancel()
