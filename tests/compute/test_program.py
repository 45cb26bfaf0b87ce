"""``python -m compute`` as people start it: a process, a real NATS server, real containers."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.servers import NatsServer
from protocol.jobs import Amounts, Job, Network, ResultPath, Spec, Task
from protocol.messages import Beat
from protocol.nats_bus import connect
from protocol.states import ExecutionState
from tests.compute.twins import NODE, FakeRequester, noop, order
from tests.requester.cluster import closed, happens, submit, until
from tests.requester.on_servers import a_requester

S = ExecutionState
READY_S = 60.0


class Program:
    """The node's process in a folder; it may be killed and started again."""

    def __init__(self, folder: Path, server: NatsServer, *flags: str, **environ: str) -> None:
        self._command = [sys.executable, "-m", "compute", "--nats", server.url, "--name", NODE]
        self._command += ["--credentials", str(server.node(NODE))]
        self._command += [
            "--data-dir",
            str(folder / "node"),
            "--publish-port",
            "0",
            "--log-format",
            "json",
            *flags,
        ]
        self._environ = os.environ | environ
        folder.mkdir(exist_ok=True)
        self.log = folder / "node.log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process, logging to `log`."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environ, stderr=log, stdout=log
            )

    async def says(self, words: str) -> None:
        """Wait until its log has these words; nothing tells when it does."""
        async with asyncio.timeout(READY_S):
            while words not in self.log.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal; its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(READY_S):
            return await self.process.wait()


@asynccontextmanager
async def cluster(server: NatsServer, program: Program) -> AsyncIterator[FakeRequester]:
    """A requester that listens, and the node, started and beating; killed at the end."""
    bus = await connect(
        server.url, name="r1", role="requester", credentials=server.requester("r1"), wait_s=READY_S
    )
    try:
        async with FakeRequester(bus).listening() as requester:
            await program.start()
            await beating(requester, after=0)
            yield requester
    finally:
        await program.end(signal.SIGKILL)
        await bus.close()


async def beating(requester: FakeRequester, *, after: int) -> Beat:
    """Wait for a beat of a start of the node behind that incarnation."""
    await requester.until(lambda: any(beat.incarnation > after for beat in requester.beats))
    return requester.beats[-1]


async def test_a_node_runs_what_it_is_told_and_leaves_when_asked(
    own_nats_server: NatsServer, tmp_path: Path
) -> None:
    """Started with its flags it beats, runs a job and reports; on SIGTERM it says that it is leaving and exits with 0."""
    program = Program(tmp_path, own_nats_server, "--engines", "noop", "--label", "region=eu", "--cpu", "2")
    async with cluster(own_nats_server, program) as requester:
        beat = requester.beats[-1]
        assert beat.node.labels["region"] == "eu"
        assert beat.node.capacity.cpu == 2
        assert [offer.type for offer in beat.node.engines] == ["noop"]
        run = order(task=noop({"Stdout": "hello"}))
        assert (await requester.run(run)).taken
        assert (await requester.ended(run)).state is S.COMPLETED
        assert [chunk.data for chunk in (await requester.logs(run)).chunks] == [b"hello"]
        assert await program.end(signal.SIGTERM) == 0
        await requester.until(lambda: requester.beats[-1].leaving)
    assert '"event": "ready"' in program.log.read_text()


async def test_a_node_speaks_before_it_can_work(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Of a node that is started again the first word is that it is there, and what it has, before any engine was asked: its
    work is not given away while that takes. It takes orders only afterwards."""
    socket = tmp_path / "docker.sock"
    program = Program(tmp_path, own_nats_server, "--engines", "noop,docker", DOCKER_HOST=f"unix://{socket}")
    async with cluster(own_nats_server, program) as requester:
        run = order(task=noop({"Seconds": 3600}))
        await requester.run(run)
        held = {run.execution: S.RUNNING}
        await requester.until(lambda: requester.beats[-1].executions == held)
        before = requester.beats[-1]
        await program.end(signal.SIGKILL)
        requester.beats.clear()
        asked = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()
            writer.close()

        async with await asyncio.start_unix_server(hang, socket):
            await program.start()
            await requester.until(lambda: bool(requester.beats))
            first = requester.beats[0]
            assert first.leaving
            assert (first.node.labels, first.node.capacity) == (before.node.labels, before.node.capacity)
            # What went on when the process was killed may have been noted up to the step before.
            assert first.executions.keys() == held.keys()
            assert first.incarnation == before.incarnation
            assert not asked.is_set()
            await beating(requester, after=before.incarnation)
            assert not requester.beats[-1].leaving


async def test_a_node_goes_on_when_nats_comes_back(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """While the server is away the program runs on; its end is told when the server is back."""
    program = Program(tmp_path, own_nats_server, "--engines", "noop")
    async with cluster(own_nats_server, program) as requester:
        run = order(task=noop({"Seconds": 1}))
        await requester.run(run)
        await own_nats_server.stop()
        await own_nats_server.start()
        assert (await requester.ended(run)).state is S.COMPLETED


async def test_a_node_that_is_started_before_nats_waits(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """A node that was killed and comes back before the cluster does not give up: it finishes what it was told to do."""
    program = Program(tmp_path, own_nats_server, "--engines", "noop")
    async with cluster(own_nats_server, program) as requester:
        run = order(task=noop({"Seconds": 1}))
        await requester.run(run)
        await program.end(signal.SIGKILL)
        await own_nats_server.stop()
        await program.start()
        await program.says("waiting for the cluster")
        await own_nats_server.start()
        assert (await requester.ended(run)).state is S.COMPLETED


async def test_two_programs_are_started_as_one_node(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """As after a disk was copied: the one that was started last is the node and runs what there is to run, once that
    counts; the other one says that it was replaced, ends what it has, and stays silent until somebody ends it."""
    first, second = [
        Program(tmp_path / name, own_nats_server, "--engines", "noop") for name in ("first", "second")
    ]
    async with a_requester([own_nats_server], tmp_path, "r1") as service:
        try:
            await first.start()
            await happens(lambda: service.facts()["nodes"] == 1)
            long = await submit(service, Job(tasks=[noop({"Seconds": 20})]))
            await until(service, long, lambda job: any(each.state is S.RUNNING for each in job.open()))
            shutil.copytree(tmp_path / "first/node", tmp_path / "second/node")
            await second.start()
            await first.says("another process that was started later speaks as this node")

            assert (await service.node(NODE)).doubled_since > 0
            assert len((await closed(service, long)).executions) == 1
            await closed(service, await submit(service, Job(tasks=[noop()])))
            assert "another process" not in second.log.read_text()
            assert await first.end(signal.SIGTERM) == 0
            await closed(service, await submit(service, Job(tasks=[noop()])))
        finally:
            for program in (first, second):
                await program.end(signal.SIGKILL)


async def test_a_killed_node_adopts_its_containers(
    own_nats_server: NatsServer, tmp_path: Path, docker_host: str, busybox_image: str
) -> None:
    """After ``kill -9`` the next process finds the running container, tells its end once, and leaves nothing behind."""
    program = Program(tmp_path, own_nats_server, "--engines", "docker", DOCKER_HOST=docker_host)
    script = (
        "echo begun; id -u >/outputs/runs; while [ ! -e /outputs/go ]; do sleep 0.1; done; echo over; exit 3"
    )
    task = Task(
        engine=Spec("docker", {"Image": busybox_image, "Entrypoint": ["sh", "-c", script]}),
        result_paths=[ResultPath("outputs", "/outputs")],
        publisher=Spec("local"),
        network=Network("None"),
    )
    async with cluster(own_nats_server, program) as requester:
        run = order(task=task, amounts=Amounts(cpu=0.1, memory_bytes=64_000_000))
        await requester.run(run)
        await requester.reached(run, S.RUNNING)
        earlier = requester.beats[-1].incarnation
        await program.end(signal.SIGKILL)
        await program.start()
        await beating(requester, after=earlier)
        outputs = tmp_path / "node" / "executions" / run.execution / "results" / "outputs"
        (outputs / "go").touch()
        report = await requester.ended(run)
        assert report.failure is not None
        assert report.failure.message == "program exited with code 3"
        assert report.output is not None
        assert report.output.stdout == "begun\nover\n"
        assert report.result is not None
        await requester.until(lambda: not requester.beats[-1].executions)
        assert list((tmp_path / "node" / "executions").iterdir()) == []
        assert len(requester.accepted[run.execution]) == 1


async def test_a_node_without_docker_starts_and_says_why(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """A daemon that is not there keeps the node from nothing but containers, which it refuses with what to do."""
    program = Program(
        tmp_path, own_nats_server, "--engines", "docker,noop", DOCKER_HOST="unix:///nowhere.sock"
    )
    async with cluster(own_nats_server, program) as requester:
        offer = requester.beats[-1].node.offers("engines", "docker")
        assert offer is not None
        assert not offer.available
        refused, taken = order(1, noop(engine=Spec("docker", {"Image": "busybox"}))), order(2)
        await requester.run(refused)
        await requester.run(taken)
        report = await requester.ended(refused)
        assert report.state is S.REFUSED
        assert report.failure is not None
        assert report.failure.hint
        assert (await requester.ended(taken)).state is S.COMPLETED


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--nats", "nats://127.0.0.1:1"], 1, "no NATS server answers"),
        (["--nats", "ftp://x"], 2, "ftp://x is no NATS server"),
        (["--cpu", "900%", "-c", "NATS.Credentials={n1}"], 1, "capacity CPU"),
        (["--name", "a.b"], 1, "cannot name a node"),
        (["--name", "n2", "-c", "NATS.Credentials={n1}"], 1, "are for n1, not for n2"),
        (["--credentials", "nowhere.creds"], 1, "no credentials at"),
        ([], 1, "wants to know who this is"),
        (["-c", "NATS.Credentials={r1}"], 1, "not a node's credentials"),
        (["--engines", "podman", "-c", "NATS.Credentials={n1}"], 1, "no engine 'podman'"),
        (["--ipfs-connect", "/ip4/127.0.0.1"], 2, "Node.IPFS.Connect"),
        (["-c", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["--publish-prot", "1"], 2, "publish-port"),
    ],
)
async def test_a_start_that_cannot_be_says_why(
    own_nats_server: NatsServer, tmp_path: Path, flags: list[str], code: int, text: str
) -> None:
    """What is wrong with the start is said in a line or two, without a trace, and the exit code is not 0."""
    program = Program(tmp_path, own_nats_server)
    program._command = [
        *program._command[:3],
        *([] if "--nats" in flags else ["--nats", own_nats_server.url]),
    ]
    flags = [flag.format(n1=own_nats_server.node("n1"), r1=own_nats_server.requester("r1")) for flag in flags]
    program._command += ["--data-dir", str(tmp_path / "node"), *flags]
    await program.start()
    assert program.process is not None
    async with asyncio.timeout(READY_S):
        assert await program.process.wait() == code
    said = program.log.read_text()
    assert text in said
    assert "Traceback" not in said
