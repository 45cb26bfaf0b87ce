"""The bus over a real NATS server keeps the promises of every bus, and each role its place."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import nats
import pytest
from structlog.testing import capture_logs

from deploy.keyring import Keyring
from deploy.processes import Process, free_ports
from deploy.programs import need
from deploy.servers import NatsServer
from protocol.bus import Bus, Refused, Stored
from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, NotFound, Unavailable
from protocol.nats_bus import StreamSettings, connect
from protocol.subjects import BLOB_STREAM, LOG_STREAM
from tests.contracts.bus import (
    LIMIT_S,
    BusContract,
    Buses,
    answering,
    collect,
    entry,
    fresh_key,
    stored,
    take,
)
from tests.protocol_bus.connections import node, requester


class TestNatsBus(BusContract):
    """Every promise of a bus."""

    @pytest.fixture
    async def buses(self, nats_server: NatsServer) -> AsyncIterator[Buses]:
        async with requester(nats_server) as one, requester(nats_server) as other:
            yield one, other


class TestRoles:
    """Who may do what, with the permissions of nats.conf."""

    async def test_a_node_and_a_requester_reach_each_other(self, nats_server: NatsServer) -> None:
        """Commands go down, reports, beats and progress go up, across the border between their accounts."""
        async with requester(nats_server) as hub, node(nats_server, name="n7") as one:
            async with answering(one, "node.n7.do"), answering(one, "node.n7.logs"):
                assert await hub.request("node.n7.do", b"run", timeout_s=LIMIT_S) == b"run!"
                assert await hub.request("node.n7.logs", b"logs", timeout_s=LIMIT_S) == b"logs!"
            async with answering(hub, "report.*.*", "requesters"), answering(hub, "blob.read", "requesters"):
                assert await one.request("report.n7.3", b"done", timeout_s=LIMIT_S) == b"done!"
                assert await one.request("blob.read", b"digest", timeout_s=LIMIT_S) == b"digest!"
            for subject in ("beat", "progress"):
                async with hub.subscribe(f"node.*.{subject}") as messages:
                    await one.publish(f"node.n7.{subject}", b"here")
                    (message,) = await take(messages, 1)
                    assert (message.subject, message.data) == (f"node.n7.{subject}", b"here")

    async def test_a_node_whom_no_requester_hears_is_told_at_once(self, nats_server: NatsServer) -> None:
        """A report that nobody listens for is `Unavailable` without waiting, also across the accounts."""
        async with node(nats_server, name="n8") as one:
            with pytest.raises(Unavailable):
                await one.request("report.n8.0", b"", timeout_s=60)

    async def test_a_requester_asking_a_node_that_is_away_is_told_at_once(
        self, nats_server: NatsServer
    ) -> None:
        """A command to a node that does not listen is `Unavailable` without waiting."""
        async with requester(nats_server) as hub:
            with pytest.raises(Unavailable):
                await hub.request("node.n9.do", b"", timeout_s=60)

    @pytest.mark.parametrize(
        "subject",
        [
            "job.0123456789abcde",
            "$JS.API.STREAM.INFO.JOBS",
            "$JS.API.STREAM.PURGE.JOBS",
            "$JS.API.STREAM.DELETE.JOBS",
            "$JS.API.STREAM.MSG.GET.JOBS",
            "$JS.API.CONSUMER.CREATE.JOBS",
            "$KV.NODES.n1",
            "blobs.a.0",
            "req.r1.beat",
            "node.n2.do",
        ],
    )
    async def test_a_node_cannot_touch_what_is_not_its_own(
        self, nats_server: NatsServer, subject: str
    ) -> None:
        """What a node sends to the log, cells, blobs, requesters or other nodes is `Denied` at once and goes nowhere."""
        async with (
            requester(nats_server) as hub,
            node(nats_server) as one,
            hub.subscribe("req.>") as heard,
        ):
            before = await hub.log_state(), await hub.list_cells()

            with capture_logs() as logs, pytest.raises(Denied, match=re.escape(subject)):
                await one.request(subject, b"{}", timeout_s=60)

            assert (await hub.log_state(), await hub.list_cells()) == before
            assert any("permissions violation" in str(line.get("violation")) for line in logs)
            await hub.publish("req.requester.mark", b"")
            assert [message.subject for message in await take(heard, 1)] == ["req.requester.mark"]

    async def test_a_late_answer_is_no_lack_of_rights(self, nats_server: NatsServer) -> None:
        """An answer that the server takes no more is a warning that says so; it does not send a person to look at rights."""
        async with (
            requester(nats_server) as hub,
            node(nats_server) as one,
            hub.subscribe("report.*.*") as reports,
        ):
            asking = asyncio.create_task(one.request("report.n1.0", b"done", timeout_s=LIMIT_S))
            (report,) = await take(reports, 1)
            assert report.respond is not None
            with capture_logs() as logs:
                for _ in range(3):
                    await report.respond(b"stored")
                await hub.log_state()
            assert await asking == b"stored"
        told = [(each["log_level"], each["event"]) for each in logs if "violation" in each]
        assert told == [("warning", "an answer came too late or twice")]

    async def test_a_refusal_that_goes_on_is_told_once(self, nats_server: NatsServer) -> None:
        """A node that says with each beat what it may not say has one line of it in its log."""
        async with node(nats_server) as one:
            with capture_logs() as logs:
                for _ in range(3):
                    with pytest.raises(Denied):
                        await one.request("node.other.beat", b"{}", timeout_s=60)
        assert len([each for each in logs if "violation" in each]) == 1

    @pytest.mark.parametrize("subject", ["job.*", ">", "report.*.*", "$JS.>", "req.>"])
    async def test_a_node_cannot_listen_to_what_is_not_its_own(
        self, nats_server: NatsServer, subject: str
    ) -> None:
        """A node that listens to the log or to other nodes' reports hears nothing, and the refusal is visible."""
        async with (
            requester(nats_server) as hub,
            node(nats_server) as one,
            node(nats_server) as other,
        ):
            with capture_logs() as logs:
                async with one.subscribe(subject) as messages:
                    seq = await stored(hub, fresh_key())
                    await collect(hub, seq - 1, 1)
                    with pytest.raises(Unavailable):
                        await other.request("report.n1.0", b"secret", timeout_s=LIMIT_S)
                    await one.close()
                    assert [message async for message in messages] == []
            assert any("permissions violation" in str(line.get("violation")) for line in logs)


class TestConnect:
    """What a person is told when the connection cannot be made."""

    async def test_no_server_is_unavailable_within_the_deadline(self) -> None:
        """The fault names the address without the password, and says how to start a server."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"nats://someone:secret@127.0.0.1:{free.getsockname()[1]}"
            address = url.rpartition("@")[2]

            async with asyncio.timeout(20):
                with pytest.raises(Unavailable, match=address) as caught:
                    await connect(url, name="t", role="requester", wait_s=0.3)

        assert "secret" not in caught.value.message
        assert "nats-server -c nats.conf" in caught.value.hint

    async def test_something_that_is_not_nats_is_unavailable(self) -> None:
        """A server that never says the right words is given up at the deadline."""

        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            with pytest.raises(Unavailable, match=str(port)):
                await connect(f"nats://127.0.0.1:{port}", name="t", role="node", wait_s=0.5)

    async def test_a_server_that_says_nothing_is_unavailable(self) -> None:
        """Silence behind an open port ends at the deadline too."""
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
            async with asyncio.timeout(20):
                with pytest.raises(Unavailable, match=str(port)):
                    await connect(f"nats://127.0.0.1:{port}", name="t", role="node", wait_s=0.5)

    @pytest.mark.parametrize("how", ["nobody", "password", "another cluster's"])
    async def test_who_is_not_enrolled_is_denied_at_once(
        self, nats_server: NatsServer, tmp_path: Path, how: str
    ) -> None:
        """Trying again would not help: `Denied`, long before the deadline, with where credentials come from."""
        Keyring.create(tmp_path / "keys.json")
        stranger = NatsServer(nats_server._start, "", tmp_path / "keys.json", port=0, monitor_port=0)
        async with asyncio.timeout(20):
            with pytest.raises(Denied) as caught:
                await connect(
                    nats_server.url,
                    name="t",
                    role="requester",
                    password="secret" if how == "password" else "",
                    credentials=stranger.requester() if how == "another cluster's" else None,
                    wait_s=60,
                )

        assert "shoal" in caught.value.hint

    @pytest.mark.parametrize(
        ("text", "fault"), [(None, NotFound), ("", Invalid), ("not\xffcredentials", Invalid)]
    )
    async def test_credentials_that_are_none_are_told(
        self, nats_server: NatsServer, tmp_path: Path, text: str | None, fault: type[Fault]
    ) -> None:
        """A file that is missing or holds something else is named, with how to get one."""
        path = tmp_path / "n1.creds"
        if text is not None:
            path.write_text(text, encoding="latin-1")
        with pytest.raises(fault, match=re.escape(str(path))):
            await connect(nats_server.url, name="t", role="node", credentials=path)

    async def test_users_of_another_kind(self, tmp_path: Path) -> None:
        """Where a NATS server has users with passwords, the one in the URL counts, else the role with the password."""
        config = tmp_path / "nats.conf"
        config.write_text("authorization { users: [{user: node, password: word}, {user: ann, password: b}] }")
        (port,) = free_ports(1)
        process = Process.start(
            [need("nats-server"), "-c", config, "-a", "127.0.0.1", "-p", str(port)],
            name="nats-server",
            log=tmp_path / "log",
        )
        try:
            for user, password in (("", "word"), ("ann:b@", "")):
                url = f"nats://{user}127.0.0.1:{port}"
                await (await connect(url, name="t", role="node", password=password, wait_s=20)).close()
            with pytest.raises(Denied):
                await connect(f"nats://127.0.0.1:{port}", name="t", role="node", password="wrong")
        finally:
            await process.stop()

    async def test_several_addresses_are_tried_in_turn(self, nats_server: NatsServer) -> None:
        """Of several servers separated by commas one that answers is enough."""
        async with requester(nats_server, f"nats://127.0.0.1:1, {nats_server.url}") as bus:
            assert bus.connected

    @pytest.mark.parametrize("url", ["", "nats://", "nats://host:notaport", "nats://host:99999999"])
    async def test_a_malformed_address_is_invalid(self, url: str) -> None:
        """What is no address is refused as such, at once."""
        with pytest.raises(Invalid):
            await connect(url, name="t", role="node", wait_s=60)

    async def test_a_user_without_jetstream_is_told(self, nats_server: NatsServer) -> None:
        """A requester that connects with a node's user is `Denied` at once, with where to look."""
        with pytest.raises(Denied, match=LOG_STREAM):
            await connect(nats_server.url, name="t", role="requester", credentials=nats_server.node("t"))


class TestStreams:
    """The streams are made when missing and checked when there."""

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("allow_atomic", False),
            ("allow_rollup_hdrs", True),
            ("max_age", 3_600.0),
            ("discard", "old"),
            ("storage", "memory"),
        ],
    )
    async def test_a_log_with_dangerous_settings_is_refused(
        self, own_nats_server: NatsServer, setting: str, value: object
    ) -> None:
        """A stream of the right name that could lose or rewrite entries is `Broken`, naming the setting."""
        good: dict[str, Any] = {
            "storage": "file",
            "discard": "new",
            "allow_atomic": True,
            "deny_delete": True,
        }
        admin = await nats.connect(own_nats_server.url, user_credentials=own_nats_server.admin())
        await admin.jetstream().add_stream(name=LOG_STREAM, subjects=["job.*"], **(good | {setting: value}))
        await admin.close()

        with pytest.raises(Broken, match=setting):
            async with requester(own_nats_server):
                pass

    async def test_requesters_that_start_together_make_the_streams_once(
        self, own_nats_server: NatsServer
    ) -> None:
        """Several first requesters do not get into each other's way."""
        buses = await asyncio.gather(
            *(
                connect(
                    own_nats_server.url,
                    name=f"r{number}",
                    role="requester",
                    credentials=own_nats_server.requester(),
                )
                for number in range(5)
            )
        )

        assert len({(await bus.log_state()).created for bus in buses}) == 1
        await asyncio.gather(*(bus.close() for bus in buses))

    async def test_a_server_without_room_for_the_streams_says_so(self, own_nats_server: NatsServer) -> None:
        """A stream larger than the server may store is `Exhausted`, with what to change."""
        with pytest.raises(Exhausted, match=LOG_STREAM) as caught:
            await connect(
                own_nats_server.url,
                name="t",
                role="requester",
                credentials=own_nats_server.requester(),
                streams=StreamSettings(log_bytes=10**15),
            )

        assert "max_file_store" in caught.value.hint

    async def test_the_log_takes_only_so_many_entries_of_one_job(self, own_nats_server: NatsServer) -> None:
        """What comes after is refused, though the log is not full; the log says how many it takes, and takes others'."""
        bus = await connect(
            own_nats_server.url,
            name="t",
            role="requester",
            credentials=own_nats_server.requester(),
            streams=StreamSettings(entries_max=3),
        )
        key, last = fresh_key(), 0
        for _ in range(3):
            last = await stored(bus, key, last)

        (outcome,) = await bus.append([entry(key, last)])

        assert isinstance(outcome, Refused)
        assert not outcome.full
        assert (await bus.log_state()).entries_max == 3
        await stored(bus, fresh_key())
        await bus.close()

    async def test_a_log_of_an_earlier_version_is_given_more_entries_of_a_job(
        self, own_nats_server: NatsServer
    ) -> None:
        """A requester that finds a log that takes fewer of one job than a new one says how to change it; once it is changed,
        a job that had them all goes on, and no requester has to be started again.
        """
        bus = await connect(
            own_nats_server.url,
            name="t",
            role="requester",
            credentials=own_nats_server.requester(),
            streams=StreamSettings(entries_max=1),
        )
        key = fresh_key()
        last = await stored(bus, key)
        assert isinstance((await bus.append([entry(key, last)]))[0], Refused)
        with capture_logs() as logged:
            async with requester(own_nats_server):
                pass
        (told,) = [each for each in logged if "fewer entries" in each["event"]]
        assert "--max-msgs-per-subject 100000" in told["hint"]

        admin = await nats.connect(own_nats_server.url, user_credentials=own_nats_server.admin())
        api = admin.jetstream()
        config = (await api.stream_info(LOG_STREAM)).config
        await api.update_stream(config, max_msgs_per_subject=100_000)
        await admin.close()

        await stored(bus, key, last)
        assert (await bus.log_state()).entries_max == 100_000
        with capture_logs() as logged:
            async with requester(own_nats_server):
                pass
        assert not [each for each in logged if "fewer entries" in each["event"]]
        await bus.close()

    async def test_a_full_log_refuses_and_says_that_it_is_full(self, own_nats_server: NatsServer) -> None:
        """What does not fit is not stored, alone or in a batch, and its outcome says `full`; what fits is."""
        settings = StreamSettings(log_bytes=1_000_000, blob_bytes=1_000_000)
        bus = await connect(
            own_nats_server.url,
            name="t",
            role="requester",
            credentials=own_nats_server.requester(),
            streams=settings,
        )
        first = fresh_key()
        seq = await stored(bus, first, data=b"x" * 400_000)
        await stored(bus, fresh_key(), data=b"x" * 400_000)
        before = await bus.log_state()

        await self._check_refused(bus, 1)
        await self._check_refused(bus, 12)
        assert (await bus.log_state()).last == before.last
        *small, large = await bus.append(
            [*(entry(fresh_key()) for _ in range(12)), entry(fresh_key(), data=b"x" * 400_000)]
        )

        assert all(isinstance(outcome, Stored) for outcome in small)
        assert isinstance(large, Refused)
        assert large.full
        assert before.limit_bytes == 1_000_000
        await bus.purge(first, seq)
        assert await stored(bus, fresh_key(), data=b"x" * 400_000) > seq
        await bus.close()

    @staticmethod
    async def _check_refused(bus: Bus, size: int) -> None:
        outcomes = await bus.append([entry(fresh_key(), data=b"x" * 400_000) for _ in range(size)])
        assert all(isinstance(outcome, Refused) and outcome.full for outcome in outcomes)

    async def test_a_full_blob_store_is_exhausted(self, own_nats_server: NatsServer) -> None:
        """A blob that does not fit is a fault that names its size, and does not appear half stored."""
        settings = StreamSettings(blob_bytes=1_000_000)
        bus = await connect(
            own_nats_server.url,
            name="t",
            role="requester",
            credentials=own_nats_server.requester(),
            streams=settings,
        )
        data = b"x" * 2_000_000
        with pytest.raises(Exhausted, match="2000000"):
            await bus.put_blob(data)

        with pytest.raises(NotFound):
            await bus.get_blob(sha256(data).hexdigest(), 0, 1)
        await bus.close()

    async def test_a_blob_left_half_stored_is_finished_by_storing_it_again(
        self, own_nats_server: NatsServer
    ) -> None:
        """Pieces that an earlier attempt left behind are no obstacle."""
        async with requester(own_nats_server) as bus:
            data = bytes(range(256)) * 4_000
            digest = sha256(data).hexdigest()
            admin = await nats.connect(own_nats_server.url, user_credentials=own_nats_server.admin())
            await admin.jetstream().publish(
                f"blobs.{digest}.2", data[2 * 262_144 : 3 * 262_144], stream=BLOB_STREAM
            )
            with pytest.raises(NotFound):
                await bus.get_blob(digest, 0, 10)

            assert await bus.put_blob(data) == digest

            assert await bus.get_blob(digest, 0, len(data)) == (len(data), data)
            await admin.close()

    async def test_a_cell_that_a_person_removed_can_be_made_again(self, own_nats_server: NatsServer) -> None:
        """``nats kv del`` leaves a mark in the bucket: the cell is gone, and revision 0 makes it anew."""
        async with requester(own_nats_server) as bus:
            first = await bus.put_cell("n1", b"1", revision=0)
            admin = await nats.connect(own_nats_server.url, user_credentials=own_nats_server.admin())
            await (await admin.jetstream().key_value("NODES")).delete("n1")
            assert await bus.get_cell("n1") is None
            assert await bus.list_cells() == []

            again = await bus.put_cell("n1", b"2", revision=0)

            assert again
            assert first
            assert again > first
            assert [cell.data for cell in await bus.list_cells()] == [b"2"]
            await admin.close()
