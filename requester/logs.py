"""Reads the output of executions from the nodes that hold it, at the asker's own speed.

Knows: long polls with a cursor, and what is told when a node cannot answer. Must not know: which execution is meant.
"""

from collections.abc import AsyncGenerator

from protocol import subjects
from protocol.asking import ask
from protocol.bus import Bus
from protocol.errors import Fault, TimedOut, Unavailable
from protocol.messages import LogChunk, LogsAnswer, LogsRequest, decode, encode
from requester.core.model import ExecutionRecord, JobRecord
from requester.verbs import LogLine, Verbs

_WAIT_S = 10.0
"""How long a node may hold a request for more output."""
_ANSWER_S = 5.0
_TRIES = 2
"""Requests without an answer in a row before the output counts as out of reach: one may be lost on its way."""
_TRIES_FOLLOWING = 5
_END = -1


class Logs:
    """Output of executions."""

    def __init__(self, bus: Bus, verbs: Verbs) -> None:
        self._bus = bus
        self._verbs = verbs

    async def read(
        self, execution: ExecutionRecord, *, follow: bool, tail: bool
    ) -> AsyncGenerator[LogLine, None]:
        """What an execution wrote, until its end or (not following) the present. The node's word, else what the log kept."""
        cursor = _END if tail else 0
        while True:
            wanted = LogsRequest(execution.id, cursor, wait_s=_WAIT_S if follow else 0.0)
            try:
                data = await ask(
                    self._bus,
                    subjects.logs(execution.node),
                    encode(wanted),
                    timeout_s=wanted.wait_s + _ANSWER_S,
                    tries=_TRIES_FOLLOWING if follow else _TRIES,
                )
                answer = decode(data, LogsAnswer)
            except (Unavailable, TimedOut) as fault:
                for line in await self._kept(execution, fault, told=cursor > 0):
                    yield line
                return
            for chunk in answer.chunks:
                yield LogLine(execution.id, chunk)
            if answer.failure is not None:
                for line in await self._kept(execution, None, told=cursor > 0) or [
                    LogLine(execution.id, failure=answer.failure)
                ]:
                    yield line
                return
            if answer.ended or (not follow and not answer.chunks):
                return
            cursor = answer.cursor

    async def _kept(self, execution: ExecutionRecord, fault: Fault | None, *, told: bool) -> list[LogLine]:
        """The beginning of the output as the execution's report told it, if there is one; else the fault."""
        record: JobRecord = await self._verbs.job(execution.job)
        known = record.executions.get(execution.id, execution)
        if known.output is not None and not told:
            at = known.modified_at
            kept = ((1, known.output.stdout), (2, known.output.stderr))
            return [LogLine(known.id, LogChunk(stream, at, text.encode())) for stream, text in kept if text]
        return [LogLine(known.id, failure=fault.failure())] if fault is not None else []
