"""A whole cluster on this machine: a NATS server, requesters and compute nodes, each a process of its own.

Knows: the command lines of both programs and how each says that it is ready. Must not know: either of them; it imports
neither. What it starts is what a deployment starts, so a test can kill any part of it as a machine would. Used by `shoal
devstack`, the demo, the tests and the benchmarks.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy.processes import READY_S, Failed, Process, free_ports
from deploy.programs import ROOT
from deploy.servers import LOOPBACK, NatsServer, Server, nats_server

REGISTER_S: Final = 60.0
"""How long all nodes may take to register, on a slow machine with a cold disk."""

END_S: Final = 30.0
"""How long nodes may take to end what runs on them: each program has its grace."""

STOP_JOBS_S: Final = 10.0
STOPS_AT_ONCE: Final = 16


class Part(Server):
    """One process of ours: a requester or a compute node, with its own data folder."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(self._started)
        self.name = name
        self.folder = folder
        self.command = [sys.executable, "-m", *command]
        self.env = dict(env)

    async def _started(self) -> Process:
        # The parts find their packages from wherever they run.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return Process.start(
            self.command,
            name=self.name,
            log=self.folder.with_suffix(".log"),
            env={**self.env, "PYTHONPATH": path},
        )


class Requester(Part):
    """A requester and where its API is."""

    def __init__(
        self,
        name: str,
        folder: Path,
        nats: NatsServer,
        port: int,
        env: Mapping[str, str],
        flags: Sequence[str],
    ) -> None:
        command = [
            *(
                "requester",
                "serve",
                "--orchestrator",
                "--name",
                name,
                "--nats",
                nats.url,
                "--credentials",
                str(nats.requester(name)),
                "--data-dir",
                str(folder),
            ),
            *("--api-host", LOOPBACK, "--api-port", str(port), *flags),
        ]
        super().__init__(name, command, folder, env)
        self.port = port
        self.url = f"http://{LOOPBACK}:{port}"

    async def ready(self, *, within_s: float = READY_S) -> None:
        """Wait until it takes jobs. Raises `Failed` with its log."""
        await self.process.ready(self._answers, within_s=within_s)

    async def _answers(self) -> bool:
        return await _get(f"{self.url}/readyz") is not None


class Cluster:
    """The parts of a running cluster. `api` is the first requester."""

    def __init__(
        self, folder: Path, nats: NatsServer, requesters: list[Requester], computes: list[Part]
    ) -> None:
        self.folder = folder
        self.nats = nats
        self.requesters = requesters
        self.computes = computes

    @property
    def api(self) -> Requester:
        """The requester whose address is told."""
        return self.requesters[0]

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients (Bacalhau's too) find this cluster."""
        return {"BACALHAU_API_HOST": LOOPBACK, "BACALHAU_API_PORT": str(self.api.port)}

    async def registered(self, count: int) -> None:
        """Wait until so many compute nodes are connected. Raises `Failed` with the log of one that ended."""
        try:
            async with asyncio.timeout(REGISTER_S):
                for part in self.computes:
                    await part.process.ready(lambda: self._connected(count), within_s=REGISTER_S)
        except TimeoutError as error:
            raise Failed(f"only some of {count} compute nodes registered within {REGISTER_S:g} s") from error

    async def stop_jobs(self) -> None:
        """End the open jobs, several at once, so that no container outlives the cluster; no longer than `STOP_JOBS_S`."""
        # A requester that is gone, or has too much to do, cannot end jobs; the nodes are told to end theirs all the same.
        with suppress(aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            connector = aiohttp.TCPConnector(limit=STOPS_AT_ONCE)
            async with asyncio.timeout(STOP_JOBS_S), aiohttp.ClientSession(connector=connector) as session:
                for state in ("pending", "queued", "running"):
                    await self._stop_jobs(session, state)

    async def _stop_jobs(self, session: aiohttp.ClientSession, state: str) -> None:
        """End the jobs of one state. Raises what calls raise."""
        base = f"{self.api.url}/api/v1/orchestrator/jobs"

        async def stop(job: str) -> None:
            async with session.delete(f"{base}/{job}", json={"reason": "the cluster ends"}) as answer:
                await answer.read()

        async with session.get(base, params={"namespace": "*", "state": state}) as answer:
            jobs = [job["ID"] for job in (await answer.json())["Items"] or []]
        await asyncio.gather(*map(stop, jobs), return_exceptions=True)

    async def engines(self) -> dict[str, str]:
        """What runs on some node: each engine, with why not where no node has it (empty: it does).

        Nothing if nobody can say just now.
        """
        answer = await _get(f"{self.api.url}/api/v1/orchestrator/nodes")
        found: dict[str, str] = {}
        for node in answer["Nodes"] if answer is not None else ():
            facts = node["Info"]["ComputeNodeInfo"]
            for each in facts["Unavailable"]:
                found.setdefault(each["Type"], each["Reason"] or "it is not available")
            found |= dict.fromkeys(facts["ExecutionEngines"], "")
        return found

    async def _connected(self, count: int) -> bool:
        answer = await _get(f"{self.api.url}/api/v1/orchestrator/nodes?filter-status=CONNECTED")
        return answer is not None and len(answer["Nodes"]) >= count


@asynccontextmanager
async def cluster(
    folder: Path | None = None,
    *,
    requesters: int = 1,
    computes: int = 3,
    hybrids: int = 0,
    api_port: int = 0,
    env: Mapping[str, str] | None = None,
    requester_flags: Sequence[str] = (),
    compute_flags: Sequence[str] = (),
) -> AsyncIterator[Cluster]:
    """Start a cluster and give it when all of its nodes are registered; leave nothing behind afterwards.

    `folder` None is a temporary one, removed at the end. A hybrid is a requester and a compute node. `env` is added to the
    environment of every process of ours. Raises `Missing` and `Failed`.
    """
    if api_port:
        _must_be_free(api_port)
    kept = folder is not None
    root = folder or Path(tempfile.mkdtemp(prefix="shoal-"))
    root.mkdir(parents=True, exist_ok=True)
    environment = dict(env or {})
    # Containers carry their node's name, and a node takes those that it does not know for its own leftovers: two clusters
    # of one machine must not share names, and one that is started again on its folder has to keep them.
    mark = blake2b(bytes(root.resolve()), digest_size=3).hexdigest()

    def requester(number: int, nats: NatsServer, port: int) -> Requester:
        name = f"requester-{number}"
        return Requester(name, root / name, nats, port, environment, requester_flags)

    def compute(number: int, nats: NatsServer) -> Part:
        name = f"compute-{number}"
        return _compute(f"{name}-{mark}", root / name, nats, environment, compute_flags)

    try:
        async with AsyncExitStack() as stack:
            nats = await stack.enter_async_context(nats_server(root / "nats"))
            ports = free_ports(max(requesters + hybrids, 1))
            ports[0] = api_port or ports[0]
            ours = Cluster(
                root,
                nats,
                [requester(number, nats, port) for number, port in enumerate(ports)],
                [compute(number, nats) for number in range(computes + hybrids)],
            )
            stack.push_async_callback(_end, ours)
            await _start(ours)
            yield ours
    finally:
        if not kept:
            shutil.rmtree(root, ignore_errors=True)


def _must_be_free(port: int) -> None:
    """Else whoever has the port would answer for the requester that could not have it. Raises `Failed`."""
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        raise Failed(f"port {port} on {LOOPBACK} cannot be had: {os.strerror(error.errno or 0)}") from error


def _compute(name: str, folder: Path, nats: NatsServer, env: Mapping[str, str], flags: Sequence[str]) -> Part:
    command = [
        "compute",
        "--name",
        name,
        "--nats",
        nats.url,
        "--credentials",
        str(nats.node(name)),
        "--data-dir",
        str(folder),
        "--publish-port",
        "0",
        "-c",
        "Compute.EndWorkAtExit=true",
        # Whatever a person tries here, its servers are on this machine.
        "--allow-address",
        "loopback",
        *flags,
    ]
    return Part(name, command, folder, env)


async def _start(ours: Cluster) -> None:
    for part in (*ours.requesters, *ours.computes):
        await part.start()
    for requester in ours.requesters:
        await requester.ready()
    await ours.registered(len(ours.computes))


async def _end(ours: Cluster) -> None:
    started = [part for part in (*ours.computes, *ours.requesters) if part.started]
    if ours.requesters and ours.api.started:
        await ours.stop_jobs()
    await asyncio.gather(*(part.process.stop(within_s=END_S) for part in started))


async def _get(url: str) -> Any | None:
    """The JSON of an answer of 200, else None. Raises `OSError` while nobody answers."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        try:
            async with session.get(url) as response:
                return await response.json() if response.status == 200 else None
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
