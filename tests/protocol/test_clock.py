"""Time that is passed in."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from protocol.clock import Clock, ManualClock, SystemClock


async def sleeper(clock: Clock, seconds: float, name: str, woken: list[tuple[str, float]]) -> None:
    """Sleep once, and note when it was over."""
    await clock.sleep(seconds)
    woken.append((name, clock.elapsed()))


async def test_sleepers_wake_at_their_own_moments_in_order() -> None:
    """Each sleeper sees the time it asked for, however far the clock is moved at once."""
    clock, woken = ManualClock(), list[tuple[str, float]]()
    async with asyncio.TaskGroup() as group:
        for name, seconds in (("late", 5.0), ("early", 1.0), ("same", 1.0), ("now", 0.0), ("past", -3.0)):
            group.create_task(sleeper(clock, seconds, name, woken))
        await clock.advance(10)

    assert woken == [("now", 0.0), ("past", 0.0), ("early", 1.0), ("same", 1.0), ("late", 5.0)]
    assert clock.elapsed() == 10


async def test_nobody_wakes_early() -> None:
    """A sleeper whose time has not come sleeps on."""
    clock, woken = ManualClock(), list[tuple[str, float]]()
    task = asyncio.create_task(sleeper(clock, 2, "a", woken))
    await clock.advance(1.9)
    before = list(woken)
    await clock.advance(0.2)
    await task

    assert before == []
    assert [name for name, _ in woken] == ["a"]


async def test_who_sleeps_again_is_woken_again_within_one_move() -> None:
    """A loop that sleeps in steps makes all its steps while the clock is moved once."""
    clock, steps = ManualClock(), list[float]()

    async def loop() -> None:
        while True:
            await clock.sleep(1)
            steps.append(clock.elapsed())

    task = asyncio.create_task(loop())
    await clock.advance(3.5)
    task.cancel()

    assert steps == [1.0, 2.0, 3.0]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    """Cancelling a sleeper harms no one else's waking."""
    clock, woken = ManualClock(), list[tuple[str, float]]()
    cancelled = asyncio.create_task(sleeper(clock, 1, "cancelled", woken))
    kept = asyncio.create_task(sleeper(clock, 2, "kept", woken))
    await clock.advance(0.5)
    cancelled.cancel()
    await clock.advance(5)
    await kept

    assert [name for name, _ in woken] == ["kept"]


async def test_time_moves_only_by_hand() -> None:
    """A manual clock stands still while others work."""
    clock = ManualClock(now=50.0)
    await asyncio.sleep(0)

    assert (clock.now(), clock.elapsed()) == (50.0, 0.0)
    await clock.advance(2.5)
    assert (clock.now(), clock.elapsed()) == (52.5, 2.5)


async def test_the_systems_clock_never_goes_back() -> None:
    """The real clock counts on, and sleeping takes no less than nothing."""
    clock = SystemClock()
    before = clock.elapsed()
    await clock.sleep(0)

    assert clock.elapsed() >= before
    assert clock.now() > 1_700_000_000


@given(st.lists(st.floats(0, 100), max_size=6))
def test_the_order_of_waking_is_the_order_of_times(delays: list[float]) -> None:
    """Whoever sleeps shorter wakes first; of two with the same time, whoever slept first."""

    async def run() -> list[tuple[str, float]]:
        clock, woken = ManualClock(0.0), list[tuple[str, float]]()
        async with asyncio.TaskGroup() as group:
            for index, delay in enumerate(delays):
                group.create_task(sleeper(clock, delay, str(index), woken))
            await clock.advance(101)
        return woken

    expected = sorted(range(len(delays)), key=lambda index: (delays[index], index))
    assert [int(name) for name, _ in asyncio.run(run())] == expected


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-5_000, 5_000)), max_size=30))
def test_time_never_goes_back(steps: list[tuple[float, float]]) -> None:
    """However the machine's clock is set, ours goes on; it is never behind that one, and catches up with it."""
    wall, steady = 1_000_000.0, 0.0
    clock = SystemClock(lambda: wall, lambda: steady)
    before = clock.now()
    for passed, jump in steps:
        wall, steady = wall + passed + jump, steady + passed
        now = clock.now()
        assert now >= before
        assert now >= wall
        before = now

    ahead = before - wall
    wall, steady = wall + 20 * ahead, steady + 20 * ahead
    assert clock.now() == wall
