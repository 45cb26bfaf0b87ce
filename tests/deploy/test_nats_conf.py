"""The accounts and rights of a cluster, on a real server from ``nats.conf``: what each role needs goes, and nothing more.

The attacks of a hostile node that were tried when the layout was chosen are all here: forging, listening, aiming an answer
at somebody else's subject, headers that empty or rewrite a stream, and guessing at the JetStream API.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from deploy.servers import NatsServer
from protocol.nats.streams import StreamSettings, configurations

ANSWER_S = 20.0

STREAMS = configurations(StreamSettings())
JOBS, BLOBS, CELLS = STREAMS["JOBS"], STREAMS["BLOBS"], STREAMS["KV_NODES"]
Connect = Callable[..., Awaitable["Peer"]]


class Peer:
    """A connection, and what the server refused it: violations reach only the error callback, the caller sees silence."""

    def __init__(self) -> None:
        self.client = Client()
        self.refusals: asyncio.Queue[str] = asyncio.Queue()

    async def connect(self, url: str, credentials: Path | None, inbox: str = "_INBOX") -> None:
        """Connect by `credentials`, without reconnecting."""

        async def note(error: Exception) -> None:
            self.refusals.put_nowait(str(error))

        await self.client.connect(
            url,
            user_credentials=str(credentials) if credentials else None,
            inbox_prefix=inbox,
            allow_reconnect=False,
            error_cb=note,
        )

    async def taken(self) -> None:
        """Wait until the server has taken all that was sent. nats-py sends the ping of a flush ahead of what still waits to
        be sent, a subscription for instance: only the second is answered behind it.
        """
        await self.client.flush()
        await self.client.flush()

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
async def connect(own_nats_server: NatsServer) -> AsyncIterator[Connect]:
    """Connects as "requester", "node" or "admin", of a name, to a server of this test's own."""
    async with AsyncExitStack() as stack:

        async def connect(role: str, name: str = "") -> Peer:
            server, peer = own_nats_server, Peer()
            name = name or {"node": "n1", "requester": "r1", "admin": "admin"}[role]
            credentials = server.admin() if role == "admin" else getattr(server, role)(name)
            await peer.connect(server.url, credentials, "_INBOX" if role == "admin" else f"_INBOX_{name}")
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
    await peer.taken()
    yield seen
    await subscription.unsubscribe()


async def test_a_requester_makes_the_log_and_appends_under_a_guard(
    connect: Connect,
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


async def test_a_requester_appends_atomic_batches(connect: Connect) -> None:
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


async def test_a_requester_follows_the_log_with_a_pull(connect: Connect) -> None:
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
    assert requester.refusals.empty()


async def test_a_requester_keeps_cells_and_blobs(connect: Connect) -> None:
    """A cell takes a change only at the revision that was known; BLOBS stores and gives back pieces, and lets them go."""
    requester = await connect("requester")
    log = requester.client.jetstream()
    for name, config in (("KV_NODES", CELLS), ("BLOBS", BLOBS)):
        assert "error" not in await requester.api(f"STREAM.CREATE.{name}", config)
    guard = {"Nats-Expected-Last-Subject-Sequence": "0"}
    assert (await log.publish("$KV.NODES.n1", b"{}", headers=guard)).seq == 1
    with pytest.raises(APIError, match="wrong last sequence"):
        await log.publish("$KV.NODES.n1", b"{2}", headers=guard)
    listed = await requester.api("STREAM.INFO.KV_NODES", {"subjects_filter": "$KV.NODES.>"})
    assert listed["state"]["subjects"] == {"$KV.NODES.n1": 1}
    assert (await requester.api("STREAM.PURGE.KV_NODES", {"filter": "$KV.NODES.n1"}))["purged"] == 1

    await log.publish("blobs.abc.0", b"piece")
    kept = await requester.api("STREAM.MSG.GET.BLOBS", {"last_by_subj": "blobs.abc.0"})
    assert kept["message"]["seq"] == 1
    assert (await requester.api("STREAM.PURGE.BLOBS", {"filter": "blobs.abc.*"}))["purged"] == 1
    assert requester.refusals.empty()


async def test_reports_commands_and_logs_are_answered_across_the_accounts(
    connect: Connect,
) -> None:
    """A node's report and blob reads reach one requester, a requester's command and log request one node."""
    requester, node = await connect("requester"), await connect("node")
    async with (
        answering(requester, "report.*.*", b"stored", queue="requesters") as reports,
        answering(requester, "blob.read", b"bytes", queue="requesters"),
        answering(requester, "upload.*", b"link", queue="requesters"),
        answering(node, "node.n1.do", b"taken"),
        answering(node, "node.n1.logs", b"one", b"two", b"three"),
        answering(node, "node.n1.results", b"piece"),
    ):
        assert (await requester.client.request("node.n1.results", b"", timeout=ANSWER_S)).data == b"piece"
        assert (await node.client.request("report.n1.0", b"done", timeout=ANSWER_S)).data == b"stored"
        assert (await reports.get()).subject == "report.n1.0"
        assert (await node.client.request("blob.read", b"abc", timeout=ANSWER_S)).data == b"bytes"
        assert (await node.client.request("upload.n1", b"put", timeout=ANSWER_S)).data == b"link"
        assert (await requester.client.request("node.n1.do", b"run", timeout=ANSWER_S)).data == b"taken"

        inbox = requester.client.new_inbox()
        pieces = await requester.client.subscribe(inbox)
        await requester.client.publish("node.n1.logs", b"from 0", reply=inbox)
        assert [(await pieces.next_msg(ANSWER_S)).data for _ in range(3)] == [b"one", b"two", b"three"]
    assert requester.refusals.empty()
    assert node.refusals.empty()


async def test_a_late_answer_still_arrives(connect: Connect) -> None:
    """A requester answers a report only after its commit: the right to answer lasts longer than the moment."""
    requester, node = await connect("requester"), await connect("node")
    async with answering(requester, "report.*.*") as reports:
        waiting = asyncio.create_task(node.client.request("report.n1.3", b"", timeout=ANSWER_S))
        report = await reports.get()
        # Another whole round goes by before the answer.
        await requester.taken()
        await report.respond(b"stored 7")
        assert (await waiting).data == b"stored 7"
    assert requester.refusals.empty()


async def test_beats_and_progress_reach_every_requester(connect: Connect) -> None:
    """What a node says of itself arrives at all requesters, and requesters hear each other."""
    first, second, node = await connect("requester"), await connect("requester"), await connect("node")
    subjects = ("node.*.beat", "node.*.progress", "req.*.beat")
    heard = [await requester.client.subscribe(each) for requester in (first, second) for each in subjects]
    await first.taken()
    await second.taken()
    await node.client.publish("node.n1.beat", b"alive")
    await node.client.publish("node.n1.progress", b"half")
    await first.client.publish("req.r1.beat", b"here")
    said = [(await each.next_msg(ANSWER_S)).data for each in heard]
    assert said == [b"alive", b"half", b"here"] * 2


async def test_nobody_there_is_known_at_once(connect: Connect) -> None:
    """A node without a requester, and a requester without that node, hear so instead of waiting."""
    requester, node = await connect("requester"), await connect("node")
    with pytest.raises(NoRespondersError):
        await node.client.request("report.n1.0", b"", timeout=ANSWER_S)
    with pytest.raises(NoRespondersError):
        await requester.client.request("node.n9.do", b"", timeout=ANSWER_S)


FORGED = (
    # What is another's.
    *(
        "report.n2.0",
        "node.n2.beat",
        "node.n2.progress",
        "node.n2.do",
        "node.n2.logs",
        "node.n2.results",
        "_INBOX_n2.x",
    ),
    *("_INBOX.somebody", "req.r1.beat"),
    # The log, cells and blobs, with and without the API.
    *("job.a", "$KV.NODES.n1", "blobs.abc.0", "$JS.API.INFO", "$JS.API.STREAM.NAMES"),
    *(
        f"$JS.API.STREAM.{call}.JOBS"
        for call in ("INFO", "DELETE", "PURGE", "UPDATE", "CREATE", "MSG.GET", "MSG.DELETE")
    ),
    *("$JS.API.STREAM.SNAPSHOT.JOBS", "$JS.API.STREAM.RESTORE.JOBS", "$JS.API.DIRECT.GET.JOBS"),
    *(
        f"$JS.API.CONSUMER.{call}.JOBS.x"
        for call in ("CREATE", "INFO", "DELETE", "MSG.NEXT", "RESET", "UNPIN")
    ),
    *("$JS.ACK.JOBS.x.1.1.1.1.1", "$JS.FC.JOBS.x.y"),
    # The servers themselves, and whose keys count.
    *("$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.USER.INFO.x"),
)


async def test_a_node_speaks_only_as_itself(connect: Connect) -> None:
    """Whatever a node publishes besides its own subjects is refused, each one, and changes nothing."""
    requester, node = await connect("requester"), await connect("node")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    await requester.client.jetstream().publish("job.a", b"1")
    for subject in FORGED:
        await node.client.publish(subject, b"", reply=node.client.new_inbox())
        await node.refused(subject)
    state = (await requester.api("STREAM.INFO.JOBS"))["state"]
    assert (state["messages"], state["last_seq"]) == (1, 1)


async def test_a_node_hears_only_what_is_said_to_it(connect: Connect) -> None:
    """A node cannot listen to the log, to reports, to other nodes' commands and answers, or to everything."""
    node = await connect("node")
    others = (
        "node.n2.do",
        "node.n2.logs",
        "node.n2.results",
        "node.*.do",
        "_INBOX.>",
        "_INBOX_n2.>",
        "_INBOX_r1.>",
        "$SYS.>",
        "$JS.EVENT.>",
    )
    for subject in (
        ">",
        "*.*.*",
        "job.*",
        "report.*.*",
        "report.n1.*",
        "node.*.beat",
        "req.>",
        "$JS.>",
        "$KV.>",
        "blobs.>",
        *others,
    ):
        await node.client.subscribe(subject)
        await node.refused(subject)
    # A name in a group changes nothing.
    await node.client.subscribe("node.n2.do", queue="node.n1.do")
    await node.refused("node.n2.do")


async def test_headers_of_a_node_s_report_do_nothing(connect: Connect) -> None:
    """Roll-up, schedule, time to live, batch and message id are the log's business: on a report they are idle words."""
    requester, node = await connect("requester"), await connect("node")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    await requester.client.jetstream().publish("job.a", b"1")
    evil: list[dict[str, str]] = [
        {"Nats-Rollup": "all"},
        {"Nats-Schedule": "@at 2000-01-01T00:00:00Z", "Nats-Schedule-Target": "job.a"},
        {"Nats-TTL": "1"},
        {"Nats-Msg-Id": "x"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    ]
    async with answering(requester, "report.*.*", b"stored") as reports:
        # A trace of a message goes to a subject that its sender names: the server sends none for this one.
        await node.client.publish("report.n1.0", b"", headers={"Nats-Trace-Dest": "job.a"})
        for headers in evil:
            answer = await node.client.request("report.n1.0", b"", headers=headers, timeout=ANSWER_S)
            assert answer.data == b"stored"
            await reports.get()
    state = (await requester.api("STREAM.INFO.JOBS"))["state"]
    assert (state["messages"], state["last_seq"]) == (1, 1)


async def test_streams_refuse_dangerous_headers_even_from_a_requester(connect: Connect) -> None:
    """What could empty or rewrite the log is switched off in the log itself."""
    requester = await connect("requester")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    log = requester.client.jetstream()
    await log.publish("job.a", b"1")
    for headers in (
        {"Nats-Rollup": "all"},
        {"Nats-TTL": "1s"},
        {"Nats-Schedule": "@at 2000-01-01T00:00:00Z", "Nats-Schedule-Target": "job.b"},
    ):
        with pytest.raises(APIError):
            await log.publish("job.a", b"2", headers=headers)
    assert (await requester.api("STREAM.INFO.JOBS"))["state"]["last_seq"] == 1


async def test_a_node_cannot_aim_an_answer(connect: Connect) -> None:
    """A report or an answer whose reply subject is the log's, the API's or another's arrives nowhere: the log is as it was,
    and the other node hears no answer that it could take for a command."""
    requester, node, other = await connect("requester"), await connect("node"), await connect("node", "n2")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    await requester.client.jetstream().publish("job.a", b"1")
    heard = await other.client.subscribe("node.n2.do")
    # As `protocol.nats.wire` has it: 72 random bits, which nobody guesses, stand between a node's name and its answers.
    inbox = await other.client.subscribe(f"_INBOX_n2.{secrets.token_hex(9)}.*")
    await other.taken()
    targets = (
        "job.evil",
        "$JS.API.STREAM.DELETE.JOBS",
        "$JS.API.STREAM.PURGE.JOBS",
        "_INBOX_n2.x",
    )
    async with (
        answering(requester, "report.*.*", b"stored") as reports,
        answering(requester, "blob.read", b"bytes") as reads,
    ):
        for target in (*targets, "node.n2.logs"):
            await node.client.publish("report.n1.0", b"", reply=target)
            await asyncio.wait_for(reports.get(), ANSWER_S)
            await requester.taken()
            await node.client.publish("blob.read", b"", reply=target)
            await asyncio.wait_for(reads.get(), ANSWER_S)
            await requester.taken()
        await node.client.publish("report.n1.0", b"", reply="$JS.ACK.JOBS.x.1.1.1.1.1")
        await node.refused("$JS.ACK.JOBS")
        await requester.taken()
    state = (await requester.api("STREAM.INFO.JOBS"))["state"]
    assert (state["messages"], state["last_seq"]) == (1, 1)
    await other.taken()
    assert heard.pending_msgs == inbox.pending_msgs == 0


async def test_a_command_has_a_reply_that_only_the_server_can_have_made(connect: Connect) -> None:
    """An answer that a node aims at another node's commands comes without a reply subject: what no requester sends. A node
    obeys no command that wants no answer."""
    requester, node, other = await connect("requester"), await connect("node"), await connect("node", "n2")
    heard = await other.client.subscribe("node.n2.do")
    await other.taken()
    async with answering(requester, "report.*.*", b"stored") as reports:
        await node.client.publish("report.n1.0", b"", reply="node.n2.do")
        await asyncio.wait_for(reports.get(), ANSWER_S)
        await requester.taken()
    await requester.client.publish("node.n2.do", b"run", reply=requester.client.new_inbox())
    told = await heard.next_msg(ANSWER_S)
    if told.data == b"stored":
        assert not told.reply
        told = await heard.next_msg(ANSWER_S)
    assert (told.data, bool(told.reply)) == (b"run", True)


@pytest.mark.parametrize(
    "call", ["STREAM.DELETE.JOBS", "STREAM.UPDATE.JOBS", "STREAM.MSG.DELETE.JOBS", "STREAM.CREATE.OTHER"]
)
async def test_a_requester_cannot_remove_the_log(connect: Connect, call: str) -> None:
    """Deleting and changing streams is left to people, who have the user admin."""
    requester, admin = await connect("requester"), await connect("admin")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    await requester.client.publish(f"$JS.API.{call}", b"{}", reply=requester.client.new_inbox())
    await requester.refused(call)
    assert "error" not in await admin.api("STREAM.INFO.JOBS")


async def test_a_requester_speaks_to_requesters_only_as_itself(connect: Connect) -> None:
    """No requester says in another's name that it is there, or that it leaves, nor speaks for nodes."""
    requester, other = await connect("requester"), await connect("requester", "r2")
    heard = await other.client.subscribe("req.>")
    await other.taken()
    for subject in ("req.r2.beat", "req.r10.beat", "node.n1.beat", "report.n1.0", "_INBOX_r2.x"):
        await requester.client.publish(subject, b"leaving")
        await requester.refused(subject)
    await requester.client.publish("req.r1.beat", b"here")
    assert (await heard.next_msg(ANSWER_S)).data == b"here"


async def test_strangers_are_refused(own_nats_server: NatsServer) -> None:
    """Nobody connects without credentials, or with a password."""
    for url in (own_nats_server.url, own_nats_server.url.replace("//", "//requester:requester@")):
        peer = Peer()
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            await peer.connect(url, None)
        await peer.client.close()


async def test_the_log_survives_a_crash(own_nats_server: NatsServer, connect: Connect) -> None:
    """What was acknowledged is there after the server was killed and started again."""
    requester = await connect("requester")
    await requester.api("STREAM.CREATE.JOBS", JOBS)
    log = requester.client.jetstream()
    answered = [(await log.publish(f"job.{number}", b"x")).seq for number in range(50)]
    await own_nats_server.kill()
    await own_nats_server.start()
    again = await connect("requester")
    assert (await again.api("STREAM.INFO.JOBS"))["state"]["last_seq"] == answered[-1]
