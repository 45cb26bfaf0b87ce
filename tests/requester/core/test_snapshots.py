"""A snapshot says in one entry what many add up to."""

from collections.abc import Sequence
from random import Random

import pytest
from msgspec.structs import replace

from protocol.bus import ENTRY_MAX_BYTES
from protocol.entries import Assigned, Entry, Reported, Submitted, read_entry, write_entry
from protocol.errors import Failure
from protocol.jobs import Job, Retry
from protocol.messages import RunOutput, Stage, encode
from protocol.states import ExecutionState, JobState
from requester.core.fold import KEPT, Told, fold
from requester.core.history import of_log
from requester.core.model import HistoryItem, JobRecord
from requester.core.snapshots import draft, is_due, told_by
from tests.requester.core.world import JOB, POLICY, World, a_job, a_node

S = ExecutionState
CRASH = Failure("ProgramFailed", "exit code 1")
GONE = Failure("NotFound.Image", "there is no such image any more")
RESTED_S = 2 * POLICY.restart_backoff_max_s


def again(world: World, times: int, failure: Failure = CRASH, *, ran: bool = True, output: str = "") -> None:
    """Let each execution of a job end so often, and another follow it."""
    for _ in range(times):
        for execution in world.open():
            if ran:
                world.report(execution, S.RUNNING)
            world.report(execution, S.FAILED, failure, exit_code=1)
        world.now += RESTED_S
        world.look()


def a_service(count: int = 1, times: int = 0, **more: object) -> World:
    """A service that was started again so often."""
    world = World(a_node("n1", cores=100), a_node("n2", cores=100))
    world.submit(a_job(type_="service", count=count, **more))  # type: ignore[arg-type]
    again(world, times)
    return world


def stored(world: World) -> list[tuple[int, Entry]]:
    return list(enumerate(world.entries, 1))


def told(world: World) -> list[Told]:
    return told_by(stored(world), JOB)


def snapshot(world: World, attempts: int = KEPT) -> Entry:
    """Write a snapshot of a job."""
    made = draft(told(world), world.job, attempts=attempts)
    assert made is not None
    entry = Entry(JOB, f"op-{len(world.entries)}", "r1", world.now, made.events, made.snapshot)
    assert len(encode(entry)) <= ENTRY_MAX_BYTES
    world.entries.append(entry)
    world.record = fold(world.record, entry, len(world.entries))
    return entry


def known_by(entry: Entry, seq: int) -> JobRecord | None:
    """The record of who knows nothing but this entry."""
    return fold(None, entry, seq)


def test_who_knows_only_the_snapshot_knows_the_job() -> None:
    """A record made of a snapshot alone is that of who has read all: executions with their orders, times and numbers."""
    world = a_service(count=2, times=20)
    before = world.job
    entry = snapshot(world)
    seq = len(world.entries)

    assert known_by(entry, seq) == world.job
    assert world.job.executions == before.executions
    assert world.job.created_at == before.created_at
    assert (world.job.snapshot, world.job.before, world.job.since) == (seq, before.entries, 0)


def test_what_follows_is_decided_alike() -> None:
    """Attempts go on with their numbers and their rests, whether the old entries are known or not."""
    world = a_service(times=7)
    (last,) = world.open()
    world.report(last, S.FAILED, CRASH, exit_code=1)
    entry = snapshot(world, attempts=10)
    world.record = known_by(entry, len(world.entries))
    world.now += POLICY.backoff_s
    assert world.look() == []
    world.now += RESTED_S
    (event,) = world.look()
    assert isinstance(event, Assigned)
    assert event.attempt == last.attempt + 1


def test_old_attempts_are_left_out_and_counted() -> None:
    """Of each partition the newest ended attempts are told and the others counted; what is open is always told."""
    world = a_service(count=3, times=10)
    entry = snapshot(world, attempts=2)
    record = known_by(entry, len(world.entries))

    assert record is not None
    assert len(record.executions) == 3 * (2 - 1 + 1)
    assert len(record.open()) == 3
    assert record.forgotten == 3 * 9


def test_what_does_not_fit_as_it_is_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with more executions than a snapshot could have as they are written is told whole all the same, and who knows
    only the packed entry knows the job."""
    world = a_service(count=60, times=2)
    for module in ("protocol.entries", "requester.core.snapshots"):
        monkeypatch.setattr(f"{module}.PLAIN_MAX_BYTES", 16_000)
    entry = snapshot(world)
    seq = len(world.entries)
    data = write_entry(entry)

    assert len(encode(entry)) > 16_000 >= len(data)
    assert read_entry(data) == entry
    assert len(world.job.open()) == 60
    assert known_by(read_entry(data), seq) == world.job


def test_a_second_snapshot_counts_from_the_first() -> None:
    """The log then has what stands from the first one on, and the second says so."""
    world = a_service(times=5)
    first = snapshot(world)
    at, entries = len(world.entries), world.job.entries
    again(world, 4)
    later = world.job.entries - entries
    second = snapshot(world)

    assert first.snapshot is not None
    assert first.snapshot.count == entries
    assert second.snapshot is not None
    assert second.snapshot.since == at
    assert second.snapshot.count == later + 2
    assert world.job.entries == later + 2
    left = [each for each in stored(world) if each[0] >= at]
    record = None
    for seq, entry in left:
        record = fold(record, entry, seq)
    assert record == world.job


def test_who_was_away_goes_on_with_the_snapshot() -> None:
    """A reader that missed entries which are gone has the same record after the snapshot as any other."""
    world = a_service(count=2, times=3)
    known = world.job
    again(world, 5)
    entry = snapshot(world, attempts=1)
    seq = len(world.entries)

    assert {each.id for each in known.open()}.isdisjoint(world.job.executions)
    assert fold(known, entry, seq) == world.job
    assert fold(world.job, entry, seq) is world.job


def test_versions_that_still_run_are_told() -> None:
    """While an update is under way both versions are, and the older one's specification with it."""
    world = a_service(count=2)
    for execution in world.open():
        world.report(execution, S.RUNNING)
    world.now += 10.0
    world.submit(a_job(type_="service", count=2, priority=5))
    (ended,) = [each for each in world.executions() if each.state is S.CANCELLED]
    assert len(world.job.older()) == 1
    entry = snapshot(world, attempts=2)

    record = known_by(entry, len(world.entries))
    assert record is not None
    assert record.earlier == world.job.earlier
    assert {each.version for each in record.open()} == {1, 2}
    assert ended.id in record.executions


def test_why_a_job_waits_is_told_with_since_when() -> None:
    """A service that lacks a place for some of its executions waits on with the time at which it began to."""
    world = World(a_node("n1", cores=1))
    world.submit(a_job(type_="service", count=2))
    queued_at = world.job.queued_at
    assert queued_at is not None
    again(world, 6)
    entry = snapshot(world)

    record = known_by(entry, len(world.entries))
    assert record is not None
    assert (record.queued, record.queued_at) == (world.job.queued, queued_at)


@pytest.mark.parametrize(("bytes_", "count"), [(40_000, 1), (3_000, 2), (2_000, 12)])
def test_as_much_is_told_as_an_entry_takes(bytes_: int, count: int) -> None:
    """Where not all fits, fewer attempts are told, and then without what programs wrote."""
    world = a_service(count=count, times=30)
    large = RunOutput(stdout="x" * bytes_, exit_code=1)
    world.entries = [_with_output(entry, large) for entry in world.entries]
    world.record = None
    for seq, entry in stored(world):
        world.record = fold(world.record, entry, seq)

    entry = snapshot(world)
    assert known_by(entry, len(world.entries)) == world.job
    assert len(world.open()) == count


def _with_output(entry: Entry, output: RunOutput) -> Entry:
    events = [
        replace(each, report=replace(each.report, output=output))
        if hasattr(each, "report") and each.report.state is S.FAILED
        else each
        for each in entry.events
    ]
    return replace(entry, events=events)


def test_more_than_an_entry_takes_cannot_be_told() -> None:
    """A job whose open executions alone are too many has no snapshot."""
    world = a_service(count=100)
    random = Random(7)
    for execution in world.open():
        long = [Stage(S.RUNNING, 1.0, random.randbytes(6_000).hex())]
        world.look(Reported(replace(world.report_of(execution, S.RUNNING), stages=long)))
    assert draft(told(world), world.job, attempts=KEPT) is None


def test_what_does_not_add_up_is_not_written() -> None:
    """Where an entry is missing that matters there is no snapshot: one that says less than the job is would lose it."""
    world = a_service(count=2, times=3)
    refused = 0
    for number in range(len(world.entries)):
        holed = [each for each in stored(world) if each[0] != number + 1]
        made = draft(told_by(holed, JOB), world.job, attempts=KEPT)
        if made is not None:
            # Nothing depends on that one: a later report has told the same.
            entry = Entry(JOB, "", "", world.now, made.events, made.snapshot)
            after = known_by(entry, len(world.entries) + 1)
            assert after is not None
            assert after.executions == world.job.executions
            assert after.spec == world.job.spec
        else:
            refused += 1
    assert refused >= len(world.entries) // 2


def test_a_job_that_has_come_up_stays_however_often_it_fails_later() -> None:
    """A service whose image goes away after it ran is tried until a person ends it, also once the attempts that ran are old,
    with or without a snapshot."""
    world = a_service(times=2)
    again(world, KEPT + 10, GONE, ran=False)
    assert world.job.state is JobState.RUNNING
    snapshot(world, attempts=1)
    again(world, 3, GONE, ran=False)

    assert world.job.state is JobState.RUNNING
    assert len(world.job.executions) <= KEPT + 3


def test_a_limit_of_attempts_counts_on() -> None:
    """A service with a limit of attempts in a row is ended after so many, also if a snapshot stands between them."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service", retry=Retry(attempts=5, backoff=1.0)))
    again(world, 3)
    entry = snapshot(world, attempts=1)
    world.record = known_by(entry, len(world.entries))
    again(world, 1)
    assert not world.job.closed
    again(world, 1)
    assert world.job.state is JobState.FAILED


@pytest.mark.parametrize(
    ("spec", "entries", "rank", "due"),
    [
        (a_job(type_="service"), 100, 0, True),
        (a_job(type_="daemon", count=0), 100, 0, True),
        (a_job(type_="service"), 99, 0, False),
        (a_job(type_="service"), 100, 1, False),
        (a_job(type_="service"), 126, 1, True),
        (a_job(), 100, 0, False),
        (a_job(type_="ops", count=0), 100, 0, False),
    ],
)
def test_when_one_is_due(spec: Job, entries: int, rank: int, due: bool) -> None:
    """For what is not meant to end, after so many entries; another requester than the owner waits for some more."""
    record = replace(_a_record(spec), entries=entries)

    assert is_due(record, after=100, entries_max=0, rank=rank) is due
    assert (
        is_due(replace(record, entries=entries + 70, before=70), after=100, entries_max=0, rank=rank) is due
    )
    assert not is_due(record, after=0, entries_max=0, rank=rank)
    assert not is_due(replace(record, stopping="enough"), after=100, entries_max=0, rank=rank)
    assert not is_due(replace(record, state=JobState.FAILED), after=100, entries_max=0, rank=rank)


def test_a_small_log_has_them_sooner() -> None:
    """Where the log takes few entries of one job, a snapshot is due long before they are used up."""
    record = replace(_a_record(a_job(type_="service")), entries=125)

    assert is_due(record, after=5_000, entries_max=1_000, rank=0)
    assert not is_due(record, after=5_000, entries_max=2_000, rank=0)


def test_a_job_with_very_many_entries_has_two_at_once() -> None:
    """A service that is near the bound when a first snapshot can be written does not come to it before the second."""
    record = replace(_a_record(a_job(type_="service")), entries=94_000)
    assert is_due(record, after=5_000, entries_max=100_000, rank=0)
    first = replace(record, entries=94_001, snapshot=7, before=94_000)
    assert is_due(first, after=5_000, entries_max=100_000, rank=0)
    assert not is_due(first, after=5_000, entries_max=100_000, rank=1)
    assert not is_due(replace(first, entries=40_001, before=40_000), after=5_000, entries_max=100_000, rank=0)


def _a_record(spec: Job) -> JobRecord:
    world = World(a_node("n1"))
    world.submit(spec)
    return world.job


def lines(entries: Sequence[tuple[int, Entry]]) -> list[HistoryItem]:
    return [line for _, each in of_log(entries) for line in each]


def test_a_snapshot_is_no_news() -> None:
    """Where all entries are known a snapshot adds no line to a job's history, and changes none."""
    world = a_service(times=4)
    before = lines(stored(world))
    snapshot(world, attempts=1)

    assert lines(stored(world)) == before


def test_history_says_what_was_missed() -> None:
    """Who knows a job's beginning and was away while what followed left the log is told what the snapshot says of that, each
    thing once, and that it is not all."""
    world = a_service(times=2)
    away = len(world.entries)
    again(world, 6)
    snapshot(world, attempts=2)
    at = len(world.entries)
    all_ = lines(stored(world))
    left = lines([each for each in stored(world) if each[0] <= away or each[0] == at])

    (cut,) = [line for line in left if line.seq == at]
    assert cut.message == "History up to here is kept in part"
    told = [(line.seq, line.execution, line.message) for line in left if line is not cut]
    assert len(told) == len({*told})
    assert {*told} < {(line.seq, line.execution, line.message) for line in all_}
    assert max(line.seq for line in left if line is not cut) > away


def test_history_says_where_it_was_cut() -> None:
    """What a snapshot tells keeps its places and times; then it is said that the rest is not kept, and what came later
    follows."""
    world = a_service(times=6)
    before = lines(stored(world))
    snapshot(world, attempts=2)
    at = len(world.entries)
    again(world, 1)
    all_ = lines(stored(world))
    left = lines([each for each in stored(world) if each[0] >= at])

    kept = [line for line in left if line.seq < at]
    assert kept[0].message == "Job submitted"
    assert {line.message for line in kept} <= {line.message for line in before}
    executions = {line.execution for line in kept} - {""}
    assert [(line.seq, line.at, line.message) for line in kept if line.execution] == [
        (line.seq, line.at, line.message) for line in before if line.execution in executions
    ]
    (cut,) = [line for line in left if line.seq == at]
    assert cut.message == "History up to here is kept in part: 5 executions are left out"
    assert [line for line in left if line.seq > at] == [line for line in all_ if line.seq > at]
    assert [(line.seq, line.index) for line in left] == sorted((line.seq, line.index) for line in left)


def test_earlier_versions_can_be_gone_back_to() -> None:
    """The newest versions are told with their specifications, so that a person can go back to one."""
    world = a_service()
    for version in range(2, 16):
        world.now += 10.0
        world.submit(a_job(type_="service", priority=version))
        again(world, 1)
    snapshot(world, attempts=1)
    at = len(world.entries)
    versions = {
        record.version: record.spec.priority
        for record, _ in of_log([(at, world.entries[-1])])
        if record is not None
    }

    assert versions == {version: version for version in range(5, 16)}


def test_a_life_that_began_anew_is_not_mixed_with_the_one_before() -> None:
    """Of a job that was run again after it had left the log, a snapshot tells what came since."""
    world = a_service(times=2)
    seq = len(world.entries)
    spec = a_job(type_="service")
    entry = Entry(JOB, "anew", "r1", world.now, [Submitted(spec, 2, anew=True)])
    world.entries.append(entry)
    world.record = fold(world.record, entry, seq + 1)
    world.look()
    again(world, 3)
    made = snapshot(world)

    assert known_by(made, len(world.entries)) == world.job
    assert min(each.version for each in world.job.executions.values()) == 2
