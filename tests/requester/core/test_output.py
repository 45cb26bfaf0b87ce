"""Which execution goes on where another has ended."""

import pytest

from protocol.errors import Failure
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
