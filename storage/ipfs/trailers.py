"""What Kubo tells behind the first byte of an answer: lines that come one by one, and how the last of them fared.

Knows: that an error which comes too late for the status stands in an HTTP trailer. Must not know: what was asked for.
Blocking: all of it runs in a lane's thread, because our session passes trailers over.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

from protocol.errors import Broken, Exhausted, Fault
from storage.ipfs.kubo import ANSWER_MAX_BYTES, Kubo, Options
from storage.lanes import Lane, Request
from storage.ranged import Refusal
from storage.wire import Head, Line

TRAILER: Final = "x-stream-error"
"""Where the words stand (go-ipfs-cmds, `StreamErrHeader`; gateways use it for CARs)."""
LINE_MAX_BYTES: Final = 1 << 20

T = TypeVar("T")
Read = Callable[[Iterator[bytes]], T]


def words_of(trailers: Mapping[str, str]) -> bytes:
    """The error that trailers (names in lower case) tell of, as its sender put it; empty for none."""
    return trailers.get(TRAILER, "").encode("latin-1")


def told_behind(kubo: Kubo, what: str, trailers: Mapping[str, str]) -> Fault | None:
    """The fault that the trailers of an answer about `what` mean, if they tell of any."""
    words = words_of(trailers)
    return kubo.fault_of(what, 500, words) if words else None


def lines(line: Line, what: str) -> Iterator[bytes]:
    """A body's lines that are not empty. Raises `Broken` for one that has no end."""
    room = memoryview(bytearray(1 << 16))
    rest = b""
    while count := line.read_into(room):
        *whole, rest = (rest + bytes(room[:count])).split(b"\n")
        yield from (each for each in whole if each)
        if len(rest) > LINE_MAX_BYTES:
            raise Broken(f"{what}: Kubo answered {rest[:100]!r}")
    if rest:
        yield rest


class Reading(Generic[T]):
    """A command whose answer is any number of lines: a `storage.lanes.Task`.

    `read` makes something of them, all of which it has to take; what it made is given to `take` if nothing stands behind the
    lines. Both are called in a lane's thread, and raise their faults.
    """

    moved_bytes = size_bytes = 0

    def __init__(
        self,
        kubo: Kubo,
        command: str,
        options: Options,
        what: str,
        read: Read[T],
        take: Callable[[T], None],
    ) -> None:
        self.name = what
        self._kubo = kubo
        self._read = read
        self._take = take
        self._target = f"{urlsplit(kubo.url(command)).path}?{urlencode(options, doseq=True)}"

    def request(self) -> Request:
        """Ask for all."""
        return Request("POST", self._target, {})

    def refused(self, status: int, body: bytes) -> Refusal:
        """As Kubo says."""
        return Refusal(self._kubo.fault_of(self.name, status, body), again=False)

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Have the lines read and taken. Raises what the trailer says, and as the two."""
        found = self._read(self._lines(line, lane))
        fault = told_behind(self._kubo, self.name, line.trailers)
        if fault is not None:
            raise fault
        self._take(found)

    def _lines(self, line: Line, lane: Lane) -> Iterator[bytes]:
        for each in lines(line, self.name):
            lane.check()
            yield each


async def asked_lines(kubo: Kubo, command: str, options: Options, what: str) -> list[bytes]:
    """The lines themselves. Raises as `Kubo.ask`, what stands behind the lines, and `Exhausted` for far too many."""
    kept: list[bytes] = []

    def read(found: Iterator[bytes]) -> list[bytes]:
        whole, size = [], 0
        for each in found:
            size += len(each)
            if size > ANSWER_MAX_BYTES:
                raise Exhausted(f"{what}: Kubo's answer is larger than {ANSWER_MAX_BYTES} bytes")
            whole.append(each)
        return whole

    await kubo.once(iter([Reading(kubo, command, options, what, read, kept.extend)]), what)
    return kept
