"""What may be written, checked entry by entry as the log takes them: invariants I2 to I5, I8 and I9.

Knows: the meaning of the log's events, said a second time and more simply than `requester.core` says it, so that a fault
there shows here. Must not know: processes, or how anything was decided.

The entries of a sound system contain nothing that changes nothing: each append is guarded, so whoever wrote it knew all that
came before. That makes the rules strict.
"""

from collections.abc import Callable, Collection

from msgspec import Struct, UnsetType, field

from protocol.bus import Append
from protocol.entries import (
    Assigned,
    Cancelled,
    Closed,
    Deleted,
    Entry,
    Event,
    Lost,
    Queued,
    Reported,
    StopRequested,
    Submitted,
    read_entry,
)
from protocol.ids import ExecutionId, JobId, JobKey, NodeId, execution_id, key_of
from protocol.jobs import Job
from protocol.messages import Report, Verdict
from protocol.states import ARROWS, ENDS, ExecutionState, JobState
from requester.core.policy import Policy
from tests.simulation.scenario import ENDLESS

S = ExecutionState
LONG_RUNNING = ("service", "daemon")
EVERYWHERE = ("ops", "daemon")
LATE_S = 1.5


class Attempt(Struct):
    """One execution as the log has it."""

    id: ExecutionId
    version: int
    partition: int
    number: int
    node: NodeId
    state: ExecutionState = S.ASSIGNED
    excused: bool = False
    """It ended through no fault of the work."""
    ended_at: float | None = None
    """When that was written."""


class History(Struct):
    """One job as the log has it."""

    id: JobId
    spec: Job
    version: int
    submitted_at: float = 0.0
    queued_at: float = 0.0
    """When it was last said why it waits."""
    state: JobState | None = None
    stopping: bool = False
    attempts: dict[ExecutionId, Attempt] = field(default_factory=dict)
    closings: list[tuple[int, JobState]] = field(default_factory=list)
    """Every final state that was ever written, with its version."""
    first: int = 0
    """The sequence of its first entry that counts: what stands before it is of an earlier job of its name."""
    last: int = 0
    """The sequence of its newest entry."""

    def of(self, partition: int) -> list[Attempt]:
        """The attempts of the present version at a partition."""
        return [
            each
            for each in self.attempts.values()
            if each.version == self.version and each.partition == partition
        ]


class Seen(Struct):
    """What a log says of the jobs that are in it, and of those that were."""

    jobs: dict[JobKey, History]
    past: dict[JobKey, list[History]]


class Checker:
    """Follows the log and says what is `wrong`. `right` finds fault with an execution's result; where it is `punctual`,
    nothing goes wrong but at nodes, and what is due is done in time.
    """

    def __init__(
        self,
        wrong: Callable[[str], None],
        note: Callable[[str, str], None],
        policy: Policy,
        right: Callable[[Job, Report, Attempt], str],
        *,
        punctual: bool,
    ) -> None:
        self.jobs: dict[JobKey, History] = {}
        self.past: dict[JobKey, list[History]] = {}
        """Jobs that have left the log, or were deleted."""
        self.entries = 0
        self.thinned: Collection[JobKey] = ()
        """Jobs that went on while their earlier versions were taken out of the log: not all know how those ended."""
        self.barred: dict[str, float] = {}
        """Nodes that get no new work by people's word, and since when that is everywhere."""
        self._lost: dict[JobId, int] = {}
        """The newest version of each job that was lost with a log: a requester that was asked about one before that may take
        it for one that has left the log.
        """
        self._wrong = wrong
        self._note = note
        self._policy = policy
        self._right = right
        self._punctual = punctual

    def seen(self) -> Seen:
        """What the log says so far."""
        return Seen(self.jobs, self.past)

    def begin_again(self, seen: Seen) -> None:
        """The log is another one from now on, which says that."""
        self._lost |= {each.id: each.version for each in self.jobs.values()}
        self.jobs, self.past = seen.jobs, seen.past
        self.barred.clear()

    def cleared(self, key: JobKey) -> None:
        """A job has left the log: it must be over."""
        history = self.jobs.pop(key, None)
        if history is None:
            return
        self.past.setdefault(key, []).append(history)
        self._note("", f"{history.id} has left the log")
        if history.state is None:
            self._wrong(f"I2: {history.id} has left the log before its end")

    def every(self) -> list[History]:
        """All jobs there are and were."""
        return [*self.jobs.values(), *(each for past in self.past.values() for each in past)]

    def newest(self, id_: str) -> History | None:
        """The newest of what there is or was of a job."""
        found = [each for each in self.every() if each.id == id_]
        return max(found, key=lambda each: each.version, default=None)

    def stored(self, who: str, append: Append, seq: int, now: float) -> None:
        """An entry is in the log from now on."""
        self.entries += 1
        entry = read_entry(append.data)
        said = ", ".join(map(_words, entry.events)) if entry.snapshot is None else "snapshot"
        self._note(who, f"entry {seq} of {entry.job}: {said}")
        if key_of(entry.job) != append.key:
            self._wrong(f"entry {seq} is on another job's subject")
        if not entry.events:
            self._wrong(f"entry {seq} is empty")
        # What a snapshot says was said before (`snapshots`).
        for event in entry.events if entry.snapshot is None else ():
            fault = self._take(append.key, entry, event, now) or self._barred(event, now)
            if fault:
                self._wrong(f"{fault} (entry {seq} of {entry.job} by {who})")
        if (job := self.jobs.get(append.key)) is not None:
            job.first, job.last = job.first or seq, seq

    def _take(self, key: JobKey, entry: Entry, event: Event, now: float) -> str:
        """Follow one event; the answer says what is wrong with it."""
        job, id_ = self.jobs.get(key), entry.job
        if isinstance(event, Submitted):
            fault = self._submitted(key, id_, job, event)
            self.jobs[key].submitted_at = now
            return fault
        if job is None:
            known = id_ in self._lost or any(each.id == id_ for each in self.past.get(key, ()))
            if isinstance(event, Deleted) and known:
                return ""
            return "I2: the first event is not the submission"
        if job.id != id_:
            return f"another job's id: {id_} for {job.id}"
        if isinstance(event, Deleted):
            self.past.setdefault(key, []).append(self.jobs.pop(key))
            return "deleted before its end" if job.state is None else ""
        if job.state is not None:
            return f"I4: {type(event).__name__} after the job was closed as {job.state}"
        fault = self._late(job, event, now)
        match event:
            case StopRequested():
                if job.stopping:
                    return "stopped twice"
                job.stopping = True
            case Assigned():
                fault = self._assigned(job, event) or fault
            case Reported(report):
                fault = self._reported(job, report, now) or fault
            case Cancelled() | Lost():
                fault = self._given_up(job, event, now) or fault
            case Closed():
                fault = self._closed(job, event) or fault
            case Queued():
                job.queued_at = now
        return fault

    def _barred(self, event: Event, now: float) -> str:
        """I11: where nothing goes wrong but at nodes, a node that people have taken out gets no new work."""
        if self._punctual and isinstance(event, Assigned):
            since = self.barred.get(event.node, now)
            if now > since:
                return f"I11: new work for {event.node}, {now - since:.1f} s after everybody knew that it was taken out"
        return ""

    def _submitted(self, key: JobKey, id_: JobId, job: History | None, event: Submitted) -> str:
        if job is None:
            self.jobs[key] = History(id_, event.spec, event.version)
            past = self.past.get(key, ())
            earlier = max((each.version for each in past if each.id == id_), default=0)
            after = (earlier, self._lost.get(id_, earlier))
            return "" if event.version - 1 in after else f"I2: version {event.version} after {earlier}"
        if job.id != id_:
            return f"I2: {id_} takes the place of {job.id}"
        if event.version != job.version + 1:
            return f"version {event.version} after {job.version}"
        job.version, job.spec, job.state, job.stopping = event.version, event.spec, None, False
        return ""

    def _assigned(self, job: History, event: Assigned) -> str:
        spec = job.spec
        if event.execution in job.attempts:
            return f"{event.execution} is assigned twice"
        if job.stopping:
            return "assigned though it was stopped"
        everywhere = spec.type in EVERYWHERE
        node = event.node if everywhere else None
        made = execution_id(job.id, job.version, event.partition, event.attempt, node)
        if event.execution != made:
            return f"{event.execution} is not the id of attempt {event.attempt}"
        fault = self._everywhere(job, event) if everywhere else self._partition(job, event)
        job.attempts[event.execution] = Attempt(
            event.execution, job.version, event.partition, event.attempt, event.node
        )
        return fault

    def _everywhere(self, job: History, event: Assigned) -> str:
        here = [
            each for each in job.attempts.values() if each.version == job.version and each.node == event.node
        ]
        if any(each.state not in ENDS for each in here):
            return f"two open executions on {event.node}"
        if event.attempt != len(here) + 1:
            return f"I8: attempt {event.attempt} on {event.node} after {len(here)} others"
        if job.spec.type == "ops":
            if any(each.state is S.COMPLETED for each in here):
                return f"I3: an ops job comes to {event.node} again"
            return self._too_often(job, here)
        return ""

    def _too_often(self, job: History, earlier: list[Attempt]) -> str:
        """I8: no attempt follows when the failures that count have used up what the job or the policy gives."""
        retry = job.spec.retry
        own = 0 if isinstance(retry, UnsetType) else retry.attempts
        limit = own or (1 if job.spec.type == "ops" else self._policy.attempts_max)
        failures = [each for each in earlier if each.state in (S.FAILED, S.CANCELLED) and not each.excused]
        return f"I8: attempt after {len(failures)} failures" if len(failures) >= limit else ""

    def _partition(self, job: History, event: Assigned) -> str:
        earlier = job.of(event.partition)
        if not 0 <= event.partition < job.spec.count:
            return f"there is no partition {event.partition}"
        if any(each.state not in ENDS for each in earlier):
            return f"I3: partition {event.partition} has two open executions"
        if job.spec.type not in LONG_RUNNING:
            if any(each.state is S.COMPLETED for each in earlier):
                return f"I3: partition {event.partition} is completed and assigned again"
            if fault := self._too_often(job, earlier):
                return fault
        if event.attempt != len(earlier) + 1:
            return f"I8: attempt {event.attempt} after {len(earlier)} others"
        return ""

    def answered(self, report: Report, verdict: Verdict) -> None:
        """A node takes this for the answer to a report, and goes by it. An end that it is to say no more of is in the log,
        and what it is to forget is over: else the work would be done again, and what it has shown would be for nothing. A
        log that was lost may have had more.
        """
        if verdict.verdict == "later":
            self._wrong(
                f"I3: {report.node} takes it for an answer that it is to ask later about {report.execution}"
            )
        ended = verdict.verdict == "stored" and report.state in ENDS
        if self._lost or verdict.replaced or not (ended or verdict.verdict == "drop"):
            return
        attempts = (each.attempts.get(report.execution) for each in self.jobs.values())
        if any(each is not None and each.state not in ENDS for each in attempts):
            what = "its end is stored" if ended else "it is over"
            self._wrong(
                f"I3: {report.node} was told of {report.execution} that {what}, and the log has nothing of it"
            )

    def _reported(self, job: History, report: Report, now: float) -> str:
        attempt = job.attempts.get(report.execution)
        if attempt is None:
            return f"a report of the unknown {report.execution}"
        if attempt.node != report.node:
            return f"I3: a report from {report.node} about an execution of {attempt.node}"
        if attempt.state in ENDS:
            return f"I3, I4: a report of {report.state} for an execution that is {attempt.state}"
        if report.state is not attempt.state and report.state not in ARROWS[attempt.state]:
            return f"I9: {attempt.state} → {report.state}"
        fault = ""
        if report.state is S.COMPLETED:
            if job.spec.type == "batch" and any(
                each.state is S.COMPLETED for each in job.of(attempt.partition)
            ):
                fault = f"I3: a second result for partition {attempt.partition}"
            fault = fault or (attempt.version == job.version and self._right(job.spec, report, attempt)) or ""
        attempt.state = report.state
        if attempt.state in ENDS:
            attempt.ended_at = now
        return fault

    def _given_up(self, job: History, event: Cancelled | Lost, now: float) -> str:
        attempt = job.attempts.get(event.execution)
        if attempt is None:
            return f"{event.execution} is given up and unknown"
        if attempt.state in ENDS:
            if attempt.version < job.version and key_of(job.id) in self.thinned:
                return ""
            return f"I4: {event.execution} is given up and was {attempt.state}"
        attempt.state = S.LOST if isinstance(event, Lost) else S.CANCELLED
        attempt.ended_at = now
        attempt.excused = event.failure.code.startswith("Unavailable.Node")
        return ""

    def _closed(self, job: History, event: Closed) -> str:
        job.state = event.state
        job.closings.append((job.version, event.state))
        still_open = [each.id for each in job.attempts.values() if each.state not in ENDS]
        if still_open:
            return f"closed with {still_open} open"
        if event.state is JobState.STOPPED and not job.stopping:
            return "stopped and nobody asked for it"
        if event.state is JobState.FAILED and event.failure is None:
            return "failed without a reason"
        code = event.failure.code if event.failure is not None else ""
        if code == "Exhausted.NoRoom":
            return "failed for lack of room, which is always waited for"
        if code == "Exhausted.Entries" and job.spec.name.startswith(ENDLESS):
            return "I14: ended for its entries, of which snapshots are written"
        if event.state is JobState.COMPLETED and job.spec.type == "batch":
            for partition in range(job.spec.count):
                if not any(each.state is S.COMPLETED for each in job.of(partition)):
                    return f"I2: completed without a result of partition {partition}"
        if job.stopping and event.state is not JobState.STOPPED:
            return f"stopped, and closed as {event.state}"
        return ""

    def _late(self, job: History, event: Event, now: float) -> str:
        """I1: where nothing goes wrong with requesters, a deadline is kept and a rest does not last."""
        due, what = None, ""
        timeouts = job.spec.task.timeouts
        if isinstance(event, Closed) and event.failure is not None:
            if event.failure.code == "TimedOut.Total":
                due, what = job.submitted_at + timeouts.total_timeout, "total timeout"
            elif timeouts.queue_timeout and event.message.startswith("Job timed out"):
                due, what = job.queued_at + timeouts.queue_timeout, "queue timeout"
        elif isinstance(event, Assigned | Queued) and job.spec.type == "batch" and job.spec.count == 1:
            due, what = self._rested(job), "rest"
        if self._punctual and due is not None and now > due + LATE_S:
            return f"I1: {type(event).__name__} {now - due:.1f} s after its {what} was over"
        return ""

    def _rested(self, job: History) -> float | None:
        """When the rest after a job's last attempt is over, if that was no success and nothing has followed yet."""
        tried = job.of(0)
        if not tried or tried[-1].ended_at is None or tried[-1].state is S.COMPLETED or job.stopping:
            return None
        if job.queued_at >= tried[-1].ended_at:
            return None
        policy, retry = self._policy, job.spec.retry
        backoff_s: float = (
            policy.backoff_s if isinstance(retry, UnsetType) else retry.backoff or policy.backoff_s
        )
        failures = sum(each.state in (S.FAILED, S.CANCELLED) and not each.excused for each in tried)
        rest_s: float = backoff_s * 2 ** max(failures - 1, 0)
        return tried[-1].ended_at + min(max(policy.backoff_max_s, backoff_s), rest_s)


def _words(event: Event) -> str:
    match event:
        case Submitted():
            return f"submitted version {event.version}"
        case Assigned():
            return f"assigned {event.execution} (partition {event.partition}, attempt {event.attempt}) to {event.node}"
        case Reported(report):
            why = f" {report.failure.code}" if report.failure else ""
            return f"reported {report.execution} {report.state}{why}"
        case Cancelled() | Lost():
            return f"{type(event).__name__.lower()} {event.execution} {event.failure.code}"
        case Closed():
            return f"closed {event.state} {event.failure.code if event.failure else ''}".rstrip()
        case Queued():
            return f"queued {event.reason.code}"
        case StopRequested():
            return "stop"
        case Deleted():
            return "deleted"
