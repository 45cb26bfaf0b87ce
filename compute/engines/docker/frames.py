"""The daemon's log stream: taken apart, and taken up again where it broke off.

Knows: the frame format (one byte stream, three empty, four bytes length; then time, a blank and the bytes as written).
Must not know: where frames come from. Source: Docker's API, "Attach to a container", and its logs with time stamps.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from msgspec import Struct

from compute.engines.contract import Chunk
from protocol.errors import Broken, Unavailable

HEAD_BYTES: Final = 8
TIME_BYTES: Final = 30
"""``2026-01-02T03:04:05.123456789Z``: always nine digits, always UTC."""
STREAMS: Final = (1, 2, 3)
DAEMON_STREAM: Final = 3
PIECE_BYTES: Final = 16 * 1024
FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Docker cuts lines at 16 KiB; more than this is no frame."""
MARGIN_NS: Final = 1_000_000_000
"""Two streams are written side by side, so a frame may stand behind a slightly younger one: never a second."""
NS: Final = 1_000_000_000


class Frame(Struct, frozen=True):
    """What the program wrote at once, at most a line or 16 KiB of one. `at_ns` is unix time in nanoseconds."""

    stream: int
    at_ns: int
    data: bytes


class Frames:
    """Takes bytes as they come and gives the frames that are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The next frames. Raises `Broken` for what is not a log, `Unavailable` with what the daemon says in between."""
        data = self._rest + data if self._rest else data
        found, start = [], 0
        while len(data) - start >= HEAD_BYTES:
            body = start + HEAD_BYTES
            length = int.from_bytes(data[start + 4 : body])
            if data[start] not in STREAMS or length > FRAME_BYTES_MAX:
                raise Broken("Docker's answer is not a container's log")
            end = body + length
            if end > len(data):
                break
            found.append(_frame(data[start], data[body:end]))
            start = end
        self._rest = data[start:]
        return found

    @property
    def complete(self) -> bool:
        """Whether nothing is left of a frame that has not come whole."""
        return not self._rest


def _frame(stream: int, body: bytes) -> Frame:
    if stream == DAEMON_STREAM:
        raise Unavailable(f"Docker cannot read the container's log: {body.decode(errors='replace').strip()}")
    if len(body) <= TIME_BYTES or body[TIME_BYTES : TIME_BYTES + 1] != b" ":
        raise Broken("Docker's answer is not a container's log")
    try:
        at_ns = _second(body[:19]) * NS + int(body[20 : TIME_BYTES - 1])
    except ValueError as error:
        raise Broken(f"Docker's log has a line without a time: {body[:TIME_BYTES]!r}") from error
    return Frame(stream, at_ns, body[TIME_BYTES + 1 :])


@lru_cache(maxsize=16)
def _second(text: bytes) -> int:
    return int(datetime.fromisoformat(text.decode("ascii")).replace(tzinfo=UTC).timestamp())


ENTRY_BYTES: Final = 27
"""What the ``local`` driver's file has of a line besides its text."""
FASTEST_BYTES_PER_S: Final = 200 * 1024 * 1024
"""More than a daemon writes in a second: seen were some 20 MiB."""


class LostBreaks:
    """Puts back line breaks that Docker 20.10's ``local`` driver drops.

    Docker cuts a long line after each 16 KiB, and that driver then forgets the break at its end. So the rest of such a line,
    if it comes without a break and something follows, has lost it. (If nothing follows, none is added: whether there was
    one cannot be known.)
    """

    def __init__(self) -> None:
        self._cut: set[int] = set()
        self._lost: set[int] = set()

    def mend(self, frame: Frame) -> Frame:
        """The frame as it was written. Frames must come in order."""
        stream, data = frame.stream, frame.data
        if stream in self._lost:
            self._lost.discard(stream)
            frame = Frame(stream, frame.at_ns, b"\n" + data)
        if len(data) == PIECE_BYTES and not data.endswith(b"\n"):
            self._cut.add(stream)
        else:
            if stream in self._cut and not data.endswith(b"\n"):
                self._lost.add(stream)
            self._cut.discard(stream)
        return frame


class Place:
    """How far a log was read, so that after a break everything comes once.

    Times within a stream do not go back, so a frame was told if it is older than the newest of its stream, or as old and
    among those that were told.
    """

    def __init__(self) -> None:
        self._newest: dict[int, tuple[int, int]] = {}
        self._told: dict[int, tuple[int, int]] = {}
        self._breaks = LostBreaks()

    def resume(self) -> str:
        """From now on the log is read anew from the time that this answers (the API's ``since``; empty: all of it)."""
        self._told = dict(self._newest)
        if not self._told:
            return ""
        since_ns = max(at_ns for at_ns, _ in self._told.values()) - MARGIN_NS
        return f"{since_ns // NS}.{since_ns % NS:09d}"

    def fresh(self, frames: list[Frame]) -> list[Chunk]:
        """What of these frames was not told before. Frames of one stream in a row become one chunk."""
        chunks: list[Chunk] = []
        row: list[Frame] = []
        for frame in frames:
            if self._was_told(frame):
                continue
            newest, count = self._newest.get(frame.stream, (0, 0))
            self._newest[frame.stream] = (frame.at_ns, count + 1 if frame.at_ns == newest else 1)
            if row and row[0].stream != frame.stream:
                chunks.append(_chunk(row))
                row = []
            row.append(self._breaks.mend(frame))
        return [*chunks, _chunk(row)] if row else chunks

    def _was_told(self, frame: Frame) -> bool:
        at_ns, count = self._told.get(frame.stream, (0, 0))
        if frame.at_ns == at_ns and count:
            self._told[frame.stream] = (at_ns, count - 1)
            return True
        return frame.at_ns < at_ns


class Pace:
    """Whether a program may have outrun those who read its log.

    The daemon begins a new file after each `log_bytes` and keeps two. Its own reader (Docker 20.10) goes on in the newest
    when it has come to the end of an old one: who is behind by more than a file misses what is between, and is not told. So
    a program counts as faster if it filled a file, and its log was once read so long after it was written that the daemon
    could have filled another one meanwhile.
    """

    def __init__(self, log_bytes: int) -> None:
        self._log_bytes = log_bytes
        self._bytes = 0
        self._behind_s = 0.0

    def see(self, chunk: Chunk, now: float) -> None:
        """Take note of a chunk that was read at `now` (unix seconds)."""
        self._bytes += len(chunk.data) + ENTRY_BYTES * max(1, chunk.data.count(b"\n"))
        self._behind_s = max(self._behind_s, now - chunk.at)

    @property
    def outrun(self) -> bool:
        """Whether some of what was written may be missing."""
        return self._bytes >= self._log_bytes and self._behind_s > self._log_bytes / FASTEST_BYTES_PER_S


def _chunk(row: list[Frame]) -> Chunk:
    return Chunk(row[0].stream, row[0].at_ns / NS, b"".join(frame.data for frame in row))
