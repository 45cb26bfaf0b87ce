"""The filter of keys: what it says is not there is not."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import JobKey, job_key, nameless_key
from requester.core.bloom import Bloom

KEYS = st.integers(0, (1 << 60) - 1).map(nameless_key)


@given(st.lists(KEYS, max_size=20))
def test_no_key_is_missed(keys: list[JobKey]) -> None:
    """Every key that was put into it is in it, whatever comes after; and none is called new that it said it knew."""
    bloom = Bloom()
    for number, key in enumerate(keys, 1):
        known = key in bloom
        assert bloom.add(key) is not known
        assert all(each in bloom for each in keys[:number])


def test_few_others_are_taken_for_known() -> None:
    """Of names that nobody used, next to none is taken for known beside 20,000 that are."""
    bloom = Bloom()
    for number in range(20_000):
        bloom.add(job_key("default", f"job-{number}"))
    assert sum(job_key("default", f"other-{number}") in bloom for number in range(20_000)) < 20
