"""``python -m tests.simulation.planted [--seeds N] [--jobs J] [NAME…]``: plant each bug, and say which seeds find it."""

import argparse
import sys

from tests.simulation.planted.garden import bugs, hunt


def main() -> int:
    """Plant what was asked for; 1 if any bug was not found."""
    parser = argparse.ArgumentParser(prog="planted", description=__doc__)
    parser.add_argument("names", nargs="*", help="which bugs (default: all)")
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds look for each")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, help="processes side by side (default: one a core)")
    given = parser.parse_args()
    wanted = [bug for bug in bugs() if not given.names or bug.name in given.names]
    missed = []
    for bug in wanted:
        found = hunt(bug, range(given.first, given.first + given.seeds), jobs=given.jobs)
        first = f"first by seed {found.failed[0]}: {found.wrong[:110]}" if found.failed else "NOT FOUND"
        print(f"{bug.name:32} {len(found.failed):4} of {found.seeds} seeds   {first}", flush=True)
        if not found.failed:
            missed.append(bug.name)
    print(f"{len(wanted) - len(missed)} of {len(wanted)} planted bugs were found by {given.seeds} seeds each")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
