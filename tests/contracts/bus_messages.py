"""What every bus promises about messages: see `protocol.bus.Messages`."""

import asyncio
import secrets

import pytest

from protocol.bus import (
    MESSAGE_MAX_BYTES,
)
from protocol.errors import Invalid, TimedOut, Unavailable
from tests.contracts.bus_steps import (
    LIMIT_S,
    Buses,
    answering,
    arrived,
    fresh_subject,
    take,
)


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
            one.subscribe("req.requester.*") as second,
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

    async def test_all_that_waits_can_be_taken_at_once(self, buses: Buses) -> None:
        """Nothing is lost, repeated or overtaken, whether one message is taken at a time or all that wait; who asks for all
        waits for one, and has none at the end.
        """
        one, other = buses
        subject = fresh_subject()
        async with one.subscribe(subject, pending=100) as messages, asyncio.timeout(LIMIT_S):
            asking = asyncio.ensure_future(messages.several())
            await arrived(one)
            assert not asking.done()
            for number in range(60):
                await other.publish(subject, b"%d" % number)
            taken = list(await asking)
            while len(taken) < 60:
                taken += [await anext(messages)] if len(taken) % 2 else await messages.several()
            assert [int(message.data) for message in taken] == list(range(60))

            for number in range(200):
                await other.publish(subject, b"%d" % number)
            await arrived(other)
            await arrived(one)
            assert [int(message.data) for message in await messages.several()] == list(range(100))
        assert await messages.several() == []

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
