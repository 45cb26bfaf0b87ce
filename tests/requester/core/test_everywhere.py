"""Jobs that run on every node: where they go, what they share out, and when they end."""

from msgspec.structs import replace

from protocol.errors import Failure
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Amounts, Input, Spec
from protocol.nodes import Offer
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.commands import run
from requester.core.explanation import standings
from requester.core.waiting import reason_now
from tests.requester.core.world import ILL, World, a_job, a_node, deadline


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


def test_where_a_job_of_every_node_runs_is_explained() -> None:
    """Of a job that runs on every node each node is told with what became of it there, or what keeps it from there."""
    world = World(a_node("n1"), a_node("n2"), a_node("n3", cores=0.5), a_node("n4"))
    world.fleet.hold(NodeId("n4"), ExecutionId("e-other"), Amounts(cpu=4))
    world.submit(a_job(type_="daemon", count=0))
    world.report(world.open()[0], S.FAILED, ILL)

    assert {each.node: (each.standing, each.reason) for each in standings(world.job, world.fleet)} == {
        "n1": ("has", "failed: the engine is ill"),
        "n2": ("has", "assigned"),
        "n3": ("unfit", "needs 1 core, offers 0.5"),
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
