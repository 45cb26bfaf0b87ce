"""One timer for many waits ends each of them as a timer of its own would."""

import asyncio

import pytest

from protocol.patience import Patience

LIMIT_S = 1.0
"""Longer than this process may have to wait for its turn on a busy machine."""


async def test_a_wait_ends_at_its_limit_and_no_other_with_it() -> None:
    """What takes too long is told so; what began later, or is done, is left alone, and the task goes on."""
    patience, never = Patience(LIMIT_S), asyncio.Event()
    with patience.once():
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), patience.once():
        await never.wait()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    with patience.once():
        await asyncio.sleep(0)


async def test_many_waits_each_have_their_own_end() -> None:
    """Of waits that began together those that are too long end, and only they."""
    patience, go, never = Patience(LIMIT_S), asyncio.Event(), asyncio.Event()

    async def wait(event: asyncio.Event) -> str:
        try:
            with patience.once():
                await event.wait()
        except TimeoutError:
            return "too long"
        return "done"

    waits = [asyncio.create_task(wait(each)) for each in (go, never, go, never)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*waits) == ["done", "too long", "done", "too long"]


async def test_who_is_cancelled_is_not_told_that_it_took_too_long() -> None:
    """A cancellation from outside stays one."""
    patience, never = Patience(60), asyncio.Event()

    async def wait() -> None:
        with patience.once():
            await never.wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
