"""The collector of cyclic garbage, as our long-running programs set it."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from protocol import heap


@pytest.fixture
def thresholds() -> Iterator[None]:
    """Leaves the collector of the test's process as it was."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class _Knot:
    """Something that holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.usefixtures("thresholds")
def test_a_cycle_that_is_made_later_is_still_found() -> None:
    """A process that has settled does not grow by what its requests leave in cycles."""
    heap.settle()
    knots = [weakref.ref(_Knot()) for _ in range(2 * heap.THRESHOLDS[0])]
    assert knots[0]() is None


@pytest.mark.usefixtures("thresholds")
def test_what_is_there_when_all_is_started_is_not_looked_at_again() -> None:
    """Modules and settings cost no time once a process is up."""
    heap.settle()
    assert gc.get_freeze_count() > len(gc.get_objects())
