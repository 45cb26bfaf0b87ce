"""Has each job looked at when the next of its moments has come.

Knows: how a job waits for a moment, and that one may pass without anything following from it. Must not know: which moments a
job has (`requester.core.deadlines`), or what a look comes to.
"""

from typing import Final

from protocol.clock import Clock
from requester.agenda import Agenda
from requester.core.deadlines import next_deadline
from requester.core.model import JobRecord
from requester.core.newcomers import Newcomer
from requester.core.policy import Policy
from requester.jobs import Jobs
from requester.live import Live

_PASSED_S: Final = 0.5
"""The rest before looking again at a job whose deadline has passed without anything following from it."""


class Deadlines:
    """One requester's, in its agenda."""

    def __init__(self, clock: Clock, policy: Policy, *, jobs: Jobs, agenda: Agenda) -> None:
        self._clock = clock
        self._policy = policy
        self._jobs = jobs
        self._agenda = agenda

    def await_next(self, live: Live, since: float) -> None:
        """Look again when something becomes due that nobody can have seen at `since` (unix seconds)."""
        record = live.record
        if record is None or record.closed:
            return
        due = self._due_at(record, since)
        if due is not None and (live.due is None or due < live.due):
            live.due = due
            self._agenda.remind_in_turn(due, live.key)

    def await_first(self, job: JobRecord | Newcomer) -> None:
        """The same for a job that waits without being in memory."""
        if isinstance(job, Newcomer):
            due = self._not_over(job.due)
        else:
            due = self._due_at(job, min(job.modified_at, self._clock.now()))
        if due is not None:
            self._agenda.remind_in_turn(due, job.key)

    def _due_at(self, record: JobRecord, since: float) -> float | None:
        return self._not_over(next_deadline(record, self._jobs.running_since, since, self._policy))

    def _not_over(self, due: float | None) -> float | None:
        if due is None or due > (now := self._clock.now()):
            return due
        # It has passed and nothing followed: something else is awaited too (nodes that were not heard yet).
        return now + _PASSED_S
