"""Work beside the event loop."""

import asyncio
import threading

from storage.threads import Pool, in_thread


async def test_work_that_takes_long_holds_up_nobody() -> None:
    """However many results are hashed for an hour, what takes a moment has its turn."""
    pool = Pool(2, long_s=0.01)
    ending = threading.Event()
    try:
        long = [asyncio.ensure_future(in_thread(lambda _: ending.wait(), pool)) for _ in range(5)]
        for _ in range(3):
            await in_thread(lambda _: None, pool)
        assert not any(each.done() for each in long)
    finally:
        ending.set()
    await asyncio.gather(*long)
    assert pool.long == 0
    pool.threads.shutdown()


async def test_few_work_at_once_while_nothing_takes_long() -> None:
    """Two that have a thread keep it to themselves; the third piece of work waits for one of them."""
    pool = Pool(2, long_s=3600)
    at_work, ending = threading.Barrier(3), threading.Event()

    def work() -> None:
        at_work.wait()
        ending.wait()

    two = [asyncio.ensure_future(in_thread(lambda _: work(), pool)) for _ in range(2)]
    third = asyncio.ensure_future(in_thread(lambda _: ending.is_set(), pool))
    await asyncio.to_thread(at_work.wait)
    assert not third.done()
    ending.set()
    assert await third
    await asyncio.gather(*two)
    pool.threads.shutdown()
