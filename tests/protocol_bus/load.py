"""A log under load while something goes wrong, and what must hold afterwards."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from protocol.bus import Append, Bus, Record, Stored
from protocol.errors import Unavailable
from protocol.ids import JobKey
from tests.contracts.bus import LIMIT_S, entry, fresh_key, stored

SIZES: Final = (1, 4, 50, 1, 4, 50)
"""One writer each: single entries, singles side by side, batches."""


class _Load:
    """Writers that append until told to stop, and note what they were answered."""

    def __init__(self) -> None:
        self.answered: dict[int, Append] = {}
        self.unknown: set[str] = set()
        self.progress = asyncio.Event()
        self.stopping = False

    async def write(self, bus: Bus, size: int) -> None:
        while not self.stopping:
            group = [entry(fresh_key(), data=secrets.token_bytes(100)) for _ in range(size)]
            try:
                outcomes = await bus.append(group)
            except Unavailable:
                self.unknown |= {one.op for one in group}
                continue
            for one, outcome in zip(group, outcomes, strict=True):
                assert isinstance(outcome, Stored), outcome
                assert outcome.seq not in self.answered
                self.answered[outcome.seq] = one
            self.progress.set()

    async def advance(self) -> None:
        """Wait until something was stored that is newer than this call."""
        self.progress.clear()
        await self.progress.wait()


async def _follow(bus: Bus, end: JobKey, records: list[Record]) -> None:
    async with aclosing(bus.read(0)) as batches:
        async for batch in batches:
            records += batch
            if batch[-1].key == end:
                return


async def check_log_under_load(one: Bus, other: Bus, harms: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Write through both buses to a log that was empty, do each harm in turn, and check the log afterwards.

    Every entry that was answered `Stored` is in the log once, at its sequence; nothing is in it that was not written; and a
    reader that followed all the time has seen the whole log, in order, without a gap.
    """
    load, read, end = _Load(), list[Record](), fresh_key()
    async with asyncio.timeout(3 * LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_follow(other, end, read))
        writers = [
            tasks.create_task(load.write((one, other)[number % 2], size)) for number, size in enumerate(SIZES)
        ]
        for harm in harms:
            await load.advance()
            await asyncio.sleep(0.3)  # The harm should meet appends in flight.
            await harm()
        await load.advance()
        load.stopping = True
        await asyncio.gather(*writers)
        last = await stored(one, end)

    assert [record.seq for record in read] == list(range(1, last + 1))
    for seq, wanted in load.answered.items():
        assert (read[seq - 1].key, read[seq - 1].data) == (wanted.key, wanted.data)
    assert len(read) <= len(load.answered) + len(load.unknown) + 1
    assert len({record.key for record in read}) == len(read)
