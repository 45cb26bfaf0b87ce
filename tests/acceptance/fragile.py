"""A second deployment, whose parts may be killed, stopped and cut off, and a valve that holds bytes back.

Two requesters and two compute nodes, with a NATS server, an S3 server and a Kubo node of their own, and limits short enough
to wait for. After each test every part is there again, nothing of any job is left anywhere, and the next job runs.
"""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any, Final, Self

import pytest

from deploy.devstack import Cluster, Part, cluster
from deploy.servers import Kubo, Missing, S3Server, Server, kubo, s3_server
from tests.acceptance.data import Bucket, Ipfs
from tests.acceptance.deployment import (
    END_S,
    Api,
    Containers,
    Deployment,
    processes_of,
    wait_until_empty,
)
from tests.acceptance.jobs import Gate, job, module
from tests.conftest import Background, skip

Json = dict[str, Any]

SILENCE_S: Final = 10
"""So long may a node be silent before its work is given up: longer than one takes to start on a busy machine."""
READ_S: Final = 2
"""So long may a source send nothing."""


class Fragile(Deployment):
    """A deployment that may be broken. `mend` makes it whole again."""

    def __init__(self, background: Background, *known: Any) -> None:
        super().__init__(*known)
        self._background = background
        self._stopped: set[int] = set()
        self.ipfs = Ipfs(self.kubo)
        self.apis = [Api(requester.url) for requester in self.cluster.requesters]

    @property
    def parts(self) -> list[Server]:
        """All that may be killed."""
        ours = self.cluster
        return [ours.nats, self.s3, self.kubo, *ours.requesters, *ours.computes]

    def node(self, name: str) -> Part:
        """The process of a compute node."""
        return next(part for part in self.cluster.computes if part.name == name)

    def kill(self, *parts: Server) -> None:
        """``kill -9``; the parts are gone when this returns."""
        for part in parts:
            self._background.run(part.kill())

    def start(self, *parts: Server) -> None:
        """Start parts (again); requesters answer when this returns."""
        for part in parts:
            self._background.run(part.start())
        for requester in self.cluster.requesters:
            if requester in parts:
                self._background.run(requester.ready())

    def stop(self, part: Server) -> None:
        """End a part in order."""
        self._background.run(part.stop())

    @contextmanager
    def standing_still(self, part: Server) -> Iterator[None]:
        """A part that is there and does nothing: ``kill -STOP``, and ``kill -CONT`` at the end unless it was killed."""
        os.kill(part.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(part.pid, signal.SIGCONT)

    @contextmanager
    def extra_node(self, name: str, folder: Path, env: Mapping[str, str], *flags: str) -> Iterator[Part]:
        """One more compute node, which has the label ``kind=NAME``; it ends in order and leaves nothing."""
        nats = self.cluster.nats
        command = ["compute", "--name", name, "--nats", nats.url, "--credentials", str(nats.node(name))]
        command += ["--data-dir", str(folder)]
        command += ["--publish-port", "0", "--allow-address", "loopback", "--label", f"kind={name}", *flags]
        part = Part(name, command, folder, {**self.cluster.computes[0].env, **env})
        self._background.run(part.start())
        self.cluster.computes.append(part)
        self.nodes.append(name)
        try:
            self._background.run(self.cluster.registered(len(self.cluster.computes)))
            yield part
            self.end_all()
        finally:
            self.cluster.computes.remove(part)
            self.nodes.remove(name)
            self._background.run(part.stop())
            # One that may come back is waited for by jobs that nobody else can run.
            self.api.call("PUT", f"{self.api.nodes}/{name}", {"Action": "delete"})

    def begun(self, gate: Gate) -> list[str]:
        """The ids that programs wrote when they began, as soon as there is one."""
        starts = gate.folder / "starts"
        wait_until_empty(
            lambda: [] if starts.exists() and starts.read_text().endswith("\n") else ["no start"]
        )
        return starts.read_text().split()

    def executions(self, job: str) -> dict[str, str]:
        """The states of a job's executions, by their ids."""
        items = self.api.call("GET", f"{self.api.jobs}/{job}/executions")["Items"]
        return {each["ID"]: each["State"] for each in items}

    def containers(self) -> list[Json]:
        """All containers of our nodes."""
        return [each for name in self.nodes for each in self.docker.inspect(f"shoal.node={name}")]

    def running_on(self, name: str) -> list[str]:
        """The containers of a node that have not ended."""
        found = self.docker.inspect(f"shoal.node={name}")
        return [each["Name"] for each in found if each["State"]["Running"]]

    def spec(self, folder: Path, spec: Json) -> Path:
        """A job as a file."""
        path = folder / "job.json"
        path.write_text(json.dumps(spec))
        return path

    def failed(self, job: str) -> Json:
        """A job that has to fail, when it has ended."""
        view = self.api.ended(job)
        assert state(view) == "Failed", view
        told: Json = view["Job"]
        return told

    def valve(self, port: int, **limits: int) -> "Valve":
        """A valve before a port of loopback."""
        return Valve(self._background, port, **limits)

    def mend(self) -> None:
        """Start what is not running."""
        down = [part for part in self.parts if not part.process.running]
        self.start(*down)
        if self.cluster.nats in down or any(part in down for part in self.cluster.computes):
            self._background.run(self.cluster.registered(len(self.cluster.computes)))
        wait_until_empty(lambda: self.without("ipfs"))

    def without(self, source: str) -> list[str]:
        """The nodes that do not offer a source just now."""
        told = self.api.call("GET", self.api.nodes)["Nodes"]
        offers = {each["Info"]["NodeID"]: each["Info"]["ComputeNodeInfo"]["StorageSources"] for each in told}
        return [name for name in self.nodes if source not in offers.get(name, [])]

    def journals(self) -> list[str]:
        """What the nodes still have to do something about."""
        held = []
        for part in self.cluster.computes:
            with sqlite3.connect(f"file:{part.folder / 'journal.db'}?mode=ro", uri=True) as journal:
                held += [f"{part.name}: {name}" for (name,) in journal.execute("SELECT id FROM executions")]
            journal.close()
        return held

    def staged(self) -> list[str]:
        """Files that the storage drivers of the nodes still hold."""
        return [
            str(path)
            for part in self.cluster.computes
            for path in (part.folder / "storage").rglob("*")
            if path.is_file()
        ]


class Valve:
    """A relay before a server on loopback: it passes bytes until `up` or `down` of them went that way, then holds all.

    `until_held` waits for that; `open` lets everything pass; `cut` breaks all connections; `passed` counts the bytes that
    came down.
    """

    def __init__(
        self, background: Background, port: int, *, up: int | None = None, down: int | None = None
    ) -> None:
        self._held = Event()
        self.passed = 0
        self._background = background
        self._upstream = port
        self._left = {"up": up, "down": down}
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._background.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._background.run(self._end())

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def until_held(self) -> None:
        """Wait until bytes are held."""
        assert self._held.wait(END_S), "nothing came that had to be held"

    def open(self) -> None:
        """Let all bytes pass."""
        self._background.run(self._open())

    def cut(self) -> None:
        """Break all connections that there are."""
        self._background.run(self._cut())

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()

    async def _open(self) -> None:
        self._left = {"up": None, "down": None}
        self._flowing.set()

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            above, below = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, below}
        self._writers |= mine
        up = asyncio.create_task(self._pass("up", reader, below))
        down = asyncio.create_task(self._pass("down", above, writer))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            self._writers -= mine
            for each in mine:
                each.close()

    async def _pass(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                left = self._left[way]
                if left is not None:
                    self._left[way] = left = left - len(data)
                    if left < 0:
                        self._held.set()
                        await self._flowing.wait()
                self.passed += len(data) if way == "down" else 0
                writer.write(data)
                await writer.drain()


@contextmanager
def full_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own, as small as that. Only root can mount one: without, the test is skipped."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        skip(Missing("the right to mount a file system", "run the tests as root on Linux"))
    subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="package")
def _fragile(
    background: Background, folders: Path, containers: Containers, busybox_image: str
) -> Iterator[Fragile]:
    """The deployment for breaking, started when the first test wants it."""
    shared = Path(tempfile.mkdtemp(prefix="shoal-shared-"))
    stack = AsyncExitStack()
    try:
        s3, node, ours = background.run(_begin(stack, folders / "fragile", containers.host, shared))
    except Missing as missing:
        skip(missing)
    made = Fragile(background, ours, s3, node, containers, busybox_image, shared)
    try:
        yield made
    finally:
        made.mend()
        background.run(stack.aclose())
        shutil.rmtree(shared, ignore_errors=True)
    wait_until_empty(lambda: processes_of(ours.folder))


async def _begin(
    stack: AsyncExitStack, folder: Path, docker: str, shared: Path
) -> tuple[S3Server, Kubo, Cluster]:
    s3 = await stack.enter_async_context(s3_server(folder / "s3"))
    node = await stack.enter_async_context(kubo(folder / "kubo"))
    context = cluster(
        requesters=2,
        computes=2,
        env={
            **s3.environment,
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "SHOAL_NODE_IPFS_CONNECT": node.multiaddr_with_peer,
            "DOCKER_HOST": docker,
        },
        requester_flags=["-c", f"Orchestrator.NodeManager.DisconnectTimeout={SILENCE_S}s"],
        compute_flags=_flags(shared),
    )
    return s3, node, await stack.enter_async_context(context)


def _flags(shared: Path) -> Sequence[str]:
    return [
        *("--cpu", "2", "--memory", "2Gb", "--allow-local", f"{shared}/**:rw"),
        *("-c", "Compute.StopGrace=1s", "-c", f"InputSources.ReadTimeout={READ_S}s"),
    ]


@pytest.fixture
def fragile(_fragile: Fragile) -> Iterator[Fragile]:
    """The deployment that may be broken, whole before and after.

    After the test no container, no folder of an execution, no entry of a journal, no half-fetched file and no new pin is
    there, and each node runs the next job.
    """
    pins = _fragile.ipfs.pinned()
    yield _fragile
    _fragile.mend()
    _fragile.end_all()
    wait_until_empty(_fragile.journals)
    wait_until_empty(_fragile.staged)
    assert _fragile.ipfs.pinned() == pins
    for name in _fragile.nodes:
        _fragile.api.completed(job(module("nothing"), Constraints=[constraint("name", name)]))


@pytest.fixture
def store(_fragile: Fragile) -> Iterator[Bucket]:
    """A bucket on the fragile deployment's S3 server; no upload is left half done in it."""
    bucket = Bucket(_fragile.s3, f"test-{os.urandom(6).hex()}")
    bucket.make()
    yield bucket
    if not _fragile.s3.process.running:
        _fragile.start(_fragile.s3)
    uploads = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads") or []
    assert not uploads


def port_of(url: str) -> int:
    """The port in a URL."""
    return int(url.rpartition(":")[2])


def constraint(key: str, value: str) -> Json:
    """Only nodes with this label."""
    return {"Key": key, "Operator": "=", "Values": [value]}


def state(view: Json) -> str:
    """A job's state, as REST tells it."""
    return str(view["Job"]["State"]["StateType"])


def states(view: Json) -> list[str]:
    """The states of a job's executions, in order of their beginning."""
    return [each["State"] for each in sorted(view["Executions"], key=lambda each: each["CreateTime"])]


def on(name: str) -> dict[str, list[Json]]:
    """The part of a job that binds it to one node."""
    return {"Constraints": [constraint("name", name)]}


BEARS_A_RESTART: Final[Json] = {"Disconnect": {"LostAfter": int(END_S)}}
"""The part of a job whose node is killed and comes back: how long that takes is the machine's business."""
