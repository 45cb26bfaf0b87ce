"""``make bench``: run the measurements, show them and keep them. ``ONLY=orchestration`` or ``ONLY=storage`` for a part.

``python -m benchmarks compare OLD NEW`` shows two results files side by side.
"""

import asyncio
import os
import sys
from pathlib import Path

from benchmarks import orchestration, record, storage

PARTS = {"orchestration": orchestration.measure, "storage": storage.measure}


def main() -> int:
    """Measure, or compare what was measured; the exit code."""
    match sys.argv[1:]:
        case []:
            return _measure()
        case ["compare", old, new]:
            print(*record.compare(Path(old), Path(new)), sep="\n")
            return 0
    print("usage: python -m benchmarks [compare OLD NEW]", file=sys.stderr)
    return 2


def _measure() -> int:
    only = os.environ.get("ONLY", "")
    if only and only not in PARTS:
        print(f"ONLY={only} is not one of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name, measure in PARTS.items():
        if only in ("", name):
            print(f"=== {name} (load average {os.getloadavg()[0]:.2f})", flush=True)
            figures = asyncio.run(measure())
            for each in figures:
                record.show(each)
            record.keep(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
