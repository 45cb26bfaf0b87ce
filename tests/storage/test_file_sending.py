"""A file as the answer to a request, over the loops that processes run."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from storage import file_sending
from storage.file_sending import send_file

DATA = Random(2).randbytes(9_000_001)
Run = Callable[[Coroutine[Any, Any, None]], None]


@asynccontextmanager
async def served(path: Path, taken_s: float = 60.0, ended: asyncio.Event | None = None) -> AsyncIterator[int]:
    """A server of one file; its port. When an answer has ended, it is told."""

    async def answer(request: web.Request) -> web.StreamResponse:
        file = os.open(path, os.O_RDONLY)
        try:
            return await send_file(request, file, "application/gzip", taken_s=taken_s)
        finally:
            os.close(file)
            if ended is not None:
                ended.set()

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_all_bytes_come_one_answer_after_the_other(run: Run, path: Path) -> None:
    """Over one connection: the head, the whole, a part, and the whole again, and no descriptor stays open."""

    async def ask() -> None:
        async with served(path) as port, aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{port}/"
            for asked, part in (
                ("", DATA),
                ("bytes=8000000-", DATA[8_000_000:]),
                ("bytes=5-5", DATA[5:6]),
                ("", DATA),
            ):
                async with client.head(url) as answer:
                    assert (answer.content_length, await answer.read()) == (len(DATA), b"")
                async with client.get(url, headers={"Range": asked}) as answer:
                    assert await answer.read() == part

    run(ask())
    # What a loop keeps for the next one is there by now.
    before = len(os.listdir("/proc/self/fd"))
    run(ask())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_who_takes_nothing_is_cut_off(run: Run, path: Path) -> None:
    """A reader that stands still holds a file and a descriptor no longer than the limit; what it has then is not all."""

    async def ask() -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        async with served(path, 0.1, ended) as port:
            with socket.socket() as reader:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.setblocking(False)
                await loop.sock_connect(reader, ("127.0.0.1", port))
                await loop.sock_sendall(reader, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await ended.wait()
                assert await _read_all(reader) < len(DATA)

    run(ask())


async def _read_all(reader: socket.socket) -> int:
    """How many bytes come until the connection ends, however it does."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := await asyncio.get_running_loop().sock_recv(reader, 1 << 20):
            count += len(piece)
    return count


async def test_a_slow_line_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes something within the limit, be it too little for more to be sent, is not cut off."""
    held = iter([500_000, 400_000, 390_000, 389_000])
    monkeypatch.setattr(file_sending, "_held_bytes", lambda connection: next(held))
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.send(bytes(65_536))
        with pytest.raises(TimeoutError, match="nobody took"):
            await file_sending._until_taken(one.fileno(), 0.01)

    assert list(held) == []


async def test_a_file_that_becomes_shorter_is_not_all(path: Path) -> None:
    """What is cut off while it is sent ends in a connection that breaks, not in an answer that looks whole."""
    async with (
        served(path) as port,
        aiohttp.ClientSession(read_bufsize=1024) as client,
        client.get(f"http://127.0.0.1:{port}/") as answer,
    ):
        await answer.content.readexactly(1000)
        os.truncate(path, 1000)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
