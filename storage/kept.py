"""Which archives of the `local` publisher go, and when.

Knows: sizes, the times when they came, and who is being served. Must not know: files or clocks; it is a value that changes
by calls alone (`storage.local_publisher` acts on what it says).

An archive goes when its time is over, and before that when the disk needs the room: the oldest first. One that is being
served stays, and for `SERVED_S` after: whoever reads piece by piece, or begins again in the middle, finds the rest. While
its first link is good (`fresh_s`) an archive does not go for room: its job has just told people to fetch it.
"""

from collections import Counter, OrderedDict
from typing import Final

from msgspec import Struct

KEPT_MAX: Final = 100_000
"""Archives on one node; beyond that the oldest go. Each takes a name in one folder and some 300 bytes of memory."""
SERVED_S: Final = 300.0
GONE_HINT: Final = (
    "It was kept long enough (Publishers.Types.Local.KeepFor on the node), or its room was needed. "
    "Publish to S3 or IPFS what should last."
)
"""What people read who come too late."""


class Archive(Struct):
    """One that is here: its size, when it came (unix seconds), and until when it is taken as being served."""

    size_bytes: int
    at: float
    served_until: float = 0.0


class Kept:
    """The archives of one node, the oldest first. `keep_s` 0 is for ever, as far as there is room. Times in seconds."""

    def __init__(self, keep_s: float, fresh_s: float) -> None:
        self.size_bytes = 0
        self._keep_s = keep_s
        self._fresh_s = fresh_s
        self._archives: OrderedDict[str, Archive] = OrderedDict()
        self._readers: Counter[str] = Counter()

    def __contains__(self, name: str) -> bool:
        return name in self._archives

    def put(self, name: str, size_bytes: int, at: float) -> None:
        """It is here from now on, in the place of an older one of its name."""
        self.lose(name)
        self._archives[name] = Archive(size_bytes, at)
        self.size_bytes += size_bytes

    def lose(self, name: str) -> None:
        """It is here no more. Harmless when repeated."""
        archive = self._archives.pop(name, None)
        if archive is not None:
            self.size_bytes -= archive.size_bytes

    def begin(self, name: str) -> None:
        """Somebody is being served it; `end` follows."""
        self._readers[name] += 1

    def end(self, name: str, now: float) -> None:
        """That one is done, or away."""
        self._readers[name] -= 1
        if not self._readers[name]:
            del self._readers[name]
        if name in self._archives:
            self._archives[name].served_until = now + SERVED_S

    def over(self, now: float) -> list[str]:
        """Those whose time is over, and the oldest beyond `KEPT_MAX`."""
        names: list[str] = []
        excess = len(self._archives) - KEPT_MAX
        for name, archive in self._archives.items():
            young = not self._keep_s or now - archive.at < self._keep_s
            if young and len(names) >= excess:
                break
            if not self._is_served(name, now):
                names.append(name)
        return names

    def excess(self, freed_bytes: int, now: float) -> list[str]:
        """The oldest of `freed_bytes` together, as far as any may go."""
        names: list[str] = []
        for name, archive in self._archives.items():
            if freed_bytes <= 0 or now - archive.at < self._fresh_s:
                break
            if not self._is_served(name, now):
                names.append(name)
                freed_bytes -= archive.size_bytes
        return names

    def _is_served(self, name: str, now: float) -> bool:
        return name in self._readers or now < self._archives[name].served_until
