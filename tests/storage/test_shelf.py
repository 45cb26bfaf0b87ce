"""The laws of the shelf: what is held stays, what is idle goes oldest first, and every byte is counted once."""

from hypothesis import given
from hypothesis import strategies as st

from storage.shelf import Shelf

KEYS = st.sampled_from("abcdef")
HOLDERS = st.sampled_from(["x", "y", "z"])
SIZES = st.integers(0, 100)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), HOLDERS, st.dictionaries(KEYS, SIZES, max_size=3)),
        st.tuples(st.just("put"), KEYS, SIZES),
        st.tuples(st.just("resize"), KEYS, SIZES),
        st.tuples(st.just("release"), HOLDERS, st.none()),
        st.tuples(st.just("lose"), KEYS, st.none()),
        st.tuples(st.just("press"), SIZES, st.none()),
    ),
    max_size=60,
)


def play(shelf: Shelf, held: dict[str, set[str]], step: tuple) -> None:
    """One step, on the shelf and on the list of who holds what."""
    what, first, second = step
    if what == "claim":
        shelf.claim(first, second)
        held[first] |= second.keys()
    elif what == "release":
        shelf.release(first)
        held[first] = set()
    elif what == "press":
        for key in shelf.excess(freed_bytes=first):
            shelf.lose(key)
    elif what == "lose":
        shelf.lose(first)
    elif what == "put":
        shelf.put(first, second)
    else:
        shelf.resize(first, second)


@given(budget=st.integers(0, 200), steps=STEPS)
def test_what_is_held_stays_and_all_bytes_are_counted(budget: int, steps: list[tuple]) -> None:
    """Whatever is done, nothing that anyone holds is given up, and the sums are those of the parts."""
    shelf = Shelf(budget)
    held: dict[str, set[str]] = {"x": set(), "y": set(), "z": set()}
    for step in steps:
        going = shelf.excess(freed_bytes=step[1] if step[0] == "press" else 0)
        assert not set(going) & set().union(*held.values())

        play(shelf, held, step)

        in_use = set().union(*held.values())
        assert {key for holder in held for key in shelf.held_by(holder)} == in_use
        assert shelf.held_bytes == sum(shelf.size_of(key) for key in in_use)
        assert shelf.size_bytes == sum(shelf.size_of(key) for key in "abcdef")
        assert shelf.cost(dict.fromkeys(in_use, 7)) == 0


@given(budget=st.integers(0, 200), steps=STEPS)
def test_under_pressure_only_what_is_held_is_beyond_the_budget(budget: int, steps: list[tuple]) -> None:
    """After giving up what has to go, the budget is kept, or nothing idle is left."""
    shelf = Shelf(budget)
    held: dict[str, set[str]] = {"x": set(), "y": set(), "z": set()}
    for step in steps:
        play(shelf, held, step)
        for key in shelf.excess():
            shelf.lose(key)
        idle = [key for key in shelf.here() if key not in set().union(*held.values())]
        assert shelf.size_bytes <= budget or not idle


def test_the_least_recently_used_goes_first() -> None:
    """What was used last stays longest."""
    shelf = Shelf(25)
    for key in "abc":
        shelf.put(key, 10)
    shelf.claim("x", {"a": 10})
    shelf.release("x")

    assert shelf.excess() == ["b"]
    assert shelf.excess(freed_bytes=15) == ["b", "c"]


def test_what_is_looked_after_keeps_its_turn() -> None:
    """Nothing goes in the place of one that was used before it and is only being looked after just now."""
    shelf = Shelf(25)
    for key in "abc":
        shelf.put(key, 10)
    shelf.claim("its reader", {"a": 0}, used=False)

    assert shelf.excess() == []
    assert shelf.excess(freed_bytes=15) == ["b", "c"]

    shelf.release("its reader")
    assert shelf.excess() == ["a"]
