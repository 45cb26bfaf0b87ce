"""The accounts and permissions of ``nats.conf``, on a real server: what each role needs goes, and nothing more."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import APIError, KeyWrongLastSequenceError

from deploy.servers import NatsServer

ANSWER_S = 5.0

JOBS = {
    "name": "JOBS",
    "subjects": ["job.*"],
    "storage": "file",
    "num_replicas": 1,
    "retention": "limits",
    "discard": "new",
    "max_bytes": 20_000_000_000,
    "max_msg_size": 524_288,
    "max_msgs_per_subject": 10_000,
    "discard_new_per_subject": True,
    "max_consumers": 64,
    "allow_atomic": True,
    "allow_rollup_hdrs": False,
    "deny_delete": True,
    "deny_purge": False,
    "allow_direct": False,
}
BLOBS = {
    "name": "BLOBS",
    "subjects": ["blobs.*.*"],
    "storage": "file",
    "max_bytes": 10_000_000_000,
    "discard": "new",
}


class Peer:
    """A connection, and what the server refused it: violations reach only the error callback, the caller sees silence."""

    def __init__(self) -> None:
        self.client = Client()
        self.refusals: asyncio.Queue[str] = asyncio.Queue()

    async def connect(self, url: str) -> None:
        """Connect with the user in `url`, without reconnecting."""

        async def note(error: Exception) -> None:
            self.refusals.put_nowait(str(error))

        await self.client.connect(url, allow_reconnect=False, error_cb=note)

    async def refused(self, what: str) -> str:
        """Wait for the server to refuse something, which must name `what`."""
        said = await asyncio.wait_for(self.refusals.get(), ANSWER_S)
        assert "permissions violation" in said.lower()
        assert what.lower() in said.lower()
        return said

    async def api(self, call: str, body: Any = None) -> dict[str, Any]:
        """A call of the JetStream API; its answer, faults included."""
        data = json.dumps(body).encode() if body is not None else b""
        answer: dict[str, Any] = json.loads(
            (await self.client.request(f"$JS.API.{call}", data, timeout=ANSWER_S)).data
        )
        return answer


@pytest.fixture
async def connect(own_nats_server: NatsServer) -> AsyncIterator[Callable[[str], Awaitable[Peer]]]:
    """Connects as "requester", "node" or "admin" to a server of this test's own."""
    async with AsyncExitStack() as stack:

        async def connect(role: str) -> Peer:
            peer = Peer()
            await peer.connect(getattr(own_nats_server, f"{role}_url"))
            stack.push_async_callback(peer.client.close)
            return peer

        yield connect


@asynccontextmanager
async def answering(
    peer: Peer, subject: str, *answers: bytes, queue: str = ""
) -> AsyncIterator[asyncio.Queue[Msg]]:
    """Answer whatever comes on `subject`, and collect it."""
    seen: asyncio.Queue[Msg] = asyncio.Queue()

    async def answer(message: Msg) -> None:
        seen.put_nowait(message)
        for each in answers:
            await message.respond(each)

    subscription = await peer.client.subscribe(subject, queue=queue, cb=answer)
    await peer.client.flush()
    yield seen
    await subscription.unsubscribe()


async def test_a_requester_makes_the_log_and_appends_under_a_guard(
    connect: Callable[[str], Awaitable[Peer]],
) -> None:
    """A requester creates JOBS on a new server; an append is stored only under the right guard."""
    requester = await connect("requester")
    made = await requester.api("STREAM.CREATE.JOBS", JOBS)
    assert "error" not in made
    assert made["config"]["deny_delete"] is True
    assert (await requester.api("STREAM.INFO.JOBS"))["state"]["last_seq"] == 0
    assert "error" not in await requester.api("INFO")

    log = requester.client.jetstream()
    first = await log.publish("job.a", b"1", headers={"Nats-Expected-Last-Subject-Sequence": "0"})
    with pytest.raises(APIError, match="wrong last sequence") as stale:
        await log.publish("job.a", b"2", headers={"Nats-Expected-Last-Subject-Sequence": "0"})
    assert stale.value.err_code == 10071
    second = await log.publish("job.a", b"2", headers={"Nats-Expected-Last-Subject-Sequence": str(first.seq)})
    assert second.seq == first.seq + 1

    newest = await requester.api("STREAM.MSG.GET.JOBS", {"last_by_subj": "job.a"})
    assert newest["message"]["seq"] == second.seq
    assert (await requester.api("STREAM.PURGE.JOBS", {"filter": "job.a"}))["purged"] == 2
    assert requester.refusals.empty()


async def test_a_requester_appends_atomic_batches(connect: Callable[[str], Awaitable[Peer]]) -> None:
    """Entries of several jobs go in as one batch, all or none."""
    requester = await connect("requester")
    await requester.api("STREAM.CREATE.JOBS", JOBS)

    async def batch(name: str, guard: str) -> dict[str, Any]:
        head = {"Nats-Batch-Id": name, "Nats-Expected-Last-Subject-Sequence": guard}
        await requester.client.publish("job.a", b"a", headers={**head, "Nats-Batch-Sequence": "1"})
        answer = await requester.client.request(
            "job.b",
            b"b",
            headers={**head, "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"},
            timeout=ANSWER_S,
        )
        acknowledged: dict[str, Any] = json.loads(answer.data)
        return acknowledged

    assert (await batch("one", "0"))["count"] == 2
    assert (await batch("two", "0"))["error"]["err_code"] == 10071
    assert (await requester.api("STREAM.INFO.JOBS"))["state"]["last_seq"] == 2
    assert requester.refusals.empty()


async def test_a_requester_follows_the_log_with_a_pull(connect: Callable[[str], Awaitable[Peer]]) -> None:
    """An ephemeral consumer in memory, without acknowledgements, gives all entries in order."""
    requester = await connect("requester")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    log = requester.client.jetstream()
    for number in range(5):
        await log.publish(f"job.{number}", str(number).encode())

    config = {
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": 30_000_000_000,
        "replay_policy": "instant",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": 2,
    }
    made = await requester.api("CONSUMER.CREATE.JOBS", {"stream_name": "JOBS", "config": config})
    assert "error" not in made
    inbox = requester.client.new_inbox()
    arrived = await requester.client.subscribe(inbox)
    ask = json.dumps({"batch": 4, "expires": 1_000_000_000, "idle_heartbeat": 400_000_000}).encode()
    await requester.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{made['name']}", ask, reply=inbox)
    assert [(await arrived.next_msg(ANSWER_S)).data for _ in range(4)] == [b"1", b"2", b"3", b"4"]

    # The client library's own way asks the server for a little more.
    pull = await log.pull_subscribe("", stream="JOBS")
    assert len(await pull.fetch(5, timeout=ANSWER_S)) == 5
    assert requester.refusals.empty()


async def test_a_requester_keeps_cells_and_blobs(connect: Callable[[str], Awaitable[Peer]]) -> None:
    """The bucket NODES takes a change only at the revision that was known; BLOBS stores and gives back pieces."""
    requester = await connect("requester")
    log = requester.client.jetstream()
    bucket = await log.create_key_value(bucket="NODES", history=1)
    revision = await bucket.create("n1", b"{}")
    assert await bucket.update("n1", b"{1}", last=revision) == revision + 1
    with pytest.raises(KeyWrongLastSequenceError):
        await bucket.update("n1", b"{2}", last=revision)
    assert (await bucket.get("n1")).value == b"{1}"
    assert await bucket.keys() == ["n1"]
    assert (await (await log.key_value("NODES")).get("n1")).value == b"{1}"

    assert "error" not in await requester.api("STREAM.CREATE.BLOBS", BLOBS)
    await log.publish("blobs.abc.0", b"piece")
    assert (await log.get_last_msg("BLOBS", "blobs.abc.0")).data == b"piece"
    assert requester.refusals.empty()


async def test_reports_commands_and_logs_are_answered_across_the_accounts(
    connect: Callable[[str], Awaitable[Peer]],
) -> None:
    """A node's report and blob reads reach one requester, a requester's command and log request one node."""
    requester, node = await connect("requester"), await connect("node")
    async with (
        answering(requester, "report.*.*", b"stored", queue="requesters") as reports,
        answering(requester, "blob.read", b"bytes", queue="requesters"),
        answering(node, "node.n1.do", b"taken"),
        answering(node, "node.n1.logs", b"one", b"two", b"three"),
    ):
        assert (await node.client.request("report.n1.0", b"done", timeout=ANSWER_S)).data == b"stored"
        assert (await reports.get()).subject == "report.n1.0"
        assert (await node.client.request("blob.read", b"abc", timeout=ANSWER_S)).data == b"bytes"
        assert (await requester.client.request("node.n1.do", b"run", timeout=ANSWER_S)).data == b"taken"

        inbox = requester.client.new_inbox()
        pieces = await requester.client.subscribe(inbox)
        await requester.client.publish("node.n1.logs", b"from 0", reply=inbox)
        assert [(await pieces.next_msg(ANSWER_S)).data for _ in range(3)] == [b"one", b"two", b"three"]
    assert requester.refusals.empty()
    assert node.refusals.empty()


async def test_a_late_answer_still_arrives(connect: Callable[[str], Awaitable[Peer]]) -> None:
    """A requester answers a report only after its commit: the right to answer lasts longer than the moment."""
    requester, node = await connect("requester"), await connect("node")
    async with answering(requester, "report.*.*") as reports:
        waiting = asyncio.create_task(node.client.request("report.n1.3", b"", timeout=ANSWER_S))
        report = await reports.get()
        # Another whole round goes by before the answer.
        await requester.client.flush()
        await report.respond(b"stored 7")
        assert (await waiting).data == b"stored 7"
    assert requester.refusals.empty()


async def test_beats_and_progress_reach_every_requester(connect: Callable[[str], Awaitable[Peer]]) -> None:
    """What a node says of itself arrives at all requesters, and requesters hear each other."""
    first, second, node = await connect("requester"), await connect("requester"), await connect("node")
    subjects = ("node.*.beat", "node.*.progress", "req.*.beat")
    heard = [await requester.client.subscribe(each) for requester in (first, second) for each in subjects]
    await first.client.flush()
    await second.client.flush()
    await node.client.publish("node.n1.beat", b"alive")
    await node.client.publish("node.n1.progress", b"half")
    await first.client.publish("req.r1.beat", b"here")
    said = [(await each.next_msg(ANSWER_S)).data for each in heard]
    assert said == [b"alive", b"half", b"here"] * 2


async def test_nobody_there_is_known_at_once(connect: Callable[[str], Awaitable[Peer]]) -> None:
    """A node without a requester, and a requester without that node, hear so instead of waiting."""
    requester, node = await connect("requester"), await connect("node")
    with pytest.raises(NoRespondersError):
        await node.client.request("report.n1.0", b"", timeout=ANSWER_S)
    with pytest.raises(NoRespondersError):
        await requester.client.request("node.n9.do", b"", timeout=ANSWER_S)


@pytest.mark.parametrize(
    "subject",
    [
        *(
            "job.a",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.JOBS",
            "$JS.API.STREAM.DELETE.JOBS",
            "$JS.API.STREAM.PURGE.JOBS",
        ),
        *(
            "$JS.API.CONSUMER.CREATE.JOBS",
            "$JS.API.STREAM.MSG.GET.JOBS",
            "$JS.API.STREAM.NAMES",
            "$KV.NODES.n1",
        ),
        *(
            "blobs.abc.0",
            "node.n2.do",
            "node.n2.logs",
            "req.r1.beat",
            "_INBOX.somebody",
            "$SYS.REQ.SERVER.PING",
        ),
    ],
)
async def test_a_node_cannot_touch_the_log_or_command_others(
    connect: Callable[[str], Awaitable[Peer]], subject: str
) -> None:
    """Whatever a node publishes besides its own subjects is refused, and changes nothing."""
    requester, node = await connect("requester"), await connect("node")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    await requester.client.jetstream().publish("job.a", b"1")
    await node.client.publish(subject, b"", reply=node.client.new_inbox())
    await node.refused(subject)
    state = (await requester.api("STREAM.INFO.JOBS"))["state"]
    assert (state["messages"], state["last_seq"]) == (1, 1)


@pytest.mark.parametrize(
    "subject", [">", "job.*", "report.*.*", "node.*.beat", "req.>", "$JS.>", "$KV.>", "blobs.>"]
)
async def test_a_node_hears_only_its_own(connect: Callable[[str], Awaitable[Peer]], subject: str) -> None:
    """A node cannot listen to the log, to reports or to the beats of others."""
    node = await connect("node")
    await node.client.subscribe(subject)
    await node.refused(subject)


async def test_a_node_cannot_aim_an_answer_at_the_log(connect: Callable[[str], Awaitable[Peer]]) -> None:
    """A report whose reply subject is a job's or the stream API's leaves the log as it was."""
    requester, node = await connect("requester"), await connect("node")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    async with answering(requester, "report.*.*", b"stored") as reports:
        for target in ("job.evil", "$JS.API.STREAM.DELETE.JOBS", "$JS.API.STREAM.PURGE.JOBS"):
            await node.client.publish("report.n1.0", b"", reply=target)
            await asyncio.wait_for(reports.get(), ANSWER_S)
        await requester.client.flush()
    assert (await requester.api("STREAM.INFO.JOBS"))["state"]["last_seq"] == 0


@pytest.mark.parametrize(
    "call", ["STREAM.DELETE.JOBS", "STREAM.UPDATE.JOBS", "STREAM.MSG.DELETE.JOBS", "STREAM.CREATE.OTHER"]
)
async def test_a_requester_cannot_remove_the_log(
    connect: Callable[[str], Awaitable[Peer]], call: str
) -> None:
    """Deleting and changing streams is left to people, who have the user admin."""
    requester, admin = await connect("requester"), await connect("admin")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    await requester.client.publish(f"$JS.API.{call}", b"{}", reply=requester.client.new_inbox())
    await requester.refused(call)
    assert "error" not in await admin.api("STREAM.INFO.JOBS")


async def test_strangers_are_refused(own_nats_server: NatsServer) -> None:
    """Nobody connects without a user, or with a wrong password."""
    stranger = own_nats_server.requester_url.replace("requester:requester", "requester:guess")
    for url in (own_nats_server.url, stranger):
        peer = Peer()
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            await peer.connect(url)
        await peer.client.close()


async def test_the_log_survives_a_crash(
    own_nats_server: NatsServer, connect: Callable[[str], Awaitable[Peer]]
) -> None:
    """What was acknowledged is there after the server was killed and started again."""
    requester = await connect("requester")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    log = requester.client.jetstream()
    answered = [(await log.publish(f"job.{number}", b"x")).seq for number in range(50)]
    await own_nats_server.kill()
    await own_nats_server.start()
    again = await connect("requester")
    assert (await again.api("STREAM.INFO.JOBS"))["state"]["last_seq"] == answered[-1]
