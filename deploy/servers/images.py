"""A registry of container images (Debian's docker-registry).

Knows: its command line and its configuration. Must not know: which images it holds.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.processes import Process, free_ports
from deploy.programs import need
from deploy.servers.server import LOOPBACK, Server, answers_at, serving, starter


class Registry(Server):
    """A container registry without authentication; `host` is ``localhost:PORT``, which daemons trust without TLS."""

    def __init__(self, start: Callable[[], Awaitable[Process]], *, port: int) -> None:
        super().__init__(start)
        self.host = f"localhost:{port}"


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
            starter(
                [program, "serve", config.resolve()],
                name="docker-registry",
                log=folder / "registry.log",
                answers=lambda: answers_at(f"http://{LOOPBACK}:{port}/v2/"),
            ),
            port=port,
        )

    async with serving(make) as server:
        yield server
