"""Several things side by side, of which the first fault counts; one thing that has its time, and one that takes its time.

Knows: tasks, and how they end. Must not know: what is done.

`asyncio.TaskGroup` is for what lives and dies together. Where a fault is borne and the task goes on it will not do: a group
that is cancelled at the moment when one of its tasks fails tells of the fault alone (up to Python 3.12), so that the task
goes on for ever, for nobody cancels twice. What the task's own count of cancellations says then is wrong as well.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

_AGAIN_S: Final = 0.1


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines side by side; the first fault ends the others and is raised as itself, not in a group."""
    tasks = [asyncio.ensure_future(work) for work in works]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task for task in tasks if task.done() and not task.cancelled() and task.exception()]
    finally:
        await _end(tasks)
    if failed:
        await failed[0]


async def within(limit_s: float, work: Coroutine[Any, Any, None]) -> None:
    """Do something that takes at most so long. Raises `TimeoutError`.

    For what waits by `asyncio.wait_for`, which hides a cancellation that comes just as what it waits for (up to Python
    3.11): it is cancelled again and again until it ends, and `asyncio.timeout` would do so once.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=limit_s)
        if not task.done():
            raise TimeoutError
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_AGAIN_S)
        if not task.cancelled():
            # Or the event loop tells that nobody has asked.
            task.exception()
    await task


async def to_its_end(work: "asyncio.Future[T]", hung_up: Callable[[], None] = lambda: None) -> T:
    """What `work` comes to. It is not broken off: a caller that is cancelled meanwhile, however often, hears of that when it
    has ended, and sees to what has come of it.

    `hung_up` is called when it is cancelled the first time. The work must have an end of its own, or one by `hung_up`.
    """
    if await _outlasted([work], hung_up):
        raise asyncio.CancelledError
    return work.result()


async def _end(tasks: Sequence["asyncio.Future[None]"]) -> None:
    """Cancel what goes on, and return when all have ended, however often this task is cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    if await _outlasted(tasks):
        raise asyncio.CancelledError


async def _outlasted(
    works: Sequence["asyncio.Future[Any]"], hung_up: Callable[[], None] = lambda: None
) -> bool:
    """Wait until all have ended; whether this task was cancelled meanwhile."""
    cancelled = False
    while going_on := [work for work in works if not work.done()]:
        try:
            await asyncio.wait(going_on)
        except asyncio.CancelledError:
            if not cancelled:
                hung_up()
            cancelled = True
    for work in works:
        # Or the event loop tells that nobody has asked.
        if not work.cancelled():
            work.exception()
    return cancelled
