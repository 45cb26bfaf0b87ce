"""A NATS server from ``nats.conf``.

Knows: its command line, and the keys of its cluster (`deploy.keyring`). Must not know: streams, or what is published.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from deploy import claims
from deploy.keyring import ACCOUNTS_FILE, Keyring, enrolled
from deploy.processes import Process, free_ports
from deploy.programs import ROOT, need
from deploy.servers.server import LOOPBACK, Server, answers_at, serving, until_ready

NATS_CONFIG: Final = ROOT / "nats.conf"
ANY_PORT: Final = 0


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
    (folder / NATS_CONFIG.name).write_text(f"{NATS_CONFIG.read_text()}\n{config}\n")

    def make() -> NatsServer:
        free = free_ports(2, host=host)
        ports = (port or free[0], monitor_port or free[1])
        start = partial(_start, program, folder, host, *ports)
        return NatsServer(start, host, keys, port=ports[0], monitor_port=ports[1])

    async with serving(make) as server:
        yield server


async def _start(program: Path, folder: Path, host: str, port: int, monitor_port: int) -> Process:
    """Start a server on the configuration in `folder`, and return when it answers."""
    process = Process.start(
        [
            program,
            *("-c", (folder / NATS_CONFIG.name).resolve()),
            *("-a", host, "-p", str(port), "-m", str(monitor_port)),
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
        return listening.exists() and await answers_at(f"http://{LOOPBACK}:{monitor_port}/healthz")

    return await until_ready(process, answers)
