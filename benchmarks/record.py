"""What a measurement is, how it is shown, kept, and compared with an earlier one.

Knows: figures, marks and their file. Must not know: what was measured.
"""

import functools
import json
import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

RESULTS: Final = Path(__file__).parent / "results.json"
REGRESSION: Final = 1.15
"""From this factor on a figure that became worse is a regression."""

PACE_TURNS: Final = 1_000_000
PACE_TRIES: Final = 5
TIMES: Final = ("ms", "s", "%")
"""Units of which a slower processor makes more; the share of a core is a time each second."""
RATES: Final = ("jobs/s", "1/s")
"""Units of which a slower processor makes less."""

_MARK: Final = re.compile(r"at (most|least) ([\d,.]+)( times)?")


class Figure(Struct, frozen=True):
    """One figure. `ratio` is value / peer_value; whether more or less of it is better, `better` says.

    `mark` is what we want of it: ``at most 5 ms`` is about the value, ``at least 1.5 times`` about the ratio.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float
    better: str
    runs: int
    load_average: float
    mark: str = ""
    pace_ms: float = 0.0
    """What the processor took for one fixed piece of work then (`pace_ms`); 0 in files of before it was taken."""

    @property
    def met(self) -> bool | None:
        """Whether the mark is met; None without one."""
        found = _MARK.match(self.mark)
        if found is None:
            return None
        limit = float(found[2].replace(",", ""))
        measured = self.ratio if found[3] else self.value
        return measured <= limit if found[1] == "most" else measured >= limit


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    peer: str = "",
    peer_values: Sequence[float] = (),
    better: str = "less",
    mark: str = "",
) -> Figure:
    """A figure from single measurements: medians of both sides, and their ratio (0 without a peer)."""
    value = statistics.median(values)
    peer_value = statistics.median(peer_values) if peer_values else 0.0
    return Figure(
        name=name,
        value=round(value, 4),
        unit=unit,
        peer=peer,
        peer_value=round(peer_value, 4),
        ratio=round(value / peer_value, 3) if peer_value else 0.0,
        better=better,
        runs=len(values),
        load_average=round(os.getloadavg()[0], 2),
        mark=mark,
        pace_ms=pace_ms(),
    )


@functools.cache
def pace_ms() -> float:
    """Milliseconds of processor time that the interpreter needs for a fixed count of additions, the best of a few; taken
    once a run.

    Machines of one kind differ by a factor of three in it, and one machine from day to day: without it a figure in
    milliseconds says as much of the machine as of what ran on it.
    """
    tries = []
    for _ in range(PACE_TRIES):
        began = time.process_time()
        total = 0
        for turn in range(PACE_TURNS):
            total += turn
        tries.append((time.process_time() - began) * 1e3)
    return round(min(tries), 1)


def show(one: Figure) -> None:
    """Print a figure as one line."""
    beside = f"  {one.peer} {one.peer_value:g} {one.unit}, ratio {one.ratio:g}" if one.peer else ""
    verdict = "" if one.met is None else "met: " if one.met else "MISSED: "
    mark = f"  [{verdict}{one.mark}]" if one.mark else ""
    how = f"(n={one.runs}, load {one.load_average:g}, pace {one.pace_ms:g} ms)"
    print(f"{one.name:44} {one.value:10g} {one.unit:7}{beside}{mark}  {how}", flush=True)


def keep(figures: Sequence[Figure]) -> None:
    """Put figures into the results file; those of other parts stay."""
    kept = read(RESULTS) if RESULTS.exists() else {}
    kept |= {each.name: each for each in figures}
    RESULTS.write_text(json.dumps(msgspec.to_builtins(list(kept.values())), indent=2) + "\n")


def read(path: Path) -> dict[str, Figure]:
    """The figures of a results file by their names."""
    return {each.name: each for each in msgspec.json.decode(path.read_bytes(), type=list[Figure])}


class Change(Struct, frozen=True):
    """One figure in two results files, None where a file lacks it.

    What is compared is the ratio to the peer measured in the same run, as it depends least on the machine; without a peer
    the value, and of a time or a rate what it would have been at the older one's pace.
    """

    name: str
    before: Figure | None
    after: Figure | None

    @property
    def factor(self) -> float:
        """How much worse it became: below 1 it is better; 0 where there is nothing to compare."""
        if self.before is None or self.after is None:
            return 0.0
        was, is_ = self.before.value, self.after.value
        if self.before.ratio and self.after.ratio:
            was, is_ = self.before.ratio, self.after.ratio
        elif self.before.pace_ms and self.after.pace_ms:
            slower = self.after.pace_ms / self.before.pace_ms
            if self.after.unit in TIMES:
                is_ /= slower
            elif self.after.unit in RATES:
                is_ *= slower
        if not was or not is_:
            return 0.0
        return is_ / was if self.before.better == "less" else was / is_

    @property
    def regressed(self) -> bool:
        """Whether it became worse by more than a noisy machine explains."""
        return self.factor > REGRESSION

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"{self.name:44} only in the {'older' if self.after is None else 'newer'} file"
        by = "ratio" if self.before.ratio and self.after.ratio else "value"
        told = f"{self.before.value:10g} → {self.after.value:10g} {self.after.unit:7}"
        loads = f"load {self.before.load_average:g} and {self.after.load_average:g}"
        verdict = "  REGRESSION" if self.regressed else ""
        return f"{self.name:44} {told} {by} ×{self.factor:.2f}  ({loads}){verdict}"


def compare(old: Path, new: Path) -> Iterator[Change]:
    """Each figure of two results files."""
    before, after = read(old), read(new)
    for name in before | after:
        yield Change(name, before.get(name), after.get(name))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
