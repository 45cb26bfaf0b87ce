"""Bacalhau itself on loopback: an orchestrator and a compute node in one process, and a client of its REST API.

Knows: its command line, its settings, and what its API answers. Must not know: what is measured, or beside what.

It runs as it is shipped but for what would make it slower (its log), reach out (analytics, a look for updates) or listen
beyond loopback. One process is in its favour: nothing between the two halves goes through the system.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.client import JOBS, NODES, Connection, opened
from deploy.processes import free_ports
from deploy.programs import need
from deploy.servers import LOOPBACK, Server
from deploy.servers.server import serving, starter

WIDE: Final = (
    "Compute.AllocatedCapacity.CPU=64",
    "Compute.AllocatedCapacity.Memory=64Gb",
    "Compute.AllocatedCapacity.Disk=100%",
    "Orchestrator.Scheduler.WorkerCount=16",
)
"""Settings with which nothing waits for room that the machine might not have, or for one of two workers."""

ASK_AGAIN_S: Final = 0.005
"""Its API has no way to wait for a job. Its answer about one job takes less than this."""

TERMINAL: Final = ("Completed", "Failed", "Stopped")


class Bacalhau(Server):
    """A running one. `port` is its API's."""

    def __init__(self, program: Path, folder: Path, port: int, settings: Sequence[str]) -> None:
        command: list[str | Path] = [program, "serve", "--orchestrator", "--compute"]
        command += ["--data-dir", folder / "data"]
        for each in settings:
            command += ["--config", each]
        env = {"HOME": str(folder), "TMPDIR": str(folder), "BACALHAU_SKIP_LICENSE_VALIDATION": "true"}
        log = folder / "bacalhau.log"
        super().__init__(starter(command, name="bacalhau", log=log, answers=self._answers, env=env))
        self.port = port

    async def _answers(self) -> bool:
        """Whether its own node is connected. Raises `OSError` while nobody listens."""
        async with opened(Asking, self.port, 1) as (client,):
            return await client.connected()


class Asking(Connection):
    """A connection to its API."""

    async def job(self, job: str) -> dict[str, Any]:
        """A job as it is now."""
        return dict((await self._json("GET", f"{JOBS}/{job}"))["Job"])

    async def ended(self, job: str, *, ask_again_s: float = ASK_AGAIN_S) -> dict[str, Any]:
        """Ask for a job until it has ended; the job."""
        while (now := await self.job(job))["State"]["StateType"] not in TERMINAL:  # noqa: ASYNC110 (another process is asked)
            await asyncio.sleep(ask_again_s)
        return now

    async def connected(self) -> bool:
        """Whether a node is connected."""
        try:
            nodes = (await self._json("GET", NODES))["Nodes"] or []
        except RuntimeError:
            # Its routes come one after the other.
            return False
        return any(node["Connection"] == "CONNECTED" for node in nodes)

    async def version(self) -> str:
        """The version that it says it is."""
        return str((await self._json("GET", "/api/v1/agent/version"))["GitVersion"])


@asynccontextmanager
async def bacalhau(folder: Path, settings: Sequence[str] = ()) -> AsyncIterator[Bacalhau]:
    """One process of it, its data below `folder`, with `settings` (``Key=value``) behind ours.

    Raises `Missing` and `Failed`.
    """
    program = need("bacalhau")

    def make() -> Bacalhau:
        api_port, nats_port, results_port = free_ports(3)
        ours = (
            f"API.Host={LOOPBACK}",
            f"API.Port={api_port}",
            f"Orchestrator.Host={LOOPBACK}",
            f"Orchestrator.Port={nats_port}",
            f"Compute.Orchestrators=nats://{LOOPBACK}:{nats_port}",
            f"Publishers.Types.Local.Address={LOOPBACK}",
            f"Publishers.Types.Local.Port={results_port}",
            "NameProvider=uuid",
            "Logging.Level=error",
            "DisableAnalytics=true",
            "UpdateConfig.Interval=0",
        )
        return Bacalhau(program, folder, api_port, (*ours, *settings))

    async with serving(make) as server:
        yield server
