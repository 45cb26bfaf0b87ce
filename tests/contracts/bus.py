"""What every bus promises, asked of each: see `protocol.bus`.

A bus's test inherits `BusContract` and supplies the fixture `buses`: two buses connected to one hub or server, whose log may
already hold entries of other jobs. Every key here is fresh, so a server may be shared by all tests.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from hashlib import sha256

import pytest

from protocol.bus import (
    BATCH_MAX,
    ENTRY_MAX_BYTES,
    MESSAGE_MAX_BYTES,
    Append,
    Bus,
    Message,
    Messages,
    Record,
    Refused,
    Stale,
    Stored,
)
from protocol.errors import Invalid, NotFound, TimedOut, Unavailable
from protocol.ids import JobKey

Buses = tuple[Bus, Bus]
LIMIT_S = 30.0
"""How long a test waits for what was promised; far more than it takes."""


def fresh_key() -> JobKey:
    """The key of a job that nobody has."""
    return JobKey(secrets.token_hex(8)[:15])


def fresh_subject() -> str:
    """The literal subject of a node that nobody else is."""
    return f"req.{secrets.token_hex(6)}.beat"


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

        await other.purge(gone)

        assert await one.last(gone) is None
        assert await one.last(kept) == Record(kept, after, b"{}")
        assert [record.seq for record in await collect(one, start, 2)] == [before, after]

    async def test_purging_what_is_not_there_is_harmless(self, buses: Buses) -> None:
        """A purge may be repeated."""
        await buses[0].purge(fresh_key())

    async def test_a_reader_passes_over_what_is_purged_while_it_reads(self, buses: Buses) -> None:
        """A standing reader goes on behind purged entries."""
        one, other = buses
        start = (await one.log_state()).last
        async with asyncio.timeout(LIMIT_S), aclosing(other.read(start)) as batches:
            key = fresh_key()
            seq = await stored(one, key)
            assert [record.seq for record in await anext(batches)] == [seq]
            await one.purge(key)
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


class MessagesContract:
    """The promises about messages. A bus for nodes can inherit this part alone."""

    @pytest.fixture
    def buses(self) -> Buses:
        """Two buses connected to one hub or server."""
        raise NotImplementedError

    async def test_a_connected_bus_says_so(self, buses: Buses) -> None:
        """`connected` is true while the hub can be reached."""
        assert all(bus.connected for bus in buses)

    async def test_listening_begins_when_the_context_is_entered(self, buses: Buses) -> None:
        """What another sends once we listen arrives, without any waiting in between."""
        one, other = buses
        for _ in range(50):
            subject = fresh_subject()
            async with one.subscribe(subject) as messages:
                await other.publish(subject, b"now")

                assert [message.data for message in await take(messages, 1)] == [b"now"]

    async def test_everyone_who_listens_gets_the_message(self, buses: Buses) -> None:
        """Without a group each listener has its own copy, of whichever bus, with the subject it was sent to."""
        one, other = buses
        subject = fresh_subject()
        async with (
            one.subscribe(subject) as first,
            one.subscribe("req.*.beat") as second,
            other.subscribe("req.>") as third,
        ):
            await other.publish(subject, b"beat")

            for messages in (first, second, third):
                (message,) = await take(messages, 1)
                assert (message.subject, message.data, message.respond) == (subject, b"beat", None)

    async def test_messages_of_one_sender_keep_their_order(self, buses: Buses) -> None:
        """A thousand messages of one sender arrive in the order in which they were sent."""
        one, other = buses
        subject = fresh_subject()
        async with one.subscribe(subject) as messages:
            for number in range(1_000):
                await other.publish(subject, b"%d" % number)

            assert [int(message.data) for message in await take(messages, 1_000)] == list(range(1_000))

    async def test_one_member_of_a_group_gets_each_message(self, buses: Buses) -> None:
        """Within a group every message has exactly one receiver; a listener outside the group still gets them all."""
        one, other = buses
        subject = fresh_subject()
        async with (
            one.subscribe(subject, group="g") as first,
            other.subscribe(subject, group="g") as second,
            other.subscribe(subject) as everything,
        ):
            for number in range(100):
                await one.publish(subject, b"%d" % number)
            await take(everything, 100)
            await arrived(one)

        shares = [[int(message.data) async for message in messages] for messages in (first, second)]
        assert sorted(shares[0] + shares[1]) == list(range(100))

    async def test_a_left_subscription_hears_no_more(self, buses: Buses) -> None:
        """After the context nobody listens: a request finds no responder, and what still waited can be read to its end."""
        one, other = buses
        subject = fresh_subject()
        async with one.subscribe(subject) as messages:
            await other.publish(subject, b"1")
            await take(messages, 1)
        await arrived(one)

        with pytest.raises(Unavailable):
            await other.request(subject, b"2", timeout_s=LIMIT_S)
        assert [message async for message in messages] == []

    async def test_a_slow_listener_loses_the_newest_and_nobody_else_anything(self, buses: Buses) -> None:
        """At most `pending` messages wait for one listener; the other listeners are not held up."""
        one, other = buses
        subject = fresh_subject()
        async with one.subscribe(subject, pending=10) as slow, one.subscribe(subject) as quick:
            for number in range(200):
                await other.publish(subject, b"%d" % number)
            assert [int(message.data) for message in await take(quick, 200)] == list(range(200))
            assert [int(message.data) for message in await take(slow, 10)] == list(range(10))

            await other.publish(subject, b"200")
            assert [int(message.data) for message in await take(slow, 1)] == [200]

    async def test_a_request_is_answered(self, buses: Buses) -> None:
        """The answer of the one who listens comes back to the one who asked."""
        one, other = buses
        subject = fresh_subject()
        async with answering(one, subject):
            assert await other.request(subject, b"hello", timeout_s=LIMIT_S) == b"hello!"
            assert await other.request(subject, b"", timeout_s=LIMIT_S) == b"!"

    async def test_many_requests_at_once_get_their_own_answers(self, buses: Buses) -> None:
        """Answers never meet the wrong request."""
        one, other = buses
        subject = fresh_subject()
        async with answering(one, subject):
            answers = await asyncio.gather(
                *(other.request(subject, b"%d" % number, timeout_s=LIMIT_S) for number in range(300))
            )

        assert answers == [b"%d!" % number for number in range(300)]

    async def test_a_request_to_a_group_is_answered_once(self, buses: Buses) -> None:
        """Exactly one member of a group is asked."""
        one, other = buses
        subject = fresh_subject()
        async with answering(one, subject, "g") as first, answering(other, subject, "g") as second:
            for number in range(30):
                await one.request(subject, b"%d" % number, timeout_s=LIMIT_S)

        assert sorted(first + second) == sorted(b"%d" % number for number in range(30))

    async def test_a_request_that_nobody_hears_fails_at_once(self, buses: Buses) -> None:
        """`Unavailable` comes without waiting for the deadline, and names the subject."""
        subject = fresh_subject()
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(Unavailable, match=subject):
                await buses[0].request(subject, b"", timeout_s=10 * LIMIT_S)

    async def test_a_request_without_an_answer_ends_at_its_deadline(self, buses: Buses) -> None:
        """If the one who listens never answers, `TimedOut` is raised and names subject and seconds."""
        one, other = buses
        subject = fresh_subject()
        async with one.subscribe(subject) as messages:
            with pytest.raises(TimedOut, match=rf"{subject}.*0\.05"):
                await other.request(subject, b"", timeout_s=0.05)

            (message,) = await take(messages, 1)
            assert message.respond is not None
            await message.respond(b"too late")

    async def test_the_largest_message_passes_and_a_larger_one_is_refused(self, buses: Buses) -> None:
        """A message of the largest size goes there and back; one byte more is `Invalid`, also as an answer."""
        one, other = buses
        subject = fresh_subject()
        largest = secrets.token_bytes(MESSAGE_MAX_BYTES - 1)
        async with answering(one, subject):
            assert await other.request(subject, largest, timeout_s=LIMIT_S) == largest + b"!"
        with pytest.raises(Invalid, match=str(MESSAGE_MAX_BYTES)):
            await one.publish(subject, largest + b"xx")
        with pytest.raises(Invalid, match=str(MESSAGE_MAX_BYTES)):
            await one.request(subject, largest + b"xx", timeout_s=1)
        async with one.subscribe(subject) as messages, asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(other.request(subject, b"", timeout_s=LIMIT_S))
            (message,) = await take(messages, 1)
            assert message.respond is not None
            with pytest.raises(Invalid, match=str(MESSAGE_MAX_BYTES)):
                await message.respond(largest + b"xx")
            await message.respond(b"small")
            assert await asking == b"small"

    @pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0", "a..b", ".a", "a."])
    async def test_a_malformed_subject_is_refused(self, buses: Buses, subject: str) -> None:
        """A subject that is not one is `Invalid`; nothing is sent."""
        with pytest.raises(Invalid):
            await buses[0].publish(subject, b"")
        with pytest.raises(Invalid):
            await buses[0].request(subject, b"", timeout_s=1)
        with pytest.raises(Invalid):
            async with buses[0].subscribe(subject):
                pass

    async def test_listeners_end_when_their_bus_is_closed(self, buses: Buses) -> None:
        """Closing ends every listener of the bus; those of other buses go on."""
        one, other = buses
        subject = fresh_subject()
        async with one.subscribe(subject) as ending, other.subscribe(subject) as staying:
            await one.close()

            async with asyncio.timeout(LIMIT_S):
                assert [message async for message in ending] == []
            await other.publish(subject, b"still here")
            assert [message.data for message in await take(staying, 1)] == [b"still here"]

    async def test_a_closed_bus_sends_nothing(self, buses: Buses) -> None:
        """Publishing, asking and listening on a closed bus raise `Unavailable`."""
        one, _ = buses
        await one.close()

        with pytest.raises(Unavailable):
            await one.publish(fresh_subject(), b"")
        with pytest.raises(Unavailable):
            await one.request(fresh_subject(), b"", timeout_s=1)
        with pytest.raises(Unavailable):
            async with one.subscribe(fresh_subject()):
                pass


class StoreContract:
    """The promises about cells and blobs."""

    @pytest.fixture
    def buses(self) -> Buses:
        """Two buses connected to one hub or server."""
        raise NotImplementedError

    async def test_a_cell_is_created_once(self, buses: Buses) -> None:
        """Revision 0 means "it does not exist": the second creator gets None, and the first one's value stays."""
        one, other = buses
        name = secrets.token_hex(6)
        assert await one.get_cell(name) is None

        revision = await one.put_cell(name, b"mine", revision=0)

        assert revision
        assert await other.put_cell(name, b"yours", revision=0) is None
        found = await other.get_cell(name)
        assert found is not None
        assert (found.name, found.data, found.revision) == (name, b"mine", revision)

    async def test_a_cell_changes_only_at_its_newest_revision(self, buses: Buses) -> None:
        """Compare and set: a change that knows the newest revision passes, any other gets None and changes nothing."""
        one, other = buses
        name = secrets.token_hex(6)
        first = await one.put_cell(name, b"1", revision=0)
        assert first
        second = await other.put_cell(name, b"2", revision=first)
        assert second
        assert second > first

        assert await one.put_cell(name, b"old", revision=first) is None
        found = await one.get_cell(name)
        assert found is not None
        assert (found.data, found.revision) == (b"2", second)

    async def test_exactly_one_of_two_racing_changes_wins(self, buses: Buses) -> None:
        """Two who change a cell at once: one wins, every time."""
        name, revision = secrets.token_hex(6), 0
        for _ in range(50):
            results = await asyncio.gather(*(bus.put_cell(name, b"x", revision=revision) for bus in buses))
            (revision,) = [result for result in results if result is not None]

    async def test_all_cells_are_listed_with_their_newest_values(self, buses: Buses) -> None:
        """The list holds each cell once, as `get_cell` shows it."""
        one, other = buses
        mark = secrets.token_hex(6)
        names = {f"{mark}-{number}" for number in range(30)}
        for name in names:
            first = await one.put_cell(name, b"old", revision=0)
            assert first
            assert await one.put_cell(name, name.encode(), revision=first)

        listed = [cell for cell in await other.list_cells() if cell.name.startswith(mark)]

        assert {cell.name for cell in listed} == names
        assert len(listed) == len(names)
        for cell in listed:
            assert cell == await other.get_cell(cell.name)

    @pytest.mark.parametrize("name", ["", "a.b", "a b", "*", ">", "x" * 65])
    async def test_a_cell_s_name_is_one_token(self, buses: Buses, name: str) -> None:
        """Any other name is `Invalid`."""
        with pytest.raises(Invalid):
            await buses[0].put_cell(name, b"", revision=0)
        with pytest.raises(Invalid):
            await buses[0].get_cell(name)

    @pytest.mark.parametrize("size_bytes", [0, 1, 262_144, 262_145, 1_500_000])
    async def test_a_blob_comes_back_byte_for_byte(self, buses: Buses, size_bytes: int) -> None:
        """Bytes of any size are stored under their SHA-256 and read back in pieces of any length."""
        one, other = buses
        data = secrets.token_bytes(size_bytes)

        digest = await one.put_blob(data)

        assert digest == sha256(data).hexdigest()
        read = b""
        while True:
            size, piece = await other.get_blob(digest, len(read), 100_000)
            assert size == size_bytes
            assert len(piece) <= 100_000
            if not piece:
                break
            read += piece
        assert read == data

    async def test_a_piece_of_a_blob_can_be_read_from_anywhere(self, buses: Buses) -> None:
        """Offset and limit choose exactly these bytes, across whatever pieces it is kept in; beyond the end is nothing."""
        one, other = buses
        data = secrets.token_bytes(700_000)
        digest = await one.put_blob(data)

        for offset, limit in [
            (0, 1),
            (262_143, 2),
            (262_144, 262_144),
            (100, 600_000),
            (699_999, 10),
            (700_000, 10),
        ]:
            assert await other.get_blob(digest, offset, limit) == (700_000, data[offset : offset + limit])

    async def test_storing_the_same_blob_again_is_harmless(self, buses: Buses) -> None:
        """Two who store the same bytes, at once or later, get the same digest, and it stays readable."""
        data = secrets.token_bytes(600_000)

        digests = await asyncio.gather(*(bus.put_blob(data) for bus in buses))

        assert await buses[0].put_blob(data) == digests[0] == digests[1]
        assert await buses[1].get_blob(digests[0], 0, len(data)) == (len(data), data)

    async def test_a_blob_that_is_not_there_is_not_found(self, buses: Buses) -> None:
        """`NotFound` names the digest."""
        digest = sha256(secrets.token_bytes(8)).hexdigest()

        with pytest.raises(NotFound, match=digest):
            await buses[0].get_blob(digest, 0, 10)


class BusContract(LogContract, MessagesContract, StoreContract):
    """All promises of a bus."""
