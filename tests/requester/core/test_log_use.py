"""What a job costs the log, which takes only so many entries of one."""

import pytest

from protocol.states import ExecutionState
from requester.core.policy import Policy
from tests.requester.core.world import World, a_job, a_node


@pytest.mark.parametrize(
    ("ran_s", "entries"),
    [(5.0, 3), (Policy().restart_backoff_max_s, 2), (600.0, 2)],
    ids=["short", "long", "longer"],
)
def test_what_it_costs_that_a_service_is_started_again(ran_s: float, entries: int) -> None:
    """Three entries each time, two where it ran for longer than its rests may be: the next is assigned with its end then."""
    world = World(a_node("n1"))
    world.submit(a_job(type_="service"))
    before = len(world.entries)
    for _ in range(10):
        (execution,) = world.open()
        world.report(execution, ExecutionState.RUNNING)
        world.now += ran_s
        world.report(execution, ExecutionState.COMPLETED)
        world.now += 2 * Policy().restart_backoff_max_s
        world.look()

    assert len(world.entries) - before == 10 * entries
