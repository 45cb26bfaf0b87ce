"""What two results files are compared by."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.record import Change, Figure, compare, pace_ms


def a_figure(name: str = "burst", value: float = 10, unit: str = "ms", **more: float) -> Figure:
    better = "more" if unit in ("jobs/s", "1/s") else "less"
    fields = {"peer_value": 0.0, "ratio": 0.0, "load_average": 1.0} | more
    return msgspec.convert(
        fields | {"name": name, "value": value, "unit": unit, "peer": "", "better": better, "runs": 5}, Figure
    )


def test_a_ratio_that_became_worse_is_told() -> None:
    """More than 15 % worse beside the peer is a regression, whatever became of the value itself."""
    before = a_figure(value=10, ratio=1.0)

    assert Change("burst", before, a_figure(value=9, ratio=1.2)).regressed
    assert not Change("burst", before, a_figure(value=30, ratio=1.1)).regressed


@pytest.mark.parametrize(
    ("unit", "before", "slower", "worse"), [("ms", 10, 20, 24), ("jobs/s", 100, 50, 42), ("%", 12, 24, 28)]
)
def test_a_slower_processor_is_no_regression(unit: str, before: float, slower: float, worse: float) -> None:
    """A time or a rate without a peer is compared at one pace: on a machine half as fast twice the time is no loss."""
    old = a_figure(value=before, unit=unit, pace_ms=40)

    assert not Change("burst", old, a_figure(value=slower, unit=unit, pace_ms=80)).regressed
    assert Change("burst", old, a_figure(value=worse, unit=unit, pace_ms=80)).regressed


@pytest.mark.parametrize(("pace_before_ms", "pace_after_ms"), [(0, 80), (40, 0), (40, 80)])
def test_memory_is_compared_as_it_is(pace_before_ms: float, pace_after_ms: float) -> None:
    """What is no time, and what was kept before a pace was taken, is compared by its value."""
    old = a_figure(value=100, unit="MiB", pace_ms=pace_before_ms)

    assert Change("burst", old, a_figure(value=120, unit="MiB", pace_ms=pace_after_ms)).regressed


def test_figures_of_one_file_alone_are_named(tmp_path: Path) -> None:
    """A figure that only one of the files has is said to be so, and is no regression."""
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(msgspec.json.encode([a_figure(name)]))

    changes = list(compare(tmp_path / "old", tmp_path / "new"))

    assert ["older" in str(each) for each in changes] == [True, False]
    assert not any(each.regressed for each in changes)


def test_the_pace_is_taken() -> None:
    """Each figure carries what the machine needed for a fixed piece of work."""
    assert pace_ms() > 0
