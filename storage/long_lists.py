"""Lists of a million things, in such a way that the event loop has its turn meanwhile.

Knows: which of Python's own calls let no other thread run before they end. Must not know: what is in the lists.

Work on such a list belongs in a thread (`storage.threads`), and that is not all: a thread that sorts it, copies a
dictionary's items, or lets go of it with all that is in it, does so in one call, and the event loop waits for that.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, TypeVar

from storage.threads import Stop, in_pool

T = TypeVar("T")

SORTED_AT_ONCE: Final = 4096
FREED_AT_ONCE: Final = 256
"""Each some milliseconds' worth at most, on a slow machine."""


def sifted(items: list[T], wanted: Callable[[T], bool], stop: Stop) -> list[T]:
    """Those of the items that are wanted, in their order. All are taken out of `items`: the others are freed one by one."""
    items.reverse()
    found = []
    while items:
        stop()
        each = items.pop()
        if wanted(each):
            found.append(each)
    return found


def in_order(items: list[T], key: Callable[[T], Any]) -> list[T]:
    """The items in the order of their keys, which they most often have already."""
    if all(one <= other for one, other in pairwise(map(key, items))):
        return items
    pieces = [sorted(items[at : at + SORTED_AT_ONCE], key=key) for at in range(0, len(items), SORTED_AT_ONCE)]
    return list(heapq.merge(*pieces, key=key))


class LongList(list[T]):
    """A list that is emptied in a thread of the pool, piece by piece, once nobody has it any more. It may be made in any
    thread; `loop` is the one that shall not wait."""

    __slots__ = ("_loop",)

    def __init__(self, items: Iterable[T], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(items)
        self._loop = loop

    def __del__(self) -> None:
        # This may be called anywhere, also where somebody holds the pool's lock: so the loop asks the pool. One that is
        # closed waits for nothing any more.
        if len(self) > FREED_AT_ONCE:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(in_pool, self._loop, self._empty)

    def _empty(self) -> None:
        while self:
            del self[-FREED_AT_ONCE:]
