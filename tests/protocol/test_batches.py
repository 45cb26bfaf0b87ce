"""What travels in one message."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from protocol.batches import TOGETHER_MAX, TOGETHER_MAX_BYTES, batched


def joined(items: Sequence[bytes]) -> bytes:
    return b",".join(items)


def test_what_fits_travels_in_one_message() -> None:
    """The usual case: one message, and it is encoded once."""
    assert batched([b"a", b"b", b"c"], joined) == [([b"a", b"b", b"c"], b"a,b,c")]


@given(st.lists(st.integers(0, TOGETHER_MAX_BYTES * 2), min_size=1, max_size=TOGETHER_MAX))
def test_nothing_is_lost_and_only_what_is_too_large_alone_exceeds_the_bound(sizes: list[int]) -> None:
    """All items go, in their order; a message that is too large holds one item."""
    items = [bytes(size) for size in sizes]
    batches = batched(items, joined)

    assert [item for part, _ in batches for item in part] == items
    assert all(data == joined(part) for part, data in batches)
    assert all(len(part) == 1 or len(data) <= TOGETHER_MAX_BYTES for part, data in batches)
