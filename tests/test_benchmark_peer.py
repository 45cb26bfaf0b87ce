"""What the comparison with Bacalhau itself makes of its runs."""

from benchmarks.peer import Run, compared


def test_the_configuration_that_does_better_is_what_shoal_is_compared_with() -> None:
    """Of each figure Bacalhau's better configuration counts, by the median of its runs, and of ours all runs."""
    ours = [Run([10.0] * 99 + [50.0], 400.0, 4.0), Run([12.0] * 100, 600.0, 2.0)]
    shipped = [Run([60.0] * 100, 10.0, 50.0), Run([60.0] * 100, 30.0, 50.0)]
    wide = [Run([40.0] * 90 + [300.0] * 10, 22.0, 60.0), Run([40.0] * 100, 24.0, 60.0)]

    p50, p99, burst, spent = compared(ours, {"shipped": shipped, "wide": wide}, "Bacalhau v1")

    assert (p50.value, p50.peer_value) == (12.0, 40.0)
    assert (p99.value, p99.peer_value) == (12.0, 60.0)
    assert (burst.value, burst.peer_value) == (500.0, 23.0)
    assert (spent.value, spent.peer_value) == (3.0, 50.0)
    assert burst.met is True
    assert p50.peer == "Bacalhau v1"
