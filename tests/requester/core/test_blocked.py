"""New jobs that are held back because there is no room just now."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import JobKey, nameless_key
from requester.core.blocked import HELD_MAX, HELD_S, Blocked
from requester.core.standing import Demand, demand_of
from tests.requester.core.world import a_job

NOW = 1_000.0
SMALL, LARGE = demand_of(a_job(cpu="1")), demand_of(a_job(cpu="4"))
ONE, TWO, THREE = (nameless_key(number) for number in (1, 2, 3))


def test_a_moment_does_not_begin_anew_with_each_look() -> None:
    """However often a job is looked at, it is held back for a moment in all, and then no more."""
    blocked = Blocked()
    assert blocked.hold(ONE, SMALL, NOW)
    assert blocked.hold(ONE, SMALL, NOW + HELD_S / 2)
    assert blocked.over(NOW + HELD_S / 2) == []
    assert blocked.over(NOW + HELD_S) == [ONE]
    assert not blocked.hold(ONE, SMALL, NOW + HELD_S)


def test_those_with_equal_demands_stand_in_one_line() -> None:
    """They keep the order in which they came; one that demands something else holds nobody up."""
    blocked = Blocked()
    for key, demand in ((ONE, LARGE), (TWO, SMALL), (THREE, SMALL)):
        assert blocked.hold(key, demand, NOW)
    assert blocked.lines() == [[ONE], [TWO, THREE]]


def test_a_job_that_changed_is_held_back_as_what_it_is_now() -> None:
    """Where a submission was withdrawn, another one of its name has a moment of its own."""
    blocked = Blocked()
    assert blocked.hold(ONE, LARGE, NOW)
    assert blocked.hold(TWO, SMALL, NOW)
    assert blocked.hold(ONE, SMALL, NOW + HELD_S)
    assert blocked.lines() == [[TWO, ONE]]
    assert blocked.over(NOW + HELD_S) == [TWO]


def test_only_so_many_are_held_back() -> None:
    """Beyond a number of them nobody waits for a moment that helps few."""
    blocked = Blocked()
    assert all(blocked.hold(nameless_key(number), SMALL, NOW) for number in range(HELD_MAX))
    assert not blocked.hold(nameless_key(HELD_MAX), SMALL, NOW)
    blocked.let_go(nameless_key(7))
    assert blocked.hold(nameless_key(HELD_MAX), SMALL, NOW)


keys = st.sampled_from([ONE, TWO, THREE])
acts = st.tuples(keys, st.sampled_from([SMALL, LARGE, None]), st.floats(0, HELD_S))


@given(st.lists(acts, max_size=30))
def test_nobody_is_held_back_for_ever(acts: list[tuple[JobKey, Demand | None, float]]) -> None:
    """Whoever is held back stands in exactly one line, and a moment later its time is over."""
    blocked, now = Blocked(), NOW
    for key, demand, later in acts:
        now += later
        if demand is None or not blocked.hold(key, demand, now):
            blocked.let_go(key)
    standing = [key for line in blocked.lines() for key in line]
    assert sorted(standing) == sorted(key for key in (ONE, TWO, THREE) if key in blocked)
    assert len(standing) == len(blocked)
    assert sorted(blocked.over(now + HELD_S)) == sorted(standing)
