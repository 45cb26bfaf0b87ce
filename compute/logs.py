"""What programs wrote, kept in the order written, to be read from any position and followed.

Knows: chunks, positions and files. Must not know: engines, messages, or why anyone reads.

One file an execution, made of frames: stream (1 byte), unix microseconds (8), length (4), the bytes. A **cursor** is a
position in that file, so reading on costs nothing and order is kept across both streams. The newest part waits in memory
and is written in pieces of `FLUSH_BYTES` and at the end: a program that writes nothing costs no file.

The file holds at most `LogSettings.file_bytes`. What a program writes beyond is thrown away, and its last line says so.
After the end a file is kept for `keep_s`, as long as all of them are within `keep_bytes` and `keep_count`; the oldest go
first. Files of an earlier process are served as well.
"""

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from compute.engines.contract import Chunk
from protocol.errors import NotFound
from protocol.ids import ExecutionId, is_token
from protocol.questions import STDERR, LogChunk, LogsAnswer

HEAD_BYTES: Final = 13
PIECE_BYTES: Final = 65_536
"""The most data in one frame: so an answer of bounded size always holds at least one."""
FLUSH_BYTES: Final = 65_536
ANSWER_MAX_BYTES: Final = 524_288
PRESENT_END: Final = -1


class LogSettings(Struct, frozen=True):
    """How much is kept: of one execution, of all that have ended, and for how long (seconds)."""

    file_bytes: int = 1 << 30
    keep_s: float = 3600.0
    keep_bytes: int = 4 << 30
    keep_count: int = 20_000


class OutputLog:
    """The output of one execution; written by its runner, read by anyone."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._written = 0
        self._tail = bytearray()
        self._news: asyncio.Event | None = None
        self._on_wanted: Callable[[], None] | None = None
        self.ended = False
        self.ended_at = 0.0
        self.truncated = False

    @property
    def size_bytes(self) -> int:
        """Bytes of all frames: the cursor of the present end."""
        return self._written + len(self._tail)

    def write(self, chunk: Chunk) -> None:
        """Append. Raises ``OSError`` when the disk does not take it."""
        if self.truncated:
            return
        for start in range(0, len(chunk.data), PIECE_BYTES):
            piece = chunk.data[start : start + PIECE_BYTES]
            if self.size_bytes + len(piece) + HEAD_BYTES > self._limit_bytes:
                self.truncated = True
                piece = f"\n[output beyond {self._limit_bytes} bytes is not kept]\n".encode()
                self._frame(STDERR, chunk.at, piece)
                break
            self._frame(chunk.stream, chunk.at, piece)
        if len(self._tail) >= FLUSH_BYTES:
            self.flush()
        self._wake()

    def flush(self) -> None:
        """Write what waits in memory to the file."""
        if self._tail:
            with open(self._path, "ab") as file:
                file.write(self._tail)
            self._written += len(self._tail)
            self._tail.clear()

    def end(self, now: float) -> None:
        """Nothing more comes. What the disk does not take any more is lost without harm to anyone."""
        with contextlib.suppress(OSError):
            self.flush()
        self.ended, self.ended_at = True, now
        self._wake()

    def adopt(self) -> None:
        """Take up the file that an ended execution of an earlier process left."""
        with contextlib.suppress(OSError):
            seen = os.stat(self._path)
            self._written, self.ended_at = seen.st_size, seen.st_mtime
        self.ended = True

    def read(self, cursor: int, limit_bytes: int) -> tuple[int, list[LogChunk]]:
        """Whole frames from `cursor` on, about `limit_bytes` of text, at least one if there is any; and where to go on."""
        if cursor == PRESENT_END:
            return self.size_bytes, []
        limit_bytes = min(max(limit_bytes, 1), ANSWER_MAX_BYTES)
        position = min(max(cursor, 0), self.size_bytes)
        chunks = []
        text_bytes = 0
        for frame in self._frames(position, limit_bytes + PIECE_BYTES + HEAD_BYTES):
            if text_bytes and text_bytes + len(frame.data) > limit_bytes:
                break
            chunks.append(frame)
            text_bytes += len(frame.data)
            position += HEAD_BYTES + len(frame.data)
        return position, chunks

    def frames(self) -> Iterator[LogChunk]:
        """All frames from the beginning; reads the file in pieces."""
        position = 0
        while position < self.size_bytes:
            came = position
            for frame in self._frames(position, 8 * PIECE_BYTES):
                position += HEAD_BYTES + len(frame.data)
                yield frame
            if position == came:
                return

    async def news(self) -> None:
        """Return when something was written, or it has ended, since the last look."""
        if self._news is None:
            self._news = asyncio.Event()
        self.call_when_wanted(self._on_wanted)
        await self._news.wait()

    def call_when_wanted(self, call: Callable[[], None] | None) -> None:
        """Call once, as soon as somebody waits for what is written: now, if somebody does. None takes it back."""
        if call is not None and self._news is not None:
            self._on_wanted = None
            call()
        else:
            self._on_wanted = call

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def _frame(self, stream: int, at: float, data: bytes) -> None:
        self._tail += bytes((stream,)) + int(at * 1e6).to_bytes(8) + len(data).to_bytes(4) + data

    def _frames(self, position: int, size_bytes: int) -> Iterator[LogChunk]:
        """The whole frames within `size_bytes` from `position` on."""
        data = self._bytes(position, size_bytes)
        start = 0
        while start + HEAD_BYTES <= len(data):
            end = start + HEAD_BYTES + int.from_bytes(data[start + 9 : start + HEAD_BYTES])
            if end > len(data):
                return
            at = int.from_bytes(data[start + 1 : start + 9]) / 1e6
            yield LogChunk(data[start], at, data[start + HEAD_BYTES : end])
            start = end

    def _bytes(self, position: int, size_bytes: int) -> bytes:
        if position >= self._written:
            start = position - self._written
            return bytes(self._tail[start : start + size_bytes])
        try:
            with open(self._path, "rb") as file:
                file.seek(position)
                data = file.read(min(size_bytes, self._written - position))
        except FileNotFoundError:
            return b""
        return data + bytes(self._tail[: size_bytes - len(data)])


class Logs:
    """The outputs of all executions of a node, the ended ones for a while."""

    def __init__(self, folder: Path, settings: LogSettings) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._settings = settings
        self._open: dict[ExecutionId, OutputLog] = {}
        self._ended: OrderedDict[ExecutionId, OutputLog] = OrderedDict()
        self._ended_bytes = 0
        for path in sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime):
            log = OutputLog(str(path), settings.file_bytes)
            log.adopt()
            self._keep(ExecutionId(path.stem), log)

    def open(self, execution: ExecutionId) -> OutputLog:
        """The log of an execution that begins, or begins again: empty."""
        log = self._open.get(execution)
        if log is None or log.size_bytes:
            self._remove(execution)
            log = self._open[execution] = OutputLog(self._path(execution), self._settings.file_bytes)
        return log

    def expect(self, execution: ExecutionId) -> None:
        """This execution will write: whoever asks before it does may wait."""
        if execution not in self._open and execution not in self._ended:
            self._open[execution] = OutputLog(self._path(execution), self._settings.file_bytes)

    def of(self, execution: ExecutionId) -> OutputLog:
        """The log of an execution that is here, with what it has written so far."""
        self.expect(execution)
        return self.find(execution)

    def end(self, execution: ExecutionId, now: float) -> None:
        """It writes no more. Harmless when repeated."""
        log = self._open.pop(execution, None)
        if log is not None:
            log.end(now)
            self._keep(execution, log)
            self.prune(now)

    def find(self, execution: ExecutionId) -> OutputLog:
        """The log of an execution. Raises `NotFound`."""
        log = self._open.get(execution) or self._ended.get(execution)
        if log is None:
            raise NotFound(
                f"this node has no output of execution {execution}",
                hint="It never ran here, or its output was kept long enough; what was published has it too.",
                kind="Logs",
            )
        return log

    def prune(self, now: float) -> None:
        """Let the oldest go, until what is kept is within its bounds."""
        settings = self._settings
        while self._ended:
            execution, log = next(iter(self._ended.items()))
            young = now - log.ended_at < settings.keep_s
            if young and self._ended_bytes <= settings.keep_bytes and len(self._ended) <= settings.keep_count:
                return
            self._remove(execution)

    def answer(self, execution: ExecutionId, cursor: int, limit_bytes: int) -> LogsAnswer:
        """What there is from `cursor` on. Raises `NotFound`."""
        log = self.find(execution)
        at, chunks = log.read(cursor, limit_bytes)
        # Nothing to read in an ended log is its end, also for a cursor that no answer ever gave.
        return LogsAnswer(at, chunks, ended=log.ended and (not chunks or at >= log.size_bytes))

    def _path(self, execution: ExecutionId) -> str:
        # Text: an execution has its path from its beginning, and most never open it.
        if not is_token(execution):
            raise ValueError(f"not an execution id: {execution!r}")
        return f"{self._folder}/{execution}.log"

    def _keep(self, execution: ExecutionId, log: OutputLog) -> None:
        self._ended[execution] = log
        self._ended_bytes += log.size_bytes

    def _remove(self, execution: ExecutionId) -> None:
        log = self._ended.pop(execution, None)
        if log is not None:
            self._ended_bytes -= log.size_bytes
        if log is None or log.size_bytes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(execution))
