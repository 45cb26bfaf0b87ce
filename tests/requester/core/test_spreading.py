"""The executions of a service keep apart, so that one node takes few of them with it."""

from collections import Counter

from protocol.jobs import Constraint, Placement
from protocol.states import ExecutionState
from requester.core.explanation import standings
from tests.requester.core.world import World, a_job, a_node

LARGE = a_node("n1", cores=64, labels={"disk": "ssd"})
FAVOURED = [Constraint("favour_disk", "=", ["ssd"])]


def places(world: World) -> Counter[str]:
    return Counter(execution.node for execution in world.open())


def test_each_goes_to_a_node_of_its_own() -> None:
    """Executions of a service go to different nodes, whatever is preferred; more than there are nodes are shared out."""
    world = World(LARGE, a_node("n2"), a_node("n3"))
    world.submit(a_job(type_="service", count=3, constraints=FAVOURED))

    assert places(world) == {"n1": 1, "n2": 1, "n3": 1}
    assert world.open()[0].node == "n1"

    world.submit(a_job(type_="service", count=7, constraints=FAVOURED))
    for _ in range(20):
        for execution in world.open():
            world.report(execution, ExecutionState.RUNNING)
        world.now += 10
        world.look()

    assert {execution.version for execution in world.open()} == {2}
    assert sorted(places(world).values()) == [2, 2, 3]


def test_why_is_told() -> None:
    """The choice says that fewer replicas decided it, and how many each candidate had; so does the outlook."""
    world = World(LARGE, a_node("n2"))
    world.submit(a_job(type_="service", count=2, constraints=FAVOURED))
    ranking = world.open()[1].ranking

    assert world.open()[1].why.startswith("it has fewest of this service's other replicas")
    assert ranking is not None
    assert [(each.node, each.replicas) for each in ranking.best] == [("n2", 0), ("n1", 1)]

    world.report(world.open()[1], ExecutionState.COMPLETED)
    nodes = {each.node: each.standing for each in standings(world.job, world.fleet)}

    assert nodes == {"n2": "next", "n1": "room"}


def test_others_do_not_spread() -> None:
    """A service that packs, and batch work, go where they would go without this."""
    for job in (
        a_job(type_="service", count=3, placement=Placement("pack"), constraints=FAVOURED),
        a_job(count=3, constraints=FAVOURED),
    ):
        world = World(LARGE, a_node("n2"), a_node("n3"))
        world.submit(job)

        assert places(world) == {"n1": 3}


def test_one_that_is_started_again_goes_where_none_is() -> None:
    """Whoever has lost a node fills the gaps: what is started again goes to the node that has fewest of the service."""
    world = World(LARGE, a_node("n2"), a_node("n3"))
    world.submit(a_job(type_="service", count=3))
    gone = next(each for each in world.open() if each.node == "n2")
    world.gone[gone.node] = 60.0
    world.fleet.drop(gone.node)
    world.fleet.put(a_node("n4"))
    world.look()

    assert places(world) == {"n1": 1, "n3": 1, "n4": 1}
