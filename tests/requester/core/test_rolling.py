"""Services and daemons from one version to the next, and off a node that is drained."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.entries import Cancelled
from protocol.errors import Failure
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Amounts, Disconnect, Job, Network, Port, Update
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.commands import run
from requester.core.deadlines import next_deadline
from requester.core.model import Cordon
from tests.requester.core.world import POLICY, World, a_job, a_node, refold

N1 = NodeId("n1")


def drain(world: World, node: str, in_s: float) -> None:
    record = world.fleet.nodes[NodeId(node)]
    world.fleet.put(replace(record, cordon=Cordon(world.now, "new disk", world.now + in_s)))
    world.look()


def come_up(world: World) -> None:
    """What is assigned runs, until it counts as healthy."""
    for execution in world.open():
        if execution.state is S.ASSIGNED:
            world.report(execution, S.RUNNING)
    due = next_deadline(world.job, {}, world.now, POLICY)
    assert due is not None
    world.now = due
    world.look()


def versions(world: World) -> list[int]:
    return sorted(each.version for each in world.open())


@given(count=st.integers(1, 12), parallel=st.integers(1, 5), daemon=st.booleans(), room=st.integers(0, 3))
@settings(max_examples=40)
def test_an_update_is_rolled_out_a_few_at_a_time(count: int, parallel: int, daemon: bool, room: int) -> None:
    """While a service or daemon is updated, all but a few partitions are healthy at any time, each runs once, and in the
    end all run the new version; on a full cluster as well."""

    def a_version(number: int) -> Job:
        return a_job(
            type_="daemon" if daemon else "service",
            count=0 if daemon else count,
            update=Update(max_parallel=parallel),
            labels={"version": str(number)},
        )

    nodes = [a_node(f"n{n}", cores=1) for n in range(count)] if daemon else [a_node("n1", cores=count + room)]
    world = World(*nodes)
    world.submit(a_version(1))
    come_up(world)
    world.submit(a_version(2))
    while versions(world) != [2] * count or any(each.state is not S.RUNNING for each in world.open()):
        old = versions(world).count(1)
        healthy = [
            each
            for each in world.open()
            if each.version == 2 and each.state is S.RUNNING and world.now >= each.modified_at + 3
        ]
        assert len(world.open()) == count
        assert old + len(healthy) >= count - parallel
        come_up(world)
    assert world.job.state is JobState.RUNNING


def test_a_version_that_does_not_come_up_stops_its_update() -> None:
    """If the new version fails, whatever the cause, the rest of the old one goes on; a third version replaces both."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service", count=3))
    come_up(world)
    world.submit(a_job(type_="service", count=3, labels={"v": "2"}))
    new = next(each for each in world.open() if each.version == 2)
    world.report(new, S.FAILED, Failure("NotFound.Image", "no such image"))
    # Who asks for the job's executions is not told that nothing of it runs.
    assert [(each.version, each.open) for each in world.job.shown()] == [(1, True), (1, True), (2, False)]
    assert [each.version for each in world.job.shown(1)] == [1, 1, 1]
    world.now += 1_000
    world.look()

    assert (versions(world), world.job.state) == ([1, 1], JobState.RUNNING)

    world.submit(a_job(type_="service", count=3))
    for _ in range(3):
        come_up(world)
    assert versions(world) == [3, 3, 3]


def test_a_version_that_no_node_can_run_takes_nothing_down() -> None:
    """An update that fits nowhere leaves the old version as it is."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service", count=2))
    come_up(world)
    world.submit(a_job(type_="service", count=2, cpu="64"))
    world.now += 1_000
    world.look()

    assert versions(world) == [1, 1]
    assert world.job.state is JobState.RUNNING


@pytest.mark.parametrize(("before", "after"), [("service", "daemon"), ("daemon", "service")])
def test_a_job_of_another_type_replaces_what_is_left_of_the_first(before: str, after: str) -> None:
    """A service becomes a daemon, or a daemon a service, though some of what ran before has just ended and rests."""
    nodes = [a_node("n1")] if before == "service" else [a_node(f"n{number}") for number in range(3)]
    world = World(*nodes)
    world.submit(a_job(type_=before, count=3 if before == "service" else 0))
    come_up(world)
    world.report(world.open()[-1], S.FAILED, Failure("ProgramFailed", "exit code 1"))
    world.submit(a_job(type_=after, count=2 if after == "service" else 0))
    for _ in range(6):
        if 1 in versions(world):
            come_up(world)

    assert versions(world) == ([2] if after == "daemon" else [2, 2])


def test_fewer_partitions_end_at_once() -> None:
    """Partitions that a new version has no more are ended at once; those it has are replaced a few at a time."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service", count=4))
    come_up(world)
    world.submit(a_job(type_="service", count=2))

    assert [each.partition for each in world.open() if each.version == 1] == [1]


def test_services_leave_a_drained_node_first() -> None:
    """When a node is drained, services move one after the other and only if there is room; batch work and daemons stay
    until the deadline, then batch work is done elsewhere."""
    service, batch, daemon = World(a_node("n1")), World(a_node("n1")), World(a_node("n1"))
    service.submit(a_job(type_="service", count=2))
    come_up(service)
    batch.submit(a_job())
    daemon.submit(a_job(type_="daemon", count=0))
    for world in (service, batch, daemon):
        drain(world, "n1", 100)
        assert {each.node for each in world.open()} == {"n1"}
    for world in (service, batch, daemon):
        world.fleet.put(a_node("n2"))
        world.look()
    assert sorted(each.node for each in service.open()) == ["n1", "n2"]
    come_up(service)
    assert {each.node for each in service.open()} == {"n2"}
    assert {each.node for each in batch.open()} == {"n1"}
    assert sorted(each.node for each in daemon.open()) == ["n1", "n2"]

    for world in (batch, daemon):
        world.now += 100
        events = world.look()
        assert [each.failure.code for each in events if isinstance(each, Cancelled)] == [
            "Unavailable.NodeDrained"
        ]
        assert {each.node for each in world.open()} == {"n2"}
    assert batch.job.state is JobState.RUNNING


def test_an_update_takes_no_port_that_another_job_has() -> None:
    """A version that wants another port of the host waits for it: what the old version has it gets, what others have not."""

    def a_version(*ports: int) -> Job:
        job = a_job(type_="service")
        network = Network("Bridge", ports=[Port(f"P{port}", port) for port in ports])
        return replace(job, tasks=[replace(job.task, network=network)])

    world = World(a_node("n1"))
    world.fleet.hold(N1, ExecutionId("e-other"), Amounts(), (9090,))
    world.submit(a_version(8080))
    come_up(world)
    world.submit(a_version(8080, 9090))
    assert versions(world) == [1]

    world.fleet.release(N1, ExecutionId("e-other"))
    world.look()
    assert versions(world) == [2]
    assert world.fleet.host(N1).ports == {8080, 9090}


def test_what_goes_on_of_an_older_version_stays_what_it_was() -> None:
    """Until it is replaced an execution is ordered anew as its own version asked for; what that was is kept so long."""
    world = World(a_node("n1"))
    first, second = (a_job(type_="service", count=2, labels={"v": v}, cpu=v) for v in "12")
    world.submit(first)
    come_up(world)
    world.submit(second)

    assert [(each.version, run(world.job, each).task) for each in world.open()] == [
        (1, first.task),
        (2, second.task),
    ]
    assert refold(world.entries) == world.job
    come_up(world)
    come_up(world)
    assert versions(world) == [2, 2]
    assert not world.job.earlier


def test_an_ops_job_ends_though_a_node_is_drained() -> None:
    """An ops job has no other place for what a drained node leaves undone: it fails once the others are done, with that
    reason."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job(type_="ops", count=0))
    drain(world, "n1", 10)
    world.now += 10
    world.look()
    assert [each.node for each in world.open()] == ["n2"]
    world.report(world.open()[0], S.COMPLETED)

    assert world.job.state is JobState.FAILED
    assert world.job.message == "Execution stop requested because node is being drained"


def test_a_cordoned_node_gets_nothing_new() -> None:
    """A cordoned node goes on with what it has; work that only it could take waits and says so."""
    world = World(a_node("n1"))
    world.submit(a_job())
    world.fleet.put(replace(world.fleet.nodes[N1], cordon=Cordon(world.now, "new disk")))
    assert world.look() == []
    waiting = World(*world.fleet.nodes.values())
    waiting.submit(a_job())

    assert waiting.job.queued is not None
    assert waiting.job.queued.hint == "Let it back: node uncordon"
    assert waiting.job.queued.details == {"n1": "is cordoned: new disk (fix: Let it back: node uncordon)"}
    waiting.fleet.put(a_node("n1"))
    waiting.look()
    assert waiting.open()


def test_a_job_may_bear_a_longer_silence() -> None:
    """A job with LostAfter leaves its work on a silent node for so long; if the node comes back, nothing has happened."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job(disconnect=Disconnect(60)))
    node = world.open()[0].node
    world.gone = {node: 59.0}
    assert world.look() == []
    world.gone = {node: 60.0}
    world.look()

    assert world.open()[0].node != node
