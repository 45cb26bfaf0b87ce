"""Single decisions: what a job does next, and when."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.entries import (
    Assigned,
    Cancelled,
    Closed,
    Deleted,
    Entry,
    Lost,
    Reported,
    StopRequested,
    Submitted,
)
from protocol.errors import Failure
from protocol.ids import job_id, nameless_key
from protocol.jobs import Retry, Timeouts
from protocol.messages import Stage
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.fold import KEPT, fold
from requester.read_model import Group, Store
from requester.read_queries import load
from tests.requester.core.world import ILL, JOB, POLICY, World, a_job, a_node, assigned, deadline, refold

OTHER = job_id(nameless_key(7), 8)
"""Another job of the same name."""


def test_submitted_and_assigned_are_one_entry() -> None:
    """A job that finds room costs one entry to start, and one to end."""
    world = World(a_node("n1"))

    start = world.submit(a_job())
    end = world.report(world.open()[0], S.COMPLETED)

    assert [type(event) for event in start] == [Submitted, Assigned]
    assert [type(event) for event in end] == [Reported, Closed]
    assert len(world.entries) == 2


def test_an_end_reported_twice_is_one_fact() -> None:
    """A report that came again before it was written stands in the log once; of two different ends the first counts."""
    world = World(a_node("n1"))
    world.submit(a_job())
    done = world.report_of(world.open()[0], S.COMPLETED)
    failed = world.report_of(world.open()[0], S.FAILED, ILL)

    end = world.look(Reported(done), Reported(done), Reported(failed))

    assert [type(event) for event in end] == [Reported, Closed]
    assert world.job.state is JobState.COMPLETED


@pytest.mark.parametrize(
    "failure",
    [
        Failure("ProgramFailed", "exit code 3"),
        Failure("NotFound.Image", "no such image"),
        Failure("Denied.Credentials", "wrong key"),
        Failure("Invalid.Params", "bad"),
        Failure("TimedOut.Execution", "took longer than 5s", retryable=True),
    ],
    ids=lambda failure: failure.code,
)
def test_what_comes_back_is_not_tried_again(failure: Failure) -> None:
    """A failure that no other attempt can mend ends the job at once and is its headline."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job())

    world.report(world.open()[0], S.FAILED, failure)

    assert (world.job.state, world.job.failure) == (JobState.FAILED, failure)
    assert len(world.executions()) == 1


def test_a_failure_that_says_it_may_pass_is_believed() -> None:
    """A missing file on one node may be there on another: such a failure says so itself, and is tried again."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job())
    first = world.open()[0]

    world.report(first, S.FAILED, Failure("NotFound.Path", "not on this node", retryable=True))
    world.now += 10
    world.look()

    assert world.open()[0].node != first.node


def test_rests_grow_between_attempts() -> None:
    """After each failure the next attempt waits twice as long, and after the third there is none."""
    world = World(a_node("n1"))
    world.submit(a_job())
    rests = []
    while not world.job.closed:
        world.report(world.open()[0], S.FAILED, ILL)
        due = deadline(world)
        if due is not None:
            rests.append(due - world.now)
            world.now = due
            world.look()

    assert rests == [1.0, 2.0]
    assert world.job.message == "the engine is ill (tried 3 times)"
    assert world.job.failure == ILL


def test_a_lost_node_never_counts_as_a_failure() -> None:
    """However often nodes are lost, the work goes to another at once."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job())

    for _ in range(10):
        node = world.open()[0].node
        world.gone = {node: 6.0}
        events = world.look()
        assert [type(event) for event in events] == [Lost, Assigned]
        assert assigned(events)[0].node != node

    assert world.job.state is JobState.RUNNING


def test_a_refusing_node_is_not_asked_again() -> None:
    """A node that refuses is left out; when all have refused for one reason, that is the headline."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job())
    refusal = Failure("Denied.Path", "path /data is not allowed here")

    first = world.open()[0]
    world.report(first, S.REFUSED, refusal)
    second = world.open()[0]
    world.report(second, S.REFUSED, refusal)

    assert {first.node, second.node} == {"n1", "n2"}
    assert (world.job.state, world.job.failure) == (JobState.FAILED, refusal)


def test_total_time_counts_from_this_version() -> None:
    """TotalTimeout counts from the submission of the present version, over all attempts and waits."""
    world = World(a_node("n1"))
    world.submit(a_job())
    world.now += 1_000

    world.submit(a_job(timeouts=Timeouts(total_timeout=60)))
    submitted = world.now
    assert deadline(world) == submitted + 60
    world.now = submitted + 60
    events = world.look()

    assert [type(event) for event in events] == [Cancelled, Closed]
    assert world.job.message == "Job timed out. Job took longer than 60s"


def test_a_node_that_forgets_the_time() -> None:
    """The node ends an execution that runs too long; if it does not, the requester does after a grace."""
    world = World(a_node("n1"))
    world.submit(a_job(timeouts=Timeouts(execution_timeout=10)))
    assert deadline(world) is None
    world.report(world.open()[0], S.RUNNING)
    due = world.now + 10 + POLICY.execution_grace_s

    assert deadline(world) == due
    world.now = due - 1
    assert world.look() == []
    world.now = due
    world.look()
    assert world.job.failure is not None
    assert world.job.failure.code == "TimedOut.Execution"


def test_a_large_job_is_assigned_and_closed_over_several_entries() -> None:
    """No entry assigns or ends more executions than its bound, however large the Count."""
    world = World(a_node("n1", cores=100))
    world.submit(a_job(count=30))
    world.stop()

    for entry in world.entries:
        assert len(assigned(entry.events)) <= POLICY.events_max
        assert sum(isinstance(event, Cancelled) for event in entry.events) <= POLICY.events_max
    assert len(world.executions()) == 30
    assert world.job.state is JobState.STOPPED


def test_a_job_of_count_zero() -> None:
    """A batch job of no partitions has nothing left to do."""
    world = World(a_node("n1"))

    world.submit(a_job(count=0))

    assert world.job.state is JobState.COMPLETED
    assert not world.executions()


@pytest.mark.parametrize("type_", ["service", "daemon"])
def test_what_serves_stays(type_: str) -> None:
    """What no attempt can mend ends a service or daemon that has come up nowhere. One that has goes on, and what failed is
    tried again after growing rests; nor is it ended because more of it finds no node."""
    missing = Failure("NotFound.Image", "no such image")
    young, grown = World(a_node("n1"), a_node("n2")), World(a_node("n1"), a_node("n2"))
    count = 2 if type_ == "service" else 0
    for world in (young, grown):
        world.submit(a_job(type_=type_, count=count, timeouts=Timeouts(queue_timeout=60)))
    serving = grown.open()[0]
    grown.report(serving, S.RUNNING)
    grown.now += 10
    young.report(young.open()[1], S.FAILED, missing)
    rests = []
    for _ in range(3):
        grown.report(grown.open()[1], S.FAILED, missing)
        rests.append((deadline(grown) or grown.now) - grown.now)
        grown.now += rests[-1]
        grown.look()
    for node in ("n1", "n2"):
        grown.fleet.put(a_node(node, cores=0.5))
    for execution in grown.open():
        grown.report(execution, S.FAILED, Failure("ProgramFailed", "exit code 1"))
    grown.now += 1_000
    grown.look()

    assert (young.job.state, young.job.failure) == (JobState.FAILED, missing)
    assert rests == [1.0, 2.0, 4.0]
    assert not grown.open()
    assert not grown.job.closed


def test_a_service_that_keeps_failing_does_not_grow(tmp_path: Path) -> None:
    """Of work that is started for weeks only the newest attempts are kept, the same in memory, from the log and in the read
    model; their numbers go on."""
    store = Store(tmp_path / "model.sqlite")
    world = World(a_node("n1"))
    world.submit(a_job(type_="service", count=2))
    written = 0
    while len(world.entries) < 400:
        for execution in world.open():
            world.report(execution, S.FAILED, Failure("ProgramFailed", "exit code 1"))
        world.now += POLICY.restart_backoff_max_s
        world.look()
        store.write(Group("log", len(world.entries), [(world.job, written)]))
        written = world.job.revision

    numbers = sorted(each.attempt for each in world.executions() if each.partition == 1)
    assert len(numbers) == KEPT + 1
    assert numbers[-1] > 2 * KEPT
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert refold(world.entries) == world.job
    assert load(store.reader(), world.job.key) == world.job


def test_a_job_ends_before_the_log_takes_no_more_of_it() -> None:
    """However often it is started again: a job ends while there is room for that in the log, which takes only so many
    entries of one job, and says so; there is room for people's words as well. However many entries, the count is right."""
    world = World(a_node("n1"))
    world.entries_max = 100
    world.submit(a_job(type_="service", count=3))
    while not world.job.closed:
        for execution in world.open():
            world.report(execution, S.RUNNING)
            world.report(execution, S.FAILED, Failure("ProgramFailed", "exit code 1"))
        world.now += POLICY.restart_backoff_max_s
        world.look()

    assert len(world.entries) == world.job.entries == 96
    assert (world.job.state, world.job.open()) == (JobState.FAILED, [])
    assert world.job.failure is not None
    assert world.job.failure.code == "Exhausted.Entries"
    for said in ("95 entries", "takes 100 of one job", "executions in all"):
        assert said in world.job.message


def test_a_service_rests_longer_each_time() -> None:
    """A service that keeps ending is started again after ever longer rests, and never gives up by itself."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service"))
    rests = []
    for _ in range(12):
        world.report(world.open()[0], S.FAILED, Failure("ProgramFailed", "exit code 1"))
        due = deadline(world)
        assert due is not None
        rests.append(due - world.now)
        world.now = due
        world.look()

    assert rests[:4] == [1.0, 2.0, 4.0, 8.0]
    assert rests[-1] == POLICY.restart_backoff_max_s
    assert world.job.state is JobState.RUNNING


def test_what_comes_before_a_program_is_no_run() -> None:
    """A program that ends as soon as it begins rests longer each time, however long its image or inputs took to come."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service", retry=Retry(attempts=3, backoff=1.0, backoff_max=5.0)))
    while not world.job.closed:
        execution = world.open()[0]
        began = world.now = world.now + 60
        report = world.report_of(execution, S.FAILED, Failure("ProgramFailed", "exit code 1"))
        stages = [Stage(S.STAGING, began - 60), Stage(S.RUNNING, began), Stage(S.FAILED, began + 0.1)]
        world.look(Reported(replace(report, stages=stages)))
        world.now = deadline(world) or world.now
        world.look()

    assert len(world.executions()) == 3


def test_the_same_report_twice_is_one() -> None:
    """A report that came twice before it was written becomes one fact, and one that contradicts it none."""
    world = World(a_node("n1"))
    world.submit(a_job())
    execution = world.open()[0]
    completed = Reported(world.report_of(execution, S.COMPLETED))
    failed = Reported(world.report_of(execution, S.FAILED, ILL))

    events = world.look(completed, completed, failed)

    assert events == [completed, Closed(JobState.COMPLETED)]


def test_two_who_stop_a_job_stop_it_once() -> None:
    """Two people's stops that wait for the log together, or one after the other, are one stop in it."""
    world = World(a_node("n1"))
    world.submit(a_job(count=9))

    written = [*world.look(StopRequested("enough"), StopRequested("now")), *world.stop()]

    assert sum(isinstance(event, StopRequested) for event in written) == 1
    assert world.job.state is JobState.STOPPED


@pytest.mark.parametrize(
    ("entry", "follows"),
    [
        (Entry(OTHER, "op", "r1", 9.0, [Submitted(a_job(), 1)]), True),
        (Entry(OTHER, "op", "r1", 9.0, [StopRequested("enough")]), False),
        (Entry(JOB, "op", "r1", 9.0, [Submitted(a_job(), 4, anew=True)]), True),
    ],
)
def test_a_reader_that_was_away_ends_where_others_do(entry: Entry, follows: bool) -> None:
    """Whoever still has a job as open whose end left the log unseen comes to what a reader of the rest comes to; an entry
    that only names another job only counts."""
    world = World(a_node("n1"))
    world.submit(a_job())

    after = fold(world.record, entry, 9)

    assert after == (fold(None, entry, 9) if follows else replace(world.job, revision=9, entries=2))


def test_a_close_ends_what_was_missed() -> None:
    """Nothing is open in a closed job, also where the next version came while the log still had the end of the last."""
    world = World(a_node("n1"))
    world.submit(a_job())
    after = fold(world.record, Entry(JOB, "op", "r1", 9.0, [Submitted(a_job(cpu="2"), 2)]), 9)
    assert after is not None
    assert after.open()
    after = fold(after, Entry(JOB, "op", "r1", 9.0, [Closed(JobState.COMPLETED)]), 10)

    assert after is not None
    assert (after.state, after.open()) == (JobState.COMPLETED, [])


def test_a_deletion_ends_what_was_missed() -> None:
    """A deleted job is gone for a reader too that still has it, or an earlier one of its name, as open."""
    world = World(a_node("n1"))
    world.submit(a_job())
    for job in (JOB, OTHER):
        assert fold(world.record, Entry(job, "op", "r1", 9.0, [Deleted()]), 9) is None
