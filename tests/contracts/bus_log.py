"""What every bus promises about the log: see `protocol.bus.Bus`."""

import asyncio
import secrets
from contextlib import aclosing
from hashlib import sha256

import msgspec
import pytest

from protocol.bus import (
    BATCH_MAX,
    ENTRY_MAX_BYTES,
    Append,
    Bus,
    Record,
    Refused,
    Stale,
    Stored,
)
from protocol.errors import Broken, Unavailable
from tests.contracts.bus_steps import (
    LIMIT_S,
    Buses,
    append_one,
    collect,
    entry,
    fresh_key,
    stored,
)


class LogContract:
    """The promises about the log."""

    @pytest.fixture
    def buses(self) -> Buses:
        """Two buses connected to one hub or server."""
        raise NotImplementedError

    async def test_guard_zero_creates_once(self, buses: Buses) -> None:
        """Of two appends that say "this job is not there yet", the second is refused and told of the first."""
        one, other = buses
        key = fresh_key()

        seq = await stored(one, key)

        assert await append_one(other, entry(key)) == Stale(seq)

    async def test_guard_lets_the_next_entry_pass(self, buses: Buses) -> None:
        """An entry that was decided knowing the newest one is stored behind it."""
        one, other = buses
        key = fresh_key()
        first = await stored(one, key)

        assert await stored(other, key, first) > first

    async def test_stale_guard_is_refused_with_the_newest_sequence(self, buses: Buses) -> None:
        """An entry decided on old knowledge is not stored, and the answer says how far to read."""
        one, other = buses
        key = fresh_key()
        first = await stored(one, key)
        second = await stored(one, key, first)

        outcome = await append_one(other, entry(key, first))

        assert outcome == Stale(second)
        assert (await one.last(key)) == Record(key, second, b"{}")

    async def test_guards_of_different_jobs_are_independent(self, buses: Buses) -> None:
        """Entries of other jobs in between do not make a guard stale."""
        one, other = buses
        key = fresh_key()
        first = await stored(one, key)
        await stored(other, fresh_key())

        await stored(one, key, first)

    @pytest.mark.parametrize("size", [1, 12])
    async def test_what_another_log_decided_is_stale(self, buses: Buses, size: int) -> None:
        """A restored log gives sequences again, so a guard may hold by chance. An entry says which log it was decided by, is
        stored in no other one, and does not hold up those beside it. Nothing is taken out by another log's word either.
        """
        bus, _ = buses
        log = (await bus.log_state()).created
        ours, others = (
            [msgspec.structs.replace(entry(fresh_key()), log=name) for _ in range(size)]
            for name in (log, "lost")
        )

        outcomes = await bus.append([*ours, *others])

        assert [type(outcome) for outcome in outcomes] == [Stored] * size + [Stale] * size
        assert await bus.last(others[0].key) is None
        with pytest.raises(Broken):
            await bus.purge(ours[0].key, 1 << 40, log="lost")
        assert await bus.last(ours[0].key) is not None
        await bus.purge(ours[0].key, 1 << 40, log=log)
        assert await bus.last(ours[0].key) is None

    async def test_exactly_one_of_two_racing_appends_wins(self, buses: Buses) -> None:
        """However two requesters race for the same job, one entry is stored and the other stale, every time."""
        key, guard = fresh_key(), 0
        for _ in range(150):
            outcomes = await asyncio.gather(*(append_one(bus, entry(key, guard)) for bus in buses))
            winners = [outcome for outcome in outcomes if isinstance(outcome, Stored)]

            assert len(winners) == 1
            assert sum(isinstance(outcome, Stale) for outcome in outcomes) == 1
            guard = winners[0].seq

    async def test_exactly_one_wins_for_each_job_of_two_racing_groups(self, buses: Buses) -> None:
        """Two requesters that commit groups over the same jobs share them out: each job has one winner."""
        for size in (5, 60):
            keys = [fresh_key() for _ in range(size)]
            groups = await asyncio.gather(*(bus.append([entry(key) for key in keys]) for bus in buses))

            for pair in zip(*groups, strict=True):
                assert sorted(type(outcome).__name__ for outcome in pair) == ["Stale", "Stored"]

    @pytest.mark.parametrize("size", [3, 40])
    async def test_a_stale_entry_holds_up_no_other_of_its_group(self, buses: Buses, size: int) -> None:
        """In a group with one stale entry, small or large, all others are stored and outcomes keep the order."""
        one, other = buses
        key = fresh_key()
        first = await stored(other, key)
        group = [entry(fresh_key()) for _ in range(size)]
        group[size // 2] = entry(key)

        outcomes = await one.append(group)

        assert outcomes[size // 2] == Stale(first)
        for wanted, outcome in zip(group, outcomes, strict=True):
            if wanted.key != key:
                assert isinstance(outcome, Stored)
                assert await other.last(wanted.key) == Record(wanted.key, outcome.seq, wanted.data)

    async def test_a_group_larger_than_a_batch_is_stored_whole(self, buses: Buses) -> None:
        """A group of any size is appended; its outcomes are the sequences at which its entries are."""
        one, other = buses
        group = [entry(fresh_key(), data=b"%d" % number) for number in range(2 * BATCH_MAX + 20)]

        outcomes = await one.append(group)

        sequences = [outcome.seq for outcome in outcomes if isinstance(outcome, Stored)]
        assert len(sequences) == len(group)
        read = await collect(other, min(sequences) - 1, len(group))
        assert [
            Record(wanted.key, seq, wanted.data) for wanted, seq in zip(group, sequences, strict=True)
        ] == sorted(read, key=lambda record: sequences.index(record.seq))

    async def test_an_empty_group_is_nothing(self, buses: Buses) -> None:
        """Appending no entries answers with no outcomes."""
        assert await buses[0].append([]) == []

    @pytest.mark.parametrize("size", [1, 12])
    async def test_too_large_an_entry_is_refused_alone(self, buses: Buses, size: int) -> None:
        """An entry over the limit is refused with its size and the limit; the rest of its group is stored."""
        group = [entry(fresh_key()) for _ in range(size)] + [
            entry(fresh_key(), data=b"x" * (ENTRY_MAX_BYTES + 1))
        ]

        *others, outcome = await buses[0].append(group)

        assert all(isinstance(other, Stored) for other in others)
        assert isinstance(outcome, Refused)
        assert not outcome.full
        assert str(ENTRY_MAX_BYTES) in outcome.reason
        assert await buses[1].last(group[-1].key) is None

    async def test_an_entry_of_the_largest_size_is_stored(self, buses: Buses) -> None:
        """The limit itself still fits, byte for byte."""
        key, data = fresh_key(), secrets.token_bytes(ENTRY_MAX_BYTES)

        seq = await stored(buses[0], key, data=data)

        assert await buses[1].last(key) == Record(key, seq, data)

    async def test_asking_again_with_the_same_op_is_stored_once(self, buses: Buses) -> None:
        """An append repeated with its op and guard answers with the sequence of the first, even behind later entries."""
        one, other = buses
        key = fresh_key()
        first = entry(key)
        seq = await self._seq(one, first)
        await stored(other, key, seq)

        assert await append_one(one, first) == Stored(seq)

    @staticmethod
    async def _seq(bus: Bus, one: Append) -> int:
        outcome = await append_one(bus, one)
        assert isinstance(outcome, Stored)
        return outcome.seq

    async def test_last_is_the_newest_entry(self, buses: Buses) -> None:
        """A job's last entry is seen by everyone as soon as its append was answered."""
        one, other = buses
        key = fresh_key()
        assert await other.last(key) is None

        first = await stored(one, key, data=b"1")
        assert await other.last(key) == Record(key, first, b"1")

        second = await stored(one, key, first, b"2")
        assert await other.last(key) == Record(key, second, b"2")

    async def test_reading_gives_all_entries_in_order_while_they_are_written(self, buses: Buses) -> None:
        """A reader that follows 2,000 appends sees each of them once, in the order of the log, without gaps."""
        one, other = buses
        start = (await one.log_state()).last
        written: dict[int, bytes] = {}

        async def write() -> None:
            for first in range(0, 2_000, 50):
                size = 50 if first % 100 else 5
                for low in range(first, first + 50, size):
                    group = [entry(fresh_key(), data=b"%d" % number) for number in range(low, low + size)]
                    for wanted, outcome in zip(group, await one.append(group), strict=True):
                        assert isinstance(outcome, Stored)
                        written[outcome.seq] = wanted.data

        read, _ = await asyncio.gather(collect(other, start, 2_000), write())

        assert [record.seq for record in read] == sorted(written)
        assert {record.seq: record.data for record in read} == written

    async def test_reading_from_a_position_begins_right_behind_it(self, buses: Buses) -> None:
        """A reader placed at a sequence gets the entries after it, not that one."""
        one, other = buses
        key = fresh_key()
        first = await stored(one, key, data=b"1")
        second = await stored(one, key, first, b"2")

        assert (await collect(other, first, 1))[0] == Record(key, second, b"2")

    async def test_a_reader_at_the_end_waits_for_the_next_entry(self, buses: Buses) -> None:
        """Nothing new is not the end: the reader gives out the next entry when it is written."""
        one, other = buses
        last = (await one.log_state()).last
        reading = asyncio.create_task(collect(other, last, 1))
        key = fresh_key()

        seq = await stored(one, key)

        assert await reading == [Record(key, seq, b"{}")]

    async def test_readers_do_not_disturb_each_other(self, buses: Buses) -> None:
        """Every reader gets every entry, also two of the same bus."""
        one, other = buses
        start = (await one.log_state()).last
        await one.append([entry(fresh_key()) for _ in range(20)])

        first, second, third = await asyncio.gather(
            collect(one, start, 20), collect(one, start, 20), collect(other, start, 20)
        )

        assert first == second == third

    async def test_large_entries_are_stored_and_read_whole(self, buses: Buses) -> None:
        """A group of many entries of the largest size is stored and read as one of small ones is."""
        one, other = buses
        start = (await one.log_state()).last
        bodies = [secrets.token_bytes(ENTRY_MAX_BYTES) for _ in range(40)]

        outcomes = await one.append([entry(fresh_key(), data=body) for body in bodies])

        assert all(isinstance(outcome, Stored) for outcome in outcomes)

        assert [sha256(record.data).digest() for record in await collect(other, start, 40)] == [
            sha256(body).digest() for body in bodies
        ]

    async def test_the_log_state_counts_what_is_there(self, buses: Buses) -> None:
        """The log's last sequence is that of the newest append, it grows in bytes, and it stays the same log."""
        one, other = buses
        before = await one.log_state()
        seq = await stored(one, fresh_key(), data=b"x" * 1_000)
        after = await other.log_state()

        assert after.last == seq
        assert after.created == before.created
        assert after.size_bytes >= before.size_bytes + 1_000
        assert after.limit_bytes == before.limit_bytes > after.size_bytes

    async def test_purge_removes_one_job_and_no_other(self, buses: Buses) -> None:
        """After a purge the job is gone for `last` and for readers, all others stay, and readers miss nothing."""
        one, other = buses
        start = (await one.log_state()).last
        gone, kept = fresh_key(), fresh_key()
        first = await stored(one, gone)
        before = await stored(one, kept)
        await stored(one, gone, first)
        after = await stored(one, kept, before)

        await other.purge(gone, after)

        assert await one.last(gone) is None
        assert await one.last(kept) == Record(kept, after, b"{}")
        assert [record.seq for record in await collect(one, start, 2)] == [before, after]

    async def test_the_newest_entry_is_one_that_is_still_there(self, buses: Buses) -> None:
        """What was purged at the log's end no longer counts as its newest entry, though its sequence is never used again."""
        one, other = buses
        kept = await stored(one, fresh_key())
        key = fresh_key()
        gone = await stored(one, key)
        assert await other.newest() == gone

        await one.purge(key, gone)

        assert await other.newest() == kept
        assert (await other.log_state()).last == gone

    async def test_purging_what_is_not_there_is_harmless(self, buses: Buses) -> None:
        """A purge may be repeated."""
        await buses[0].purge(fresh_key(), 1)

    async def test_a_purge_leaves_what_came_after_the_position_it_names(self, buses: Buses) -> None:
        """What was appended meanwhile stays, and its guard still holds; what was purged frees its room."""
        one, other = buses
        start = (await one.log_state()).last
        key = fresh_key()
        first = await stored(one, key, data=b"x" * 10_000)
        second = await stored(one, key, first)
        full = (await one.log_state()).size_bytes
        meanwhile = await stored(one, key, second)

        await other.purge(key, second)

        assert [record.seq for record in await collect(one, start, 1)] == [meanwhile]
        assert (await one.log_state()).size_bytes < full
        assert await append_one(one, entry(key, second)) == Stale(meanwhile)
        last = await stored(one, key, meanwhile)
        await other.purge(key, 0)
        assert [record.seq for record in await collect(one, start, 2)] == [meanwhile, last]

    async def test_a_key_whose_entries_were_purged_begins_at_guard_0(self, buses: Buses) -> None:
        """After a whole purge an old guard is stale, and 0 begins anew."""
        one, other = buses
        key = fresh_key()
        seq = await stored(one, key)
        await other.purge(key, seq)
        assert isinstance(await append_one(one, entry(key, seq)), Stale)
        assert await stored(one, key) > seq

    async def test_a_reader_passes_over_what_is_purged_while_it_reads(self, buses: Buses) -> None:
        """A standing reader goes on behind purged entries."""
        one, other = buses
        start = (await one.log_state()).last
        async with asyncio.timeout(LIMIT_S), aclosing(other.read(start)) as batches:
            key = fresh_key()
            seq = await stored(one, key)
            assert [record.seq for record in await anext(batches)] == [seq]
            await one.purge(key, seq)
            later = await stored(one, fresh_key())
            assert [record.seq for record in await anext(batches)] == [later]

    async def test_readers_end_when_their_bus_is_closed(self, buses: Buses) -> None:
        """Closing lets a waiting reader end without a fault."""
        one, _ = buses
        last = (await one.log_state()).last

        async def drain() -> None:
            async for _ in one.read(last):
                pass

        reading = asyncio.create_task(drain())
        await asyncio.sleep(0)
        await one.close()

        async with asyncio.timeout(LIMIT_S):
            await reading

    async def test_a_closed_bus_says_so(self, buses: Buses) -> None:
        """Whatever needs an answer raises `Unavailable` on a closed bus, at once; closing twice is harmless."""
        one, other = buses
        await one.close()
        await one.close()

        assert not one.connected
        assert other.connected
        with pytest.raises(Unavailable):
            await one.append([entry(fresh_key())])
        with pytest.raises(Unavailable):
            await one.last(fresh_key())
        with pytest.raises(Unavailable):
            await one.log_state()
        with pytest.raises(Unavailable):
            await one.get_cell("any")
