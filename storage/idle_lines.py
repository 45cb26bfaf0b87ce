"""Connections that are kept for the next request to the same place.

Knows: for how long one is worth keeping, and how many. Must not know: what went over them.
"""

import threading
import time
from collections.abc import Iterable
from typing import Final

from storage.route import Route
from storage.wire import Line

IDLE_S: Final = 15.0
"""A connection that was idle for longer is not used again: the other side has probably let go of it."""
IDLE_MAX: Final = 16


class Lines:
    """Connections that nobody uses just now. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int, bool], list[Line]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def take(self, route: Route) -> Line:
        """A line to the route's origin: one that was used before, if there is any, or a new one that is to be opened."""
        now = time.monotonic()
        with self._lock:
            idle = self._idle.get(route.key, [])
            while idle:
                line = idle.pop()
                if now - line.idle_since < IDLE_S and line.route == route:
                    return line
                line.close()
        return Line(route)

    def give(self, line: Line) -> None:
        """Put a line back, if another request may follow on it."""
        if line.reusable:
            line.idle_since = time.monotonic()
            with self._lock:
                idle = self._idle.setdefault(line.route.key, [])
                if not self._closed and len(idle) < IDLE_MAX:
                    idle.append(line)
                    return
        line.close()

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            self._closed = True
            for line in self._all():
                line.close()
            self._idle.clear()

    def _all(self) -> Iterable[Line]:
        return [line for idle in self._idle.values() for line in idle]
