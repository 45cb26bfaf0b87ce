"""Reads what all executions of a job write, side by side.

Knows: that executions come while others are read, and that a node answers only so many. Must not know: where output is kept
(`requester.logs`), or which execution takes the place of which.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Protocol

from protocol.ids import ExecutionId
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.requests import nothing_to_read
from requester.verbs import JobUpdate, LogLine, Verbs

AT_ONCE: Final = 64
"""How many executions are followed at a time. The output of others waits on their nodes until one of these has ended."""

AHEAD: Final = 16
"""How many executions are asked for their first piece while one is read: of nodes that are away each costs seconds."""


class Logs(Protocol):
    """Where the output of executions is read."""

    def read(self, execution: ExecutionRecord, *, follow: bool, tail: bool) -> AsyncGenerator[LogLine, None]:
        """What an execution wrote, until its end or (not following) the present; a failure is its last line."""


Source = AsyncGenerator[Any, None]


class Together:
    """The output of one job's executions, of its present version."""

    def __init__(self, verbs: Verbs, logs: Logs) -> None:
        self._verbs = verbs
        self._logs = logs

    async def read(
        self, ref: str, *, namespace: str, follow: bool, tail: bool
    ) -> AsyncGenerator[LogLine, None]:
        """What there is, one execution after the other; with `follow` all that comes, as it comes, until the job is closed
        and all has been read. Raises `NotFound` where there is nothing to read, and the faults of `Verbs.watch`.
        """
        if follow:
            lines = self._followed(ref, namespace, tail)
        else:
            lines = self._present(await self._verbs.job(ref, namespace=namespace), tail)
        async with aclosing(lines):
            async for line in lines:
                yield line

    async def _present(self, record: JobRecord, tail: bool) -> AsyncGenerator[LogLine, None]:
        coming = deque(record.current())
        if not coming:
            raise nothing_to_read(record)
        asked: deque[tuple[asyncio.Task[Any], Source]] = deque()
        try:
            while coming or asked:
                while coming and len(asked) < AHEAD:
                    lines = self._logs.read(coming.popleft(), follow=False, tail=tail)
                    asked.append((_next(lines), lines))
                task, source = asked[0]
                said = await task
                while said is not None:
                    yield said
                    said = await anext(source, None)
                asked.popleft()
        finally:
            await _let_go(dict(asked))

    async def _followed(self, ref: str, namespace: str, tail: bool) -> AsyncGenerator[LogLine, None]:
        updates = self._verbs.watch(ref, namespace=namespace)
        asked: dict[asyncio.Task[Any], Source] = {_next(updates): updates}
        known: set[ExecutionId] = set()
        coming: deque[ExecutionRecord] = deque()
        told = ""
        try:
            while asked:
                done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    source, said = asked.pop(task), task.result()
                    if said is None:
                        continue
                    asked[_next(source)] = source
                    if isinstance(said, LogLine):
                        yield said
                        continue
                    for each in _new(said, known):
                        coming.append(each)
                    if not known and (why := _reason(said)) != told:
                        told = why
                        yield LogLine(waiting=why)
                while coming and len(asked) <= AT_ONCE:
                    lines = self._logs.read(coming.popleft(), follow=True, tail=tail)
                    asked[_next(lines)] = lines
        finally:
            await _let_go(asked)


async def _let_go(asked: dict[asyncio.Task[Any], Source]) -> None:
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for source in asked.values():
        await source.aclose()


def _next(source: Source) -> asyncio.Task[Any]:
    """What a source says next; None at its end. One piece at a time: whoever asked sets the pace."""

    async def asked() -> Any:
        return await anext(source, None)

    return asyncio.create_task(asked())


def _new(update: JobUpdate, known: set[ExecutionId]) -> list[ExecutionRecord]:
    """Executions that were not known before; they are now. Raises `NotFound` for a closed job that never had any."""
    if update.job is None:
        return []
    found = [each for each in update.job.current() if each.id not in known]
    known |= {each.id for each in found}
    if update.job.closed and not known:
        raise nothing_to_read(update.job)
    return found


def _reason(update: JobUpdate) -> str:
    return update.job.queued.message if update.job is not None and update.job.queued is not None else ""
