"""The servers that everything else is tested on: they come up, answer, restart with their data, and are gone afterwards."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats
import pytest
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError

from deploy import images, programs, servers
from deploy.docker import running_daemon
from deploy.processes import Process, free_ports
from tests.conftest import skip


@asynccontextmanager
async def s3_client(server: servers.S3Server, *, secret_key: str = "") -> AsyncIterator[Any]:
    """A client with path-style addresses, and with another secret if one is given."""
    async with get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=secret_key or server.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    ) as client:
        yield client


async def test_nats_keeps_its_ports_and_its_data_over_a_restart(own_nats_server: servers.NatsServer) -> None:
    """Clients reconnect to the same address, and find the stream that was there."""
    client = await nats.connect(own_nats_server.url, user_credentials=own_nats_server.admin())
    log = client.jetstream()
    await log.add_stream(name="KEPT", subjects=["kept"])
    await log.publish("kept", b"1")
    before = (own_nats_server.url, own_nats_server.monitor_url)
    await own_nats_server.restart()
    assert (own_nats_server.url, own_nats_server.monitor_url) == before
    again = await nats.connect(own_nats_server.url, user_credentials=own_nats_server.admin())
    assert (await again.jetstream().stream_info("KEPT")).state.messages == 1
    await client.close()
    await again.close()


async def test_a_server_is_gone_when_its_context_ends(tmp_path: Path) -> None:
    """The process has ended, nobody listens, and stopping it again is harmless."""
    async with servers.nats_server(tmp_path) as server:
        pid, port = server.pid, server.port
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await server.stop()


@pytest.mark.parametrize("which", ["s3", "seaweedfs"])
async def test_s3_stores_and_checks_signatures(which: str, request: pytest.FixtureRequest) -> None:
    """An object comes back byte for byte; a wrong secret is refused."""
    server: servers.S3Server = request.getfixturevalue(which)
    data = os.urandom(300_000)
    async with s3_client(server) as client:
        await client.create_bucket(Bucket="shoal-servers")
        await client.put_object(Bucket="shoal-servers", Key="a folder/é.bin", Body=data)
        got = await client.get_object(Bucket="shoal-servers", Key="a folder/é.bin")
        assert await got["Body"].read() == data
    async with s3_client(server, secret_key="wrong") as client:
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await client.get_object(Bucket="shoal-servers", Key="a folder/é.bin")


async def test_s3_keeps_its_objects_over_a_restart(tmp_path: Path) -> None:
    """The same endpoint and account, the same objects."""
    try:
        async with servers.s3_server(tmp_path) as server:
            async with s3_client(server) as client:
                await client.create_bucket(Bucket="kept")
                await client.put_object(Bucket="kept", Key="a", Body=b"1")
            await server.restart()
            async with s3_client(server) as client:
                assert await (await client.get_object(Bucket="kept", Key="a"))["Body"].read() == b"1"
    except servers.Missing as missing:
        skip(missing)


async def test_kubo_stores_and_knows_nobody(kubo: servers.Kubo) -> None:
    """A file comes back by its CID, over the API and the gateway; there are no peers to leak it to."""
    form = aiohttp.FormData()
    form.add_field("file", b"hello", filename="f")
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{kubo.api_url}/api/v0/add?cid-version=1", data=form) as added:
            cid = (await added.json(content_type=None))["Hash"]
        async with session.post(f"{kubo.api_url}/api/v0/cat?arg={cid}") as got:
            assert await got.read() == b"hello"
        async with session.get(f"{kubo.gateway_url}/ipfs/{cid}") as got:
            assert await got.read() == b"hello"
        async with session.post(f"{kubo.api_url}/api/v0/swarm/peers") as peers:
            assert not (await peers.json(content_type=None))["Peers"]
        async with session.post(f"{kubo.api_url}/api/v0/id") as identity:
            assert (await identity.json(content_type=None))["ID"] == kubo.peer_id
    assert kubo.multiaddr_with_peer == f"{kubo.multiaddr}/p2p/{kubo.peer_id}"


async def test_the_image_can_be_pushed_and_pulled(docker_host: str, pushed_image: str) -> None:
    """The image goes to the registry, is gone from the daemon under that name, and comes back by a pull."""
    path = docker_host.removeprefix("unix://")
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=path), base_url="http://docker"
    ) as session:
        async with session.get(f"/images/{pushed_image}/json") as before:
            assert before.status == 404
        async with session.post("/images/create", params={"fromImage": pushed_image}) as pulled:
            assert "errorDetail" not in await pulled.text()
        async with session.delete(f"/images/{pushed_image}") as removed:
            assert removed.status == 200


async def test_the_image_is_the_same_bytes_each_time(busybox_image: str) -> None:
    """Two root filesystems of one busybox are equal, and no applet takes the program's own name."""
    assert await images.busybox_root() == await images.busybox_root()
    assert busybox_image == images.BUSYBOX


async def test_a_program_that_is_missing_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Missing` names the program and what to do, before anything is started."""
    monkeypatch.setattr(programs, "find", lambda name: None)
    with pytest.raises(servers.Missing, match="ipfs is missing: run `deploy/setup kubo`"):
        async with servers.kubo(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_a_daemon_that_does_not_answer_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`DOCKER_HOST` is the only daemon asked, and a socket without a server is none."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    assert await running_daemon() is None
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_ports(1)[0]}")
    assert await running_daemon() is None


async def test_a_server_that_ends_at_its_start_is_quoted(tmp_path: Path) -> None:
    """The error holds the exit code and what the process wrote."""
    process = Process.start(
        [sys.executable, "-c", "print('no room on this disk'); raise SystemExit(3)"],
        name="it",
        log=tmp_path / "log",
    )

    async def never() -> bool:
        return False

    with pytest.raises(servers.Failed, match=r"(?s)it ended with code 3 .*no room on this disk"):
        await process.ready(never)


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Waiting ends at its deadline; stopping takes the children along and insists where asking does not help."""
    script = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = Process.start([sys.executable, "-c", script], name="deaf", log=tmp_path / "log")

    async def has_child() -> bool:
        return (tmp_path / "log").stat().st_size > 0

    async def never() -> bool:
        return False

    await process.ready(has_child)
    child = int((tmp_path / "log").read_text())
    with pytest.raises(servers.Failed, match=r"deaf did not answer within 0\.05 s"):
        await process.ready(never, within_s=0.05)
    await process.stop(within_s=0.05)
    assert not process.running
    # It has been killed; the kernel may take a moment to say so.
    async with asyncio.timeout(30):
        while _runs(child):  # noqa: ASYNC110 (the end of another's child is no event)
            await asyncio.sleep(0.01)


async def test_waiting_for_a_server_can_be_given_up_at_any_moment(tmp_path: Path) -> None:
    """Also just as an answer comes: whoever is asked to end while its servers start ends."""
    process = Process.start(
        [sys.executable, "-c", "import time; time.sleep(600)"], name="it", log=tmp_path / "log"
    )
    asked, answered = asyncio.Event(), asyncio.Event()

    async def not_yet() -> bool:
        asked.set()
        await answered.wait()
        return False

    waiting = asyncio.create_task(process.ready(not_yet, within_s=60))
    await asked.wait()
    answered.set()
    await asyncio.sleep(0)
    waiting.cancel()
    done, _ = await asyncio.wait([waiting], timeout=30)
    await process.stop()

    assert done
    assert waiting.cancelled()


def _runs(pid: int) -> bool:
    """Whether a process of that number does anything: one that nobody has collected yet does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
