"""Which node a task goes to, and why not the others."""

from collections import Counter

import pytest
from msgspec.structs import replace

from protocol.jobs import Amounts, Constraint, Input, Resources, Spec
from protocol.nodes import Offer
from requester.core.fleet import Fleet
from requester.core.model import NodeRecord
from requester.core.placement import Demand, choose, demand_of, explain
from tests.requester.core.world import a_job, a_node


def a_fleet(*nodes: NodeRecord) -> Fleet:
    fleet = Fleet()
    for node in nodes:
        fleet.put(node)
    return fleet


def chosen(
    fleet: Fleet, demand: Demand, *, failures: dict[str, int] | None = None, seed: int = 0
) -> str | None:
    return choose(
        fleet.standing(demand),
        demand.amounts,
        free=fleet.free,
        capacity=fleet.capacity,
        failures=failures or {},  # type: ignore[arg-type]
        excluded=frozenset(),
        seed=seed,
    )


def reasons(node: NodeRecord, demand: Demand) -> dict[str, str]:
    return explain(a_fleet(node).standing(demand), {}, needed=1).details


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (a_node("n1", engines=()), "has no engine noop"),
        (
            a_node("n1", labels={"region": "us"}),
            "label region=us: not region in (eu,de) (fix: from Constraints)",
        ),
        (a_node("n1"), "no label region: not region in (eu,de) (fix: from Constraints)"),
        (
            a_node("n1", cores=1, labels={"region": "eu"}),
            "needs 2 cores, offers 1 (fix: lower Resources.CPU or add a node)",
        ),
        (
            a_node("n1", labels={"region": "eu"}, membership="REJECTED"),
            "is rejected (fix: approve it: node approve)",
        ),
    ],
    ids=["engine", "label", "no label", "size", "rejected"],
)
def test_reasons(node: NodeRecord, reason: str) -> None:
    """Each node that cannot run a job is told with what it lacks and what would change that."""
    demand = demand_of(a_job(cpu="2", constraints=[Constraint("region", "in", ["eu", "de"])]))

    assert reasons(node, demand) == {"n1": reason}


def test_sources_and_publishers_are_needed_too() -> None:
    """A node must offer every source and the publisher; one that is there but ill says why."""
    job = a_job()
    task = replace(
        job.task,
        input_sources=[Input(Spec("s3"), "/in")],
        publisher=Spec("ipfs"),
    )
    demand = demand_of(replace(job, tasks=[task]))
    node = a_node("n1")
    with_s3 = replace(node, info=replace(node.info, sources=[Offer("S3")]))
    ill = Offer("ipfs", available=False, reason="no daemon at 127.0.0.1:5001", hint="start Kubo")
    with_both = replace(with_s3, info=replace(with_s3.info, publishers=[ill]))

    assert reasons(node, demand) == {"n1": "has no source s3"}
    assert reasons(with_s3, demand) == {"n1": "has no publisher ipfs"}
    assert reasons(with_both, demand) == {
        "n1": "publisher ipfs is not available: no daemon at 127.0.0.1:5001 (fix: start Kubo)"
    }


def test_preferences_rank_and_do_not_filter() -> None:
    """A favoured label decides among nodes that fit, and nothing else."""
    demand = demand_of(a_job(constraints=[Constraint("favour_disk", "=", ["ssd"])]))
    fleet = a_fleet(a_node("n1"), a_node("n2", labels={"disk": "ssd"}), a_node("n3"))

    assert {chosen(fleet, demand, seed=seed) for seed in range(9)} == {"n2"}
    assert chosen(a_fleet(a_node("n1")), demand) == "n1"


def test_failures_rank_first() -> None:
    """The node that has failed a job least comes first, even before one that is preferred."""
    demand = demand_of(a_job(constraints=[Constraint("favour_disk", "=", ["ssd"])]))
    fleet = a_fleet(a_node("n1"), a_node("n2", labels={"disk": "ssd"}))

    assert chosen(fleet, demand, failures={"n2": 1}) == "n1"


def test_work_spreads() -> None:
    """Equal tasks spread evenly over equal nodes."""
    demand = demand_of(a_job())
    fleet = a_fleet(*(a_node(f"n{number}", cores=10) for number in range(5)))
    counts = Counter[str]()
    for seed in range(50):
        node = chosen(fleet, demand, seed=seed * 7919)
        assert node is not None
        fleet.hold(node, f"e{seed}", demand.amounts)  # type: ignore[arg-type]
        counts[node] += 1

    assert set(counts.values()) == {10}
    assert chosen(fleet, demand) is None


def test_many_nodes() -> None:
    """Among very many nodes a place is found as long as there is one."""
    demand = demand_of(a_job())
    fleet = a_fleet(*(a_node(f"n{number}", cores=1) for number in range(500)))

    for seed in range(500):
        node = chosen(fleet, demand, seed=seed * 2_654_435_761 % 2**32)
        assert node is not None
        fleet.hold(node, f"e{seed}", demand.amounts)  # type: ignore[arg-type]

    assert chosen(fleet, demand) is None


def test_sums_do_not_drift() -> None:
    """Fractions of cores that come and go leave exactly what there was."""
    demand = Amounts(0.1, 3, 5, 0)
    fleet = a_fleet(a_node("n1", cores=1))
    whole = fleet.free(a_node("n1").info.id)

    for round_ in range(1_000):
        fleet.hold(a_node("n1").info.id, f"e{round_}", demand)  # type: ignore[arg-type]
        if round_ >= 9:
            fleet.release(a_node("n1").info.id, f"e{round_ - 9}")  # type: ignore[arg-type]
    for round_ in range(991, 1_000):
        fleet.release(a_node("n1").info.id, f"e{round_}")  # type: ignore[arg-type]

    assert fleet.free(a_node("n1").info.id) == whole


def test_defaults_are_demanded() -> None:
    """A task that asks for nothing asks for the default: half a core and 512 MB."""
    job = a_job()
    task = replace(job.task, resources=Resources())

    assert demand_of(replace(job, tasks=[task])).amounts == Amounts(0.5, 512_000_000)
