"""The life of credentials, by the commands a person has, on one real NATS server and on a cluster of three."""

import asyncio
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.keyring import Keyring
from deploy.servers import NatsServer
from protocol.bus import Messages
from protocol.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from protocol.nats_bus import connect
from requester.cli.app import main
from tests.conftest import Background
from tests.contracts.bus import LIMIT_S
from tests.protocol_bus.servers import Cluster, nats_cluster


async def until(bus: Messages, connected: bool) -> None:
    """Wait for what is seen only by looking."""
    async with asyncio.timeout(LIMIT_S):
        while bus.connected is not connected:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)


async def shoal(*words: str) -> int:
    """A command, as the command line runs it; in a thread, because it has a loop of its own."""
    return await asyncio.to_thread(main, [*words])


async def refusal(server: NatsServer, name: str, credentials: Path) -> Denied:
    """The refusal of a server, as soon as it has heard that a key is revoked."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                bus = await connect(
                    server.url, name=name, role="node", credentials=credentials, wait_s=LIMIT_S
                )
                await bus.close()
            except Denied as denied:
                return denied
            except Unavailable:
                continue


@pytest.fixture(scope="module")
def cluster(background: Background, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Three servers, which share one file of keys."""
    return background.enter(nats_cluster(tmp_path_factory.mktemp("keys")))


@pytest.fixture(params=["one server", "three servers"])
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[list[NatsServer]]:
    """Where the keys count."""
    if request.param == "one server":
        yield [request.getfixturevalue("nats_server")]
    else:
        yield request.getfixturevalue("cluster")


async def test_a_node_is_enrolled_rotated_and_revoked(
    servers: list[NatsServer], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Enrolled, a node connects without any server being told. Rotated, a running node goes on with its new key when the old
    one is revoked. Revoked, it is cut off wherever it is connected, stays out after a restart of the server, and nobody
    else notices."""
    name = f"k{len(servers)}"
    first, last = servers[0], servers[-1]
    path = tmp_path / "n1.creds"
    keys = ("--keys", str(first.keys))
    told = (*keys, "--nats", first.url)

    assert await shoal("node", "enroll", name, "--out", str(path), *keys) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    node = await connect(last.url, name=name, role="node", credentials=path)
    bystander = await connect(last.url, name="b", role="node", credentials=last.node("bystander"))

    old = path.read_text()
    assert await shoal("node", "rotate", name, "--out", str(path), *keys) == 0
    assert path.read_text() != old
    assert node.connected
    lost = asyncio.Event()
    forget = node._wire.on_loss(lost.set)
    assert await shoal("node", "rotate", name, "--finish", *told) == 0
    await asyncio.wait_for(lost.wait(), LIMIT_S)
    forget()
    await until(node, True)
    (tmp_path / "old.creds").write_text(old)
    with pytest.raises(Denied):
        await connect(last.url, name=name, role="node", credentials=tmp_path / "old.creds")

    assert await shoal("node", "revoke", name, *told) == 0
    await until(node, False)
    assert bystander.connected
    assert bystander._wire.losses == 0
    for server in servers:
        assert "revoked" in (await refusal(server, name, path)).hint
    await node.close()
    await bystander.close()


async def test_a_server_that_was_away_learns_of_a_revoked_key(cluster: Cluster, tmp_path: Path) -> None:
    """What was told while a server of the cluster was down counts there as soon as it is back with the others."""
    away, other = cluster[0], cluster[1]
    path = tmp_path / "r9.creds"
    keys = ("--keys", str(away.keys))
    assert await shoal("requester", "enroll", "r9", "--out", str(path), *keys) == 0
    await away.stop()
    try:
        assert await shoal("requester", "revoke", "r9", *keys, "--nats", other.url) == 0
    finally:
        await away.start()

    await refusal(away, "r9", path)


async def test_a_revoked_key_stays_out_after_a_restart(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """The server starts with the file that it began with, and still knows what it was told since."""
    server, path = own_nats_server, tmp_path / "n1.creds"
    keys = ("--keys", str(server.keys))
    await shoal("node", "enroll", "n1", "--out", str(path), *keys)
    assert await shoal("node", "revoke", "n1", *keys, "--nats", server.url) == 0
    await server.restart()
    with pytest.raises(Denied):
        await connect(server.url, name="n1", role="node", credentials=path)
    # The name may be given again: the key is another.
    await shoal("node", "enroll", "n1", "--out", str(tmp_path / "again.creds"), *keys)
    bus = await connect(server.url, name="n1", role="node", credentials=tmp_path / "again.creds")
    await bus.close()


async def test_an_answer_that_is_on_its_way_while_accounts_change_is_lost(
    own_nats_server: NatsServer,
) -> None:
    """Servers that are told of a change forget who waits for an answer from the other account: the question was heard, its
    answer never arrives, and the next question is answered. So whoever asks across the border asks again."""
    server, told = own_nats_server, ("--keys", str(own_nats_server.keys), "--nats", own_nats_server.url)
    requester = await connect(server.url, name="r1", role="requester", credentials=server.requester("r1"))
    node = await connect(server.url, name="n1", role="node", credentials=server.node("n1"))

    async def ask(what: bytes) -> bytes:
        return await node.request("report.n1.0", what, timeout_s=2 * LIMIT_S)

    async with requester.subscribe("report.*.*") as asked, asyncio.timeout(LIMIT_S):
        first, one = asyncio.create_task(ask(b"1")), await anext(asked)
        assert await shoal("cluster", "push", *told) == 0
        again, other = asyncio.create_task(ask(b"2")), await anext(asked)
        assert (one.data, other.data) == (b"1", b"2")
        for question in (one, other):
            assert question.respond is not None
            await question.respond(b"stored")

        assert await again == b"stored"
        # What was sent before it on the same ways has come before it, or never will.
        assert not first.done()
        first.cancel()
    await node.close()
    await requester.close()


async def test_servers_that_cannot_be_reached_are_told_later(
    own_nats_server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Revoking is written down in any case; the command fails, says so in a line, and `push` tells the servers. Who revokes
    again is told of `push` too."""
    server, path = own_nats_server, tmp_path / "n1.creds"
    keys = ("--keys", str(server.keys))
    await shoal("node", "enroll", "n1", "--out", str(path), *keys)
    assert await shoal("node", "revoke", "n1", *keys, "--nats", "nats://127.0.0.1:1") == 1
    told = capsys.readouterr()
    assert "shoal cluster push" in told.err
    assert "NATS connection" not in told.out + told.err
    assert await shoal("node", "revoke", "n1", *keys, "--nats", server.url) == 3
    assert "shoal cluster push" in capsys.readouterr().err
    await (await connect(server.url, name="n1", role="node", credentials=path)).close()
    assert await shoal("cluster", "push", *keys, "--nats", server.url) == 0
    with pytest.raises(Denied):
        await connect(server.url, name="n1", role="node", credentials=path)


def test_a_new_cluster_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`cluster init` makes the keys for their owner alone, and a file without a secret; it replaces neither. `list` shows
    who was enrolled, and what is written there is no seed."""
    keys, accounts = tmp_path / "keys.json", tmp_path / "accounts.conf"
    where = ("--keys", str(keys))
    assert main(["cluster", "init", *where, "--out", str(accounts)]) == 0
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    seeds = [word for word in keys.read_text().split('"') if word[:2] in ("SO", "SA", "SU")]
    assert len(seeds) == 7
    assert not any(seed in accounts.read_text() for seed in seeds)
    assert main(["cluster", "init", *where, "--out", str(tmp_path / "other")]) == 1
    before = keys.read_bytes()

    assert main(["requester", "enroll", "r1", *where, "--out", str(tmp_path / "r1.creds")]) == 0
    assert main(["requester", "enroll", "r1", *where, "--out", str(tmp_path / "r2.creds")]) == 1
    assert main(["node", "enroll", "n.1", *where]) == 2
    assert main(["node", "revoke", "n9", *where]) == 3
    capsys.readouterr()
    assert main(["cluster", "list", *where]) == 0
    assert capsys.readouterr().out.split("\n")[1].split()[:2] == ["r1", "requester"]
    assert keys.read_bytes() != before
    (seed,) = re.findall("^SU.*$", (tmp_path / "r1.creds").read_text(), re.MULTILINE)
    assert seed not in keys.read_text()


def test_a_seed_that_never_leaves_its_node(tmp_path: Path) -> None:
    """Given a public key, the credentials lack only the seed, which their owner puts in."""
    owner = Keyring.create(tmp_path / "other.json").enroll("node", "x")
    keyring = Keyring.create(tmp_path / "keys.json")
    made = keyring.enroll("node", "n1", owner.key)
    assert made.key == owner.key
    assert "(put the seed here)" in made.credentials
    with pytest.raises(Invalid):
        keyring.enroll("node", "n2", "UNOTAKEY")
    with pytest.raises(Conflict):
        keyring.enroll("node", "n1")
    with pytest.raises(NotFound):
        Keyring.read(tmp_path / "nothing.json")
