"""The simulation finds the bugs that people make: they are planted into a copy of the sources to see it.

``make planted`` plants each of them and says by how many seeds it is found.
"""

import pytest

from tests.simulation.planted.garden import ROOT, Bug, bugs, hunt

BUGS = {bug.name: bug for bug in bugs()}
AT_LEAST = 20


@pytest.mark.parametrize("bug", BUGS.values(), ids=list(BUGS))
def test_each_bug_can_be_planted(bug: Bug) -> None:
    """Its place is in the sources exactly once, and planting it changes them."""
    text = (ROOT / bug.file).read_text()
    planted = bug.planted(text)
    assert planted != text
    compile(planted, bug.file, "exec")


def test_there_are_many() -> None:
    """At least twenty different bugs are kept."""
    assert len(BUGS) >= AT_LEAST


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["accept-before-append", "ignore-the-attempt", "keep-the-room"])
def test_a_planted_bug_is_found(name: str) -> None:
    """A handful of seeds is enough for a bug like these."""
    assert hunt(BUGS[name], range(12)).failed


@pytest.mark.timeout(600)
def test_a_copy_without_a_bug_is_sound() -> None:
    """What is found is the bug's doing: the same seeds over the same copy find nothing without it."""
    assert not hunt(None, range(12)).failed
