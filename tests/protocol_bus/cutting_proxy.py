"""A TCP proxy that can hold bytes back in either direction and cut its connections: the network between bus and server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct, field


class _Passage(Struct, eq=False):
    """One connection through the proxy, and what is held back from its server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    held: bytearray = field(default_factory=bytearray)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class CuttingProxy:
    """Passes everything until told otherwise. New connections always pass."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._passages: list[_Passage] = []
        self._withhold_requests = False
        self._withhold_answers = False
        self._requested = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        """The address of the server behind the proxy."""
        return f"nats://127.0.0.1:{self.port}"

    def hold_requests(self) -> None:
        """Keep back what clients send from now on, until `cut` or `lose`."""
        self._withhold_requests = True
        self._requested.clear()

    def hold_answers(self) -> None:
        """Throw away what the server sends from now on, until `cut`."""
        self._withhold_answers = True

    async def until_requested(self) -> None:
        """Wait until a client has sent something that is held back."""
        await self._requested.wait()

    async def cut(self) -> None:
        """End every client's connection, and let new ones pass. The server's side stays open: see `deliver_late`."""
        self._withhold_requests = self._withhold_answers = False
        for passage in self._passages:
            await _stop(passage)
            passage.client.transport.abort()

    def lose(self) -> None:
        """Lose what was held back from the server, and let all that comes now pass, on the same connections."""
        self._withhold_requests = False
        for passage in self._passages:
            passage.held.clear()

    async def deliver_late(self, refusals: int) -> None:
        """Give the server what was held back from it, on the connection on which it was sent, and wait until it has refused
        that many writes as stale."""
        for passage in self._passages:
            if passage.held:
                passage.server.write(bytes(passage.held))
                passage.held.clear()
                said = b""
                while said.count(b"wrong last sequence") < refusals:
                    said += await passage.from_server.read(65_536)

    async def deliver_half(self) -> None:
        """Give the server the first half of what was held back from it, as a network that breaks in the middle does."""
        for passage in self._passages:
            passage.server.write(bytes(passage.held[: len(passage.held) // 2]))
            passage.held.clear()
            await passage.server.drain()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        passage = _Passage(writer, to_server, from_server)
        passage.tasks = [
            asyncio.create_task(self._pass_requests(reader, passage)),
            asyncio.create_task(self._pass_answers(from_server, passage)),
        ]
        self._passages.append(passage)

    async def _pass_requests(self, reader: asyncio.StreamReader, passage: _Passage) -> None:
        while data := await _read(reader):
            if self._withhold_requests:
                passage.held += data
                self._requested.set()
            else:
                passage.server.write(data)
        passage.server.transport.abort()

    async def _pass_answers(self, reader: asyncio.StreamReader, passage: _Passage) -> None:
        while data := await _read(reader):
            if not self._withhold_answers:
                passage.client.write(data)
        passage.client.transport.abort()

    async def close(self) -> None:
        """End all connections on both sides."""
        for passage in self._passages:
            await _stop(passage)
            passage.client.transport.abort()
            passage.server.transport.abort()


@asynccontextmanager
async def cutting_proxy(target_port: int) -> AsyncIterator[CuttingProxy]:
    """A proxy on a free port of loopback before the server at `target_port`."""
    proxy = CuttingProxy(target_port)
    listening = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except OSError:
        return b""


async def _stop(passage: _Passage) -> None:
    for task in passage.tasks:
        task.cancel()
    await asyncio.gather(*passage.tasks, return_exceptions=True)
