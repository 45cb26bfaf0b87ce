"""Which entries travel together to the log."""

import asyncio
from collections.abc import Sequence

from protocol.bus import Append, Outcome, Stored
from protocol.clock import SystemClock
from protocol.errors import Fault
from protocol.ids import nameless_key
from protocol.memory_bus import MemoryBus, MemoryHub
from requester.committer import CROWD, Committer


class Gated(MemoryBus):
    """Appends once `open`; `sizes` is how many entries each commit had."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.sizes: list[int] = []
        self.asked = asyncio.Event()
        self.open = asyncio.Event()

    async def append(self, entries: Sequence[Append]) -> list[Outcome]:
        self.sizes.append(len(entries))
        self.asked.set()
        await self.open.wait()
        return await super().append(entries)


async def test_who_asks_again_when_it_is_answered_joins_the_next_commit() -> None:
    """Callers of a crowd that ask for more as soon as they are answered do not have to wait for one commit more."""
    hub = MemoryHub()
    bus = Gated(hub)
    committer = Committer(bus, SystemClock(), waiting_max=1_000)
    told: list[Outcome | Fault] = []
    all_told = asyncio.Event()

    def put(number: int, *, again: bool) -> None:
        def done(outcome: Outcome | Fault) -> None:
            told.append(outcome)
            if again:
                asyncio.get_running_loop().call_soon(lambda: put(CROWD + number, again=False))
            elif len(told) == 2 * CROWD + 1:
                all_told.set()

        committer.put(Append(nameless_key(number), 0, f"op{number}", b"{}"), done)

    for number in range(CROWD):
        put(number, again=True)
    running = asyncio.create_task(committer.run())
    await bus.asked.wait()
    put(2 * CROWD, again=False)
    bus.open.set()
    await all_told.wait()

    assert all(isinstance(outcome, Stored) for outcome in told)
    assert bus.sizes == [CROWD, CROWD + 1]
    running.cancel()
    await asyncio.wait([running])
    await hub.close()
