"""New jobs that found no room, and whose first entry is held back for a moment: room that comes meanwhile belongs into it.

Knows: in which order they came, what each demands, and when its moment is over. Must not know: nodes, or what is decided. In
a burst of small jobs room is freed every few milliseconds; a job that is written as waiting costs an entry more, and much
else, to say so (docs/adr/0043).

Who is held back has not been accepted yet, so nobody is promised anything, and a requester that ends forgets nothing.
"""

from typing import Final

from protocol.ids import JobKey
from requester.core.standing import Demand

HELD_S: Final = 0.25
"""So long a submission may be held back: less than people notice, and time for sixty clients on a machine that does 500 jobs
a second. Work that ends after longer than that is worth an entry."""
HELD_MAX: Final = 256
"""Jobs held back at once; each is a caller that waits. A look at all of them takes some ten milliseconds."""


class Blocked:
    """One requester's. Times are in unix seconds."""

    def __init__(self) -> None:
        self._lines: dict[Demand, dict[JobKey, None]] = {}
        self._held: dict[JobKey, tuple[Demand, float]] = {}
        """What each demands and until when it is held back, the first that came first."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: JobKey) -> bool:
        return key in self._held

    def hold(self, key: JobKey, demand: Demand, now: float) -> bool:
        """Hold back a job that demands this; False if its moment is over, or too many are."""
        known = self._held.get(key)
        if known is not None and known[0] == demand:
            return now < known[1]
        self.let_go(key)
        if len(self._held) >= HELD_MAX:
            return False
        self._held[key] = demand, now + HELD_S
        self._lines.setdefault(demand, {})[key] = None
        return True

    def let_go(self, key: JobKey) -> None:
        """A job is held back no longer; harmless if it is not."""
        found = self._held.pop(key, None)
        if found is not None:
            line = self._lines[found[0]]
            del line[key]
            if not line:
                del self._lines[found[0]]

    def lines(self) -> list[list[JobKey]]:
        """All of them: those with equal demands in one line, in the order in which they came."""
        return [list(line) for line in self._lines.values()]

    def over(self, now: float) -> list[JobKey]:
        """Those whose moment is over."""
        found = []
        for key, (_, until) in self._held.items():
            if now < until:
                break
            found.append(key)
        return found

    def clear(self) -> None:
        """Nobody is held back any more."""
        self._lines.clear()
        self._held.clear()
