"""The Docker daemon is restarted, or hangs, under a node that has work on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from aiodocker import Docker

from compute.agent import Agent
from compute.engines.docker.config import container_name
from compute.engines.docker.engine import DockerEngine
from compute.engines.docker.settings import DockerSettings
from compute.node import running
from compute.settings import Settings
from deploy import images
from deploy.programs import Missing
from protocol.clock import SystemClock
from protocol.ids import ExecutionId
from protocol.jobs import Amounts, Input, Spec, Task
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.nodes import Offer
from protocol.states import ExecutionState
from tests.compute.containers import door_to
from tests.compute.daemons import OwnDaemon, own_daemon
from tests.compute.twins import NODE, FakeRequester, order
from tests.conftest import skip

S = ExecutionState
Break = Callable[[OwnDaemon], Coroutine[Any, Any, None]]

WITHIN_S: Final = 60.0
STANDS: Final = "trap 'echo asked to end; exit 0' TERM; while [ ! -e /gate/open ]; do sleep 0.05; done"
"""Asked to end, it does so and says that all is well: as many servers do, and the worst that a daemon can be told."""


@pytest.fixture(params=[True, False], ids=["live-restore", "plain"])
async def daemon(request: pytest.FixtureRequest) -> AsyncIterator[OwnDaemon]:
    """A daemon of the test's own, with live-restore and without."""
    try:
        async with own_daemon(live_restore=request.param) as daemon:
            yield daemon
    except Missing as missing:
        skip(missing)


class Gate:
    """A folder that a program looks into, and where it notes that it has begun."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def task(self) -> Task:
        script = f"echo $BACALHAU_EXECUTION_ID >> /gate/starts; echo ready; {STANDS}; echo through; touch /gate/through"
        params = {"Image": images.BUSYBOX, "Entrypoint": ["/bin/sh", "-c"], "Parameters": [script]}
        source = Spec("local", {"SourcePath": str(self.folder), "ReadWrite": True})
        return Task(engine=Spec("docker", params), input_sources=[Input(source, "/gate")])

    async def begun(self) -> None:
        await self._until("starts")

    async def passed(self) -> None:
        await self._until("through")

    async def _until(self, name: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not (self.folder / name).exists():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.02)

    def starts(self) -> list[str]:
        """The executions that have begun, each time they did."""
        return (self.folder / "starts").read_text().split()

    def open(self) -> None:
        (self.folder / "open").touch()


def settings_with(daemon: OwnDaemon, folder: Path) -> Settings:
    """A node that has that daemon, and whose programs may have what is in the folder."""
    return Settings(
        data_dir=folder / "node",
        name=NODE,
        engines=("docker",),
        docker=DockerSettings(host=daemon.host),
        allowed_paths=(f"{folder}/**:rw",),
        publish_port=0,
    )


@asynccontextmanager
async def a_node(hub: MemoryHub, daemon: OwnDaemon, folder: Path, *, ahead_s: float) -> AsyncIterator[Agent]:
    """A node whose clock is ahead of the daemon's."""
    clock = SystemClock(lambda: time.time() + ahead_s)
    engine = DockerEngine(NODE, DockerSettings(host=daemon.host), clock=clock)
    try:
        settings = settings_with(daemon, folder)
        async with running(MemoryBus(hub), settings, engines={"docker": engine}, host={}) as agent:
            yield agent
    finally:
        await engine.close()


def offered(requester: FakeRequester) -> Offer:
    """What the node's last beat says of Docker."""
    offer = requester.beats[-1].node.offers("engines", "docker") if requester.beats else None
    return offer or Offer("docker", available=False)


@pytest.mark.parametrize("end", [OwnDaemon.stop, OwnDaemon.kill], ids=["stopped", "killed"])
async def test_the_daemon_is_restarted(
    hub: MemoryHub,
    requester: FakeRequester,
    tmp_path: Path,
    daemon: OwnDaemon,
    request: pytest.FixtureRequest,
    end: Break,
) -> None:
    """While Docker is away the node says so, and what is ordered waits. A container that outlived it is adopted, its
    output whole, started once; one that the daemon ended is a fault of the node's, to be tried again,
    whatever code it ended with.
    """
    lives_on = "live-restore" in request.node.callspec.id
    gate = Gate(tmp_path / "gate")
    room = Amounts(cpu=0.1, memory_bytes=32 << 20)
    run, later = (order(number, gate.task(), amounts=room) for number in (1, 2))
    async with running(MemoryBus(hub), settings_with(daemon, tmp_path), host={}) as agent:
        await requester.until(lambda: offered(requester).available)
        await requester.run(run)
        await requester.reached(run, S.RUNNING)
        await gate.begun()

        await end(daemon)
        await requester.until(lambda: not offered(requester).available)
        assert "Docker" in offered(requester).reason
        assert offered(requester).hint
        assert offered(requester).lost
        await requester.run(later)
        await daemon.start()
        await requester.until(lambda: offered(requester).available)
        gate.open()

        report = await requester.ended(run)
        if lives_on:
            assert (report.state, report.failure) == (S.COMPLETED, None)
            assert report.output is not None
            assert report.output.stdout == "ready\nthrough\n"
        else:
            assert report.state is S.FAILED
            assert report.failure is not None
            assert report.failure.code == "Unavailable.Docker"
            assert report.failure.retryable
        assert (await requester.ended(later)).state is S.COMPLETED
        assert gate.starts() == [run.execution, later.execution]
        await requester.until(lambda: not agent.runners)
    assert await containers(daemon) == []


@pytest.mark.parametrize("daemon", [True], ids=["live-restore"], indirect=True)
async def test_a_program_ends_while_the_daemon_is_away(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path, daemon: OwnDaemon
) -> None:
    """A container that outlived its daemon and ended before that was back has done what it should; that the last of its
    output may be missing is said where the output is read, also if the daemon's clock is not the node's.
    """
    gate = Gate(tmp_path / "gate")
    run = order(task=gate.task(), amounts=Amounts(cpu=0.1, memory_bytes=32 << 20))
    async with a_node(hub, daemon, tmp_path, ahead_s=3_600.0) as agent:
        await requester.until(lambda: offered(requester).available)
        await requester.run(run)
        await requester.reached(run, S.RUNNING)
        await gate.begun()
        await daemon.kill()
        await requester.until(lambda: not offered(requester).available)
        gate.open()
        await gate.passed()
        await daemon.start()

        report = await requester.ended(run)
        assert (report.state, report.failure) == (S.COMPLETED, None)
        assert report.output is not None
        assert "may be missing" in report.output.stderr
        await requester.until(lambda: not agent.runners)
    assert await containers(daemon) == []


@pytest.mark.parametrize("daemon", [True], ids=["live-restore"], indirect=True)
async def test_a_program_whose_end_nobody_saw_is_tried_again(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path, daemon: OwnDaemon
) -> None:
    """Of a container that went while its daemon was away, Docker says that it ended with 255. That is no end of its own: it
    fails as the node's fault, also where other containers outlived the daemon.
    """
    room = Amounts(cpu=0.1, memory_bytes=32 << 20)
    gates = [Gate(tmp_path / name) for name in ("goes", "stays")]
    goes, stays = (order(number, gate.task(), amounts=room) for number, gate in enumerate(gates, 1))
    async with running(MemoryBus(hub), settings_with(daemon, tmp_path), host={}) as agent:
        await requester.until(lambda: offered(requester).available)
        for run, gate in zip((goes, stays), gates, strict=True):
            await requester.run(run)
            await requester.reached(run, S.RUNNING)
            await gate.begun()
        program = psutil.Process(await process_of(daemon, goes.execution))
        shim = program.parent()
        assert shim is not None
        await daemon.kill()
        for process in (shim, program):
            process.kill()
        await daemon.start()

        failure = (await requester.ended(goes)).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == ("Unavailable.Docker", True)
        gates[1].open()
        assert (await requester.ended(stays)).state is S.COMPLETED
        await requester.until(lambda: not agent.runners)
    assert await containers(daemon) == []


async def test_a_node_and_its_daemon_die_together(
    hub: MemoryHub,
    requester: FakeRequester,
    tmp_path: Path,
    daemon: OwnDaemon,
    request: pytest.FixtureRequest,
) -> None:
    """What ran when a node and its Docker daemon were killed is told as it was by the next process. A program whose end
    nobody saw, or that the daemon ended as it came back, is tried again whatever code it has; one that outlived it counts;
    and where output may be missing it says so.
    """
    lives_on = "live-restore" in request.node.callspec.id
    room = Amounts(cpu=0.1, memory_bytes=32 << 20)
    gates = [Gate(tmp_path / name) for name in ("goes", "ends", "stays")]
    goes, ends, stays = runs = [order(number, gate.task(), amounts=room) for number, gate in enumerate(gates)]
    async with running(MemoryBus(hub), settings_with(daemon, tmp_path), host={}):
        await requester.until(lambda: offered(requester).available)
        for run, gate in zip(runs, gates, strict=True):
            await requester.run(run)
            await requester.reached(run, S.RUNNING)
            await gate.begun()
    program, ending = [psutil.Process(await process_of(daemon, run.execution)) for run in runs[:2]]
    shim = program.parent()
    assert shim is not None
    await daemon.kill()
    for process in (shim, program):
        process.kill()
    gates[1].open()
    await asyncio.to_thread(ending.wait, WITHIN_S)
    await daemon.start()
    async with running(MemoryBus(hub), settings_with(daemon, tmp_path), host={}) as agent:
        gates[2].open()
        told = {run.execution: await requester.ended(run) for run in runs}

        await requester.until(lambda: not agent.runners)
    outputs = [told[run.execution].output for run in runs]
    assert ["may be missing" in output.stderr for output in outputs if output] == [True, True, False]
    counts = {goes.execution: False, ends.execution: lives_on, stays.execution: lives_on}
    assert {name: report.state is S.COMPLETED for name, report in told.items()} == counts
    failures = [report.failure for report in told.values() if report.failure is not None]
    assert {(each.code, each.retryable) for each in failures} == {("Unavailable.Docker", True)}
    assert len(failures) == list(counts.values()).count(False)
    assert await containers(daemon) == []


@pytest.mark.parametrize("daemon", [True], ids=["live-restore"], indirect=True)
@pytest.mark.parametrize("ahead_s", [-3_600.0, 3_600.0], ids=["slow", "fast"])
async def test_a_program_ends_while_its_node_alone_is_away(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path, daemon: OwnDaemon, ahead_s: float
) -> None:
    """What a program did while only its node was away, its daemon saw: the next process tells of 255 as the program's own
    code, and of whole output. The node's clock may be slow or fast beside the daemon's."""
    script = "touch /gate/starts; while [ ! -e /gate/open ]; do sleep 0.05; done; echo over; exit 255"
    gate = Gate(tmp_path / "gate")
    task = gate.task()
    task.engine.params["Parameters"] = [script]
    run = order(task=task, amounts=Amounts(cpu=0.1, memory_bytes=32 << 20))
    async with a_node(hub, daemon, tmp_path, ahead_s=ahead_s):
        await requester.until(lambda: offered(requester).available)
        await requester.run(run)
        await requester.reached(run, S.RUNNING)
        await gate.begun()
    async with Docker(daemon.host) as docker:
        container = await docker.containers.get(container_name(NODE, run.execution))
        gate.open()
        await container.wait()
    async with a_node(hub, daemon, tmp_path, ahead_s=ahead_s) as agent:
        report = await requester.ended(run)

        await requester.until(lambda: not agent.runners)
    assert report.failure is not None
    assert report.failure.code == "ProgramFailed"
    assert report.output is not None
    assert (report.output.stdout, report.output.stderr, report.output.exit_code) == ("over\n", "", 255)


@pytest.mark.parametrize("daemon", [False], ids=["plain"], indirect=True)
async def test_the_daemon_hangs(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path, daemon: OwnDaemon
) -> None:
    """A node whose Docker hangs says so and what to do; what it was just ordered, and what ran there, is told as the node's
    fault, to be tried elsewhere. Once Docker was restarted it is offered again, and nothing is left.
    """
    async with door_to(daemon.host, tmp_path) as door:
        settings = Settings(
            data_dir=tmp_path / "node",
            name=NODE,
            engines=("docker",),
            docker=DockerSettings(host=door.host, answer_s=5, reconnect_s=8),
            publish_port=0,
        )
        task = Task(engine=Spec("docker", {"Image": images.BUSYBOX, "Parameters": ["true"]}))
        first, caught = (order(number, task, amounts=Amounts(cpu=0.1)) for number in (1, 2))
        long = Task(engine=Spec("docker", {"Image": images.BUSYBOX, "Parameters": ["sleep", "3600"]}))
        goes_on = order(3, long, amounts=Amounts(cpu=0.1))
        async with running(MemoryBus(hub), settings, host={}) as agent:
            await requester.until(lambda: offered(requester).available)
            await requester.run(first)
            assert (await requester.ended(first)).state is S.COMPLETED
            await requester.until(lambda: not agent.runners)
            await requester.run(goes_on)
            await requester.reached(goes_on, S.RUNNING)

            door.hang()
            await requester.run(caught)
            for each in (caught, goes_on):
                report = await requester.ended(each)
                assert report.failure is not None
                assert (report.failure.code, report.failure.retryable) == ("Unavailable.Docker", True)
            await requester.until(lambda: not offered(requester).available)
            assert offered(requester).lost
            assert "restart" in offered(requester).hint

            await daemon.kill()
            await door.shut()
            await daemon.start()
            await door.open()
            await requester.until(lambda: offered(requester).available)
            await requester.until(lambda: not agent.runners)
    assert await containers(daemon) == []


async def process_of(daemon: OwnDaemon, execution: ExecutionId) -> int:
    """The process of an execution's program."""
    async with Docker(daemon.host) as docker:
        found = await docker.containers.get(container_name(NODE, execution))
        return int(found["State"]["Pid"])


async def containers(daemon: OwnDaemon) -> list[str]:
    """The ids of all containers that a daemon has."""
    async with Docker(daemon.host) as docker:
        return [each.id for each in await docker.containers.list(all=True)]
