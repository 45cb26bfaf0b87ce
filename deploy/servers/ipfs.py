"""A Kubo node that seeks no other.

Knows: its command line and its configuration. Must not know: what is stored.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from deploy.processes import Failed, Process, free_ports
from deploy.programs import need
from deploy.servers.server import ANSWER_S, LOOPBACK, Server, answers_at, serving, starter


class Kubo(Server):
    """A Kubo node that knows no other node: it waits for a CID that it does not have, as a lonely node on the net would."""

    def __init__(
        self,
        start: Callable[[], Awaitable[Process]],
        *,
        host: str = LOOPBACK,
        api_port: int,
        gateway_port: int,
        peer_id: str,
    ) -> None:
        super().__init__(start)
        self.multiaddr = f"/ip4/{host}/tcp/{api_port}"
        self.multiaddr_with_peer = f"{self.multiaddr}/p2p/{peer_id}"
        self.api_url = f"http://{host}:{api_port}"
        self.gateway_url = f"http://{host}:{gateway_port}"
        self.peer_id = peer_id

    async def swarm_multiaddr(self) -> str:
        """Where other nodes reach this one, until it is restarted."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{self.api_url}/api/v0/id") as response,
        ):
            addresses: list[str] = (await response.json())["Addresses"]
            return addresses[0]


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
        await _make_repository(program, env)

    def make() -> Kubo:
        api_port, gateway_port = free_ports(2, host=host)
        peer_id = _seclude(repository / "config", host, api_port, gateway_port)
        return Kubo(
            starter(
                [program, "daemon", "--migrate=false", *(["--offline"] if offline else [])],
                name="ipfs",
                log=folder / "ipfs.log",
                env=env,
                answers=lambda: answers_at(f"http://{host}:{api_port}/api/v0/id", method="POST"),
            ),
            host=host,
            api_port=api_port,
            gateway_port=gateway_port,
            peer_id=peer_id,
        )

    async with serving(make) as server:
        yield server


async def _make_repository(program: Path, env: dict[str, str]) -> None:
    """Make the repository that `env` names. Raises `Failed`."""
    made = await asyncio.create_subprocess_exec(
        program,
        *("init", "--empty-repo", "--profile=test"),
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await made.communicate()
    if made.returncode:
        raise Failed(f"ipfs init ended with code {made.returncode}:\n{said.decode(errors='replace').strip()}")


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
