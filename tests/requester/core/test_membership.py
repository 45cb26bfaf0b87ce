"""Who is silent, who is forgotten, and who stays out."""

from protocol.ids import NodeId
from requester.core.membership import AHEAD_MAX, ahead, forgotten, removed, silent

AWAY = {NodeId("c"): 30.0, NodeId("a"): 10.0, NodeId("b"): 10.0, NodeId("d"): 90.0}


def test_silence_counts_from_when_one_hears() -> None:
    """Who has just begun to hear has heard nobody, and that says nothing about them."""
    assert silent(0.0, hearing_since=10.0, now=16.0, silence_s=5.0)
    assert not silent(0.0, hearing_since=12.0, now=16.0, silence_s=5.0)
    assert not silent(12.0, hearing_since=10.0, now=16.0, silence_s=5.0)


def test_who_was_away_for_long_is_forgotten() -> None:
    """Those that were away longest first, and with no such time nobody, however many they are."""
    assert forgotten(AWAY, now=100.0, forget_s=70.0, away_max=10) == ["a", "b", "c"]
    assert forgotten(AWAY, now=100.0, forget_s=90.0, away_max=10) == ["a", "b"]
    assert forgotten(AWAY, now=1e9, forget_s=0.0, away_max=1) == []


def test_of_very_many_those_go_early_that_were_away_longest() -> None:
    """So many are remembered, and no more: a fleet whose names are made up anew every minute does not fill the memory."""
    assert forgotten(AWAY, now=100.0, forget_s=1e6, away_max=3) == ["a"]
    assert forgotten(AWAY, now=100.0, forget_s=1e6, away_max=0) == ["a", "b", "c", "d"]
    assert forgotten(AWAY, now=100.0, forget_s=85.0, away_max=2) == ["a", "b"]


def test_a_removal_is_about_what_was_started_before() -> None:
    """The life that was removed and all before it stay out, later ones do not; also where nobody noted when that was."""
    assert [removed(life, 5_000, 10.0) for life in (4_999, 5_000, 5_001)] == [True, True, False]
    assert [removed(life, 5_000, 0.0) for life in (4_999, 5_000, 5_001)] == [True, True, False]
    assert ahead([], 5_000, 10.0) == []


def test_a_fast_clock_says_nothing_about_others() -> None:
    """Of a life that began behind its own removal only the number is remembered: of so many lives, and until that time."""
    assert [removed(life, 90_000, 10.0) for life in (9_999, 10_001, 90_001)] == [True, False, False]
    assert ahead([], 90_000, 10.0) == [90_000]
    assert ahead([15_000, 90_000], 70_000, 20.0) == [90_000, 70_000]
    assert len(ahead(range(90_000, 91_000), 99_000, 10.0)) == AHEAD_MAX
