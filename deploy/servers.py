"""Real servers on loopback, each an async context manager: NATS, S3, Kubo, a container registry, the Docker daemon.

Knows command lines, ports and how each server says that it is ready. Every one keeps its data and its log in the folder
it is given, listens on free ports of loopback, and is ended by its own handle when the context is left. `Missing` says how
to get a program that is not there; `Failed` quotes the log of one that did not start. Tests, devstack, demo and benchmarks
all start their servers here. (`docker_daemon` is in `deploy.docker` and named here as well.)
"""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp

from deploy import claims
from deploy.docker import DockerDaemon, docker_daemon
from deploy.keyring import ACCOUNTS_FILE, Keyring, enrolled
from deploy.processes import Failed, Process, free_ports
from deploy.programs import ROOT, Missing, find, need

__all__ = [
    "DockerDaemon",
    "Failed",
    "Kubo",
    "Missing",
    "NatsServer",
    "Registry",
    "S3Server",
    "docker_daemon",
    "kubo",
    "nats_server",
    "registry",
    "s3_server",
]

LOOPBACK: Final = "127.0.0.1"
NATS_CONFIG: Final = ROOT / "nats.conf"
S3_REGION: Final = "us-east-1"
ANY_PORT: Final = 0
START_TRIES: Final = 3
ANSWER_S: Final = 5.0

ServerT = TypeVar("ServerT", bound="Server")


class Server:
    """What all servers share: a process that can be stopped, killed and started again on the same ports and data."""

    def __init__(self, start: Callable[[], Awaitable[Process]]) -> None:
        self._start = start
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The process as it runs now, or ran last."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    @property
    def started(self) -> bool:
        """Whether it was ever started; it may have ended since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """The file that holds what the server wrote."""
        return self.process.log

    async def start(self) -> None:
        """Start it (again). Raises `Failed`."""
        self._process = await self._start()

    async def stop(self) -> None:
        """End it in order. Harmless when it has ended."""
        await self.process.stop()

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        await self.process.kill()

    async def restart(self) -> None:
        """Stop it and start it again: same ports, same data, same addresses."""
        await self.stop()
        await self.start()


class NatsServer(Server):
    """A NATS server from ``nats.conf``, and the keys that it knows: whoever is to connect is enrolled when first named."""

    def __init__(
        self,
        start: Callable[[], Awaitable[Process]],
        host: str,
        keys: Path,
        *,
        port: int,
        monitor_port: int,
    ) -> None:
        super().__init__(start)
        self.host = host
        self.keys = keys
        self.port = port
        self.monitor_port = monitor_port

    @property
    def url(self) -> str:
        """The address alone, without a user."""
        return f"nats://{self.host}:{self.port}"

    def requester(self, name: str = "requester") -> Path:
        """The credentials of a requester: the account HUB, confined to what a requester does."""
        return self._credentials(claims.REQUESTER, name)

    def node(self, name: str = "node") -> Path:
        """The credentials of a compute node: the account NODES, confined to its own subjects."""
        return self._credentials(claims.NODE, name)

    def admin(self) -> Path:
        """The credentials of a person: everything in the account HUB."""
        return self._credentials(claims.PERSON, "admin")

    def _credentials(self, role: str, name: str) -> Path:
        return enrolled(self.keys, role, name)

    @property
    def monitor_url(self) -> str:
        """The monitoring pages (/varz, /jsz, /connz, /healthz)."""
        return f"http://{LOOPBACK}:{self.monitor_port}"


class S3Server(Server):
    """An S3 server with one account, path-style addresses, signatures version 4 and versioning."""

    def __init__(
        self,
        start: Callable[[], Awaitable[Process]],
        *,
        host: str = LOOPBACK,
        port: int,
        access_key: str,
        secret_key: str,
    ) -> None:
        super().__init__(start)
        self.endpoint = f"http://{host}:{port}"
        self.access_key = access_key
        self.secret_key = secret_key
        self.region = S3_REGION

    @property
    def environment(self) -> dict[str, str]:
        """The variables from which the AWS credential chain takes this server's account."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Kubo(Server):
    """A Kubo node that knows no other node: it waits for a CID that it does not have, as a lonely node on the net would."""

    def __init__(
        self,
        start: Callable[[], Awaitable[Process]],
        *,
        host: str = LOOPBACK,
        api_port: int,
        gateway_port: int,
        folder: Path,
        peer_id: str,
    ) -> None:
        super().__init__(start)
        self.multiaddr = f"/ip4/{host}/tcp/{api_port}"
        self.multiaddr_with_peer = f"{self.multiaddr}/p2p/{peer_id}"
        self.api_url = f"http://{host}:{api_port}"
        self.gateway_url = f"http://{host}:{gateway_port}"
        self.peer_id = peer_id
        self.ipfs_path = folder

    async def swarm_multiaddr(self) -> str:
        """Where other nodes reach this one, until it is restarted."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{self.api_url}/api/v0/id") as response,
        ):
            addresses: list[str] = (await response.json())["Addresses"]
            return addresses[0]


class Registry(Server):
    """A container registry without authentication; `host` is ``localhost:PORT``, which daemons trust without TLS."""

    def __init__(self, start: Callable[[], Awaitable[Process]], *, port: int) -> None:
        super().__init__(start)
        self.host = f"localhost:{port}"


@asynccontextmanager
async def nats_server(
    folder: Path,
    *,
    config: str = "",
    keys: Path | None = None,
    host: str = LOOPBACK,
    port: int = ANY_PORT,
    monitor_port: int = ANY_PORT,
) -> AsyncIterator[NatsServer]:
    """A NATS server from ``nats.conf``, with the lines `config` behind it, its data below `folder`. A port 0 is any free
    one, kept over restarts. `keys` are those of its cluster; None makes its own in `folder`, once.

    Raises `Missing` and `Failed`.
    """
    program = need("nats-server")
    folder.mkdir(parents=True, exist_ok=True)
    keys = keys or folder / "keys.json"
    keyring = Keyring.read(keys) if keys.exists() else Keyring.create(keys)
    (folder / ACCOUNTS_FILE).write_text(keyring.accounts_conf())
    config_file = folder / NATS_CONFIG.name
    config_file.write_text(f"{NATS_CONFIG.read_text()}\n{config}\n")

    def make() -> NatsServer:
        free = free_ports(2, host=host)
        ports = (port or free[0], monitor_port or free[1])

        async def start() -> Process:
            process = Process.start(
                [
                    program,
                    *("-c", config_file.resolve()),
                    *("-a", host, "-p", str(ports[0]), "-m", str(ports[1])),
                    *("--ports_file_dir", folder.resolve()),
                ],
                name="nats-server",
                log=folder / "nats-server.log",
                # The configuration's data folder is relative to where the server runs.
                cwd=folder,
            )
            # It writes this file once it listens: until then another's server might answer at these ports.
            listening = folder / f"{program.name}_{process.pid}.ports"

            async def answers() -> bool:
                return listening.exists() and await _answers(f"http://{LOOPBACK}:{ports[1]}/healthz")

            return await _ready(process, answers)

        return NatsServer(start, host, keys, port=ports[0], monitor_port=ports[1])

    server = await _on_free_ports(make)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def s3_server(
    folder: Path, *, program: str = "", host: str = LOOPBACK, virtual_domain: str = ""
) -> AsyncIterator[S3Server]:
    """An S3 server, its objects below `folder`: versitygw where it was built, else SeaweedFS from its wheel.

    `program` (``versitygw`` or ``weed``) asks for one of them. With a `virtual_domain` (versitygw alone) a bucket's name may
    stand before it in the host's name. Raises `Missing` and `Failed`.
    """
    name = program or ("versitygw" if find("versitygw") else "weed")
    path = need(name)
    folder.mkdir(parents=True, exist_ok=True)
    access_key = "SHOAL" + secrets.token_hex(6).upper()
    secret_key = secrets.token_hex(20)

    def make() -> S3Server:
        command_of = _versitygw if name == "versitygw" else _weed
        ports = free_ports(1 if name == "versitygw" else 13, host=host)
        command, env = command_of(path, folder, host, ports, access_key, secret_key)
        if virtual_domain:
            command[1:1] = ["--virtual-domain", f"{virtual_domain}:{ports[0]}"]
        return S3Server(
            _starter(
                command,
                name=name,
                log=folder / f"{name}.log",
                env=env,
                # Without a signature it refuses; SeaweedFS does so only once all of its parts are there.
                answers=lambda: _answers(f"http://{host}:{ports[0]}/", refusing=True),
            ),
            host=host,
            port=ports[0],
            access_key=access_key,
            secret_key=secret_key,
        )

    server = await _on_free_ports(make)
    try:
        yield server
    finally:
        # SeaweedFS takes half a minute to end in order, and nobody reads this data again.
        await (server.stop() if name == "versitygw" else server.kill())


@asynccontextmanager
async def kubo(
    folder: Path, *, host: str = LOOPBACK, offline: bool = False, swarm_key: str = ""
) -> AsyncIterator[Kubo]:
    """A Kubo node with a repository of its own below `folder`, on `host`, that seeks no other node.

    `offline` makes it answer at once that it lacks a CID, where it would wait for a peer that has it. With `swarm_key` (the
    text of a ``swarm.key``) it speaks only to nodes that have the same. Raises `Missing` and `Failed`.
    """
    program = need("ipfs")
    repository = (folder / "repo").resolve()
    repository.mkdir(parents=True, exist_ok=True)
    env = {"IPFS_PATH": str(repository), "IPFS_TELEMETRY": "off"}
    if swarm_key:
        (repository / "swarm.key").write_text(swarm_key)
        (repository / "swarm.key").chmod(0o600)
        # It then does not start at all rather than without the key.
        env["LIBP2P_FORCE_PNET"] = "1"
    if not (repository / "config").exists():
        made = await asyncio.create_subprocess_exec(
            program,
            *("init", "--empty-repo", "--profile=test"),
            env={**os.environ, **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await made.communicate()
        if made.returncode:
            raise Failed(
                f"ipfs init ended with code {made.returncode}:\n{said.decode(errors='replace').strip()}"
            )

    def make() -> Kubo:
        api_port, gateway_port = free_ports(2, host=host)
        peer_id = _seclude(repository / "config", host, api_port, gateway_port)
        return Kubo(
            _starter(
                [program, "daemon", "--migrate=false", *(["--offline"] if offline else [])],
                name="ipfs",
                log=folder / "ipfs.log",
                env=env,
                answers=lambda: _answers(f"http://{host}:{api_port}/api/v0/id", method="POST"),
            ),
            host=host,
            api_port=api_port,
            gateway_port=gateway_port,
            folder=repository,
            peer_id=peer_id,
        )

    server = await _on_free_ports(make)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def registry(folder: Path) -> AsyncIterator[Registry]:
    """A container registry (Debian's docker-registry), its layers below `folder`. Raises `Missing` and `Failed`."""
    program = need("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)

    def make() -> Registry:
        (port,) = free_ports(1)
        config = folder / "registry.json"
        # The program reads YAML, of which JSON is a part.
        config.write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "storage": {
                        "filesystem": {"rootdirectory": str((folder / "layers").resolve())},
                        "delete": {"enabled": True},
                    },
                    "http": {"addr": f"{LOOPBACK}:{port}"},
                }
            )
        )
        return Registry(
            _starter(
                [program, "serve", config.resolve()],
                name="docker-registry",
                log=folder / "registry.log",
                answers=lambda: _answers(f"http://{LOOPBACK}:{port}/v2/"),
            ),
            port=port,
        )

    server = await _on_free_ports(make)
    try:
        yield server
    finally:
        await server.stop()


async def _on_free_ports(make: Callable[[], ServerT]) -> ServerT:
    """Start what `make` makes; where another process took a port first, it is made again with other ports."""
    for _ in range(START_TRIES - 1):
        server = make()
        with suppress(Failed):
            await server.start()
            return server
    server = make()
    await server.start()
    return server


def _starter(
    command: list[str | Path],
    *,
    name: str,
    log: Path,
    answers: Callable[[], Awaitable[bool]],
    env: dict[str, str] | None = None,
) -> Callable[[], Awaitable[Process]]:
    """A function that starts `command` and returns the process when it answers."""

    async def start() -> Process:
        return await _ready(Process.start(command, name=name, log=log, env=env), answers)

    return start


async def _ready(process: Process, answers: Callable[[], Awaitable[bool]]) -> Process:
    """The process when it answers; one that does not, or for which nobody waits any more, is ended."""
    try:
        await process.ready(answers)
    except BaseException:
        await process.kill()
        raise
    return process


def _versitygw(
    program: Path, folder: Path, host: str, ports: list[int], access_key: str, secret_key: str
) -> tuple[list[str | Path], dict[str, str]]:
    # The folder of old versions must not begin with the text of the folder of objects.
    objects, versions, meta = folder / "objects", folder / "versions", folder / "meta"
    for each in (objects, versions, meta):
        each.mkdir(exist_ok=True)
    command: list[str | Path] = [
        *(program, "--port", f"{host}:{ports[0]}", "--region", S3_REGION, "--keep-alive", "--quiet"),
        *("posix", "--versioning-dir", versions),
    ]
    if not _keeps_attributes(objects):
        command += ["--sidecar", meta]
    return [*command, objects], {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}


def _weed(
    program: Path, folder: Path, host: str, ports: list[int], access_key: str, secret_key: str
) -> tuple[list[str | Path], dict[str, str]]:
    # Each port is given, or two servers of one machine meet on the defaults.
    flags = [
        *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "filer.port", "filer.port.grpc"),
        *("volume.port", "volume.port.grpc", "admin.port", "admin.port.grpc", "webdav.port"),
    ]
    command: list[str | Path] = [
        *(program, "mini", f"-dir={folder / 'objects'}", f"-ip={host}", f"-ip.bind={host}"),
        *(f"-{flag}={port}" for flag, port in zip(flags, ports, strict=False)),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
    ]
    (folder / "objects").mkdir(exist_ok=True)
    return command, {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}


def _keeps_attributes(folder: Path) -> bool:
    """Whether files there can have extended attributes, in which versitygw keeps what S3 knows of an object."""
    if not hasattr(os, "setxattr"):
        return False
    try:
        os.setxattr(folder, "user.shoal", b"1")
        os.removexattr(folder, "user.shoal")
    except OSError:
        return False
    return True


def _seclude(config: Path, host: str, api_port: int, gateway_port: int) -> str:
    """Confine a Kubo configuration to `host` and these ports, and away from all others; returns the node's peer id."""
    settings: dict[str, Any] = json.loads(config.read_text())
    settings["Addresses"] |= {
        "API": f"/ip4/{host}/tcp/{api_port}",
        "Gateway": f"/ip4/{host}/tcp/{gateway_port}",
        "Swarm": [f"/ip4/{LOOPBACK}/tcp/0"],
    }
    settings["Bootstrap"] = []
    settings["Routing"] = {"Type": "none"}
    settings["Discovery"] = {"MDNS": {"Enabled": False}}
    settings["AutoConf"] = {"Enabled": False}
    settings["AutoTLS"] = {"Enabled": False}
    settings["DNS"] = {"Resolvers": {}}
    settings["Ipns"] = {**settings.get("Ipns", {}), "DelegatedPublishers": []}
    settings["Routing"]["DelegatedRouters"] = []
    settings["Swarm"] = {**settings.get("Swarm", {}), "DisableNatPortMap": True}
    config.write_text(json.dumps(settings, indent=2))
    return str(settings["Identity"]["PeerID"])


async def _answers(url: str, *, method: str = "GET", refusing: bool = False) -> bool:
    """Whether the answer is 200, or, if `refusing` will do, any that isn't a server's fault.

    Raises `OSError` while nobody answers.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session:
        try:
            async with session.request(method, url) as response:
                return response.status == 200 or (refusing and response.status < 500)
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
