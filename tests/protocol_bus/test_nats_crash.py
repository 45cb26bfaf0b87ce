"""Servers that are stopped, killed and started again: the bus carries on, and the log is what the answers said."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path

import nats
import pytest
import uvloop
from structlog.testing import capture_logs

from deploy import servers
from deploy.servers import NatsServer
from protocol.bus import MESSAGE_MAX_BYTES, Stored
from protocol.errors import Broken, Unavailable
from protocol.nats import reader, wire
from protocol.nats_bus import NatsMessages
from protocol.subjects import LOG_STREAM
from tests.contracts.bus import (
    LIMIT_S,
    append_one,
    collect,
    entry,
    fresh_key,
    fresh_subject,
    stored,
    take,
)
from tests.contracts.bus_steps import arrived
from tests.protocol_bus.connections import node, requester
from tests.protocol_bus.load import check_log_under_load

KILLS = 4


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is seen only by looking."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)


async def test_what_was_answered_stored_is_in_the_log_once_whatever_is_killed(
    own_nats_server: NatsServer,
) -> None:
    """The server is killed again and again under load: every answered entry is in the log once, at its sequence, and a
    reader that followed all the time has seen the whole log in order without a gap."""
    server = own_nats_server

    async def kill() -> None:
        await server.kill()
        await server.start()

    async with requester(server) as one, requester(server) as other:
        await check_log_under_load(one, other, [kill] * KILLS)


async def test_a_bus_says_whether_it_is_connected_and_comes_back(own_nats_server: NatsServer) -> None:
    """While the server is away `connected` is false, asking is `Unavailable` at once and publishing is lost without a
    fault; when it is back, listeners, requests and appends work again without anyone's doing."""
    server, subject = own_nats_server, fresh_subject()
    async with (
        requester(server) as one,
        requester(server) as other,
        one.subscribe(subject) as messages,
    ):
        await server.stop()
        await until(lambda: not one.connected and not other.connected)
        await other.publish(subject, b"lost")
        with pytest.raises(Unavailable):
            await other.request(subject, b"", timeout_s=LIMIT_S)
        appending = asyncio.create_task(append_one(one, entry(fresh_key())))

        await server.start()

        async with asyncio.timeout(LIMIT_S):
            assert isinstance(await appending, Stored)
        await until(lambda: one.connected and other.connected)
        await other.publish(subject, b"heard")
        assert [message.data for message in await take(messages, 1)] == [b"heard"]


async def test_what_is_listened_to_while_the_server_is_away_is_heard_when_it_is_back(
    own_nats_server: NatsServer,
) -> None:
    """A subscription that was begun without a connection exists once there is one."""
    server, subject = own_nats_server, fresh_subject()
    async with requester(server) as one, requester(server) as other:
        await server.stop()
        await until(lambda: not one.connected)
        async with one.subscribe(subject) as messages:
            await server.start()
            await until(lambda: one.connected and other.connected)
            await other.publish(subject, b"heard")

            assert [message.data for message in await take(messages, 1)] == [b"heard"]


async def test_a_server_that_no_longer_answers_is_given_up(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs, its connections open, counts as away: what waits for it ends, and publishing does not block for
    good; when it wakes up all goes on."""
    monkeypatch.setattr(wire, "PING_S", 0.2)
    server = own_nats_server
    async with requester(server) as one, asyncio.timeout(LIMIT_S):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            appending = asyncio.create_task(append_one(one, entry(fresh_key())))
            while one.connected:
                with suppress(Unavailable):
                    await one.publish(fresh_subject(), b"x" * MESSAGE_MAX_BYTES)
            with pytest.raises(Unavailable):
                await one.request(fresh_subject(), b"", timeout_s=LIMIT_S)
        finally:
            os.kill(server.pid, signal.SIGCONT)

        assert isinstance(await appending, Stored)
        assert (await one.log_state()).last == 1


async def test_another_server_is_found_while_the_first_one_hangs(
    own_nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a hanging server has not yet taken does not keep a bus from going to the next one."""
    monkeypatch.setattr(wire, "PING_S", 0.2)
    async with (
        servers.nats_server(tmp_path / "second", keys=own_nats_server.keys) as second,
        node(own_nats_server, f"{own_nats_server.url},{second.url}") as one,
        asyncio.timeout(LIMIT_S),
    ):
        first = own_nats_server if own_nats_server.port == _port_of(one) else second
        os.kill(first.pid, signal.SIGSTOP)
        try:
            while one.connected:
                with suppress(Unavailable):
                    await one.publish("node.n1.beat", b"x" * MESSAGE_MAX_BYTES)
            await until(lambda: one.connected)
            assert _port_of(one) != first.port
        finally:
            os.kill(first.pid, signal.SIGCONT)


def _port_of(bus: NatsMessages) -> int | None:
    url = bus._wire.connected_url
    return url.port if url else None


async def test_listening_when_the_connection_has_just_ended(nats_server: NatsServer) -> None:
    """Whoever begins to listen, or sends, at the moment when a connection ends is not disturbed, on the event loop that our
    programs run on: what was sent is lost with the connection, and who listens is heard on the next."""

    async def listen() -> None:
        async with requester(nats_server) as bus:
            for turns in range(4):
                bus._wire._abort()
                for _ in range(turns):
                    await asyncio.sleep(0)
                await bus.publish(fresh_subject(), b"lost")
                async with bus.subscribe(subject := fresh_subject()) as messages:
                    await until(lambda: bus._wire.losses > turns and bus.connected)  # noqa: B023  called at once
                    await bus.publish(subject, b"heard")

                    assert [message.data for message in await take(messages, 1)] == [b"heard"]

    await asyncio.to_thread(uvloop.run, listen())


async def test_a_question_that_is_open_when_the_server_dies_ends_at_once(own_nats_server: NatsServer) -> None:
    """The one who asked is told `Unavailable` when the connection is lost, long before the deadline."""
    server, subject = own_nats_server, fresh_subject()
    async with (
        requester(server) as one,
        requester(server) as other,
        other.subscribe(subject) as asked,
    ):
        asking = asyncio.create_task(one.request(subject, b"", timeout_s=10 * LIMIT_S))
        await take(asked, 1)

        await server.kill()

        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(Unavailable, match=subject):
                await asking


async def test_an_answer_that_is_ready_only_after_a_crash_is_not_sent(own_nats_server: NatsServer) -> None:
    """The server would refuse it and tell of a lack of rights, where there is none; the next question is answered."""
    server = own_nats_server
    with capture_logs() as logs:
        async with (
            requester(server) as one,
            node(server) as other,
            one.subscribe("report.*.*") as reports,
        ):
            asking = asyncio.create_task(other.request("report.n1.0", b"", timeout_s=LIMIT_S))
            (early,) = await take(reports, 1)
            await server.kill()
            await server.start()
            with pytest.raises(Unavailable):
                await asking
            await until(lambda: one.connected and other.connected)
            assert early.respond is not None
            await early.respond(b"too late")
            # The server knows then who listens.
            await arrived(one)

            asking = asyncio.create_task(other.request("report.n1.0", b"", timeout_s=LIMIT_S))
            (late,) = await take(reports, 1)
            assert late.respond is not None
            await late.respond(b"stored")
            assert await asking == b"stored"

    assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_node_comes_back_too(own_nats_server: NatsServer) -> None:
    """A node's commands reach it again after the server was killed."""
    server = own_nats_server
    async with (
        requester(server) as one,
        node(server) as other,
        other.subscribe("node.n1.do") as commands,
    ):
        await server.kill()
        await server.start()
        await until(lambda: one.connected and other.connected)
        await one.publish("node.n1.do", b"run")

        assert [message.data for message in await take(commands, 1)] == [b"run"]


async def test_a_standing_reader_goes_on_after_a_crash(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was killed forgets the reader's consumer; the reader does not forget its position, and does not first
    wait for a silence."""
    monkeypatch.setattr(reader, "SILENCE_S", 10 * LIMIT_S)
    server = own_nats_server
    async with requester(server) as bus, aclosing(bus.read(0)) as batches, asyncio.timeout(LIMIT_S):
        first = await stored(bus, fresh_key())
        assert [record.seq for record in await anext(batches)] == [first]
        await server.kill()
        await server.start()
        second = await stored(bus, fresh_key())

        assert [record.seq for record in await anext(batches)] == [second]


async def test_a_standing_reader_asks_again_when_its_pull_has_run_out(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull that nothing came for ends at the server; the reader has another one open by then."""
    monkeypatch.setattr(reader, "SILENCE_S", 10 * LIMIT_S)
    monkeypatch.setattr(reader, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(reader, "EXPIRES_S", 0.5)
    async with requester(nats_server) as bus, asyncio.timeout(LIMIT_S):
        start = (await bus.log_state()).last
        async with aclosing(bus.read(start)) as batches:
            reading = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(1.2)  # Only the server knows when a pull has ended.
            seq = await stored(bus, fresh_key())

            assert [record.seq for record in await reading] == [seq]


async def test_a_reader_whose_server_is_silent_opens_its_consumer_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats that were promised do not come: the reader begins anew where it stood, and misses nothing."""
    monkeypatch.setattr(reader, "SILENCE_S", 0.2)
    async with requester(nats_server) as bus, asyncio.timeout(LIMIT_S):
        start = (await bus.log_state()).last
        async with aclosing(bus.read(start)) as batches:
            reading = asyncio.ensure_future(anext(batches))
            with capture_logs() as logs:
                await until(lambda: any("opened again" in line["event"] for line in logs))
            seq = await stored(bus, fresh_key())

            assert [record.seq for record in await reading] == [seq]


async def test_a_reader_whose_consumer_is_taken_away_makes_another(own_nats_server: NatsServer) -> None:
    """Somebody removes the consumer at the server: the reader goes on without a gap."""
    server = own_nats_server
    admin = await nats.connect(server.url, user_credentials=server.admin())
    async with requester(server) as bus, aclosing(bus.read(0)) as batches, asyncio.timeout(LIMIT_S):
        first = await stored(bus, fresh_key())
        assert [record.seq for record in await anext(batches)] == [first]
        (consumer,) = await admin.jsm().consumers_info(LOG_STREAM)
        await admin.jsm().delete_consumer(LOG_STREAM, consumer.name)
        second = await stored(bus, fresh_key())

        assert [record.seq for record in await anext(batches)] == [second]
    await admin.close()


async def test_a_closed_reader_leaves_no_consumer_behind(own_nats_server: NatsServer) -> None:
    """Closing a reading lets go of its consumer at the server, long before the server would notice by itself."""
    server = own_nats_server
    admin = await nats.connect(server.url, user_credentials=server.admin())
    async with requester(server) as bus:
        await stored(bus, fresh_key())
        await collect(bus, 0, 1)

        async with asyncio.timeout(LIMIT_S):
            while await admin.jsm().consumers_info(LOG_STREAM):  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.01)
    await admin.close()


async def test_a_log_made_anew_breaks_its_readers(own_nats_server: NatsServer) -> None:
    """Somebody deletes the stream and makes it again: the reader gets `Broken`, not silence and not foreign entries."""
    server = own_nats_server
    admin = await nats.connect(server.url, user_credentials=server.admin())
    async with requester(server) as bus, aclosing(bus.read(0)) as batches, asyncio.timeout(LIMIT_S):
        await stored(bus, fresh_key())
        await anext(batches)
        before = await bus.log_state()
        await admin.jsm().delete_stream(LOG_STREAM)
        async with requester(server) as other:
            await stored(other, fresh_key())
            assert (await other.log_state()).created != before.created

            with pytest.raises(Broken):
                await anext(batches)
    await admin.close()


async def test_a_reader_beyond_the_end_is_told(own_nats_server: NatsServer) -> None:
    """A position that the log has not reached for a while is `Broken`: it is another log than the one that was read."""
    async with requester(own_nats_server) as bus, aclosing(reader.read(bus._wire, 5, short_s=0.3)) as batches:
        with pytest.raises(Broken, match="5"):
            await anext(batches)


async def test_a_log_that_seems_too_short_for_a_moment_is_the_same(own_nats_server: NatsServer) -> None:
    """A server that stood still answers with what it knew then: a reader that knows more waits, and goes on."""
    async with requester(own_nats_server) as bus:
        key = fresh_key()
        reached = await stored(bus, key)
        async with aclosing(bus.read(reached + 1)) as batches:
            first = asyncio.ensure_future(anext(batches))
            await stored(bus, fresh_key())
            after = await stored(bus, fresh_key())

            assert [record.seq for record in await first] == [after]
