"""The two routes that go on: output over a websocket, and a job's changes as lines of JSON.

Knows: Bacalhau's log frames (reference of the peer's API, section 3.4) and our watch. Must not know: where output is kept.
"""

import asyncio
import codecs
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from aiohttp import WSCloseCode, web

from protocol.errors import Fault
from requester.api import queries, views
from requester.api.jobs import BASE
from requester.api.keys import VERBS
from requester.verbs import JobUpdate, LogLine

routes = web.RouteTableDef()

T = TypeVar("T")

SILENCE_S = 10.0
"""A watch says something at least this often, so that its reader can tell a quiet job from a dead connection."""


@routes.get(BASE + "/{ref}/logs")
async def logs(request: web.Request) -> web.StreamResponse:
    """Output as text frames. Faults arrive as a frame too: Bacalhau upgrades first and its client expects that."""
    query = request.query
    lines = request.app[VERBS].logs(
        request.match_info["ref"],
        namespace=queries.text(query, "namespace"),
        execution=queries.text(query, "execution_id"),
        follow=queries.flag(query, "follow"),
        tail=queries.flag(query, "tail"),
    )
    socket = web.WebSocketResponse(heartbeat=30, compress=False)
    if not socket.can_prepare(request).ok:
        return web.Response(status=426, text="this path speaks websocket\n", headers={"Upgrade": "websocket"})
    await socket.prepare(request)
    sending = asyncio.create_task(_send_lines(socket, lines))
    # The client sends nothing; reading is how its going away is noticed while the program is silent.
    reading = asyncio.create_task(_until_closed(socket))
    try:
        await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        reading.cancel()
        await asyncio.gather(sending, reading, return_exceptions=True)
        await socket.close(code=WSCloseCode.OK)
    return socket


@routes.get(BASE + "/{ref}/watch")
async def watch(request: web.Request) -> web.StreamResponse:
    """The job with its executions now and after each change, and progress in between; ends when the job is closed."""
    updates = request.app[VERBS].watch(
        request.match_info["ref"], namespace=queries.text(request.query, "namespace")
    )
    async with aclosing(_with_silence(updates)) as lines:
        first = await anext(lines)
        response = web.StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        await response.write(_line(first))
        async for update in lines:
            await response.write(_line(update))
    await response.write_eof()
    return response


@routes.get(BASE + "/{ref}/output")
async def output(request: web.Request) -> web.StreamResponse:
    """Output as lines of JSON with the exact bytes (base64), which the text frames of ``/logs`` cannot carry."""
    query = request.query
    lines = request.app[VERBS].logs(
        request.match_info["ref"],
        namespace=queries.text(query, "namespace"),
        execution=queries.text(query, "execution_id"),
        follow=queries.flag(query, "follow"),
        tail=queries.flag(query, "tail"),
    )
    async with aclosing(_with_silence(lines)) as pieces:
        first = await anext(pieces, None)
        response = web.StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        await response.write(_output_line(first))
        async for piece in pieces:
            await response.write(_output_line(piece))
    await response.write_eof()
    return response


def _output_line(line: LogLine | None) -> bytes:
    view: dict[str, Any] = {}
    if line is not None:
        view["ExecutionID"] = line.execution
        if line.chunk is not None:
            view |= {
                "Stream": line.chunk.stream,
                "Time": views.timestamp(line.chunk.at),
                "Data": line.chunk.data,
            }
        if line.failure is not None:
            view["Failure"] = views.failure(line.failure)
    return msgspec.json.encode(view) + b"\n"


def _line(update: JobUpdate | None) -> bytes:
    view: dict[str, Any] = {}
    if update is not None and update.job is not None:
        record = update.job
        view = {
            "Job": views.job(record),
            "Executions": views.executions(record.current(), record.spec.namespace),
        }
    elif update is not None and update.progress is not None:
        view = {"Progress": views.progress(update.progress)}
    return msgspec.json.encode(view) + b"\n"


async def _with_silence(updates: AsyncIterator[T]) -> AsyncGenerator[T | None, None]:
    """The updates, and None whenever nothing came for `SILENCE_S`."""
    waiting: asyncio.Task[T | None] | None = None
    try:
        while True:
            waiting = waiting or asyncio.create_task(_next(updates))
            done, _ = await asyncio.wait({waiting}, timeout=SILENCE_S)
            if not done:
                yield None
                continue
            update = waiting.result()
            waiting = None
            if update is None:
                return
            yield update
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _next(updates: AsyncIterator[T]) -> T | None:
    return await anext(updates, None)


async def _send_lines(socket: web.WebSocketResponse, lines: AsyncIterator[LogLine]) -> None:
    # One decoder a stream: a character may be cut by a chunk's end.
    decoders = {stream: codecs.getincrementaldecoder("utf-8")(errors="replace") for stream in (1, 2)}
    try:
        async for line in lines:
            if line.failure is not None:
                await _send_error(socket, line.failure.message)
            elif line.chunk is not None and (text := decoders[line.chunk.stream].decode(line.chunk.data)):
                await _send(socket, line.chunk.stream, text)
        for stream, decoder in decoders.items():
            if rest := decoder.decode(b"", final=True):
                await _send(socket, stream, rest)
    except Fault as fault:
        await _send_error(socket, fault.message)
    except ConnectionError:
        pass


async def _send(socket: web.WebSocketResponse, stream: int, text: str) -> None:
    await socket.send_str(msgspec.json.encode({"value": {"Type": stream, "Line": text}}).decode())


async def _send_error(socket: web.WebSocketResponse, message: str) -> None:
    await socket.send_str(msgspec.json.encode({"value": {"Type": 0, "Line": ""}, "error": message}).decode())


async def _until_closed(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass
