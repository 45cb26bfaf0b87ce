"""``make bench``: run the measurements, show them and keep them. ``ONLY=NAME`` for one part (`PARTS`).

``python -m benchmarks compare OLD NEW`` shows two results files side by side, and ends with 1 if anything became more than
15 % worse.
"""

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from benchmarks import (
    ipfs,
    long_lists,
    many_files,
    million,
    node_storage,
    orchestration,
    peer,
    record,
    scale,
    start,
    storage,
    survival,
)
from protocol import heap
from protocol.process import run_loop

PARTS: Final[dict[str, Callable[[], Awaitable[list[record.Figure]]]]] = {
    "orchestration": orchestration.measure,
    "scale": scale.measure,
    "start": start.measure,
    "survival": survival.measure,
    "storage": storage.measure,
    "ipfs": ipfs.measure,
    "node_storage": node_storage.measure,
    "long_lists": long_lists.measure,
    "many_files": many_files.measure,
    "million": million.measure,
    "peer": peer.measure,
}
LONG: Final = ("million", "peer")
"""Parts that are measured only when they are asked for."""


def main() -> int:
    """Measure, or compare what was measured; the exit code."""
    match sys.argv[1:]:
        case []:
            return _measure()
        case ["compare", old, new]:
            return _compare(Path(old), Path(new))
    print("usage: python -m benchmarks [compare OLD NEW]", file=sys.stderr)
    return 2


def _measure() -> int:
    only = os.environ.get("ONLY", "")
    if only and only not in PARTS:
        print(f"ONLY={only} is not one of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name, measure in PARTS.items():
        if only == name or (not only and name not in LONG):
            print(f"=== {name} (load average {os.getloadavg()[0]:.2f})", flush=True)
            figures = _measured(measure)
            for each in figures:
                record.show(each)
            record.keep(figures)
    return 0


def _measured(measure: Callable[[], Awaitable[list[record.Figure]]]) -> list[record.Figure]:
    """The figures of a part, taken on the loop and with the collector that our programs have."""
    figures: list[record.Figure] = []

    async def run() -> int:
        heap.settle()
        figures.extend(await measure())
        return 0

    run_loop(run())
    return figures


def _compare(old: Path, new: Path) -> int:
    changes = list(record.compare(old, new))
    print(*changes, sep="\n")
    return int(any(change.regressed for change in changes))


if __name__ == "__main__":
    sys.exit(main())
