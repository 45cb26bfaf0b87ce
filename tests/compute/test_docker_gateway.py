"""Programs that may reach named domains alone: on a real daemon."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiodocker import Docker, DockerError
from msgspec.structs import replace

from compute.engines.contract import Exit, Mount, Run
from compute.engines.docker.config import container_name, gateway_name
from compute.engines.docker.engine import DockerEngine
from compute.engines.docker.settings import DockerSettings
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Network
from protocol.spec.engines import DockerParams
from storage.addresses import read_policy
from tests.compute.containers import SETTINGS_LABEL, remove_containers
from tests.contracts.engine import begin, chunks_of, ended, fresh_execution, ready, text

NODE = NodeId("n-gateway")
NAMED, OTHER = "127.0.0.2", "127.0.0.3"
"""Two hosts of this machine, which need no name server."""
PROXY = "nc $(echo ${http_proxy##*/} | tr : ' ')"
"""Says to the proxy what it is given."""


@pytest.fixture
def settings(docker_host: str) -> DockerSettings:
    """Of a node whose owner lets jobs reach its own addresses."""
    return DockerSettings(host=docker_host, labels=SETTINGS_LABEL, addresses=read_policy(["loopback"]))


@pytest.fixture
async def engine(docker_host: str, settings: DockerSettings) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(NODE, settings)
    yield engine
    await remove_containers(docker_host, NODE)
    await engine.leftovers()
    await engine.close()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server at all addresses of this machine that answers each request with its first line and its Host."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        host = next(line for line in head.splitlines() if line.lower().startswith("host:"))
        body = f"{head.splitlines()[0]} {host}\n"
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
def image(busybox_image: str) -> str:
    return busybox_image


def run(image: str, script: str, folder: Path, *domains: str) -> Run[DockerParams]:
    """A shell line that may reach these domains alone."""
    job, execution = fresh_execution()
    params = DockerParams(image=image, entrypoint=["/bin/sh", "-c"], parameters=[script])
    network = Network(type="HTTP", domains=list(domains))
    return Run(execution, job, NODE, params, folder, network=network)


async def has_network(docker_host: str) -> bool:
    async with Docker(docker_host) as docker:
        try:
            await docker.networks.get(gateway_name(NODE))
        except DockerError as error:
            return error.status != 404
        return True


async def address_of(docker_host: str, execution: ExecutionId) -> str:
    """The address of an execution's container on the one network that it has."""
    async with Docker(docker_host) as docker:
        found = await docker.containers.get(container_name(NODE, execution))
        [network] = found["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])


async def test_a_named_host_is_reached(engine: DockerEngine, image: str, port: int, tmp_path: Path) -> None:
    """A program reaches a host that its job names, and learns of one that it does not name why it is refused."""
    script = (
        f"wget -qO- http://{NAMED}:{port}/a?b=c; "
        f"wget -qO- http://{OTHER}:{port}/ 2>&1 || echo refused; "
        f"printf 'GET http://{OTHER}:{port}/ HTTP/1.1\\r\\n\\r\\n' | {PROXY} | tail -n 2"
    )
    running = await begin(engine, run(image, script, tmp_path, NAMED))

    said = text(await chunks_of(running), 1)

    assert said.startswith(f"GET /a?b=c HTTP/1.1 Host: {NAMED}:{port}\n")
    assert "403 Forbidden" in said
    assert "refused" in said
    assert f"shoal: {OTHER} is not among the Network.Domains of this job" in said
    assert f"They are: {NAMED}." in said
    assert await ended(running) == Exit(0)


async def test_a_tunnel_leads_to_named_hosts_alone(
    engine: DockerEngine, image: str, port: int, tmp_path: Path
) -> None:
    """CONNECT, as programs do for https, gets through to a host that is named, and to no other."""
    asked = "CONNECT {0}:{1} HTTP/1.1\\r\\n\\r\\nGET /in HTTP/1.1\\r\\nHost: in\\r\\n\\r\\n"
    script = "; ".join(f"printf '{asked.format(host, port)}' | {PROXY}" for host in (NAMED, OTHER))

    said = text(await chunks_of(await begin(engine, run(image, script, tmp_path, NAMED))), 1)

    assert said.startswith("HTTP/1.1 200 Connection established")
    assert said.count("GET /in HTTP/1.1 Host: in\n") == 1
    assert f"{OTHER} is not among the Network.Domains" in said


async def test_there_is_no_other_way_out(
    engine: DockerEngine, image: str, docker_host: str, tmp_path: Path
) -> None:
    """Beside the proxy there is nothing: no other container of the same network, and none of another."""
    listens = "echo ready; while nc -l -p 5000 < /dev/null; do true; done"
    beside = run(image, listens, tmp_path, NAMED)
    elsewhere = replace(run(image, listens, tmp_path), network=Network(type="Bridge"))
    for each in (beside, elsewhere):
        await ready(await begin(engine, each))
    addresses = [await address_of(docker_host, each.execution) for each in (beside, elsewhere)]
    script = "; ".join(f"nc -w 2 {each} 5000 < /dev/null && echo reached" for each in addresses)

    said = text(await chunks_of(await begin(engine, run(image, script, tmp_path, NAMED))), 1)

    assert said == ""


async def test_what_the_owner_has_closed_stays_closed(
    docker_host: str, image: str, port: int, tmp_path: Path
) -> None:
    """That a job names a host opens nothing that the node's owner keeps closed: this machine's own addresses, if nothing is
    said."""
    engine = DockerEngine(NODE, DockerSettings(host=docker_host, labels=SETTINGS_LABEL))
    try:
        script = f"wget -qO- http://{NAMED}:{port}/ 2>&1 || echo refused"
        running = await begin(engine, run(image, script, tmp_path, NAMED))
        assert "403 Forbidden" in text(await chunks_of(running), 1)
    finally:
        await remove_containers(docker_host, NODE)
        await engine.leftovers()
        await engine.close()


async def test_a_new_process_answers_what_it_finds(
    engine: DockerEngine, settings: DockerSettings, image: str, port: int, tmp_path: Path
) -> None:
    """A program that outlives its node's process reaches its hosts again as soon as the next process has found it."""
    gate = tmp_path / "gate"
    gate.mkdir()
    script = f"echo ready; while [ ! -e /gate/open ]; do sleep 0.1; done; wget -qO- http://{NAMED}:{port}/"
    order = replace(run(image, script, tmp_path, NAMED), mounts=[Mount(gate, "/gate")])
    await ready(await begin(engine, order))
    await engine.close()
    again = DockerEngine(NODE, settings)
    try:
        found = await again.recover(order.execution)
        assert found is not None
        (gate / "open").touch()
        assert text(await chunks_of(found), 1) == f"ready\nGET / HTTP/1.1 Host: {NAMED}:{port}\n"
        await found.remove()
    finally:
        await again.close()


async def test_the_network_goes_with_its_last_container(
    engine: DockerEngine, image: str, docker_host: str, tmp_path: Path
) -> None:
    """As long as a container is on it the network stays; with the last one it is removed, also if that never started."""
    one, two = [await begin(engine, run(image, "sleep 600", tmp_path, NAMED)) for _ in range(2)]
    await one.remove()
    assert await has_network(docker_host)
    await two.remove()
    assert not await has_network(docker_host)
