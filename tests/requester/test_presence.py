"""Requesters say that they are there, and that they leave."""

import asyncio

import pytest

from protocol.clock import SystemClock
from protocol.ids import RequesterId
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import RequesterBeat, decode
from requester.presence import Presence


class Stuck(MemoryBus):
    """Takes the beats of who is there, and nothing from who leaves."""

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.heard = asyncio.Event()

    async def publish(self, subject: str, data: bytes) -> None:
        if decode(data, RequesterBeat).leaving:
            await asyncio.Event().wait()
        self.heard.set()


async def test_a_bus_that_takes_nothing_is_no_fault_of_who_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requester that is ended while its NATS server stands still ends as it was asked to, not by a fault."""
    monkeypatch.setattr("requester.presence.LEAVE_S", 0.01)
    bus = Stuck(MemoryHub())
    presence = Presence(bus, SystemClock(), RequesterId("r1"), beat_s=60.0, version="0")
    beating = asyncio.create_task(presence.beat())
    await bus.heard.wait()
    beating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beating
