"""Lists of a million things: in order, sifted, and let go of, without a call that holds everything up."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import long_lists
from storage.long_lists import FREED_AT_ONCE, LongList, in_order, sifted


class Thing:
    """Tells in which thread it is freed; the last one also that all are."""

    def __init__(self, freed: list[bool], all_freed: asyncio.Event, count: int) -> None:
        self._freed, self._all_freed, self._count = freed, all_freed, count
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        self._freed.append(threading.current_thread() is threading.main_thread())
        if len(self._freed) == self._count:
            self._loop.call_soon_threadsafe(self._all_freed.set)


@given(st.lists(st.integers(0, 20)))
def test_what_is_wanted_keeps_its_order_and_the_rest_is_gone(items: list[int]) -> None:
    """What is wanted comes in the order that it had; the list that was sifted has nothing left to free."""
    odd = [each for each in items if each % 2]

    assert sifted(items, lambda each: each % 2 == 1, lambda: None) == odd
    assert items == []


def test_sifting_ends_when_nobody_waits_for_it() -> None:
    """It asks before each thing whether it shall go on."""

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sifted([1], bool, stop)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers()), max_size=60))
def test_the_order_is_that_of_a_sort(items: list[tuple[int, int]]) -> None:
    """Sorting piece by piece comes to what Python's sort does, what is equal staying as it came."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_lists, "SORTED_AT_ONCE", 4)

        assert in_order(items, key=lambda each: each[0]) == sorted(items, key=lambda each: each[0])


@pytest.mark.parametrize(("count", "by_loop"), [(FREED_AT_ONCE, True), (3 * FREED_AT_ONCE + 1, False)])
async def test_a_long_list_is_freed_beside_the_loop(count: int, by_loop: bool) -> None:
    """Who lets go of many things on the loop has them freed in a thread; of few, at once."""
    freed: list[bool] = []
    all_freed = asyncio.Event()
    things = [Thing(freed, all_freed, count) for _ in range(count)]
    kept = LongList(things, asyncio.get_running_loop())
    things.clear()

    assert freed == []
    del kept

    async with asyncio.timeout(10):
        await all_freed.wait()
    assert freed == [by_loop] * count


def test_a_long_list_outlives_its_loop() -> None:
    """Where the loop has ended there is nothing to hold up, and the list is freed like any other."""
    loop = asyncio.new_event_loop()
    kept = LongList(range(3 * FREED_AT_ONCE), loop)
    loop.close()

    del kept
