"""A million things: kept packed, in order and sifted, without a call that holds everything up."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from storage import long_lists
from storage.long_lists import PIECE, SORTED_AT_ONCE, Packed, each_of, in_order, let_go


class Thing(Struct, frozen=True):
    """Something of which there are many."""

    name: str
    size_bytes: int


THINGS = st.lists(st.builds(Thing, st.text(max_size=3), st.integers(0, 9)), max_size=20)


@pytest.fixture
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a few things were many."""
    monkeypatch.setattr(long_lists, "PIECE", 3)
    monkeypatch.setattr(long_lists, "SORTED_AT_ONCE", 4)


def of_name(each: Thing) -> str:
    """What they are ordered by."""
    return each.name


@pytest.mark.usefixtures("in_small_pieces")
@given(THINGS)
def test_what_is_packed_comes_out_again(things: list[Thing]) -> None:
    """All of it, in its order, as often as one likes, with its number."""
    packed = Packed(Thing, things)

    assert [list(packed), list(packed), len(packed)] == [things, things, len(things)]
    assert packed == Packed(Thing, things)
    assert packed != Packed(Thing, [*things, Thing("more", 1)])


@pytest.mark.usefixtures("in_small_pieces")
@given(THINGS)
def test_what_is_wanted_keeps_its_order(things: list[Thing]) -> None:
    """Sifting leaves out what is not wanted, and changes nothing else."""
    found = Packed(Thing, things).sifted(lambda each: each.size_bytes > 4, lambda: None)

    assert list(found) == [each for each in things if each.size_bytes > 4]


def test_sifting_ends_when_nobody_waits_for_it() -> None:
    """It asks before each thing whether it shall go on."""

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Packed(int, [1]).sifted(bool, stop)


@pytest.mark.usefixtures("in_small_pieces")
@given(THINGS)
def test_the_order_is_that_of_a_sort(things: list[Thing]) -> None:
    """Sorting piece by piece comes to what Python's sort does, what is equal staying as it came."""
    wanted = sorted(things, key=of_name)

    assert list(Packed(Thing, things).in_order(of_name)) == wanted
    assert in_order(things, of_name) == wanted


def test_no_call_has_more_than_a_piece_to_do() -> None:
    """Of a long sequence a thousandth is in memory as things; only a run that is being sorted is more."""

    def alive() -> int:
        return sum(isinstance(each, Thing) for each in gc.get_objects())

    packed = Packed(Thing, (Thing(f"{number % 997}", number) for number in range(20 * PIECE)))
    assert alive() == 0

    assert all(alive() <= PIECE for _, _ in zip(packed, range(3), strict=False))
    assert len(packed.in_order(of_name)) == 20 * PIECE
    assert alive() < SORTED_AT_ONCE


def test_each_thing_is_let_go_of_by_itself() -> None:
    """What is taken from a list in turn is in it no more."""
    things = [1, 2, 3]
    left = [list(things) for _ in each_of(things)]

    assert left == [[3, 2], [3], []]


@pytest.mark.parametrize("count", [0, 1, PIECE, 2 * PIECE + 1])
def test_what_is_let_go_of_is_gone(count: int) -> None:
    """Nothing is left in a list that was let go of."""
    items: list[object] = [object()] * count
    let_go(items)

    assert items == []
