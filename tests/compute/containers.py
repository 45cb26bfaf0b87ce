"""What the tests of the Docker engine share: a label on everything they make and its removal, and a door to the daemon."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from aiodocker import Docker

from compute.engines.docker.config import NODE_LABEL

TEST_LABEL: Final = "shoal.test"
SETTINGS_LABEL: Final = {TEST_LABEL: "engine"}
PIECE_BYTES: Final = 65_536
STILL_ANSWERED: Final = re.compile(rb"[A-Z]+ \S*/(version|_ping) ")
"""What a daemon answers that has locked itself up."""


async def remove_containers(docker_host: str, node: str) -> None:
    """Remove all containers that tests made for a node, whatever their state."""
    async with Docker(docker_host) as docker:
        filters = json.dumps({"label": [TEST_LABEL, f"{NODE_LABEL}={node}"]})
        for container in await docker.containers.list(all=True, filters=filters):
            await container.delete(force=True, v=True)


class Door:
    """A socket in front of the daemon's own. Shut, it cuts every connection and lets none through, as a restart does.

    `reuses` counts the requests that came over a connection which had answered one before; the one with the number
    `cut_at` finds it cut, as a connection is that a proxy gave up while it was idle. From `hang` to `go_on` it keeps
    what it is asked, all but a few questions, and notes the first line of each in `kept`.
    """

    def __init__(self, daemon: Path, socket: Path) -> None:
        self.host = f"unix://{socket}"
        self._daemon = daemon
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.reuses = 0
        self.cut_at = -1
        self.kept: list[bytes] = []
        self._words = b""
        self._goes_on = asyncio.Event()
        self._goes_on.set()

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
        self.go_on()

    def hang(self, words: bytes = b"") -> None:
        """Be a daemon that takes requests and answers next to none, of those whose first line has these words."""
        self._words = words
        self._goes_on.clear()

    def go_on(self) -> None:
        """Let through what was kept, also of those who have given up, and all that comes."""
        self._goes_on.set()

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._daemon)
        self._writers |= {writer, inner_writer}
        try:
            async with asyncio.TaskGroup() as both:
                answered = asyncio.Event()
                both.create_task(_pass_on(reader, inner_writer, partial(self._asked, answered, writer)))
                both.create_task(_pass_on(inner_reader, writer, partial(self._answers, answered)))
        finally:
            self._writers -= {writer, inner_writer}
            for each in (writer, inner_writer):
                each.transport.abort()

    async def _answers(self, answered: asyncio.Event, data: bytes) -> None:
        """Something comes from the daemon."""
        answered.set()

    async def _asked(self, answered: asyncio.Event, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Something comes from the node: the first part of a request if the last one was answered."""
        if answered.is_set():
            answered.clear()
            if self.reuses == self.cut_at:
                writer.transport.abort()
                self.reuses += 1
                raise ConnectionResetError
            self.reuses += 1
        line = data.partition(b"\r\n")[0]
        if not self._goes_on.is_set() and self._words in line and not STILL_ANSWERED.match(data):
            self.kept.append(line)
            await self._goes_on.wait()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: Callable[[bytes], Awaitable[None]]
) -> None:
    with suppress(OSError):
        while data := await reader.read(PIECE_BYTES):
            await told(data)
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
