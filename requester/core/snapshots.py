"""Snapshots: what a long-running job's many entries add up to, said in one, so that the others may leave the log.

Knows: when one is due, which of a job's events still matter, and whether they add up to the job. Must not know: where
entries are read, or how one is written. A snapshot's events are those that were written, unchanged, with their sequences
and times: so the fold has no second way to come to a record, and a version that knows no snapshots reads the same events.

What is left out: executions that few still ask for, and what was said of versions that nothing is left of. As much is told
as an entry takes, packed only where not even the least fits as it is. A job that fits in no way has no snapshot, and ends
when the log takes no more of it.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from protocol.entries import (
    PLAIN_MAX_BYTES,
    Assigned,
    Cancelled,
    Entry,
    Event,
    Lost,
    Queued,
    Reported,
    Snapshot,
    Submitted,
    write_entry,
)
from protocol.ids import ExecutionId, JobId
from protocol.jobs import LONG_RUNNING
from protocol.messages import RunOutput, encode
from requester.core.fold import Executions, Told, counted, dispensable, fold, kept_of, told_in
from requester.core.meant import place_of
from requester.core.model import ExecutionRecord, JobRecord

SHARE: Final = 8
"""A snapshot is due after one in so many of the entries that the log takes of a job, if no earlier. Two of these spans are
in the log then; what is left is for when none can be written just now."""
_LATER: Final = 4
"""A requester of the next rank writes what is overdue by one in so many of those."""


class _Measure(Struct, frozen=True):
    """How much is told: ended attempts at each place, earlier versions, whether executions are told without what only people
    read of them; and whether it may be packed."""

    attempts: int
    versions: int
    bare: bool = False
    packed: bool = False


class Draft(NamedTuple):
    """What a snapshot will say, and the number of the measure by which that was chosen."""

    events: list[Event]
    snapshot: Snapshot
    measure: int


def is_due(record: JobRecord, *, after: int, entries_max: int, rank: int) -> bool:
    """Whether a requester of this rank writes a snapshot of a job: after so many entries since the last one (0: never), or
    after fewer where the log takes but `entries_max` of one job (0: any number).

    A job that has half of those already, since none could be written before, has two at once: the second one's turn is the
    first one's purge.
    """
    if not after or record.closed or record.stopping is not None or record.spec.type not in LONG_RUNNING:
        return False
    span = min(after, entries_max // SHARE) if entries_max else after
    step = span // _LATER + 1
    if record.snapshot and entries_max and record.entries >= entries_max // 2:
        span = 1
    return bool(record.executions) and record.entries - record.before >= span + rank * step


def draft(told: Sequence[Told], record: JobRecord, *, attempts: int, measure: int = 0) -> Draft | None:
    """A snapshot of a job with this record, made of all its events that may matter, with up to so many ended attempts at
    each place, or by a later `measure`.

    None if there can be none: it would be too large, or the events do not add up to the record.
    """
    few = min(attempts, 10)
    plain = (
        _Measure(attempts, 10),
        _Measure(few, 10),
        _Measure(few, 3, bare=True),
        _Measure(1, 1, bare=True),
    )
    measures = (*plain, *(replace(each, packed=True) for each in plain))
    for number, each in enumerate(measures[measure:], measure):
        versions = _versions(told, record, each)
        kept = _kept(record, each, versions)
        made = Draft(*_chosen(told, record, each, versions, kept), number)
        if _size(made, record.id, each) <= PLAIN_MAX_BYTES:
            return made if _adds_up(made, record, each, kept) else None
    return None


def told_by(entries: Iterable[tuple[int, Entry]], job: JobId) -> list[Told]:
    """All events of a job with their moments, in order; what stands before a snapshot, or in an earlier life, is not."""
    found: list[Told] = []
    for seq, entry in entries:
        if entry.job != job:
            continue
        if entry.snapshot is not None:
            found = told_in(entry, entry.snapshot)
            continue
        if isinstance(entry.first, Submitted) and entry.first.anew:
            found = []
        found += [Told(seq, entry.at, event) for event in entry.events]
    return found


def that_matter(told: Sequence[Told], record: JobRecord) -> list[Told]:
    """Of a job's events those that may be in a snapshot of it, now or after more of them."""
    return [each for each in told if (id_ := execution_of(each.event)) is None or id_ in record.executions]


def execution_of(event: Event) -> ExecutionId | None:
    """The execution that an event is about, if it is about one."""
    if isinstance(event, Reported):
        return event.report.execution
    return event.execution if isinstance(event, Assigned | Cancelled | Lost) else None


class Retelling:
    """A job's snapshot in the making: its events up to a record, and the entries that were folded since it was begun.

    A job that goes on all the time has one as soon as it may be written, not only if nothing comes meanwhile. It is `ready`
    once the events have been read. `tries` is how often it was to be written.
    """

    __slots__ = ("_attempts", "_later", "_measure", "_told", "_upto", "ready", "tries")

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._later: list[tuple[int, Entry]] = []
        self._told: Sequence[Told] = ()
        self._upto = 0
        self._measure = 0
        self.ready = False
        self.tries = 0

    def add(self, seq: int, entry: Entry) -> None:
        """An entry of the job has been folded."""
        self._later.append((seq, entry))

    def behind(self, seq: int) -> list[tuple[int, Entry]]:
        """The entries that were folded since, behind a sequence."""
        return [each for each in self._later if each[0] > seq]

    def begin(self, told: Sequence[Told], upto: int, measure: int) -> None:
        """The events up to a sequence that matter have been read; by this measure they fit."""
        self._told, self._upto, self._measure = told, upto, measure
        self.ready = True

    def draft(self, record: JobRecord) -> Draft | None:
        """The snapshot of a job as it is now."""
        told = [*self._told, *told_by(self.behind(self._upto), record.id)]
        return draft(told, record, attempts=self._attempts, measure=self._measure)


def _chosen(
    told: Sequence[Told], record: JobRecord, measure: _Measure, versions: set[int], kept: Executions
) -> tuple[list[Event], Snapshot]:
    waits_from = _waits_from(told, record)
    events: list[Event] = []
    moments: list[tuple[int, float]] = []
    version = 0
    for index, (seq, at, event) in enumerate(told):
        execution = execution_of(event)
        if isinstance(event, Submitted):
            version = event.version
        if execution is not None:
            wanted = execution in kept
        elif isinstance(event, Queued):
            wanted = index >= waits_from
        else:
            # The beginning of a version, a stop, or its end.
            wanted = version in versions
        if wanted:
            events.append(_bare(event) if measure.bare else _plain(event))
            moments.append((seq, at))
    return events, Snapshot(
        moments,
        record.created_at,
        record.forgotten + len(record.executions) - len(kept),
        count=_count_with(record),
        since=record.snapshot,
    )


def _count_with(record: JobRecord) -> int:
    """How many entries the log has of a job with its next snapshot: what stands before the last one has gone by then."""
    return record.entries - record.before + 1 if record.snapshot else record.entries + 1


def follows(record: JobRecord, snapshot: Snapshot) -> bool:
    """Whether a snapshot comes right behind a record: no entry between them has left the log unread."""
    return snapshot.count == _count_with(record)


def _versions(told: Sequence[Told], record: JobRecord, measure: _Measure) -> set[int]:
    """The versions that are told: the present one, those of which executions go on, and the newest others."""
    known = sorted({each.event.version for each in told if isinstance(each.event, Submitted)})
    going_on = {each.version for each in record.executions.values() if each.open}
    return {record.version, *going_on, *known[-measure.versions - 1 :]}


def _kept(record: JobRecord, measure: _Measure, versions: set[int]) -> Executions:
    """The executions that are told."""
    places: dict[str | int, list[ExecutionRecord]] = {}
    for each in record.executions.values():
        places.setdefault(place_of(record.spec.type, each.node, each.partition), []).append(each)
    kept = kept_of(record.spec, measure.attempts)
    left_out = {each.id for there in places.values() for each in dispensable(there, kept)}
    return {
        id_: each
        for id_, each in record.executions.items()
        if id_ not in left_out and each.version in versions
    }


def _waits_from(told: Sequence[Told], record: JobRecord) -> int:
    """From which event on it is told why the job waits: since it began to, if it does."""
    if record.queued is None:
        return len(told)
    began = [
        index
        for index, each in enumerate(told)
        if isinstance(each.event, Queued) and each.at == record.queued_at
    ]
    return began[-1] if began else len(told)


def _plain(event: Event) -> Event:
    """An event that no reader takes for the beginning of another life of the job."""
    return replace(event, anew=False) if isinstance(event, Submitted) and event.anew else event


def _bare(event: Event) -> Event:
    """An event without what no decision depends on: the choice of a node, and what a program wrote and read."""
    if isinstance(event, Assigned):
        return replace(event, ranking=None)
    if isinstance(event, Reported):
        report = event.report
        output = _bare_output(report.output)
        return Reported(replace(report, output=output, inputs=[], written=None))
    return _plain(event)


def _bare_output(output: RunOutput | None) -> RunOutput | None:
    return RunOutput(exit_code=output.exit_code) if output is not None else None


def _bare_execution(execution: ExecutionRecord) -> ExecutionRecord:
    return replace(execution, ranking=None, output=_bare_output(execution.output), inputs=[], written=None)


def _size(made: Draft, job: JobId, measure: _Measure) -> int:
    entry = Entry(job, "", "", 0.0, made.events, made.snapshot)
    return len(write_entry(entry) if measure.packed else encode(entry))


def _adds_up(made: Draft, record: JobRecord, measure: _Measure, kept: Executions) -> bool:
    """Whether who knows only the snapshot has the record, but for the executions that are left out."""
    seq = record.revision + 1
    after = fold(None, Entry(record.id, "", "", record.modified_at, made.events, made.snapshot), seq)
    meant = replace(
        counted(record, made.snapshot, seq),
        executions={id_: _bare_execution(each) for id_, each in kept.items()} if measure.bare else kept,
    )
    return after == meant
