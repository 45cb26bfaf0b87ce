"""The fold: what a job's entries add up to, one entry after the other.

Knows: how each event changes a job's record, and which events change nothing. Must not know: why an event was written
(`step` decides that) or where entries come from. This is the only way in which a job's state changes.

The rules that everything else leans on:

- An execution ends once. A report, a loss or a cancellation of one that has ended, is unknown, or runs on another node
  changes nothing, so whatever comes late is harmless.
- A version closes once. Only a new version opens the job again.
- A job that was deleted has no record; what comes under its name afterwards begins anew.
- A reader that was away for longer than the log keeps closed jobs may still have one as open whose end it never saw. What
  shows that the old entries are gone begins anew too: so each reader ends where one does that knows only what is left.
- Of work that is started again and again only the newest attempts at each place are kept, and the newest that came up.
- A snapshot is the job: who has the record, and who knows nothing but that entry, have the same one after it.
- An entry is folded once: what stands at or before `revision` is skipped, so reading the log twice is harmless.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from msgspec import UnsetType
from msgspec.structs import replace

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
    Snapshot,
    StopRequested,
    Submitted,
)
from protocol.errors import Failure
from protocol.ids import ExecutionId, JobId, key_of
from protocol.jobs import LONG_RUNNING, Job
from protocol.states import ExecutionState, JobState, may_follow
from requester.core.attempts import came_up
from requester.core.meant import place_of
from requester.core.model import ExecutionRecord, JobRecord

Executions = dict[ExecutionId, ExecutionRecord]
_Places = dict[str | int, list[ExecutionId]]
KEPT: Final = 50
"""Ended attempts at one partition (or on one node) of a service or daemon, beside the newest one."""


class Told(NamedTuple):
    """An event, and at which sequence and time (unix seconds) it was written first."""

    seq: int
    at: float
    event: Event


def fold(record: JobRecord | None, entry: Entry, seq: int) -> JobRecord | None:
    """The record after the entry at sequence `seq` of this job's subject.

    None as long as the job was never submitted, and again once it was deleted. An entry that names another job than the
    record changes nothing, unless it begins a new life of the name after the old log was purged.
    """
    if record is not None and seq <= record.revision:
        return record
    if entry.snapshot is not None:
        return _restored(entry, entry.snapshot, seq)
    if record is not None:
        if begins_anew(record, entry):
            record = None
        elif entry.job != record.id:
            return replace(record, revision=seq, entries=record.entries + 1)
    after = fold_events(record, entry.events, job=entry.job, at=entry.at, seq=seq)
    if after is None:
        return None
    return replace(after, revision=seq, entries=record.entries + 1 if record is not None else 1)


def begins_anew(record: JobRecord, entry: Entry) -> bool:
    """Whether an entry shows that all there was of the job, or of an earlier one of its name, has left the log."""
    first = entry.first
    if entry.job != record.id:
        return isinstance(first, Submitted | Deleted)
    return isinstance(first, Submitted) and first.anew


def fold_events(
    record: JobRecord | None, events: Sequence[Event], *, job: JobId, at: float, seq: int
) -> JobRecord | None:
    """The record after some events, its revision left as it was: what `step` uses to look ahead."""
    return _folded(record, ((seq, at, event) for event in events), job, at)


def told_in(entry: Entry, snapshot: Snapshot) -> list[Told]:
    """The events of an entry that is this snapshot, each as of its own moment."""
    return [Told(seq, at, event) for event, (seq, at) in zip(entry.events, snapshot.moments, strict=False)]


def counted(record: JobRecord, snapshot: Snapshot, seq: int) -> JobRecord:
    """A record with the counts that a snapshot at `seq` says."""
    return replace(
        record,
        revision=seq,
        forgotten=snapshot.forgotten,
        entries=snapshot.count,
        snapshot=seq,
        before=snapshot.count - 1,
        since=snapshot.since,
    )


def _restored(entry: Entry, snapshot: Snapshot, seq: int) -> JobRecord | None:
    """The record that a snapshot at `seq` is: that of its events."""
    record = _folded(None, told_in(entry, snapshot), entry.job, entry.at)
    if record is None:
        return None
    return replace(counted(record, snapshot, seq), created_at=snapshot.created_at)


def _folded(
    record: JobRecord | None, told: Iterable[tuple[int, float, Event]], job: JobId, now: float
) -> JobRecord | None:
    # Plain tuples do: every entry is folded, and a `Told` costs several times as much.
    executions: Executions | None = None
    places: _Places | None = None
    for seq, at, event in told:
        if isinstance(event, Submitted):
            record, places = _submitted(record, event, job, at), None
        elif isinstance(event, Deleted):
            record = executions = None
        elif record is None or record.closed:
            if record is None or isinstance(event, Closed | StopRequested | Queued | Assigned):
                continue
            executions = _ended(record, executions, event, at, seq)
        elif isinstance(event, Assigned):
            known = executions if executions is not None else record.executions
            if event.execution not in known:
                executions = _assigned(record, executions, event, at, seq)
                if record.spec.type in LONG_RUNNING:
                    places = _placed(record, executions, event.execution, places)
                    record = _forget_old(record, executions, event.execution, places)
        elif isinstance(event, Reported | Cancelled | Lost):
            executions = _ended(record, executions, event, at, seq)
        elif isinstance(event, Closed):
            record = replace(
                record,
                state=event.state,
                message=event.message,
                failure=event.failure,
                queued=None,
                queued_at=None,
            )
            unseen = len(record.open())
            if unseen:
                # Nothing is open when a job closes: their ends have left the log before this reader came to them.
                executions = {each.id: each for each in record.executions.values() if not each.open}
                places = None
                record = replace(record, forgotten=record.forgotten + unseen)
        elif isinstance(event, Queued):
            since = record.queued_at if record.queued_at is not None else at
            record = replace(record, queued=event.reason, queued_at=since)
        else:
            record = replace(record, stopping=event.reason)
        if executions is not None and record is not None and record.executions is not executions:
            record = replace(record, executions=executions)
    return None if record is None else _settled(record, now)


def _submitted(record: JobRecord | None, event: Submitted, job: JobId, at: float) -> JobRecord | None:
    """A job's first version, or its next one: what came before stays as history, deadlines begin anew."""
    spec = event.spec if event.spec.name else replace(event.spec, name=job)
    if record is None:
        key = key_of(job)
        if key is None:
            return None
        return JobRecord(
            id=job,
            key=key,
            spec=spec,
            version=event.version,
            state=JobState.PENDING,
            created_at=at,
            submitted_at=at,
            modified_at=at,
            revision=0,
            warnings=event.warnings,
        )
    if event.version <= record.version:
        return record
    return replace(
        record,
        spec=spec,
        version=event.version,
        state=JobState.PENDING,
        submitted_at=at,
        message="",
        failure=None,
        stopping=None,
        queued=None,
        queued_at=None,
        warnings=event.warnings,
        earlier={**record.earlier, record.version: record.spec},
    )


def _assigned(
    record: JobRecord, executions: Executions | None, event: Assigned, at: float, seq: int
) -> Executions:
    executions = dict(record.executions) if executions is None else executions
    executions[event.execution] = ExecutionRecord(
        id=event.execution,
        job=record.id,
        version=record.version,
        partition=event.partition,
        attempt=event.attempt,
        node=event.node,
        amounts=event.amounts,
        state=ExecutionState.ASSIGNED,
        created_at=at,
        modified_at=at,
        ordered=seq,
        revision=seq,
        why=event.why,
        ranking=event.ranking,
        partitions=event.partitions,
    )
    return executions


def _placed(record: JobRecord, executions: Executions, new: ExecutionId, places: _Places | None) -> _Places:
    """The executions of a long-running job by their places, oldest first, with a new one. An entry may assign thousands:
    they are sorted once, and each is looked at beside those of its own place alone."""
    type_ = record.spec.type
    coming = executions.values() if places is None else (executions[new],)
    places = {} if places is None else places
    for each in coming:
        places.setdefault(place_of(type_, each.node, each.partition), []).append(each.id)
    return places


def _forget_old(record: JobRecord, executions: Executions, new: ExecutionId, places: _Places) -> JobRecord:
    """The record without the oldest attempts at the place of a new one, if they are too many."""
    place = place_of(record.spec.type, executions[new].node, executions[new].partition)
    there = [executions[id_] for id_ in places[place]]
    old = dispensable(there[:-1], kept_of(record.spec, KEPT))
    if not old:
        return record
    for each in old:
        del executions[each.id]
    places[place] = [id_ for id_ in places[place] if id_ in executions]
    return replace(record, forgotten=record.forgotten + len(old))


def kept_of(spec: Job, attempts: int) -> int:
    """How many ended attempts at each place are kept of a job, where it is `attempts` usually: as many as it may have."""
    return attempts if isinstance(spec.retry, UnsetType) else max(attempts, spec.retry.attempts)


def dispensable(there: Sequence[ExecutionRecord], kept: int) -> list[ExecutionRecord]:
    """Of the attempts at one place, oldest first, those that may be forgotten where the newest `kept` stay: the others that
    have ended, but for the newest that came up. By that it is known that the job does.
    """
    old = [each for each in (there[:-kept] if kept else there) if not each.open]
    if not old or any(came_up(each) for each in there[len(there) - kept :]):
        return old
    up = next((each for each in reversed(old) if came_up(each)), None)
    return [each for each in old if each is not up]


def _ended(
    record: JobRecord, executions: Executions | None, event: Event, at: float, seq: int
) -> Executions | None:
    """The executions after a report, a cancellation or a loss: changed only if the one it names is open."""
    changed = _changed(record, event, at, seq)
    if changed is None:
        return executions
    executions = dict(record.executions) if executions is None else executions
    executions[changed.id] = changed
    return executions


def _changed(record: JobRecord, event: Event, at: float, seq: int) -> ExecutionRecord | None:
    if isinstance(event, Reported):
        report = event.report
        execution = record.executions.get(report.execution)
        if execution is None or execution.node != report.node or not accepts(execution, report.state):
            return None
        return replace(
            execution,
            state=report.state,
            modified_at=at,
            revision=seq,
            stages=report.stages,
            failure=report.failure,
            output=report.output,
            result=report.result,
            inputs=report.inputs or execution.inputs,
            written=report.written,
            ports=report.ports or execution.ports,
            incarnation=report.incarnation or execution.incarnation,
            read_by=report.read_by,
        )
    if isinstance(event, Cancelled | Lost):
        execution = record.executions.get(event.execution)
        if execution is None or not execution.open:
            return None
        state = ExecutionState.LOST if isinstance(event, Lost) else ExecutionState.CANCELLED
        return replace(execution, state=state, modified_at=at, revision=seq, failure=event.failure)
    return None


def accepts(execution: ExecutionRecord, state: ExecutionState) -> bool:
    """Whether a report of `state` would become a fact: the execution is open and no arrow is reversed."""
    if not execution.open or state in (ExecutionState.LOST, ExecutionState.ASSIGNED):
        return False
    return state is execution.state or may_follow(execution.state, state)


def _settled(record: JobRecord, at: float) -> JobRecord:
    """The record with the state that its events add up to; a version that is closed keeps its own."""
    if record.earlier:
        going_on = {each.version for each in record.open()}
        kept = {version: spec for version, spec in record.earlier.items() if version in going_on}
        record = replace(record, earlier=kept)
    if record.closed:
        return replace(record, modified_at=at)
    queued: Failure | None = record.queued
    if queued is not None and not waiting(record):
        queued = None
    state = JobState.PENDING
    for execution in record.executions.values():
        if execution.open:
            state = JobState.RUNNING
            break
        if execution.version == record.version:
            # It rests between two attempts.
            state = JobState.RUNNING
    else:
        if queued is not None:
            state = JobState.QUEUED
    queued_at = record.queued_at if queued is not None else None
    return replace(record, state=state, queued=queued, queued_at=queued_at, modified_at=at)


def waiting(record: JobRecord) -> bool:
    """Whether some partition has neither an open nor a completed execution."""
    return lacking(record) > 0


def lacking(record: JobRecord) -> int:
    """How many partitions have neither an open nor a completed execution.

    Jobs that run on every node have no partitions: they lack one execution until they have any at all.
    """
    if not record.spec.count:
        return int(not any(execution.open for execution in record.executions.values()))
    held = {
        execution.partition
        for execution in record.executions.values()
        if execution.open
        or (execution.version == record.version and execution.state is ExecutionState.COMPLETED)
    }
    return max(record.spec.count - len(held), 0)
