"""``python -m tests.simulation [--seeds N] [--seed S]``: many seeds, or one with its story."""

import argparse
import sys
import time

from tests.simulation.run import run_seed, run_seeds, silence


def main() -> int:
    """Run what was asked for; 1 if any seed failed."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone, told in full")
    parser.add_argument("--jobs", type=int, help="processes side by side (default: one a core)")
    given = parser.parse_args()
    if given.seed is not None:
        return _one(given.seed)
    return _many(given.first, given.seeds, given.jobs)


def _one(seed: int) -> int:
    silence()
    verdict = run_seed(seed, tell=True)
    print("\n".join(verdict.story))
    print(
        f"\nseed {seed}: {verdict.events} events, {verdict.virtual_s:.0f} s of virtual time, history {verdict.digest}"
    )
    for wrong in verdict.wrongs:
        print(f"  {wrong}")
    return int(verdict.failed)


def _many(first: int, count: int, jobs: int | None) -> int:
    began, failed, events, virtual_s, cpu_s, fewest = time.monotonic(), [], 0, 0.0, 0.0, 1 << 60
    for verdict in run_seeds(range(first, first + count), jobs=jobs):
        events += verdict.events
        virtual_s += verdict.virtual_s
        cpu_s += verdict.seconds
        fewest = min(fewest, verdict.events)
        if verdict.failed:
            failed.append(verdict.seed)
            print(f"seed {verdict.seed} FAILED: {verdict.wrongs[0][:300]}", flush=True)
    took = time.monotonic() - began
    print(
        f"{count} seeds in {took:.0f} s ({cpu_s / count * 1000:.0f} ms of processor time each): {events} events "
        f"(at least {fewest} a seed), {virtual_s / 3600:.1f} h of virtual time, {len(failed)} failed"
    )
    if failed:
        print(f"replay one with: make simulate SEED={min(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
