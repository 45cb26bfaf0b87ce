"""What is done side by side ends as one thing done alone would: with its own fault, or cancelled."""

import asyncio

import pytest

from protocol.errors import Unavailable
from protocol.together import to_its_end, together, within


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


@pytest.mark.parametrize("ends", ["cancelled", "late"])
async def test_what_hides_a_cancellation_ends_all_the_same(ends: str) -> None:
    """What bears being cancelled once is cancelled again: when its time is over, and when nobody wants it any more."""
    borne = 0

    async def stubborn() -> None:
        nonlocal borne
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                borne += 1
                if borne == 3:
                    raise

    task = asyncio.create_task(within(0.05 if ends == "late" else 3_600, stubborn()))
    await asyncio.sleep(0)
    if ends == "cancelled":
        task.cancel()
    done, _ = await asyncio.wait([task], timeout=30)

    assert done
    assert task.cancelled() is (ends == "cancelled")
    assert ends == "cancelled" or isinstance(task.exception(), TimeoutError)
    assert borne == 3


@pytest.mark.parametrize("fails", [False, True])
async def test_what_was_begun_is_done_to_its_end_however_often_its_caller_is_cancelled(fails: bool) -> None:
    """Whoever is cancelled while it waits for what must not be broken off hears of it when that has ended, and as a
    cancellation also if it failed; the work is told once that nobody waits for it any more."""
    go, told = asyncio.Event(), []

    async def work() -> str:
        await go.wait()
        if fails:
            raise Unavailable("it is away")
        return "done"

    working = asyncio.create_task(work())
    caller = asyncio.create_task(to_its_end(working, lambda: told.append(working.done())))
    await asyncio.sleep(0)
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    go.set()
    await asyncio.wait([caller], timeout=30)

    assert caller.cancelled()
    assert told == [False]
    assert isinstance(working.exception(), Unavailable) if fails else working.result() == "done"


async def test_what_ends_by_itself_is_what_its_caller_gets() -> None:
    """Its result, or its own fault."""

    async def fail() -> None:
        raise Unavailable("it is away")

    assert await to_its_end(asyncio.ensure_future(asyncio.sleep(0, "done"))) == "done"
    with pytest.raises(Unavailable, match="it is away"):
        await to_its_end(asyncio.ensure_future(fail()))
