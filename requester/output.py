"""Reads what a job's program writes: of one execution, or attempt after attempt of the job.

Knows: that who follows a job wants what its next attempt writes as well. Must not know: where output is kept
(`requester.logs`), or when a job is tried again (`requester.core`).
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from protocol.errors import Failure, NotFound
from requester.core.fleet import Fleet
from requester.core.model import ExecutionRecord
from requester.core.output import is_last_attempt, next_attempt_at
from requester.core.policy import Policy
from requester.core.requests import execution_named, nothing_to_read, output_execution
from requester.together import Logs, Together
from requester.verbs import LogLine, NextAttempt, Verbs


class Output:
    """Output of jobs. `fleet` are the nodes, None as long as too little is known of them."""

    def __init__(self, verbs: Verbs, logs: Logs, policy: Policy, fleet: Callable[[], Fleet | None]) -> None:
        self._verbs = verbs
        self._logs = logs
        self._policy = policy
        self._together = Together(verbs, logs)
        self._fleet = fleet

    def read(
        self, ref: str, *, namespace: str, execution: str, every: bool, follow: bool, tail: bool
    ) -> AsyncGenerator[LogLine, None]:
        """See `Verbs.logs`."""
        if every:
            return self._together.read(ref, namespace=namespace, follow=follow, tail=tail)
        return self._one(ref, namespace, execution, follow, tail)

    async def _one(
        self, ref: str, namespace: str, execution: str, follow: bool, tail: bool
    ) -> AsyncGenerator[LogLine, None]:
        chosen: ExecutionRecord | None = None
        among, told = 0, ""
        async with aclosing(self._verbs.watch(ref, namespace=namespace)) as updates:
            async for update in updates:
                record = update.job
                if record is None:
                    continue
                chosen = execution_named(record, execution) if execution else output_execution(record)
                if chosen is not None:
                    among = len(record.current())
                    break
                if not follow or record.closed:
                    raise nothing_to_read(record)
                if record.queued is not None and record.queued.message != told:
                    told = record.queued.message
                    yield LogLine(waiting=told)
        if chosen is None:
            return
        if not execution:
            yield LogLine(chosen.id, executions=among)
        async with aclosing(self._attempts(chosen, follow, tail, only=bool(execution))) as lines:
            async for line in lines:
                yield line

    async def _attempts(
        self, chosen: ExecutionRecord, follow: bool, tail: bool, *, only: bool
    ) -> AsyncGenerator[LogLine, None]:
        """The output of an execution and, for who follows it and did not want it `only`, of those that take its place."""
        goes_on = follow and not only
        while True:
            missing: LogLine | None = None
            async with aclosing(self._logs.read(chosen, follow=follow, tail=tail)) as lines:
                async for line in lines:
                    if goes_on and line.failure is not None:
                        # Of no interest if the program is tried again: all that it writes comes then.
                        missing = line
                    else:
                        yield line
            following, before = await self._next(chosen) if goes_on else (None, None)
            if following is None:
                if missing is not None:
                    yield missing
                return
            again = NextAttempt(following.attempt, following.version, following.node, before)
            yield LogLine(following.id, again=again)
            chosen, tail = following, False

    async def _next(self, last: ExecutionRecord) -> tuple[ExecutionRecord | None, Failure | None]:
        """What comes in the place of an execution, once it is there, and why that one failed; None if nothing will."""
        try:
            async with aclosing(self._verbs.watch(last.job)) as updates:
                async for update in updates:
                    record = update.job
                    if record is None:
                        continue
                    following = next_attempt_at(record, last)
                    if following is not None:
                        return following, record.executions.get(last.id, last).failure
                    if is_last_attempt(record, last, self._policy, self._fleet()):
                        break
        except NotFound:
            # It was deleted meanwhile.
            return None, None
        return None, None
