"""Why a job waits: one entry when it begins to, and the truth for whoever asks."""

from protocol.entries import Queued, Submitted
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Amounts, Timeouts
from protocol.states import JobState
from requester.core.model import JobRecord
from requester.core.standing import NO_ROOM, NO_SUITABLE_NODE
from requester.core.waiting import as_they_wait
from tests.requester.core.world import World, a_job, a_node

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
