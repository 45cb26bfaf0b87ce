"""The deployment that faults happen to: NATS servers, requesters and nodes, each on a host of its own; S3 and Docker beside.

Knows: command lines, addresses and processes. Must not know: what is broken when, or what has to hold.
"""

import asyncio
import hashlib
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy import images
from deploy.claims import NODE, REQUESTER
from deploy.devstack import Part
from deploy.docker import docker_daemon
from deploy.keyring import ACCOUNTS_FILE, Keyring, enrolled
from deploy.processes import Process
from deploy.programs import need
from deploy.servers import NATS_CONFIG, Kubo, S3Server, Server, kubo, s3_server
from protocol.failpoints import VARIABLE
from protocol.nats_bus import StreamSettings, connect
from tests.acceptance.data import Bucket, Ipfs
from tests.compute.daemons import OwnDaemon, own_daemon
from tests.faults.enclosure import mark_of
from tests.faults.hosts import HUB, Host, apart, make
from tests.faults.plan import DOCKER, KUBO, STORE

CLIENTS: Final = 4222
ROUTES: Final = 6222
MONITOR: Final = 8222
API: Final = 1234
SILENCE_S: Final = 5
READY_S: Final = 120.0
START_S: Final = 60.0
BUCKET: Final = "results"
TREES: Final = 10
SHIMS: Final = "/run/containerd"
"""Where containerd keeps sockets, whichever folders it is given."""
ENTRIES_MAX: Final = 160
"""What the log takes of one job. A snapshot is due after an eighth of it."""
INPUTS: Final = 100
INPUT_BYTES: Final = 1 << 20
KEYS: Final = "keys.json"
TEMPORARY: Final = "tmp"
"""Where all parts make their temporary files."""

Json = dict[str, Any]


def input_bytes(number: int) -> bytes:
    """What the object ``in/<number>`` of the bucket holds."""
    return hashlib.shake_256(f"input {number}".encode()).digest(INPUT_BYTES)


def word(number: int) -> str:
    """The text of an input from IPFS."""
    return f"word {number}\n" * 10_000


class Placed(Part):
    """A process of ours on a host. `armed` is what its failpoints are at its next start."""

    def __init__(
        self, host: Host, command: Sequence[str], folder: Path, env: Mapping[str, str], marker: str = ""
    ) -> None:
        super().__init__(host.name, command, folder, env)
        self.host = host
        self.armed = ""
        self.marker = marker or host.name
        self._plain = dict(env)
        self.command = [*host.prefix, *self.command]

    async def _started(self) -> Process:
        self.env = {**self._plain, VARIABLE: self.armed} if self.armed else self._plain
        self.armed = ""
        return await super()._started()


class Nats(Server):
    """One NATS server on a host."""

    def __init__(self, host: Host, folder: Path, config: Path) -> None:
        super().__init__(self._started)
        self.host = host
        self.name = host.name
        self.url = f"nats://{host.address}:{CLIENTS}"
        self.monitor = f"http://{host.address}:{MONITOR}"
        self._folder = folder
        self._config = config

    async def _started(self) -> Process:
        command = [*self.host.prefix, str(need("nats-server")), "-c", str(self._config)]
        return Process.start(command, name=self.name, log=self._folder / "nats-server.log", cwd=self._folder)


class World:
    """All parts by name. `image` is a busybox that the daemon has; `starts` a folder where programs note their starts;
    `ended` tells of parts that ended without having been killed. `kubo` and `daemon` are None where they are not among
    the parts; `cids` are inputs in IPFS."""

    def __init__(
        self,
        folder: Path,
        nats: list[Nats],
        requesters: list[Placed],
        nodes: list[Placed],
        s3: S3Server,
        kubo: Kubo | None,
        daemon: OwnDaemon | None,
    ) -> None:
        self.folder = folder
        self.nats = nats
        self.requesters = requesters
        self.nodes = nodes
        self.s3 = s3
        self.kubo = kubo
        self.daemon = daemon
        self.cids: list[str] = []
        self.starts = folder / "shared" / "starts"
        self.bucket = Bucket(s3, BUCKET)
        self.docker = ""
        self.image = ""
        self.ended: list[str] = []
        placed: list[Placed | Nats] = [*nats, *requesters, *nodes]
        self.hosts = {each.name: each.host for each in placed}
        self.parts: dict[str, Server] = {each.name: each for each in placed}
        for name, part in ((STORE, s3), (KUBO, kubo), (DOCKER, daemon)):
            if part is not None:
                self.parts[name] = part

    @property
    def urls(self) -> dict[str, str]:
        """Where each requester's API is."""
        return {each.name: f"http://{each.host.address}:{API}" for each in self.requesters}

    @property
    def judge(self) -> Path:
        """The credentials of one who reads the log."""
        return enrolled(self.folder / KEYS, REQUESTER, "judge")

    @property
    def nats_urls(self) -> str:
        """All NATS servers, as a client is told of them."""
        return ",".join(each.url for each in self.nats)

    async def start(self) -> None:
        """Start everything; return when a requester counts all nodes as connected."""
        await asyncio.gather(*(each.start() for each in self.nats))
        await self._until("the NATS servers", self._nats_ready)
        await self._make_log()
        await asyncio.gather(*(each.start() for each in (*self.requesters, *self.nodes)))
        await self.whole()

    async def _make_log(self) -> None:
        """A log that takes few entries of one job: snapshots are due often."""
        bus = await connect(
            self.nats_urls,
            name="judge",
            role="requester",
            credentials=self.judge,
            wait_s=READY_S,
            streams=StreamSettings(replicas=3 if len(self.nats) >= 3 else 1, entries_max=ENTRIES_MAX),
        )
        await bus.close()

    async def whole(self) -> None:
        """Start what is not running, and return when every requester answers and knows all nodes."""
        for host in self.hosts.values():
            host.heal()
        for part in self.parts.values():
            if part.process.running:
                os.kill(part.pid, signal.SIGCONT)
        await self.keep(())
        await self._until("requesters and nodes", self._all_ready)

    async def keep(self, left_alone: Sequence[str]) -> None:
        """Start again what ended by itself, but for the parts named."""
        for name, part in self.parts.items():
            if part.started and name not in left_alone and not part.process.running:
                await self.again(name)

    async def again(self, name: str, *, wanted: int | None = None) -> None:
        """Start a part that has ended; that it did is written down unless it was the signal `wanted` that ended it."""
        part = self.parts[name]
        await part.kill()
        code = part.process.code
        if wanted is None or code != -wanted:
            last = part.process.log_tail().splitlines()[-1:]
            self.ended.append(f"{name}, code {code}: {' '.join(last)}")
        await part.start()

    async def _until(self, what: str, ready: Any) -> None:
        async with asyncio.timeout(READY_S):
            while True:
                with suppress(OSError, TimeoutError, aiohttp.ClientError):
                    if await ready():
                        return
                await self.keep(())
                await asyncio.sleep(0.1)

    async def _nats_ready(self) -> bool:
        for server in self.nats:
            await get(f"{server.monitor}/healthz")
        return True

    async def _all_ready(self) -> bool:
        for url in self.urls.values():
            await get(f"{url}/readyz")
            found = await get(f"{url}/api/v1/orchestrator/nodes?filter-status=CONNECTED")
            if len(found["Nodes"] or []) < len(self.nodes):
                return False
        return True

    def started(self) -> dict[str, list[str]]:
        """The execution ids that programs wrote down when they started, by the job's name."""
        return {path.name: path.read_text().split() for path in self.starts.iterdir()}

    def published(self) -> dict[str, str]:
        """The text that each execution published."""
        keys = self.bucket.keys("out/")
        return {
            key.split("/")[1]: self.bucket.get(key).decode() for key in keys if key.endswith("/outputs/word")
        }

    async def in_ipfs(self, cid: str) -> str:
        """The text that an execution published to IPFS."""
        assert self.kubo is not None
        return (await asyncio.to_thread(Ipfs(self.kubo).cat, f"{cid}/outputs/word")).decode()


@asynccontextmanager
async def world(
    folder: Path, *, servers: int, requesters: int, nodes: int, also: Sequence[str] = ()
) -> AsyncIterator[World]:
    """A deployment on hosts of its own, ready for jobs; everything has ended when the context is left. `also` names further
    parts: `KUBO`, `DOCKER`.
    """
    names = [
        *(f"nats-{each}" for each in range(servers)),
        *(f"requester-{each}" for each in range(requesters)),
        *(f"node-{each}" for each in range(nodes)),
    ]
    hosts = make(names)
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(_daemon(folder)) if DOCKER in also else None
        docker = own.host if own else (await stack.enter_async_context(docker_daemon())).host
        s3 = await stack.enter_async_context(s3_server(folder / "s3", host=HUB))
        node = await stack.enter_async_context(kubo(folder / "kubo", host=HUB)) if KUBO in also else None
        made = _build(folder, hosts, s3, node, own, docker)
        made.docker, made.image = docker, await images.busybox_image(docker)
        if own:
            # So each container leaves something behind that is not removed with it by itself.
            made.image = await images.volume_image(docker)
        if node:
            made.cids = [_added(node, folder, number) for number in range(TREES)]
        made.bucket.make()
        for number in range(INPUTS):
            made.bucket.put(f"in/{number}", input_bytes(number))
        made.starts.mkdir(parents=True)
        made.starts.chmod(0o777)
        stack.push_async_callback(_end, made)
        await made.start()
        yield made


@asynccontextmanager
async def _daemon(folder: Path) -> AsyncIterator[OwnDaemon]:
    """A Docker daemon whose containers outlive it."""
    apart(SHIMS)
    async with own_daemon(live_restore=True, below=folder) as daemon:
        yield daemon


def _added(node: Kubo, folder: Path, number: int) -> str:
    path = folder / f"word-{number}"
    path.write_text(word(number))
    return Ipfs(node).add(path)


def _build(
    folder: Path,
    hosts: dict[str, Host],
    s3: S3Server,
    kubo: Kubo | None,
    daemon: OwnDaemon | None,
    docker: str,
) -> World:
    def of(role: str) -> list[Host]:
        return [host for name, host in hosts.items() if name.startswith(role)]

    servers = [_nats(host, folder / host.name, of("nats")) for host in of("nats")]
    keys = folder / KEYS
    accounts = Keyring.create(keys).accounts_conf()
    for host in of("nats"):
        (folder / host.name / ACCOUNTS_FILE).write_text(accounts)
    nats = [word for each in servers for word in ("--nats", each.url)]
    temporary = folder / TEMPORARY
    temporary.mkdir()
    env = {
        **s3.environment,
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
        "DOCKER_HOST": docker,
        "TMPDIR": str(temporary),
    }
    if kubo:
        env["SHOAL_NODE_IPFS_CONNECT"] = kubo.multiaddr_with_peer
    replicas = str(3 if len(servers) >= 3 else 1)
    requesters = [
        Placed(
            host,
            [
                *("requester", "serve", "--orchestrator", "--name", host.name, *nats),
                *("--credentials", str(enrolled(keys, REQUESTER, host.name))),
                *("--data-dir", str(folder / host.name), "--api-host", host.address, "--api-port", str(API)),
                *("--replicas", replicas, "-c", f"Orchestrator.NodeManager.DisconnectTimeout={SILENCE_S}s"),
            ],
            folder / host.name,
            env,
        )
        for host in of("requester")
    ]
    mark = mark_of(folder)
    nodes = [
        Placed(
            host,
            [
                *("compute", "--name", f"{host.name}-{mark}", *nats, "--data-dir", str(folder / host.name)),
                *("--credentials", str(enrolled(keys, NODE, f"{host.name}-{mark}"))),
                *("--publish-port", "0", "--cpu", "4", "--memory", "2Gb"),
                *(
                    "--allow-local",
                    f"{folder / 'shared'}/**:rw",
                    "--allow-address",
                    HUB,
                    "-c",
                    "Compute.StopGrace=1s",
                ),
            ],
            folder / host.name,
            env,
            f"{host.name}-{mark}",
        )
        for host in of("node")
    ]
    return World(folder, servers, requesters, nodes, s3, kubo, daemon)


def _nats(host: Host, folder: Path, all_hosts: Sequence[Host]) -> Nats:
    """The repository's nats.conf at this host's address, with the cluster block that it shows."""
    folder.mkdir(parents=True)
    text = re.sub(r'(?m)^listen: ".*"', f'listen: "{host.address}:{CLIENTS}"', NATS_CONFIG.read_text())
    text = re.sub(r'(?m)^http: ".*"', f'http: "{host.address}:{MONITOR}"', text)
    if len(all_hosts) > 1:
        routes = ", ".join(f'"nats://{each.address}:{ROUTES}"' for each in all_hosts)
        text += f'\nserver_name: "{host.name}"\n'
        text += f'cluster {{ name: "shoal", listen: "{host.address}:{ROUTES}", routes: [{routes}] }}\n'
    config = folder / "nats.conf"
    config.write_text(text)
    return Nats(host, folder, config)


async def _end(made: World) -> None:
    started = [part for part in made.parts.values() if part.started]
    for part in started:
        if part.process.running:
            os.kill(part.pid, signal.SIGCONT)
    await asyncio.gather(*(part.process.stop(within_s=10) for part in started))


async def get(url: str) -> Any:
    """The JSON of an answer of 200. Raises `OSError` for anything else."""
    limit = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as response:
        if response.status != 200:
            raise OSError(f"{url} answers {response.status}")
        return await response.json(content_type=None)
