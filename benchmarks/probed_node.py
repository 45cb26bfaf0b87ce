"""A compute node that watches its own event loop: ``python -m benchmarks.probed_node FILE`` and then a node's flags.

Knows: how late a timer of a millisecond comes. Must not know: what the node is doing. At the end, and on SIGUSR1, the
longest delays since the last one are written to FILE, in milliseconds: as they were, and without the wait for a free
processor, with what the loop's thread did then.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import compute.node
from benchmarks.standstill import Delay, Watcher, latest_s, worst
from compute.__main__ import app

_running = compute.node.running


class Probe:
    """The delays of one loop."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._delays: list[Delay] = []

    async def tick(self) -> None:
        """Measure until cancelled."""
        with Watcher() as watcher:
            while True:
                self._delays.append(await watcher.delay())

    def tell(self) -> None:
        """Write what was worst, and begin anew."""
        delays, self._delays = self._delays, []
        still = worst(delays)
        told = {
            "late_ms": 1e3 * latest_s(delays),
            "own_ms": 1e3 * still.own_s,
            "where": still.where,
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
    compute.node.running = probed
    sys.exit(app())
