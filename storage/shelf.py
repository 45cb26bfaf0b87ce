"""Which inputs a node has or is about to have, who uses each, and which goes first.

Knows: keys, sizes, holders, and the order of use. Must not know: files, clocks, or what an input is: it is a value that
changes by calls alone, so laws can be tried on it (`storage.cache` acts on what it says).

What is *held* by anyone never goes. What nobody holds is *idle* and goes in the order of its last use, once all together is
more than the budget, or when the disk needs the room. What was promised but has not come (`here` False) is forgotten with
its last holder.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field

Key = str
Holder = str


class Item(Struct, gc=False):
    """One input. `size_bytes` is what it takes, or will take as far as that is known."""

    size_bytes: int
    here: bool
    holders: set[Holder] = field(default_factory=set)


class Shelf:
    """The inputs of one node; the least recently used stands first."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.size_bytes = 0
        self.held_bytes = 0
        self._items: OrderedDict[Key, Item] = OrderedDict()
        self._of: dict[Holder, set[Key]] = {}
        self._tending: set[Holder] = set()

    def __contains__(self, key: Key) -> bool:
        """Whether it is here: whole, and fit to be read."""
        item = self._items.get(key)
        return item is not None and item.here

    def here(self) -> list[Key]:
        """All that are here, the least recently used first."""
        return [key for key, item in self._items.items() if item.here]

    def held(self) -> list[Key]:
        """All that are here and held by anyone."""
        return [key for key in set().union(*self._of.values()) if key in self]

    def newest(self) -> Iterator[Key]:
        """All that are here, the most recently used first; to be used before anything changes."""
        return (key for key, item in reversed(self._items.items()) if item.here)

    def size_of(self, key: Key) -> int:
        """Bytes of one that is here or about to be; 0 for another."""
        item = self._items.get(key)
        return item.size_bytes if item is not None else 0

    def held_by(self, holder: Holder) -> list[Key]:
        """What it holds."""
        return list(self._of.get(holder, ()))

    def cost(self, sizes: Mapping[Key, int]) -> int:
        """How many bytes more would be held if these were, with the sizes that are expected of those not here."""
        costs = 0
        for key, size_bytes in sizes.items():
            item = self._items.get(key)
            if item is None:
                costs += size_bytes
            elif not item.holders:
                costs += item.size_bytes
        return costs

    def claim(self, holder: Holder, sizes: Mapping[Key, int], *, used: bool = True) -> None:
        """Let it hold these; one that is not here is expected with that size. They count as used just now; who only
        looks after them says not `used`, and they keep their turn: it comes when that one lets go.
        """
        if not used:
            self._tending.add(holder)
        for key, size_bytes in sizes.items():
            item = self._items.get(key)
            if item is None:
                item = self._items[key] = Item(size_bytes, here=False)
                self.size_bytes += size_bytes
            if not item.holders:
                self.held_bytes += item.size_bytes
            item.holders.add(holder)
            self._of.setdefault(holder, set()).add(key)
            if used:
                self._items.move_to_end(key)

    def resize(self, key: Key, size_bytes: int) -> None:
        """It takes so much. Of one that is not known this says nothing."""
        item = self._items.get(key)
        if item is not None:
            more = size_bytes - item.size_bytes
            item.size_bytes = size_bytes
            self.size_bytes += more
            if item.holders:
                self.held_bytes += more

    def put(self, key: Key, size_bytes: int) -> None:
        """It is here, and takes so much; held by whoever waited for it."""
        if key not in self._items:
            self._items[key] = Item(0, here=True)
        self.resize(key, size_bytes)
        self._items[key].here = True

    def lose(self, key: Key) -> None:
        """It is not here any more, though it may be held: it has to come again."""
        item = self._items.get(key)
        if item is not None:
            item.here = False
            if not item.holders:
                self._forget(key)

    def release(self, holder: Holder, keys: Iterable[Key] | None = None) -> None:
        """It holds these no more, or nothing. Harmless when repeated."""
        held = self._of.get(holder, set())
        for key in list(held if keys is None else held & set(keys)):
            held.discard(key)
            item = self._items[key]
            item.holders.discard(holder)
            if not item.holders:
                self.held_bytes -= item.size_bytes
                if not item.here:
                    self._forget(key)
        if not held:
            self._of.pop(holder, None)

    def excess(self, *, freed_bytes: int = 0) -> list[Key]:
        """What has to go, in that order: until the budget is kept, and at least `freed_bytes` of idle ones are gone.

        One that is only looked after goes later, and nothing that was used since goes in its place.
        """
        going = []
        freed = later = 0
        for key, item in self._items.items():
            if self.size_bytes - freed - later <= self.budget_bytes and freed >= freed_bytes:
                break
            if item.here and not item.holders:
                going.append(key)
                freed += item.size_bytes
            elif item.here and item.holders <= self._tending:
                later += item.size_bytes
        return going

    def _forget(self, key: Key) -> None:
        self.size_bytes -= self._items.pop(key).size_bytes
