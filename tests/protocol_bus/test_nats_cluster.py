"""The bus on a cluster of three servers, replicas 3: the deployment that survives one of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from structlog.testing import capture_logs

from deploy.servers import NatsServer
from protocol.nats import guarded
from protocol.nats_bus import NatsBus, StreamSettings, connect
from protocol.subjects import LOG_STREAM
from tests.conftest import Background
from tests.contracts.bus import LIMIT_S, LogContract, append_one, entry, fresh_key
from tests.protocol_bus.connections import requester
from tests.protocol_bus.load import check_log_under_load
from tests.protocol_bus.servers import Cluster, nats_cluster


@pytest.fixture(scope="module")
def cluster(background: Background, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The three servers of this module's tests."""
    return background.enter(nats_cluster(tmp_path_factory.mktemp("cluster")))


async def member(server: NatsServer) -> NatsBus:
    """A requester's bus, first of all to that server."""
    return await connect(
        server.url,
        name="test requester",
        role="requester",
        credentials=server.requester(),
        wait_s=30,
        streams=StreamSettings(replicas=3),
    )


class TestLogOfACluster(LogContract):
    """Every promise about the log, of two requesters on different servers."""

    @pytest.fixture
    async def buses(self, cluster: Cluster) -> AsyncIterator[tuple[NatsBus, NatsBus]]:
        one, other = [await member(server) for server in cluster[:2]]
        yield one, other
        await one.close()
        await other.close()


async def leader_of_the_log(cluster: Cluster) -> NatsServer:
    """The server that decides about appends just now."""
    admin = await nats.connect(cluster[0].url, user_credentials=cluster[0].admin())
    try:
        info = await admin.jsm().stream_info(LOG_STREAM)
        assert info.cluster is not None
        assert info.cluster.leader is not None
        return cluster[int(info.cluster.leader.removeprefix("nats-"))]
    finally:
        await admin.close()


async def test_a_bus_goes_to_a_server_it_was_never_told_of(cluster: Cluster) -> None:
    """The servers of a cluster tell of each other: when the one that was named dies, another is taken, as the same user."""
    # Copies on all three: whoever comes first to a new cluster makes the streams, and one copy may be the dead server's.
    streams = StreamSettings(replicas=3)
    async with requester(cluster[2], streams=streams) as bus, asyncio.timeout(LIMIT_S):
        await cluster[2].kill()
        try:
            await append_one(bus, entry(fresh_key()))
            assert bus.connected
        finally:
            await cluster[2].start()


async def test_killing_the_leader_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader of the log is killed under load: requesters go on with the next one by themselves, however long a slow
    leader may take, every answered entry is in the log once, and a reader has seen the whole log."""
    monkeypatch.setattr(guarded, "DOUBT_S", 1_000.0)
    async with nats_cluster(tmp_path) as cluster:
        one, other = [await member(server) for server in cluster[:2]]

        async def kill_leader() -> None:
            leader = await leader_of_the_log(cluster)
            await leader.kill()
            await leader.start()

        try:
            await check_log_under_load(one, other, [kill_leader])
        finally:
            await one.close()
            await other.close()


async def test_a_requester_that_starts_with_its_servers_waits_for_their_leader(tmp_path: Path) -> None:
    """While a cluster has no leader nobody answers for its streams: a requester that starts then waits, and works."""
    async with nats_cluster(tmp_path) as cluster:
        await asyncio.gather(cluster[1].kill(), cluster[2].kill())
        joining = connect(
            cluster[0].url,
            name="test requester",
            role="requester",
            credentials=cluster[0].requester(),
            log_wait_s=60,
            streams=StreamSettings(replicas=3),
        )
        bus, *_ = await asyncio.gather(joining, cluster[1].start(), cluster[2].start())
        try:
            await append_one(bus, entry(fresh_key()))
        finally:
            await bus.close()


async def test_streams_that_one_server_alone_has_are_told_of(tmp_path: Path) -> None:
    """On a cluster requesters say of each stream with one copy how to give it three, until somebody has done so."""
    async with nats_cluster(tmp_path) as cluster:
        with capture_logs() as logs:
            async with requester(cluster[0]):
                pass
            await (await member(cluster[1])).close()
        told = [each for each in logs if "too few copies" in each["event"]]
        assert [each["stream"] for each in told] == ["JOBS", "BLOBS", "KV_NODES"] * 2
        assert "nats stream edit JOBS --replicas 3" in told[0]["hint"]

        admin = await nats.connect(cluster[0].url, user_credentials=cluster[0].admin())
        api = admin.jetstream()
        for each in told[:3]:
            await api.update_stream((await api.stream_info(each["stream"])).config, num_replicas=3)
        await admin.close()

        with capture_logs() as logs:
            await (await member(cluster[1])).close()
        assert not [each for each in logs if "too few copies" in each["event"]]
