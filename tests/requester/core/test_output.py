"""Which execution goes on where another has ended."""

import pytest
from msgspec.structs import replace

from protocol.errors import Failure
from protocol.ids import NodeId
from protocol.jobs import Constraint
from protocol.states import ExecutionState as S
from requester.core.output import is_last_attempt, next_attempt_at
from tests.requester.core.test_retries import CRASH, NO_IMAGE
from tests.requester.core.world import ILL, POLICY, World, a_job, a_node, deadline


@pytest.mark.parametrize(
    ("type_", "failure", "last"),
    [
        ("batch", ILL, False),
        ("batch", CRASH, True),
        ("batch", NO_IMAGE, True),
        ("service", CRASH, False),
        ("daemon", CRASH, False),
        ("ops", ILL, True),
        ("ops", CRASH, True),
    ],
)
def test_a_failed_attempt_is_the_last_one_if_the_job_gives_up(
    type_: str, failure: Failure, last: bool
) -> None:
    """Who follows a job hears of its next attempt, and is let go as soon as there will be none."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job(type_=type_, count=2 if type_ in ("batch", "service") else 0))
    first = world.open()[0]
    assert not is_last_attempt(world.job, first, POLICY)
    for other in world.open():
        world.report(other, S.RUNNING)
    world.report(first, S.FAILED, failure)
    assert (next_attempt_at(world.job, first), is_last_attempt(world.job, first, POLICY)) == (None, last)
    if not last:
        world.now = deadline(world) or 0.0
        world.look()
        after = next_attempt_at(world.job, first)
        assert after is not None
        assert (after.partition, after.attempt) == (first.partition, 2)
        assert next_attempt_at(world.job, after) is None


def test_a_completed_part_is_not_waited_for() -> None:
    """Who follows one part of a job is let go when it has completed, though others go on."""
    world = World(a_node("n1"))
    world.submit(a_job(count=2))
    first, _ = world.open()
    world.report(first, S.COMPLETED)
    assert not world.job.closed
    assert is_last_attempt(world.job, first, POLICY)


def test_a_new_version_goes_on_in_the_place_of_the_one_before() -> None:
    """Who follows a job hears of its new version too, unless that has no such part."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service", count=2))
    first, second = world.open()
    for execution in (first, second):
        world.report(execution, S.RUNNING)
    world.now += 10
    world.submit(a_job(type_="service", count=1, priority=1))
    for _ in range(3):
        for execution in world.open():
            world.report(execution, S.RUNNING if execution.version == 2 else S.CANCELLED)
        world.now += 10
        world.look()
    after = next_attempt_at(world.job, first)
    assert after is not None
    assert after.version == 2
    assert not is_last_attempt(world.job, first, POLICY)
    assert next_attempt_at(world.job, second) is None
    assert is_last_attempt(world.job, second, POLICY)


@pytest.mark.parametrize("type_", ["daemon", "ops"])
def test_a_node_that_the_new_version_does_not_want_is_not_waited_for(type_: str) -> None:
    """Who follows a job on one node is let go when its new version does not go there, and goes on where it does."""
    world = World(a_node("n1", labels={"zone": "a"}), a_node("n2", labels={"zone": "b"}))
    world.submit(a_job(type_=type_, count=0))
    before = {each.node: each for each in world.open()}
    for execution in before.values():
        world.report(execution, S.RUNNING)
    world.submit(a_job(type_=type_, count=0, constraints=[Constraint("zone", "=", ["b"])]))
    world.now += 10
    world.look()

    assert is_last_attempt(world.job, before[NodeId("n1")], POLICY, world.fleet)
    assert not is_last_attempt(world.job, before[NodeId("n2")], POLICY, world.fleet)
    assert next_attempt_at(world.job, before[NodeId("n2")]) is not None


def test_a_node_that_refused_is_not_waited_for() -> None:
    """Who follows a daemon on a node that refuses it is let go, though the daemon goes on elsewhere."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job(type_="daemon", count=0))
    first, second = world.open()
    world.report(second, S.RUNNING)
    world.report(first, S.REFUSED, Failure("Denied", "not here"))

    assert is_last_attempt(world.job, first, POLICY, world.fleet)
    assert not is_last_attempt(world.job, second, POLICY, world.fleet)


def test_a_node_that_is_away_is_waited_for() -> None:
    """A daemon comes back with its node: who follows it there waits, as long as the node may be back."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="daemon", count=0))
    (execution,) = world.open()
    world.gone = {NodeId("n1"): 10.0}
    world.fleet.put(a_node("n1", connected=False))
    world.look()

    assert not is_last_attempt(world.job, execution, POLICY, world.fleet)
    away = replace(world.fleet.nodes[NodeId("n1")], expected=False)
    world.fleet.put(away)
    assert is_last_attempt(world.job, execution, POLICY, world.fleet)
