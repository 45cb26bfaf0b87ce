"""A compute node that watches its own event loop: ``python -m benchmarks.probed_node FILE`` and then a node's flags.

Knows: how late a timer of a millisecond comes. Must not know: what the node is doing. At the end, and on SIGUSR1, the
longest delay since the last one is written to FILE, in milliseconds, with the most processor time that the loop's own
thread took between two ticks: a delay without it was another thread's or process's turn.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import compute.node
from compute.__main__ import app

TICK_S: Final = 0.001
_running = compute.node.running


class Probe:
    """The delays of one loop."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._delays: list[tuple[float, float]] = []

    async def tick(self) -> None:
        """Measure until cancelled."""
        while True:
            began, busy = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            late_s = time.perf_counter() - began - TICK_S
            self._delays.append((late_s * 1000, (time.thread_time() - busy) * 1000))

    def tell(self) -> None:
        """Write what was worst, and begin anew."""
        delays, self._delays = self._delays, []
        told = {
            "late_ms": max((late for late, _ in delays), default=0.0),
            "busy_ms": max((busy for _, busy in delays), default=0.0),
            "ticks": len(delays),
        }
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps(told))
        beside.rename(self._file)


@asynccontextmanager
async def probed(*given: Any, **named: Any) -> AsyncIterator[Any]:
    """A node at work, and the probe beside it."""
    probe = Probe(FILE)
    async with _running(*given, **named) as agent:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, probe.tell)
        ticking = asyncio.create_task(probe.tick())
        try:
            yield agent
        finally:
            ticking.cancel()
            probe.tell()


if __name__ == "__main__":
    FILE = Path(sys.argv.pop(1))
    compute.node.running = probed  # type: ignore[assignment]
    sys.exit(app())
