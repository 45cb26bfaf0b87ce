"""What is done side by side ends as one thing done alone would: with its own fault, or cancelled."""

import asyncio

import pytest

from protocol.errors import Unavailable
from protocol.together import together


async def test_the_first_fault_ends_the_others_and_is_raised_as_itself() -> None:
    """Whoever waits for several things is told of the fault that came first, and nothing goes on behind it."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("wait")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise Unavailable("it is away")

    async def fail_side_by_side() -> None:
        await together([wait(), fail()])

    with pytest.raises(Unavailable, match="it is away"):
        await together([wait(), fail_side_by_side()])
    assert ended == ["wait", "wait"]


@pytest.mark.parametrize("first", ["fault", "cancellation"])
async def test_a_fault_hides_no_cancellation(first: str) -> None:
    """A task that is cancelled at the moment when something fails that it waits for ends as cancelled, also if it would
    bear the fault and go on."""
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise Unavailable("it is away")

    async def goes_on() -> None:
        while True:
            try:
                await together([fail(), fail()])
            except Unavailable:
                await asyncio.sleep(0.01)

    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if first == "fault":
        go.set()
        task.cancel()
    else:
        task.cancel()
        go.set()
    done, _ = await asyncio.wait([task], timeout=30)

    assert done
    assert task.cancelled()
