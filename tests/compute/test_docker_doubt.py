"""A Docker daemon that dies while it starts a container: it may have, and does not know."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import psutil
import pytest
from aiodocker import Docker

from compute.engines.contract import Exit, Mount, Run
from compute.engines.docker.config import container_config, container_name
from compute.engines.docker.engine import DockerEngine
from compute.engines.docker.faults import IN_DOUBT, LOST
from compute.engines.docker.settings import DockerSettings
from deploy import images
from deploy.programs import Missing
from protocol.ids import NodeId
from protocol.questions import STDERR
from protocol.spec.engines import DockerParams
from tests.compute.containers import door_to
from tests.compute.daemons import OwnDaemon, own_daemon
from tests.conftest import skip
from tests.contracts.engine import begin, chunks_of, ended, fresh_execution, text

NODE: Final = NodeId("n-doubt")
WITHIN_S: Final = 60.0


@pytest.fixture
async def daemon() -> AsyncIterator[OwnDaemon]:
    """A daemon of the test's own, whose containers outlive it."""
    try:
        async with own_daemon(live_restore=True) as daemon:
            yield daemon
    except Missing as missing:
        skip(missing)


def run(folder: Path, script: str = "touch /out/begun") -> Run[DockerParams]:
    """A program that notes that it has begun."""
    job, execution = fresh_execution()
    params = DockerParams(image=images.BUSYBOX, entrypoint=["/bin/sh", "-c"], parameters=[script])
    return Run(execution, job, NODE, params, folder, mounts=[Mount(folder, "/out", read_only=False)])


async def containers(daemon: OwnDaemon) -> list[str]:
    """The ids of all containers that a daemon has."""
    async with Docker(daemon.host) as docker:
        return [each.id for each in await docker.containers.list(all=True)]


async def test_a_daemon_dies_as_it_is_asked_to_start(daemon: OwnDaemon, tmp_path: Path) -> None:
    """A program that may have begun when its daemon died is not begun once more as the same execution: it has failed by the
    node's fault, and is tried again as another one. Nothing is left of it."""
    async with door_to(daemon.host, tmp_path) as door:
        engine = DockerEngine(NODE, DockerSettings(host=door.host))
        try:
            given = run(tmp_path)
            door.hang(b"/start")
            starting = asyncio.create_task(begin(engine, given))
            await _until(lambda: bool(door.kept))
            await door.shut()
            await daemon.kill()
            await daemon.start()
            await door.open()
            running = await starting

            assert await ended(running) == Exit(LOST, IN_DOUBT)
            assert not (tmp_path / "begun").exists()
            await running.remove()
        finally:
            await engine.close()
    assert await containers(daemon) == []


async def test_a_program_ends_before_its_start_was_answered(daemon: OwnDaemon, tmp_path: Path) -> None:
    """A program whose daemon started it and then died, and that ended before the daemon was back, counts; that its output
    may lack the last is said."""
    async with door_to(daemon.host, tmp_path) as door:
        engine = DockerEngine(NODE, DockerSettings(host=door.host))
        try:
            given = run(tmp_path, "touch /out/begun; while [ ! -e /out/go ]; do sleep 0.05; done; echo over")
            door.hang(b"/start")
            starting = asyncio.create_task(begin(engine, given))
            await _until(lambda: bool(door.kept))
            async with Docker(daemon.host) as docker:
                container = await docker.containers.get(container_name(NODE, given.execution))
                await container.start()
                program = psutil.Process((await container.show())["State"]["Pid"])
            await _until((tmp_path / "begun").exists)
            await door.shut()
            await daemon.kill()
            (tmp_path / "go").touch()
            await asyncio.to_thread(program.wait, WITHIN_S)
            await daemon.start()
            await door.open()
            running = await starting

            assert await ended(running) == Exit(0)
            assert "may be missing" in text(await chunks_of(running), STDERR)
            await running.remove()
        finally:
            await engine.close()
    assert await containers(daemon) == []


async def _until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not so():  # noqa: ASYNC110 - files and doors tell nobody
            await asyncio.sleep(0.02)


async def _made_only(daemon: OwnDaemon, given: Run[DockerParams]) -> None:
    """A container as it is before it was started."""
    async with Docker(daemon.host) as docker:
        name = container_name(NODE, given.execution)
        await docker.containers.create(container_config(given, DockerSettings()), name=name)


async def test_a_node_dies_with_a_daemon_that_starts_a_container(daemon: OwnDaemon, tmp_path: Path) -> None:
    """A container that a daemon made which died since is not taken for one that never began, whatever the next daemon says:
    its execution has failed by the node's fault. Where the daemon is the same, it never began."""
    engine = DockerEngine(NODE, DockerSettings(host=daemon.host))
    try:
        doubtful, sure = run(tmp_path), run(tmp_path)
        await _made_only(daemon, doubtful)
        await daemon.kill()
        await daemon.start()
        await _made_only(daemon, sure)

        assert await engine.recover(sure.execution) is None
        running = await engine.recover(doubtful.execution)

        assert running is not None
        assert await ended(running) == Exit(LOST, IN_DOUBT)
        assert not (tmp_path / "begun").exists()
        await running.stop(0)
        await running.remove()
    finally:
        await engine.close()
    assert await containers(daemon) == []
