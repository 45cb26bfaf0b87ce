"""Why a job waits: one entry when it begins to, and the truth for whoever asks."""

from msgspec.structs import replace

from protocol.entries import (
    Assigned,
    Queued,
    Submitted,
)
from protocol.errors import NO_SUITABLE_NODE
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Amounts, Timeouts
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core import requests
from requester.core.model import JobRecord
from requester.core.waiting import NO_ROOM, as_they_wait
from tests.requester.core.world import ILL, POLICY, World, a_job, a_node, deadline

FULL = a_node("n1", cores=1)
AWAY = a_node("n1", cores=1, connected=False)
AWAY_CODE = f"{NO_SUITABLE_NODE}.Away"


def full_world(**job: object) -> World:
    """A job that waits for the only node, which is full."""
    world = World(FULL)
    world.fleet.hold(NodeId("n1"), ExecutionId("other"), Amounts(cpu=1))
    world.submit(a_job(**job))  # type: ignore[arg-type]
    return world


def told(world: World) -> JobRecord:
    (record,) = as_they_wait([world.job], world.fleet)
    return record


def code(world: World) -> str:
    queued = told(world).queued
    return queued.code if queued is not None else ""


def test_a_change_of_the_reason_is_no_entry() -> None:
    """Nodes that come and go write nothing about jobs that wait, however often; who asks is told why they wait now."""
    world = full_world()
    codes = [code(world)]
    for node in (AWAY, FULL, AWAY):
        world.fleet.put(node)
        assert world.look() == []
        codes.append(code(world))

    assert [type(event) for entry in world.entries for event in entry.events] == [Submitted, Queued]
    assert codes == [NO_ROOM, AWAY_CODE, NO_ROOM, AWAY_CODE]


def test_who_has_waited_too_long_is_told_for_what() -> None:
    """The end of a job that waited too long names what it waited for at last; one who has heard too little says what was."""
    for settled, reason in ((True, "waiting for a node"), (False, "waiting for room")):
        world = full_world(timeouts=Timeouts(queue_timeout=10))
        world.fleet.put(AWAY)
        world.settled = settled
        world.now += 10
        world.look()

        assert world.job.state is JobState.FAILED
        assert reason in world.job.message


def test_a_job_that_was_to_wait_for_a_moment_waits_on() -> None:
    """Where a node comes within the moment that a job gives a cluster without any, it waits as any other does."""
    world = World()
    world.submit(a_job())
    world.fleet.put(FULL)
    world.fleet.hold(NodeId("n1"), ExecutionId("other"), Amounts(cpu=1))
    world.now += 60

    assert [type(event) for event in world.look()] == [Queued]
    assert world.look() == []
    assert world.job.state is JobState.QUEUED


def test_a_job_without_hope_ends() -> None:
    """When the last node that could run a job has left for good, the job ends, though no reason was written meanwhile."""
    world = full_world()
    world.fleet.put(AWAY)
    world.look()
    world.fleet.drop(NodeId("n1"))
    world.fleet.put(a_node("n2", engines=()))
    world.look()

    assert world.job.state is JobState.FAILED
    assert "has no engine noop" in world.job.message


def test_many_are_told_alike() -> None:
    """In a list each job has the reason that it has alone, whatever stands beside it."""
    waits, runs = full_world(), World(FULL)
    runs.submit(a_job())
    records = [waits.job, runs.job, waits.job]

    assert as_they_wait(records, waits.fleet) == [told(waits), runs.job, told(waits)]


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


def test_a_reason_is_told_once() -> None:
    """A job that no node can run is told each reason once, with the nodes that it holds for; programs have it by node."""
    small = [a_node(f"n{number}", cores=1) for number in range(1, 6)]
    world = World(*small, replace(small[0], info=replace(small[0].info, id=NodeId("old"), engines=[])))
    world.submit(a_job(cpu="2"))

    failure = world.job.failure
    assert failure is not None
    assert failure.message.splitlines()[1:] == [
        "  n1, n2, n3 and 2 more  needs 2 cores, offers 1  fix: Lower Resources.CPU or add a node",
        "  old  has no engine noop",
    ]
    assert len(failure.details) == 6


def test_nodes_that_are_away_are_waited_for() -> None:
    """A job that a disconnected or unapproved node could run waits for it, however long."""
    world = World(a_node("n1", connected=False), a_node("n2", membership="PENDING"))
    world.submit(a_job())

    world.now += 100_000
    world.look()

    assert world.job.state is JobState.QUEUED
    assert world.job.queued is not None
    assert world.job.queued.details == {
        "n1": "is not connected (fix: Start it again, or wait for it)",
        "n2": "is not approved yet (fix: Approve it: node approve)",
    }
    assert world.job.queued.message.endswith("and none takes work now: 1 of them waits to be approved")
    assert world.job.queued.hint == "Approve it: shoal node approve n2"


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
