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
    Queued,
    Reported,
    StopRequested,
    Submitted,
)
from protocol.errors import Failure
from protocol.ids import ExecutionId, NodeId, job_id, nameless_key
from protocol.jobs import Amounts, Input, Retry, Spec, Timeouts
from protocol.messages import Stage
from protocol.nodes import Offer
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core import requests
from requester.core.commands import run
from requester.core.deadlines import next_deadline
from requester.core.explanation import standings
from requester.core.fold import KEPT, fold
from requester.core.waiting import reason_now
from requester.read_model import Group, Store
from requester.read_queries import load
from tests.requester.core.world import JOB, POLICY, World, a_job, a_node, assigned, refold

OTHER = job_id(nameless_key(7), 8)
"""Another job of the same name."""
ILL = Failure("Unavailable.Engine", "the engine is ill", retryable=True)


def deadline(world: World) -> float | None:
    return next_deadline(world.job, world.running_since, world.now, POLICY)


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


def test_queueing() -> None:
    """A job without room waits, is told once why, and starts when there is room."""
    world = World(a_node("n1", cores=1))
    world.fleet.hold(NodeId("n1"), "e-other", world.fleet.host(NodeId("n1")).capacity)  # type: ignore[arg-type]

    first = world.submit(a_job())
    again = world.look()
    world.fleet.release(NodeId("n1"), "e-other")  # type: ignore[arg-type]
    then = world.look()

    assert [type(event) for event in first] == [Submitted, Queued]
    assert again == []
    assert [type(event) for event in then] == [Assigned]
    assert world.job.queued is None


def test_time_in_the_queue_is_what_counts() -> None:
    """A QueueTimeout counts from when the job began to wait, and a job that ran before begins anew."""
    world = World(a_node("n1"))
    world.submit(a_job(timeouts=Timeouts(queue_timeout=10)))
    world.now += 100
    world.fleet.put(a_node("n1", connected=False))
    world.gone = {NodeId("n1"): 6.0}
    world.look()
    began = world.now

    waiting = world.job.state
    assert deadline(world) == began + 10
    world.now = began + 9
    assert world.look() == []
    world.now = began + 10
    world.look()
    assert [waiting, world.job.state] == [JobState.QUEUED, JobState.FAILED]
    assert world.job.message.startswith("Job timed out. Job was queued for longer than 10s")


def test_a_cluster_without_nodes_is_given_a_moment() -> None:
    """With no node at all a job waits a grace for one, then fails; right after a start even that is not judged."""
    world = World()
    world.settled = False
    world.submit(a_job())
    world.now += POLICY.join_grace_s
    assert world.look() == []

    world.settled = True
    world.look()

    assert world.job.state is JobState.FAILED
    assert world.job.failure is not None
    assert world.job.failure.code == "NoSuitableNode.NoNodes"


def test_nodes_that_are_away_are_waited_for() -> None:
    """A job that a disconnected or unapproved node could run waits for it, however long."""
    world = World(a_node("n1", connected=False), a_node("n2", membership="PENDING"))
    world.submit(a_job())

    world.now += 100_000
    world.look()

    assert world.job.state is JobState.QUEUED
    assert world.job.queued is not None
    assert world.job.queued.details == {
        "n1": "is not connected (fix: start it again, or wait for it)",
        "n2": "is not approved yet (fix: approve it: node approve)",
    }
    assert world.job.queued.message.endswith("and none takes work now: 1 of them waits to be approved")
    assert world.job.queued.hint == "approve it: shoal node approve n2"


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


def test_ops_waits_until_all_nodes_could_be_heard() -> None:
    """An ops job submitted right after a start is not over before every node had the time to be heard."""
    world = World(a_node("n1"))
    world.settled = False
    world.submit(a_job(type_="ops", count=0))
    world.report(world.open()[0], S.COMPLETED)
    world.fleet.put(a_node("n2"))
    world.look()
    world.settled = True

    world.report(world.open()[0], S.COMPLETED)

    assert world.job.state is JobState.COMPLETED
    assert {execution.node for execution in world.executions()} == {"n1", "n2"}


def test_ops_shares_out_its_inputs() -> None:
    """An ops job with an input to be shared out gives each node a part of its own, of as many as nodes fit when it begins:
    one without room has its part later, one that joins has none."""
    world = World(a_node("n1"), a_node("n2", cores=1), a_node("n3"))
    world.fleet.hold(NodeId("n2"), "e-other", world.fleet.host(NodeId("n2")).capacity)  # type: ignore[arg-type]
    job = a_job(type_="ops", count=0)
    source = Input(Spec("s3", {"Bucket": "b", "Partition": {"Type": "object"}}), "/in")
    for node in ("n1", "n2", "n3", "n4"):
        record = world.fleet.nodes.get(NodeId(node)) or a_node(node)
        if node != "n4":
            world.fleet.put(replace(record, info=replace(record.info, sources=[Offer("s3")])))
    world.settled = False
    world.submit(replace(job, tasks=[replace(job.task, input_sources=[source])]))
    assert not world.open()
    world.settled = True
    world.look()
    joined = a_node("n4")
    world.fleet.put(replace(joined, info=replace(joined.info, sources=[Offer("s3")])))
    world.look()
    world.fleet.release(NodeId("n2"), "e-other")  # type: ignore[arg-type]
    world.look()

    assert {each.node: (each.partition, each.partitions) for each in world.open()} == {
        "n1": (0, 3),
        "n3": (2, 3),
        "n2": (1, 3),
    }
    orders = [run(world.job, each) for each in world.open()]
    assert [(order.partition, order.partitions) for order in orders] == [(0, 3), (2, 3), (1, 3)]
    for execution in world.open():
        world.report(execution, S.COMPLETED)
    assert world.job.state is JobState.COMPLETED


def test_ops_fails_if_a_part_was_read_by_nobody() -> None:
    """An ops job whose inputs are shared out is not complete when a node left before it began with its part."""
    nodes = [a_node(name) for name in ("n1", "n2")]
    world = World(*(replace(each, info=replace(each.info, sources=[Offer("s3")])) for each in nodes))
    world.fleet.hold(NodeId("n2"), ExecutionId("e-other"), world.fleet.host(NodeId("n2")).capacity)
    job = a_job(type_="ops", count=0)
    source = Input(Spec("s3", {"Bucket": "b", "Partition": {"Type": "object"}}), "/in")
    world.submit(replace(job, tasks=[replace(job.task, input_sources=[source])]))
    world.fleet.drop(NodeId("n2"))
    world.report(world.open()[0], S.COMPLETED)

    assert world.job.state is JobState.FAILED
    assert world.job.message.startswith("1 of the 2 parts of its inputs were read by nobody (part 1): ")


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


def test_where_a_job_of_every_node_runs_is_explained() -> None:
    """Of a job that runs on every node each node is told with what became of it there, or what keeps it from there."""
    world = World(a_node("n1"), a_node("n2"), a_node("n3", cores=0.5), a_node("n4"))
    world.fleet.hold(NodeId("n4"), ExecutionId("e-other"), Amounts(cpu=4))
    world.submit(a_job(type_="daemon", count=0))
    world.report(world.open()[0], S.FAILED, ILL)

    assert {each.node: (each.standing, each.reason) for each in standings(world.job, world.fleet)} == {
        "n1": ("has", "failed: the engine is ill"),
        "n2": ("has", "assigned"),
        "n3": ("unfit", "needs 1 cores, offers 0.5"),
        "n4": ("full", "fits, but has 0 of the 1 cores free now"),
    }


def test_ops_fails_if_one_failed() -> None:
    """An ops job lets all nodes finish, then fails if one did."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job(type_="ops", count=0))
    first, second = world.open()
    failure = Failure("ProgramFailed", "exit code 1")

    world.report(first, S.FAILED, failure)
    assert not world.job.closed
    world.report(second, S.COMPLETED)

    assert (world.job.state, world.job.failure) == (JobState.FAILED, failure)


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


def test_a_daemon_without_a_node_says_that_it_waits() -> None:
    """A daemon that runs nowhere because no node is left for it waits, and says for what; it goes on when there is one."""
    world = World(a_node("n1"), a_node("n2", cores=0.5))
    world.submit(a_job(type_="daemon", count=0))
    world.report(world.open()[0], S.RUNNING)
    node = world.fleet.nodes[NodeId("n1")]
    told = []
    for changed in (replace(node, connected=False), replace(node, info=replace(node.info, engines=[]))):
        world.fleet.put(changed)
        world.gone = {NodeId("n1"): 60.0}
        world.look()
        world.now += 100
        assert world.look() == []
        assert world.job.state is JobState.QUEUED
        reason = reason_now(world.job, world.fleet)
        told.append((reason.message.split("\n")[0], reason.details["n1"].split(" (")[0]))
        assert deadline(world) is None

    assert told == [
        ("waiting for a node: 1 of 2 nodes could run this job, and none takes work now", "is not connected"),
        ("waiting for a node: none of 2 nodes can run this job", "has no engine noop"),
    ]
    world.fleet.put(node)
    world.gone = {}
    world.look()
    assert [each.node for each in world.open()] == ["n1"]
    assert world.job.state is JobState.RUNNING
    assert world.job.queued is None


def test_a_daemon_that_fits_nowhere_yet_waits() -> None:
    """A daemon for which no node fits is not ended and not looked at again and again: it waits for a node."""
    world = World(a_node("n1", engines=["docker"]))
    world.submit(a_job(type_="daemon", count=0))

    assert world.job.queued is not None
    assert world.job.queued.message.startswith(
        "waiting for a node: none of 1 node can run this job\n  n1  has no"
    )
    assert world.job.queued.retryable
    assert deadline(world) is None


def test_between_two_attempts_a_job_waits_for_room() -> None:
    """A job whose next attempt finds no room says that it waits, and for what, as its first would; it may be run anew."""
    world = World(a_node("n1", cores=1))
    world.submit(a_job())
    world.report(world.open()[0], S.FAILED, ILL)
    world.fleet.hold(NodeId("n1"), ExecutionId("other"), Amounts(cpu=1))
    rests = world.job.state
    world.now += 10
    world.look()

    assert [rests, world.job.state] == [JobState.RUNNING, JobState.QUEUED]
    assert world.job.queued is not None
    assert world.job.queued.code == "Exhausted.NoRoom"
    assert requests.rerun(world.job, None, "", "", anew=False).version == 2


def test_a_daemon_that_lacks_room_somewhere_writes_nothing() -> None:
    """A daemon that runs somewhere does not write that it waits for another node, however often it is looked at."""
    world = World(a_node("n1"), a_node("n2", cores=1))
    world.fleet.hold(NodeId("n2"), ExecutionId("other"), Amounts(cpu=1))
    world.submit(a_job(type_="daemon", count=0))
    written = len(world.entries)

    for _ in range(3):
        world.look()

    assert [execution.node for execution in world.open()] == ["n1"]
    assert len(world.entries) == written


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
