"""The bus in one process keeps the promises of every bus, and breaks them on demand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from protocol.bus import Message, Refused, Stale, Stored
from protocol.clock import ManualClock
from protocol.errors import Broken, TimedOut, Unavailable
from protocol.memory_bus import MemoryBus, MemoryHub, Mischief
from tests.contracts.bus import (
    BusContract,
    Buses,
    answering,
    append_one,
    collect,
    entry,
    fresh_key,
    stored,
    take,
)


class TestMemoryBus(BusContract):
    """Every promise of a bus."""

    @pytest.fixture
    async def buses(self) -> AsyncIterator[Buses]:
        hub = MemoryHub()
        one, other = MemoryBus(hub), MemoryBus(hub)
        yield one, other
        await one.close()
        await other.close()
        await hub.close()


async def _heard(seed: int, mischief: Mischief) -> list[bytes]:
    clock = ManualClock()
    hub = MemoryHub(seed=seed, clock=clock)
    hub.mischief = mischief
    bus = MemoryBus(hub)
    async with bus.subscribe("a.b") as messages:
        for number in range(100):
            await bus.publish("a.b", b"%d" % number)
        await clock.advance(1)
        await bus.close()
        return [message.data async for message in messages]


class TestMischief:
    """What a test can ask the hub to do wrong."""

    async def test_the_same_seed_does_the_same_harm(self) -> None:
        """A run can be repeated from its seed; another seed is another run."""
        mischief = Mischief(drop=0.2, repeat=0.2, delay=0.2)

        first, again, other = [await _heard(seed, mischief) for seed in (7, 7, 8)]

        assert first == again
        assert first != other

    async def test_dropped_messages_do_not_arrive(self) -> None:
        """`drop` loses some, and those that arrive keep their order."""
        heard = [int(data) for data in await _heard(1, Mischief(drop=0.5))]

        assert 20 < len(heard) < 80
        assert heard == sorted(heard)

    async def test_repeated_messages_arrive_twice(self) -> None:
        """`repeat` delivers every message, some of them twice."""
        heard = await _heard(1, Mischief(repeat=0.5))

        assert set(heard) == {b"%d" % number for number in range(100)}
        assert 120 < len(heard) < 180

    async def test_delayed_messages_arrive_later_than_their_followers(self) -> None:
        """`delay` loses nothing but mixes the order."""
        heard = [int(data) for data in await _heard(1, Mischief(delay=0.5))]

        assert sorted(heard) == list(range(100))
        assert heard != sorted(heard)

    async def test_a_lost_request_times_out_on_the_hub_s_clock(self) -> None:
        """With a clock that is moved by hand a deadline costs no real time."""
        clock = ManualClock()
        hub = MemoryHub(clock=clock)
        bus = MemoryBus(hub)
        async with answering(bus, "a.b"):
            hub.mischief = Mischief(drop=1)
            asking = asyncio.create_task(bus.request("a.b", b"", timeout_s=3_600))
            await clock.advance(0)
            await clock.advance(3_599)
            assert not asking.done()
            await clock.advance(2)

            with pytest.raises(TimedOut):
                await asking

    async def test_only_so_many_entries_of_one_job(self) -> None:
        """With `entries_max` the log refuses what comes after of the same job, as a server does, and takes others'."""
        hub = MemoryHub()
        bus = MemoryBus(hub)
        hub.entries_max = 2
        key = fresh_key()
        last = await stored(bus, key, await stored(bus, key))

        (outcome,) = await bus.append([entry(key, last)])

        assert isinstance(outcome, Refused)
        assert not outcome.full
        assert (await bus.log_state()).entries_max == 2
        await stored(bus, fresh_key())

    async def test_a_lost_answer_leaves_the_entry_stored(self) -> None:
        """`lose_answer` raises `Unavailable` after storing; asking again with the same op answers `Stored`."""
        hub = MemoryHub()
        bus = MemoryBus(hub)
        one = entry(fresh_key())
        hub.mischief = Mischief(lose_answer=1)
        with pytest.raises(Unavailable):
            await bus.append([one])
        hub.mischief = Mischief()

        assert await append_one(bus, one) == Stored(1)
        assert len(await collect(bus, 0, 1)) == 1

    async def test_a_full_log_refuses_and_stores_nothing(self) -> None:
        """At its limit in bytes the log answers `Refused` with `full`, and still tells stale guards."""
        hub = MemoryHub(limit_bytes=10)
        bus = MemoryBus(hub)
        key = fresh_key()
        seq = await stored(bus, key, data=b"123456")

        outcome = await append_one(bus, entry(key, seq, b"123456"))

        assert isinstance(outcome, Refused)
        assert outcome.full
        assert await append_one(bus, entry(key, 0, b"1")) == Stale(seq)
        assert (await bus.log_state()).last == seq

    async def test_a_bus_that_is_cut_off_hears_nothing_and_goes_on_when_mended(self) -> None:
        """Cut off: `connected` is false, asking fails at once, readers stand still; mended, they go on without a gap."""
        hub = MemoryHub()
        one, other = MemoryBus(hub), MemoryBus(hub)
        async with one.subscribe("a.b") as messages, aclosing(one.read(0)) as batches:
            one.cut()
            assert not one.connected
            await other.publish("a.b", b"lost")
            seq = await stored(other, fresh_key())
            with pytest.raises(Unavailable):
                await one.append([entry(fresh_key())])
            with pytest.raises(Unavailable):
                await one.request("a.b", b"", timeout_s=1)
            reading = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            assert not reading.done()

            one.mend()

            assert [record.seq for record in await reading] == [seq]
            await other.publish("a.b", b"heard")
            assert await take(messages, 1) == [Message("a.b", b"heard")]

    async def test_a_log_that_begins_anew_breaks_its_readers(self) -> None:
        """Readers of the old log get `Broken`, and `created` differs."""
        hub = MemoryHub()
        bus = MemoryBus(hub)
        await stored(bus, fresh_key())
        before = await bus.log_state()
        async with aclosing(bus.read(0)) as batches:
            await anext(batches)
            hub.begin_anew()

            with pytest.raises(Broken):
                await anext(batches)
        assert (await bus.log_state()).created != before.created

    async def test_a_reader_beyond_the_end_is_told(self) -> None:
        """A position that the log has not reached is `Broken`, not silence."""
        with pytest.raises(Broken):
            await collect(MemoryBus(MemoryHub()), 5, 1)
