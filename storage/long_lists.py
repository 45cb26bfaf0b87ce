"""A million things, in such a way that the event loop has its turn meanwhile.

Knows: which of Python's own calls let no other thread run before they end, and how much of each is soon done. Must not
know: what the things are.

Work on them belongs in a thread (`storage.threads`), and that is not all: to sort a long list, to copy it, to grow a large
dictionary, or to let go of either with all that is in it, is one call, and every other thread waits for its end. So what is
long is kept `Packed`: a piece is all that anything is done to at once.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import Any, Final, Generic, TypeVar

import msgspec

from storage.threads import Stop

T = TypeVar("T")

PIECE: Final = 1024
SORTED_AT_ONCE: Final = 4096
"""Each some milliseconds' worth at most, on a slow machine."""

_encoder: Final = msgspec.msgpack.Encoder()


class Packed(Generic[T]):
    """Values of one form, in the order in which they were added, that can be read from the first on any number of times.

    They are kept encoded, `PIECE` of them in one: of a million there are a thousand objects, in a third of the memory, which
    nobody has to free with care. `form` is what msgspec can encode. Not to be added to while it is read.
    """

    __slots__ = ("_form", "_last", "_pieces")

    def __init__(self, form: type[T], items: Iterable[T] = ()) -> None:
        self._form = form
        self._pieces: list[bytes] = []
        self._last: list[T] = []
        self.extend(items)

    def __len__(self) -> int:
        return len(self._pieces) * PIECE + len(self._last)

    def __iter__(self) -> Iterator[T]:
        decoder = msgspec.msgpack.Decoder(list[self._form])  # type: ignore[name-defined]
        for piece in self._pieces:
            yield from decoder.decode(piece)
        yield from self._last

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Packed):
            return NotImplemented
        return (self._form, self._pieces, self._last) == (other._form, other._pieces, other._last)

    __hash__ = None  # type: ignore[assignment]

    def append(self, item: T) -> None:
        """Add one."""
        self._last.append(item)
        if len(self._last) == PIECE:
            self._pieces.append(_encoder.encode(self._last))
            self._last = []

    def extend(self, items: Iterable[T]) -> None:
        """Add several."""
        for each in items:
            self.append(each)

    def sifted(self, wanted: Callable[[T], bool], stop: Stop) -> "Packed[T]":
        """Those that are wanted; `stop` is called before each is looked at."""
        found = Packed(self._form)
        for each in self:
            stop()
            if wanted(each):
                found.append(each)
        return found

    def in_order(self, key: Callable[[T], Any]) -> "Packed[T]":
        """The same in the order of their keys, which they most often have already; what is equal stays as it is."""
        if _are_in_order(self, key):
            return self
        runs = [Packed(self._form, run) for run in _runs(self, key)]
        return Packed(self._form, heapq.merge(*runs, key=key))


def in_order(items: list[T], key: Callable[[T], Any]) -> list[T]:
    """The items in the order of their keys; what is equal stays as it is."""
    if len(items) <= SORTED_AT_ONCE:
        return sorted(items, key=key)
    if _are_in_order(items, key):
        return items
    return list(heapq.merge(*_runs(items, key), key=key))


def each_of(items: list[T]) -> Iterator[T]:
    """The items from the first on, each taken out of the list: none is left to be let go of at the end."""
    items.reverse()
    while items:
        yield items.pop()


def let_go(items: list[Any]) -> None:
    """Empty a list so that no piece of it takes long to be let go of."""
    while items:
        del items[-PIECE:]


def _are_in_order(items: Iterable[T], key: Callable[[T], Any]) -> bool:
    return all(one <= other for one, other in pairwise(key(each) for each in items))


def _runs(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[list[T]]:
    """The items, so many at a time as are soon sorted."""
    waiting = iter(items)
    while run := list(islice(waiting, SORTED_AT_ONCE)):
        run.sort(key=key)
        yield run
