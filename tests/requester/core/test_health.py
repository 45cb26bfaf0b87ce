"""Nodes whose work keeps failing."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from protocol.errors import Failure
from protocol.ids import JobId, NodeId
from protocol.states import ExecutionState as S
from requester.core.health import ASIDE_AFTER, ASIDE_MAX_S, ASIDE_S, FADE_S, Health
from requester.core.model import ExecutionRecord
from tests.requester.core.world import World, a_job, a_node

ILL = Failure("Unavailable.Engine", "the engine is ill", retryable=True)
N1, N2 = NodeId("n1"), NodeId("n2")


def an_end(node: NodeId = N1, *, job: int = 0, at: float = 0.0, state: S = S.FAILED) -> ExecutionRecord:
    world = World(a_node(node))
    world.submit(a_job())
    failure = ILL if state is S.FAILED else None
    return replace(world.open()[0], job=JobId(f"j-{job}"), state=state, failure=failure, modified_at=at)


def test_a_node_whose_work_keeps_failing_is_set_aside() -> None:
    """After some failures in a row, of several jobs, a node gets no work for a while; each failure after that doubles it."""
    health = Health()
    for number in range(ASIDE_AFTER):
        assert health.asides(float(number), lambda: [N1, N2]) == {}
        health.ended(an_end(job=number, at=float(number)))
    began = ASIDE_AFTER - 1.0
    aside = health.asides(began, lambda: [N1, N2])[N1]
    assert aside.until == began + ASIDE_S
    assert (
        aside.reason
        == "is set aside for 60 s: 5 executions in a row failed there, the last one: the engine is ill"
    )
    assert health.asides(began + ASIDE_S, lambda: [N1, N2]) == {}
    health.ended(an_end(at=began + ASIDE_S))
    assert health.asides(began + ASIDE_S, lambda: [N1, N2])[N1].until == began + 3 * ASIDE_S
    for _ in range(20):
        health.ended(an_end(at=1_000.0))
    assert health.asides(1_000.0, lambda: [N1, N2])[N1].until == 1_000.0 + ASIDE_MAX_S


@pytest.mark.parametrize(
    "clear",
    [
        lambda health: health.ended(an_end(state=S.COMPLETED)),
        lambda health: health.forgive(N1, 5.0),
        lambda health: health.fade(5.1 + FADE_S),
    ],
    ids=["work that went well", "a person", "time"],
)
def test_what_clears_a_node(clear: Callable[[Health], None]) -> None:
    """One execution that went well clears a node, so does a person's word, and time."""
    health = Health()
    for number in range(ASIDE_AFTER):
        health.ended(an_end(job=number, at=5.0))
    health.forgive(N1, 4.0)
    assert N1 in health.asides(6.0, lambda: [N1, N2])
    clear(health)
    assert health.asides(6.0, lambda: [N1, N2]) == {}


def test_what_is_ended_for_the_jobs_sake_is_no_trouble() -> None:
    """Executions that are ended because their job was stopped or updated say nothing about the node."""
    world = World(a_node("n1"))
    health = Health()
    for _ in range(3):
        world.submit(a_job())
    world.stop()
    for execution in world.executions():
        assert execution.state is S.CANCELLED
        health.ended(execution)
    assert health.troubles(N1) == 0


@pytest.mark.parametrize("code", ["Conflict.Port", "Unavailable.Port", "Exhausted.Port"])
def test_a_port_that_another_program_has_is_no_trouble(code: str) -> None:
    """However many jobs ask for a port of a node that is taken there: the node is not ill, and takes other work."""
    health = Health()
    for number in range(ASIDE_AFTER):
        health.ended(replace(an_end(job=number), failure=Failure(code, "8080 is in use on this node")))
    assert health.asides(0.0, lambda: [N1, N2]) == {}


def test_one_job_alone_sets_no_node_aside() -> None:
    """A job that fails everywhere by its own fault costs no node its place."""
    health = Health()
    for number in range(20):
        health.ended(an_end(at=float(number)))
    assert health.asides(20.0, lambda: [N1, N2]) == {}


def test_most_nodes_are_never_set_aside() -> None:
    """If everything fails everywhere, at most half of the nodes are set aside; of a single node, none."""
    health = Health()
    nodes = [NodeId(f"n{number}") for number in range(5)]
    for node in nodes:
        for number in range(ASIDE_AFTER):
            health.ended(an_end(node, job=number))
    assert len(health.asides(1.0, lambda: nodes)) == 2
    assert health.asides(1.0, lambda: nodes[:1]) == {}
