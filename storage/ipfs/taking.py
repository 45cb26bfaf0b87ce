"""Blocks as they come, put where they belong: the work of a thread beside the event loop.

Knows: in which order blocks are wanted. Must not know: where they come from.
"""

from collections.abc import Iterable
from typing import Final

from protocol.errors import Broken, Fault
from storage.ipfs.car import CarReader
from storage.ipfs.cid import check_block, inlined
from storage.ipfs.sink import Sink
from storage.ipfs.unixfs import Want, expand
from storage.threads import Stop

SURPLUS_MAX: Final = 1000
"""How many blocks that nobody wanted are passed over in one CAR."""


class Untrue(Exception):
    """What came is not what was asked for: `fault` says how. `lies` if it was whole, and other bytes than named."""

    def __init__(self, fault: Fault, *, lies: bool = False) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.lies = lies


class Taking:
    """What one request is for. `wants` are in the order of the tree.

    Raises `Untrue` for what is the sender's fault; faults of the data itself and of the disk are raised as they are.
    """

    def __init__(self, wants: Iterable[Want], sink: Sink, whence: str) -> None:
        self._stack = list(wants)[::-1]
        self._passed: list[Want] = []
        self._sink = sink
        self._whence = whence
        self._reader = CarReader()
        self._surplus = 0
        self.taken = 0

    def begin(self) -> int:
        """Put what needs no block, because its CID holds it. Returns the number of bytes written, as the others do."""
        written = 0
        while self._stack and (block := inlined(self._stack[-1].cid)) is not None:
            written += self._put(self._stack.pop(), block)
        return written

    def room(self) -> memoryview:
        """Where more bytes of a CAR are to be put."""
        return self._reader.room()

    def came(self, size_bytes: int, stop: Stop) -> int:
        """Take so many bytes that are in the room."""
        written = 0
        for cid, block in self._frames(size_bytes):
            stop()
            want = self._wanted(cid)
            if want is not None:
                written += self.take(want, block)
        return written

    def end(self) -> int:
        """Say that the CAR is over."""
        if self._stack:
            try:
                self._reader.close()
            except Broken as fault:
                raise Untrue(fault) from fault
        return 0

    def only(self, block: bytes) -> int:
        """Take the one block that was asked for."""
        return self.take(self._stack.pop(), block)

    def take(self, want: Want, block: bytes | memoryview) -> int:
        """Verify a block, and put what it holds."""
        try:
            check_block(want.cid, block, self._whence)
        except Broken as fault:
            self._stack.append(want)
            raise Untrue(fault, lies=True) from fault
        self.taken += 1
        return self._put(want, block) + self.begin()

    def left(self) -> list[Want]:
        """What is still wanted, in the order of the tree."""
        return [*self._stack[::-1], *self._passed]

    def _put(self, want: Want, block: bytes | memoryview) -> int:
        found = expand(want, block)
        written = self._sink.put(found)
        self._stack.extend(reversed(found.wants))
        return written

    def _frames(self, size_bytes: int) -> Iterable[tuple[bytes, memoryview]]:
        try:
            yield from self._reader.came(size_bytes)
        except Broken as fault:
            raise Untrue(fault) from fault

    def _wanted(self, cid: bytes) -> Want | None:
        """What a block is for. One that is wanted later says that those before it are not coming: as duplicates, mostly."""
        stack = self._stack
        if stack and stack[-1].cid == cid:
            return stack.pop()
        for place in range(len(stack) - 2, -1, -1):
            if stack[place].cid == cid:
                self._passed += stack[:place:-1]
                del stack[place + 1 :]
                return stack.pop()
        self._surplus += 1
        if self._surplus > SURPLUS_MAX:
            raise Untrue(Broken(f"more than {SURPLUS_MAX} blocks came that nobody asked for"))
        return None
