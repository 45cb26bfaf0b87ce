"""``make bench``: run the measurements, show them and keep them. ``ONLY=orchestration`` or ``ONLY=storage`` for a part."""

import asyncio
import os
import sys

from benchmarks import orchestration, record, storage

PARTS = {"orchestration": orchestration.measure, "storage": storage.measure}


def main() -> int:
    """Measure; the exit code."""
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
