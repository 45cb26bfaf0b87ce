"""Files brought in ranges: each part a task of its own, written where it belongs in its file.

Knows: ranges, and what makes an answer the bytes that were asked for. Must not know: whose server it is, or threads.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

from msgspec import Struct

from protocol.errors import Broken, Fault
from storage.lanes import Again, Lane, Request
from storage.ranged import Refusal, check_range
from storage.threads import Stop
from storage.tree import write_all_at
from storage.wire import Head, Line

PARTIAL: Final = 206


class Far(Protocol):
    """One file's bytes somewhere else. Its methods are called in threads."""

    @property
    def name(self) -> str:
        """How messages name it."""

    @property
    def size_bytes(self) -> int:
        """Exactly how many bytes it has."""

    def request(self, start: int, end: int) -> Request:
        """What to send for the bytes from `start` up to, not with, `end`."""

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise `Broken` if an answer with these headers (names in lower case) is not of this file."""

    def refused(self, status: int, body: bytes) -> Refusal:
        """What an answer of that status means."""


class Sum(Protocol):
    """A checksum of a file that ranges of it can be summed up for, each by itself."""

    def more(self, value: int, data: memoryview) -> int:
        """The sum of what was summed and of these bytes behind it; the sum of nothing is 0."""

    def join(self, one: int, other: int, other_bytes: int) -> int:
        """The sum of two ranges, the second of so many bytes."""

    def check(self, value: int) -> None:
        """Raise `Broken` unless this is the sum of the right bytes."""


def unknown() -> Sum | None:
    """Of most files nobody tells a sum."""
    return None


def untold(trailers: Mapping[str, str]) -> Fault | None:
    """Most servers say in the head what goes wrong, or not at all."""
    return None


class Item(Struct, frozen=True):
    """One file to bring: `open` answers with a new descriptor to write to, closed when the last byte is there.

    `summed` is asked once an answer has begun, for the sum that the file should have, if that is known; `told` once a body
    has ended, for the fault that the trailers behind it (names in lower case) tell of, if they do. `whole` is called when
    all is written of a file that has no sum, in the thread that wrote the last of it; what takes long calls its argument.
    """

    far: Far
    open: Callable[[], int]
    summed: Callable[[], Sum | None] = unknown
    told: Callable[[Mapping[str, str]], Fault | None] = untold
    whole: Callable[[Stop], None] = lambda stop: None


class Files:
    """The files of one fetch. `parts` are its tasks; `close` closes whatever is still open."""

    def __init__(self, items: Iterable[Item], part_bytes: int) -> None:
        self._items = items
        self._part_bytes = part_bytes
        self._open: set[_File] = set()

    def parts(self) -> Iterator["Part"]:
        """The parts of all files in order. Empty files need no request."""
        for item in self._items:
            size = item.far.size_bytes
            if not size:
                os.close(item.open())
                continue
            starts = range(0, size, self._part_bytes)
            file = _File(item, len(starts), self._open)
            for start in starts:
                yield Part(file, start, min(start + self._part_bytes, size))

    def close(self) -> None:
        """Close what is open: after a fault, when nobody writes any more."""
        for file in list(self._open):
            file.close()


def requests_for(sizes: Iterable[int], part_bytes: int, most: int) -> int:
    """How many parts of files of these sizes to bring at once: `most`, but not more than there are."""
    parts = 0
    for size in sizes:
        parts += -(-size // part_bytes)
        if parts >= most:
            return most
    return max(parts, 1)


class _File:
    """A file being written: open from its first byte to its last."""

    def __init__(self, item: Item, parts: int, opened: "set[_File]") -> None:
        self.far = item.far
        self._make = item.open
        self.summed = item.summed
        self.told = item.told
        self._whole = item.whole
        self._parts = parts
        self._sums: dict[int, tuple[int, int]] = {}
        self._opened = opened
        self._lock = threading.Lock()
        self._fd = -1

    def fd(self) -> int:
        """The descriptor to write to."""
        if self._fd < 0:
            with self._lock:
                if self._fd < 0:
                    self._opened.add(self)
                    self._fd = self._make()
        return self._fd

    def has_one_part_less(self, start: int, size: int, value: int, stop: Stop) -> None:
        """Say that a part is written, and its sum; after the last one the file is closed, and the sum of all checked."""
        with self._lock:
            self._sums[start] = size, value
            self._parts -= 1
            if self._parts:
                return
        self.close()
        summed = self.summed()
        if summed is None:
            self._whole(stop)
            return
        whole = 0
        for number, (_, (size, value)) in enumerate(sorted(self._sums.items())):
            whole = summed.join(whole, value, size) if number else value
        summed.check(whole)

    def close(self) -> None:
        """Close the descriptor."""
        self._opened.discard(self)
        if self._fd >= 0:
            os.close(self._fd)


class Part:
    """A range of a file, of which all bytes before `at` are written: a `storage.lanes.Task`."""

    def __init__(self, file: _File, start: int, end: int) -> None:
        self._file = file
        self._start = self.at = start
        self._end = end
        self._value = 0
        self.name = file.far.name
        self.size_bytes = file.far.size_bytes

    @property
    def moved_bytes(self) -> int:
        """Where in the file it is: for messages, which count from the file's beginning."""
        return self.at

    def request(self) -> Request:
        """Ask for what is still missing."""
        return self._file.far.request(self.at, self._end)

    def refused(self, status: int, body: bytes) -> Refusal:
        """As the other side's words say."""
        return self._file.far.refused(status, body)

    def answered(self, head: Head, line: Line, lane: Lane) -> None:
        """Write a body to its place; what came is written even if the rest does not."""
        self._file.far.check(head.headers)
        partial = head.status == PARTIAL
        try:
            check_range(self.name, self.size_bytes, self.at, self._end, head.headers, partial)
        except Broken as fault:
            if fault.kind == "Cut":
                raise Again(fault) from fault
            raise
        fd = self._file.fd()
        summed = self._file.summed()
        while self.at < self._end:
            if not self._some(fd, line, lane, summed):
                raise self._ended_early(line)
        if line.read_into(lane.buffer[:1]):
            raise Broken(f"{self.name}: more bytes came than were asked for")
        told = self._file.told(line.trailers)
        if told is not None:
            raise told
        self._file.has_one_part_less(self._start, self._end - self._start, self._value, lane.check)

    def _ended_early(self, line: Line) -> Exception:
        """Why a body ended before its time: what its trailers tell of, if they do."""
        fault = self._file.told(line.trailers)
        if fault is None:
            cut = f"{self.name}: the body ended after {self.at} of {self._end} bytes"
            return Again(Broken(cut, kind="Cut"))
        return Again(fault) if fault.retryable else fault

    def _some(self, fd: int, line: Line, lane: Lane, summed: Sum | None) -> int:
        """Fill the lane's buffer and write it: how many bytes it was."""
        room = lane.buffer[: self._end - self.at]
        size = 0
        try:
            while size < len(room) and (count := line.read_into(room[size:])):
                size += count
        finally:
            write_all_at(fd, room[:size], self.at)
            if summed is not None and size:
                self._value = summed.more(self._value, room[:size])
            self.at += size
            lane.moved += size
        return size
