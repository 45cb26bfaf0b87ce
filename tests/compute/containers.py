"""What the tests of the Docker engine share: a label on everything they make and its removal, and a door to the daemon."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from aiodocker import Docker

from compute.engines.docker.config import NODE_LABEL

TEST_LABEL: Final = "shoal.test"
SETTINGS_LABEL: Final = {TEST_LABEL: "engine"}
PIECE_BYTES: Final = 65_536


async def remove_containers(docker_host: str, node: str) -> None:
    """Remove all containers that tests made for a node, whatever their state."""
    async with Docker(docker_host) as docker:
        filters = json.dumps({"label": [TEST_LABEL, f"{NODE_LABEL}={node}"]})
        for container in await docker.containers.list(all=True, filters=filters):
            await container.delete(force=True, v=True)


class Door:
    """A socket in front of the daemon's own. Shut, it cuts every connection and lets none through, as a restart does."""

    def __init__(self, daemon: Path, socket: Path) -> None:
        self.host = f"unix://{socket}"
        self._daemon = daemon
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_unix_server(self._through, self._socket)

    async def shut(self) -> None:
        """Cut all connections; new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._socket.unlink(missing_ok=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._daemon)
        self._writers |= {writer, inner_writer}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, inner_writer))
                both.create_task(_pass_on(inner_reader, writer))
        finally:
            self._writers -= {writer, inner_writer}
            for each in (writer, inner_writer):
                each.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(PIECE_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def door_to(docker_host: str, folder: Path) -> AsyncIterator[Door]:
    """An open door to the daemon, its socket in `folder`."""
    door = Door(Path(docker_host.removeprefix("unix://")), folder / "door.sock")
    await door.open()
    try:
        yield door
    finally:
        await door.shut()
