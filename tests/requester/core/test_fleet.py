"""What is promised on nodes adds up, and the choice between them follows the order that is told."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Amounts
from requester.core.fleet import Fleet
from requester.core.host import Promise, told
from requester.core.placement import Attempt, choose, rank
from requester.core.standing import demand_of
from tests.requester.core.world import a_job, a_node

NODES = [NodeId(f"n{number}") for number in range(3)]
# Sixteenths of cores add up exactly.
CORES = st.integers(1, 80).map(lambda number: number / 16)
PROMISES = st.builds(
    Promise,
    st.builds(Amounts, CORES, st.integers(0, 1 << 29), st.integers(0, 9), st.integers(0, 1)),
    st.sampled_from([(), (80,), (80, 81)]),
    st.sampled_from("ab"),
    st.booleans(),
)
EXECUTIONS = st.integers(0, 8).map(lambda number: ExecutionId(f"e{number}"))
OCCASIONS = st.one_of(
    st.tuples(st.just("hold"), st.sampled_from(NODES), EXECUTIONS, PROMISES),
    st.tuples(st.just("release"), st.sampled_from(NODES), EXECUTIONS),
    st.tuples(st.just("put"), st.sampled_from(NODES), CORES, st.integers(0, 2)),
    st.tuples(st.just("drop"), st.sampled_from(NODES)),
)


@settings(max_examples=200)
@given(st.lists(OCCASIONS, max_size=40), PROMISES)
def test_promises_add_up(occasions: list[tuple[object, ...]], wanted: Promise) -> None:
    """Whatever came and went, and in what order: a node's room is what it gives less what is held on it."""
    fleet = Fleet()
    held: dict[NodeId, dict[ExecutionId, Promise]] = {node: {} for node in NODES}
    given_: dict[NodeId, Amounts] = {}
    for occasion in occasions:
        match occasion:
            case "hold", node, execution, Promise() as promise:
                held[node].setdefault(execution, promise)  # type: ignore[index,arg-type]
                fleet.hold(
                    node,  # type: ignore[arg-type]
                    execution,  # type: ignore[arg-type]
                    promise.amounts,
                    promise.ports,
                    promise.namespace,
                    stays=promise.stays,
                )
            case "release", node, execution:
                there = held[node].pop(execution, None)  # type: ignore[index,call-overload]
                assert fleet.release(node, execution) is (there is not None)  # type: ignore[arg-type]
            case "put", node, cores, gpu:
                record = a_node(str(node), cores=float(cores))  # type: ignore[arg-type]
                amounts = replace(record.info.capacity, gpu=gpu)
                given_[node] = told(amounts)  # type: ignore[index]
                fleet.put(replace(record, info=replace(record.info, capacity=amounts)))
            case _, node:
                given_.pop(node, None)  # type: ignore[call-overload]
                fleet.drop(node)  # type: ignore[arg-type]

    for node in NODES:
        host, promises = fleet.host(node), held[node].values()
        whole = given_.get(node, Amounts())
        assert host.held == held[node]
        assert host.capacity == whole
        assert host.free == _less(whole, [each.amounts for each in promises])
        assert host.passing == _less(whole, [each.amounts for each in promises if each.stays])
        assert host.ports == {port for each in promises for port in each.ports}
        assert host.gpus is (whole.gpu > 0)
        assert host.has(wanted.amounts, ()) is wanted.amounts.fits(host.free)
        if host.roomy and host.is_small(wanted.amounts):
            assert host.has(wanted.amounts, ())
        if node in given_:
            assert host.share == min(host.free.cpu / whole.cpu, host.free.memory_bytes / whole.memory_bytes)
    assert set(fleet.holders()) == {node for node in NODES if held[node]}
    for namespace in "ab":
        counted = any(each.namespace == namespace for there in held.values() for each in there.values())
        assert counted or not fleet.share(namespace)


def _less(whole: Amounts, taken: list[Amounts]) -> Amounts:
    for each in taken:
        whole = whole - each
    return whole


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8), st.booleans(), st.integers(0, 2)), min_size=1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_the_best_is_chosen(nodes: list[tuple[int, int, bool, int]], seed: int, pack: bool) -> None:
    """Of the nodes with room that one is chosen which comes first in the order told: failures, preferences, room."""
    fleet = Fleet()
    likes: dict[NodeId, bool] = {}
    failures: dict[NodeId, int] = {}
    demand = replace(demand_of(a_job()), pack=pack, constraints=(("favour_disk", "=", ("ssd",)),))
    for number, (cores, used, favoured, failed) in enumerate(nodes):
        node = a_node(f"n{number}", cores=cores, labels={"disk": "ssd"} if favoured else {})
        likes[node.info.id] = favoured
        failures[node.info.id] = failed
        fleet.put(node)
        fleet.hold(node.info.id, ExecutionId("e"), Amounts(used))
    standing, attempt = fleet.standing(demand), Attempt(demand, failures=failures, seed=seed)

    def place(node: NodeId) -> tuple[int, int, float]:
        host = fleet.host(node)
        return failures[node], -likes[node], host.share if pack else -host.share

    having_room = [node for node in likes if demand.amounts.fits(fleet.host(node).free)]
    best = choose(standing, attempt, fleet)
    choice = rank(standing, attempt, fleet)
    assert best == (choice.node if choice is not None else None)
    assert (best is None) is (not having_room)
    if best is not None and len(nodes) <= 64:
        assert place(best) == min(map(place, having_room))
