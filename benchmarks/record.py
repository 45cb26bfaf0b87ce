"""What a measurement is, how it is shown and kept.

Knows: figures and their file. Must not know: what was measured.
"""

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

RESULTS: Final = Path(__file__).parent / "results.json"


class Figure(Struct, frozen=True):
    """One figure. `ratio` is value / peer_value; whether more or less of it is better, `better` says."""

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
    )


def show(one: Figure) -> None:
    """Print a figure as one line."""
    beside = f"  {one.peer} {one.peer_value:g} {one.unit}, ratio {one.ratio:g}" if one.peer else ""
    mark = f"  [mark: {one.mark}]" if one.mark else ""
    print(
        f"{one.name:44} {one.value:10g} {one.unit:7}{beside}{mark}  (n={one.runs}, load {one.load_average:g})",
        flush=True,
    )


def keep(figures: Sequence[Figure]) -> None:
    """Put figures into the results file; those of other parts stay."""
    kept = read(RESULTS) if RESULTS.exists() else {}
    kept |= {each.name: each for each in figures}
    RESULTS.write_text(json.dumps(msgspec.to_builtins(list(kept.values())), indent=2) + "\n")


def read(path: Path) -> dict[str, Figure]:
    """The figures of a results file by their names."""
    return {each.name: each for each in msgspec.json.decode(path.read_bytes(), type=list[Figure])}


def compare(old: Path, new: Path) -> Iterator[str]:
    """A line for each figure of two results files. Below 1 the newer is better, above 1 worse."""
    before, after = read(old), read(new)
    for name in before | after:
        was, is_ = before.get(name), after.get(name)
        if was is None or is_ is None:
            yield f"{name:44} only in {new if was is None else old}"
            continue
        change = is_.value / was.value if was.better == "less" else was.value / is_.value
        loads = f"load {was.load_average:g} and {is_.load_average:g}"
        yield f"{name:44} {was.value:10g} → {is_.value:10g} {is_.unit:7} {change:6.2f}  ({loads})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
