"""Several things side by side, of which the first fault counts; one thing that has its time.

Knows: tasks, and how they end. Must not know: what is done.

`asyncio.TaskGroup` is for what lives and dies together. Where a fault is borne and the task goes on it will not do: a group
that is cancelled at the moment when one of its tasks fails tells of the fault alone (up to Python 3.12), so that the task
goes on for ever, for nobody cancels twice. What the task's own count of cancellations says then is wrong as well.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

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


async def _end(tasks: Sequence["asyncio.Future[None]"]) -> None:
    """Cancel what goes on, and return when all have ended, however often this task is cancelled meanwhile."""
    cancelled = False
    for task in tasks:
        task.cancel()
    while going_on := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(going_on)
        except asyncio.CancelledError:
            cancelled = True
    for task in tasks:
        # Or the event loop tells that nobody has asked.
        if not task.cancelled():
            task.exception()
    if cancelled:
        raise asyncio.CancelledError
