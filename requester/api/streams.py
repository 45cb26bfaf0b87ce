"""The routes that go on: output over a websocket, and a job's changes or its output as lines of JSON.

Knows: Bacalhau's log frames (reference of the peer's API, section 3.4) and our lines. Must not know: where output is kept.

A stream of lines says something at least every `SILENCE_S`: an empty object, so that its reader can tell a quiet job from a
dead connection. A fault in its middle is a line: ``{"Failure": …}``. The last line is ``{"Ended": true}``; a stream that
lacks it broke off.
"""

import asyncio
import codecs
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
from aiohttp import WSCloseCode, web

from protocol.errors import Fault
from protocol.questions import STDERR, STDOUT, LogChunk
from requester.api import queries, views
from requester.api.envelope import listed, refusal
from requester.api.jobs import BASE
from requester.api.keys import REQUEST_ID, VERBS
from requester.verbs import JobUpdate, LogLine

routes = web.RouteTableDef()
log = structlog.get_logger("requester.api")

T = TypeVar("T")

SILENCE_S: Final = 10.0


@routes.get(BASE + "/{ref}/logs")
async def logs(request: web.Request) -> web.StreamResponse:
    """Output as text frames. Faults arrive as a frame too: Bacalhau upgrades first and its client expects that."""
    socket = web.WebSocketResponse(heartbeat=30, compress=False)
    if not socket.can_prepare(request).ok:
        answer = refusal(
            426,
            "UpgradeRequired",
            "this path speaks websocket",
            hint="Read lines of JSON from …/output instead.",
            request_id=request[REQUEST_ID],
        )
        answer.headers["Upgrade"] = "websocket"
        return answer
    lines = _lines(request)
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
    return await _stream(request, updates, _update)


@routes.get(BASE + "/{ref}/output")
async def output(request: web.Request) -> web.StreamResponse:
    """Output as lines of JSON with the exact bytes (base64), which the text frames of ``/logs`` cannot carry."""
    return await _stream(request, _lines(request), _piece)


ENDLESS: Final = (logs, watch, output)
"""Handlers that answer for as long as there is something to say."""


def _lines(request: web.Request) -> AsyncGenerator[LogLine, None]:
    query = request.query
    return request.app[VERBS].logs(
        request.match_info["ref"],
        namespace=queries.text(query, "namespace"),
        execution=queries.text(query, "execution_id"),
        every=queries.flag(query, "all"),
        follow=queries.flag(query, "follow"),
        tail=queries.flag(query, "tail"),
    )


class _Lines:
    """An answer of lines of JSON. Its head goes out with the first of them: until then it can be a refusal instead."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response: web.StreamResponse | None = None
        self._turn = asyncio.Lock()
        self._spoke_at = asyncio.get_running_loop().time()

    async def begin(self) -> web.StreamResponse:
        """Send the head, if it was not sent before."""
        async with self._turn:
            if self.response is None:
                self.response = web.StreamResponse(
                    headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
                )
                await self.response.prepare(self._request)
        return self.response

    async def say(self, view: Any) -> None:
        """Write a line."""
        self._spoke_at = asyncio.get_running_loop().time()
        await (await self.begin()).write(_line(view))

    async def break_silence(self) -> None:
        """Write an empty object whenever nothing was said for `SILENCE_S`, until cancelled."""
        with suppress(ConnectionResetError):
            while True:
                rest_s = self._spoke_at + SILENCE_S - asyncio.get_running_loop().time()
                if rest_s <= 0:
                    await self.say({})
                else:
                    await asyncio.sleep(rest_s)

    async def end(self) -> None:
        """Write the last line."""
        await (await self.begin()).write_eof(_line({"Ended": True}))


async def _stream(
    request: web.Request, values: AsyncGenerator[T, None], view: Callable[[T], Awaitable[Any]]
) -> web.StreamResponse:
    """Values as lines of JSON. What is wrong before the first of them is an ordinary refusal."""
    lines = _Lines(request)
    # Beside the values, not around each: a change is a line as soon as it is known.
    talking = asyncio.create_task(lines.break_silence())
    try:
        # Whoever asked may go away at any moment, and then there is nobody to tell.
        with suppress(ConnectionResetError):
            try:
                async with aclosing(values):
                    async for value in values:
                        await lines.begin()
                        await lines.say(await view(value))
            except Fault as fault:
                if lines.response is None:
                    raise
                await lines.say({"Failure": views.failure(fault.failure())})
            await lines.end()
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    return lines.response or web.StreamResponse()


async def _update(update: JobUpdate) -> dict[str, Any]:
    if update.job is not None:
        record = update.job
        found = await listed(record.current(), partial(views.execution, job=record))
        view = {"Job": views.job(record), "Executions": found}
        # What still runs of earlier versions is not shown one by one: it matters only that an update is not through.
        return {**view, "Older": len(record.older())} if record.older() else view
    return {} if update.progress is None else {"Progress": views.progress(update.progress)}


async def _piece(line: LogLine) -> dict[str, Any]:
    view: dict[str, Any] = {"ExecutionID": line.execution}
    if line.chunk is not None:
        chunk = line.chunk
        view |= {"Stream": chunk.stream, "Time": views.timestamp(chunk.at), "Data": chunk.data}
    if line.failure is not None:
        view["Failure"] = views.failure(line.failure)
    if line.executions:
        view["Executions"] = line.executions
    if line.waiting:
        view["Waiting"] = line.waiting
    if line.again is not None:
        again = line.again
        view |= {"Attempt": again.number, "JobVersion": again.version, "NodeID": again.node}
        if again.before is not None:
            view["Before"] = views.failure(again.before)
    return view


def _line(view: Any) -> bytes:
    return msgspec.json.encode(view) + b"\n"


async def _send_lines(socket: web.WebSocketResponse, lines: AsyncGenerator[LogLine, None]) -> None:
    text = _Text()
    try:
        async with aclosing(lines):
            async for line in lines:
                if line.failure is not None:
                    await _send_error(socket, line.failure.message)
                elif line.again is not None:
                    # Frames have no place for our own words: who reads them gets the program's alone.
                    await _send_rest(socket, text)
                    text = _Text()
                elif line.chunk is not None and (piece := text.of(line.chunk)):
                    await _send(socket, line.chunk.stream, piece)
        await _send_rest(socket, text)
    except Fault as fault:
        await _send_error(socket, fault.message)
    except ConnectionError:
        return
    except Exception:
        log.exception("log stream failed")
        await _send_error(socket, "Internal server error")


class _Text:
    """What one execution writes, as text. One decoder a stream: a character may be cut by a chunk's end."""

    def __init__(self) -> None:
        self._decoders = {
            stream: codecs.getincrementaldecoder("utf-8")(errors="replace") for stream in (STDOUT, STDERR)
        }

    def of(self, chunk: LogChunk) -> str:
        return self._decoders[chunk.stream].decode(chunk.data)

    def rest(self) -> list[tuple[int, str]]:
        """What is left of each stream at its end."""
        found = [(stream, decoder.decode(b"", final=True)) for stream, decoder in self._decoders.items()]
        return [(stream, text) for stream, text in found if text]


async def _send_rest(socket: web.WebSocketResponse, text: _Text) -> None:
    for stream, rest in text.rest():
        await _send(socket, stream, rest)


async def _send(socket: web.WebSocketResponse, stream: int, text: str) -> None:
    await socket.send_str(msgspec.json.encode({"value": {"Type": stream, "Line": text}}).decode())


async def _send_error(socket: web.WebSocketResponse, message: str) -> None:
    await socket.send_str(msgspec.json.encode({"value": {"Type": 0, "Line": ""}, "error": message}).decode())


async def _until_closed(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass
