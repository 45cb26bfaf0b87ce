"""The unnamed volumes that images ask for: on a real daemon."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiodocker import Docker

from compute.engines.contract import Exit, Mount, Run
from compute.engines.docker.config import NODE_LABEL, container_name
from compute.engines.docker.engine import DockerEngine
from compute.engines.docker.settings import DockerSettings
from protocol.ids import NodeId
from protocol.spec.engines import DockerParams
from tests.compute.containers import SETTINGS_LABEL, door_to, remove_containers
from tests.contracts.engine import begin, chunks_of, ended, fresh_execution, ready, text

NODE: Final = NodeId("n-volumes")
IMAGE: Final = "shoal-test/volumes:1"
STAYS: Final = "echo ready; sleep 600"


@pytest.fixture
async def docker(docker_host: str, busybox_image: str) -> AsyncIterator[Docker]:
    """The daemon, which has an image that asks for a volume and puts a file there."""
    async with Docker(docker_host) as docker:
        config: dict[str, Any] = {
            "Image": busybox_image,
            "Cmd": ["sh", "-c", "mkdir /data; echo here > /data/word"],
            "Labels": SETTINGS_LABEL,
        }
        container = await docker.containers.create(config)
        try:
            await container.start()
            await container.wait()
            repository, _, tag = IMAGE.partition(":")
            await container.commit(repository=repository, tag=tag, config={"Volumes": {"/data": {}}})
        finally:
            await container.delete(force=True)
        yield docker
        await remove_containers(docker_host, NODE)
        for name in await volumes(docker):
            await remove(docker, name)


async def volumes(docker: Docker) -> list[str]:
    """The volumes that bear this node's label."""
    filters = f'{{"label": ["{NODE_LABEL}={NODE}"]}}'
    found = await docker._query_json("volumes", params={"filters": filters})
    return [each["Name"] for each in found["Volumes"] or ()]


async def remove(docker: Docker, name: str) -> None:
    """Remove a volume."""
    async with docker._query(f"volumes/{name}", method="DELETE"):
        pass


def run(script: str, folder: Path, *mounts: Mount) -> Run[DockerParams]:
    """A shell line in a container of the image."""
    job, execution = fresh_execution()
    params = DockerParams(image=IMAGE, entrypoint=["/bin/sh", "-c"], parameters=[script])
    return Run(execution, job, NODE, params, folder, mounts=list(mounts))


def engine_at(host: str) -> DockerEngine:
    return DockerEngine(NODE, DockerSettings(host=host, labels=SETTINGS_LABEL))


async def test_a_volume_is_what_docker_makes_of_it(docker: Docker, docker_host: str, tmp_path: Path) -> None:
    """A volume has what the image holds there, may be written to, and goes with its container; an input that is mounted
    at the same path takes its place."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "word").write_text("mine\n")
    engine = engine_at(docker_host)
    try:
        plain = await begin(engine, run("cat /data/word; touch /data/new", tmp_path))
        mounted = await begin(engine, run("cat /data/word", tmp_path, Mount(mine, "/data/")))
        assert (await ended(plain), text(await chunks_of(plain), 1)) == (Exit(0), "here\n")
        assert (await ended(mounted), text(await chunks_of(mounted), 1)) == (Exit(0), "mine\n")
        assert len(await volumes(docker)) == 1

        await plain.remove()
        await mounted.remove()

        assert await volumes(docker) == []
    finally:
        await engine.close()


async def test_a_volume_that_lost_its_container_while_docker_was_away(
    docker: Docker, docker_host: str, tmp_path: Path
) -> None:
    """Docker that is killed while it removes a container leaves its volume, of which no container tells. It goes when the
    execution is cleaned up; what other nodes have stays."""
    other = await docker._query_json(
        "volumes/create", method="POST", data={"Labels": {NODE_LABEL: "another"}}
    )
    async with door_to(docker_host, tmp_path) as door:
        engine = engine_at(door.host)
        try:
            given = run(STAYS, tmp_path)
            running = await begin(engine, given)
            await ready(running)
            await door.shut()
            container = await docker.containers.get(container_name(NODE, given.execution))
            await container.delete(force=True, v=False)
            assert len(await volumes(docker)) == 1
            await door.open()
            await ended(running)

            await running.remove()

            assert await volumes(docker) == []
            assert (await docker._query_json(f"volumes/{other['Name']}"))["Name"] == other["Name"]
        finally:
            await engine.close()
            await remove(docker, other["Name"])


async def test_a_volume_that_a_former_process_left(docker: Docker, docker_host: str, tmp_path: Path) -> None:
    """A node that starts removes its volumes that no container has; those in use stay."""
    engine = engine_at(docker_host)
    try:
        lost, kept = run(STAYS, tmp_path), run(STAYS, tmp_path)
        for each in (lost, kept):
            await ready(await begin(engine, each))
        container = await docker.containers.get(container_name(NODE, lost.execution))
        await container.delete(force=True, v=False)
        assert len(await volumes(docker)) == 2
    finally:
        await engine.close()
    again = engine_at(docker_host)
    try:
        assert await again.leftovers() == [kept.execution]
        (left,) = await volumes(docker)
        found = await docker.containers.get(container_name(NODE, kept.execution))
        assert [each["Name"] for each in found["Mounts"]] == [left]
    finally:
        await again.close()
