"""Reads the output of executions from the nodes that hold it, at the asker's own speed.

Knows: long polls with a cursor, and what is told when a node cannot answer. Must not know: which execution is meant.

While an execution is open, its followers are not told that its node cannot answer: the node may come back and go on, or the
execution is given up, and only then does no more output come.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

from msgspec.structs import replace

from protocol import subjects
from protocol.asking import ask
from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Failure, TimedOut, Unavailable
from protocol.ids import short
from protocol.messages import decode, encode
from protocol.questions import STDERR, STDOUT, LogChunk, LogsAnswer, LogsRequest
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.requests import never_ran
from requester.verbs import LogLine, Verbs

_WAIT_S: Final = 10.0
"""How long a node may hold a request for more output."""
_ANSWER_S: Final = 5.0
_TRIES: Final = 2
"""Requests without an answer in a row before the output counts as out of reach: one may be lost on its way."""
_TRIES_FOLLOWING: Final = 5
_AGAIN_S: Final = 1.0
"""The pause before the node of an open execution is asked again, after it could not answer."""
_PASSING: Final = ("Unavailable", "TimedOut", "NotFound", "Exhausted")
"""Failures that pass: the node is away, has not begun with the execution yet, or answers too many."""
REPORT_S: Final = 5.0
"""How long to wait for the report of an execution whose output has ended, to say why there was none."""
_BEFORE: Final = (ExecutionState.ASSIGNED, ExecutionState.STAGING)
_END: Final = -1


class Logs:
    """Output of executions."""

    def __init__(self, bus: Bus, clock: Clock, verbs: Verbs) -> None:
        self._bus = bus
        self._clock = clock
        self._verbs = verbs

    async def read(
        self, execution: ExecutionRecord, *, follow: bool, tail: bool
    ) -> AsyncGenerator[LogLine, None]:
        """What an execution wrote, until its end or (not following) the present. The node's word, else what the log kept."""
        cursor = _END if tail else 0
        told: Counter[int] = Counter()
        while True:
            answer = await self._asked(execution, cursor, follow=follow)
            for chunk in answer.chunks:
                told[chunk.stream] += len(chunk.data)
                yield LogLine(execution.id, chunk)
            if answer.failure is not None:
                record: JobRecord = await self._verbs.job(execution.job)
                known = record.executions.get(execution.id, execution)
                if follow and known.open and answer.failure.code.startswith(_PASSING):
                    await self._clock.sleep(_AGAIN_S)
                    continue
                kept, whole = ([], False) if tail else _kept(known, told)
                for line in kept:
                    yield line
                if not whole:
                    failure = _cut(answer.failure) if kept else never_ran(known) or answer.failure
                    yield LogLine(known.id, failure=failure)
                return
            if answer.ended or (not follow and not answer.chunks):
                if not told and not tail:
                    known = await self._known(execution, report=answer.ended)
                    if (why := never_ran(known)) is not None:
                        yield LogLine(execution.id, failure=why)
                return
            cursor = answer.cursor

    async def _known(self, execution: ExecutionRecord, *, report: bool) -> ExecutionRecord:
        """An execution as it is now, or after its `report`: of its end the node knows a moment before the log does."""
        known = execution
        with suppress(TimeoutError):
            async with asyncio.timeout(REPORT_S), aclosing(self._verbs.watch(execution.job)) as updates:
                async for update in updates:
                    if update.job is not None:
                        known = update.job.executions.get(execution.id, known)
                        if not report or known.state not in _BEFORE:
                            break
        return known

    async def _asked(self, execution: ExecutionRecord, cursor: int, *, follow: bool) -> LogsAnswer:
        """The node's answer, or the failure that it does not answer."""
        wanted = LogsRequest(execution.id, cursor, wait_s=_WAIT_S if follow else 0.0)
        try:
            data = await ask(
                self._bus,
                subjects.logs(execution.node),
                encode(wanted),
                timeout_s=wanted.wait_s + _ANSWER_S,
                tries=_TRIES_FOLLOWING if follow else _TRIES,
            )
        except (Unavailable, TimedOut) as fault:
            return LogsAnswer(cursor, failure=_out_of_reach(execution, fault))
        return decode(data, LogsAnswer)


def _out_of_reach(execution: ExecutionRecord, fault: Unavailable | TimedOut) -> Failure:
    node = short(execution.node)
    return type(fault)(
        f"node {node} does not answer, and the output of execution {short(execution.id)} is kept there",
        hint=f"See how the node is: shoal node describe {node}",
    ).failure()


def _cut(failure: Failure) -> Failure:
    """Told behind a beginning."""
    return replace(failure, message=f"this is only the beginning of what it wrote: {failure.message}")


def _kept(known: ExecutionRecord, told: Counter[int]) -> tuple[list[LogLine], bool]:
    """What the execution's report has of its output beyond the bytes `told` of each stream, and whether that is all.

    Only who was told nothing yet is served with a beginning.
    """
    output = known.output
    whole = output is not None and not (output.stdout_truncated or output.stderr_truncated)
    if output is None or (told and not whole):
        return [], False
    texts = (
        (stream, text.encode()[told[stream] :])
        for stream, text in ((STDOUT, output.stdout), (STDERR, output.stderr))
    )
    lines = [LogLine(known.id, LogChunk(stream, known.modified_at, rest)) for stream, rest in texts if rest]
    return lines, whole
