"""Which node a task goes to, and why not the others."""

from collections import Counter
from collections.abc import Collection, Mapping

import pytest
from msgspec.structs import replace

from protocol.errors import Failure
from protocol.held import input_token
from protocol.ids import NodeId
from protocol.jobs import Amounts, Constraint, Input, Job, Network, Placement, Port, Resources, Spec
from protocol.nodes import Gpu, Offer
from protocol.states import ExecutionState
from requester.core.fleet import Fleet, News
from requester.core.host import Host
from requester.core.model import NodeRecord
from requester.core.placement import SAMPLE_SIZE, Attempt, choose, rank
from requester.core.standing import Demand, demand_of
from requester.core.waiting import NO_ROOM, explain
from tests.requester.core.world import World, a_job, a_node


def a_fleet(*nodes: NodeRecord) -> Fleet:
    fleet = Fleet()
    for node in nodes:
        fleet.put(node)
    return fleet


def chosen(
    fleet: Fleet, demand: Demand, *, failures: dict[str, int] | None = None, seed: int = 0
) -> str | None:
    attempt = Attempt(demand, failures=failures or {}, seed=seed)  # type: ignore[arg-type]
    return choose(fleet.standing(demand), attempt, fleet)


def reasons(node: NodeRecord, demand: Demand) -> dict[str, str]:
    return explain(a_fleet(node).standing(demand), {}, needed=1).details


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (a_node("n1", engines=()), "has no engine noop"),
        (
            a_node("n1", labels={"region": "us"}),
            "label region=us: not region in (eu,de) (fix: Change Constraints, or the labels of the node)",
        ),
        (
            a_node("n1"),
            "no label region: not region in (eu,de) (fix: Change Constraints, or the labels of the node)",
        ),
        (
            a_node("n1", cores=1, labels={"region": "eu"}),
            "needs 2 cores, offers 1 (fix: Lower Resources.CPU or add a node)",
        ),
        (
            a_node("n1", labels={"region": "eu"}, membership="REJECTED"),
            "is rejected (fix: Approve it: node approve)",
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


def test_an_engine_that_was_there_is_waited_for() -> None:
    """While a node's engine is restarted its jobs go elsewhere, and wait if there is no other; one never seen is no hope."""
    gone = Offer("noop", available=False, reason="it is being restarted", lost=True)
    node = a_node("n1")
    lost = replace(node, info=replace(node.info, engines=[gone]))
    never = replace(node, info=replace(node.info, engines=[replace(gone, lost=False)]))
    demand = demand_of(a_job())

    waiting = explain(a_fleet(lost).standing(demand), {}, needed=1)
    assert (waiting.code, waiting.retryable) == ("NoSuitableNode.Away", True)
    assert "it is being restarted" in waiting.details["n1"]
    assert explain(a_fleet(never).standing(demand), {}, needed=1).code == "NoSuitableNode"
    assert chosen(a_fleet(lost, a_node("n2")), demand) == "n2"


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


def with_inputs(*sources: Spec) -> Job:
    job = a_job()
    inputs = [Input(source, f"/in{number}") for number, source in enumerate(sources)]
    return replace(job, tasks=[replace(job.task, input_sources=inputs)])


def test_work_goes_to_its_data() -> None:
    """A task goes where most bytes of its inputs are, before preferences and room; a few bytes more count nothing."""
    sources = [Spec("ipfs", {"CID": cid}) for cid in "abc"]
    tokens = [input_token(each) for each in sources]
    offers = [Offer("ipfs")]
    nodes = [
        replace(node, info=replace(node.info, sources=offers), held=held)
        for node, held in (
            (a_node("n1", cores=64), {}),
            (a_node("n2", cores=8), {tokens[0]: 5 << 30, tokens[1]: 1 << 30}),
            (a_node("n3", cores=2), {tokens[2]: 20 << 30}),
        )
    ]
    fleet = a_fleet(*nodes)

    def place(job: Job) -> tuple[str, str, int]:
        demand = demand_of(job)
        inputs = [input_token(each.source) for each in job.task.input_sources]
        choice = rank(fleet.standing(demand), Attempt(demand, inputs), fleet)
        assert choice is not None
        return choice.node, choice.why, choice.ranking.best[0].input_bytes

    assert place(with_inputs(*sources[:2]))[::2] == ("n2", 6 << 30)
    assert place(with_inputs(*sources))[::2] == ("n3", 20 << 30)
    assert place(with_inputs(*sources))[1].startswith("most of its inputs are there already; 3 of 3")
    fleet.put(replace(nodes[0], held={tokens[0]: (5 << 30) - 1000, tokens[1]: 1 << 30}))
    assert place(with_inputs(*sources[:2]))[0] == "n1"


def test_data_is_found_among_very_many_nodes() -> None:
    """However many nodes there are, the one that holds an input is among those compared."""
    source = Spec("ipfs", {"CID": "a"})
    nodes = [
        replace(node, info=replace(node.info, sources=[Offer("ipfs")]))
        for node in (a_node(f"n{number}") for number in range(300))
    ]
    fleet = a_fleet(*nodes)
    fleet.put(replace(nodes[217], held={input_token(source): 1 << 30}))
    demand = demand_of(with_inputs(source))

    for seed in range(50):
        attempt = Attempt(demand, [input_token(source)], seed=seed * 2_654_435_761 % 2**32)
        assert choose(fleet.standing(demand), attempt, fleet) == "n217"


def test_work_packs_if_it_says_so() -> None:
    """With the policy pack the fullest node that has room is taken, so that whole nodes stay free for large work."""
    demand = demand_of(a_job(placement=Placement("pack")))
    fleet = a_fleet(*(a_node(f"n{number}", cores=4) for number in range(3)))
    on_each = []
    for seed in range(8):
        node = chosen(fleet, demand, seed=seed * 7919)
        assert node is not None
        fleet.hold(node, f"e{seed}", demand.amounts)  # type: ignore[arg-type]
        on_each.append(node)

    assert list(Counter(on_each).values()) == [4, 4]


def test_ports_are_given_once() -> None:
    """Two tasks that need the same port of the host never share a node; the second waits and says which port is taken."""
    job = a_job(count=3)
    network = Network("Host", ports=[Port("WEB", 8080)])
    world = World(a_node("n1"), a_node("n2"))
    world.submit(replace(job, tasks=[replace(job.task, network=network)]))

    assert {each.node for each in world.open()} == {"n1", "n2"}
    assert world.job.queued is not None
    assert set(world.job.queued.details.values()) == {"fits, but its port 8080 is taken now"}
    world.report(world.open()[0], ExecutionState.COMPLETED)
    assert len(world.open()) == 2


def with_ports(job: Job, number: int) -> Job:
    """A job that listens on so many ports, whichever they are."""
    network = Network("Host", ports=[Port(f"P{index}") for index in range(number)])
    return replace(job, tasks=[replace(job.task, network=network)])


def test_who_listens_goes_where_ports_are_left_and_else_waits() -> None:
    """A node gives no more ports than it has: what finds none left goes to another node, or waits and says so, and begins
    when some are given back.
    """
    world = World(a_node("n1", cores=100, ports=3), a_node("n2", cores=1, ports=2))
    world.submit(with_ports(a_job(count=3, cpu="0.1"), 2))

    assert {each.node for each in world.open()} == {"n1", "n2"}
    assert world.job.queued is not None
    assert world.job.queued.code == "Exhausted.NoRoom"
    assert world.job.queued.details == {
        "n1": "fits, but has 1 of the 2 dynamic ports free now",
        "n2": "fits, but has 0 of the 2 dynamic ports free now",
    }
    world.report(world.open()[0], ExecutionState.COMPLETED)
    assert len(world.open()) == 2
    assert world.job.queued is None


def test_more_ports_than_any_node_gives() -> None:
    """A job that wants more ports than a node has in all does not fit there, and is told so."""
    world = World(a_node("n1", ports=3))
    world.now += 60
    world.submit(with_ports(a_job(), 4))

    assert not world.open()
    assert world.job.failure is not None
    assert "needs 4 dynamic ports, offers 3" in str(world.job.failure)


def test_a_node_that_does_not_count_its_ports() -> None:
    """A node of an earlier version, which does not say how many ports it gives, has work with ports as ever."""
    world = World(a_node("n1"))
    world.submit(with_ports(a_job(count=3), 2))

    assert len(world.open()) == 3


@pytest.mark.parametrize(
    ("gpus", "fits"),
    [
        ([("NVIDIA A100-SXM4-40GB", 40_960)], True),
        ([("NVIDIA A100-SXM4-40GB", 40_960), ("Tesla T4", 15_360)], False),
        ([("Tesla T4", 15_360)], False),
        ([("NVIDIA A100-SXM4-40GB", 20_000)], False),
        ([], False),
    ],
)
def test_kinds_of_gpus(gpus: list[tuple[str, int]], fits: bool) -> None:
    """A job that names a kind of GPU, or how much memory it must have, runs only where all devices are such."""
    job = a_job()
    resources = Resources(cpu="1", memory="1b", gpu="1", gpu_name="a100", gpu_memory="32Gi")
    demand = demand_of(replace(job, tasks=[replace(job.task, resources=resources)]))
    node = a_node("n1")
    devices = [Gpu(index, name, "NVIDIA", memory) for index, (name, memory) in enumerate(gpus)]
    capacity = replace(node.info.capacity, gpu=len(gpus))
    fleet = a_fleet(replace(node, info=replace(node.info, gpus=devices, capacity=capacity)))

    assert (chosen(fleet, demand) == "n1") is fits
    if not fits:
        assert "needs 1 GPU a100 with 32768 MiB" in explain(fleet.standing(demand), {}, needed=1).message


def test_a_node_in_trouble_comes_later() -> None:
    """Where work has failed for reasons of the node, other work goes last; one that went well clears it."""
    demand = demand_of(a_job())
    fleet = a_fleet(a_node("n1", cores=9), a_node("n2", cores=2))
    world = World(a_node("n1"))
    world.submit(a_job())
    execution = world.open()[0]
    ill = Failure("Unavailable.Engine", "the engine is ill", retryable=True)
    assert chosen(fleet, demand) == "n1"
    fleet.health.ended(replace(execution, state=ExecutionState.FAILED, failure=ill))
    assert chosen(fleet, demand) == "n2"
    fleet.health.ended(replace(execution, state=ExecutionState.COMPLETED))
    assert chosen(fleet, demand) == "n1"


def test_gpus_are_kept_for_those_who_need_them() -> None:
    """Work without GPUs goes to nodes without, as long as they have room."""
    demand = demand_of(a_job())
    node = a_node("n1", cores=64)
    fleet = a_fleet(
        replace(node, info=replace(node.info, capacity=replace(node.info.capacity, gpu=4))), a_node("n2")
    )
    assert chosen(fleet, demand) == "n2"


def test_sums_do_not_drift() -> None:
    """Fractions of cores that come and go leave exactly what there was."""
    demand = Amounts(0.1, 3, 5, 0)
    fleet = a_fleet(a_node("n1", cores=1))
    whole = fleet.host(a_node("n1").info.id).free

    for round_ in range(1_000):
        fleet.hold(a_node("n1").info.id, f"e{round_}", demand)  # type: ignore[arg-type]
        if round_ >= 9:
            fleet.release(a_node("n1").info.id, f"e{round_ - 9}")  # type: ignore[arg-type]
    for round_ in range(991, 1_000):
        fleet.release(a_node("n1").info.id, f"e{round_}")  # type: ignore[arg-type]

    assert fleet.host(a_node("n1").info.id).free == whole


def test_defaults_are_demanded() -> None:
    """A task that asks for nothing asks for the default: half a core and 512 MB."""
    job = a_job()
    task = replace(job.task, resources=Resources())

    assert demand_of(replace(job, tasks=[task])).amounts == Amounts(0.5, 512_000_000)


class Looks(dict[NodeId, Host]):
    """Nodes that are as they are; counts how many are looked at."""

    count = 0

    def __bool__(self) -> bool:
        return True

    def get(self, node: NodeId, host: Host) -> Host:  # type: ignore[override]
        self.count += 1
        return host


class LookedAt:
    """What is known of a fleet's nodes, with the number of those that were looked at."""

    def __init__(self) -> None:
        self.looks = Looks()
        self.changed: Mapping[NodeId, Host] = self.looks
        self.troubled = Fleet().troubled

    def having(self, token: str) -> Collection[NodeId]:
        return ()


def test_a_node_that_is_offered_need_not_be_looked_for() -> None:
    """Where one node of a thousand full ones has room, and that is known, the others cost nothing but a few looks."""
    fleet = a_fleet(*(a_node(f"n{number}", cores=1) for number in range(1_000)))
    demand = demand_of(a_job(cpu="1"))
    for number in range(1_000):
        if number != 777:
            fleet.hold(NodeId(f"n{number}"), f"e{number}", Amounts(cpu=1))  # type: ignore[arg-type]
    room, found = LookedAt(), NodeId("n777")

    assert choose(fleet.standing(demand), Attempt(demand, seed=1, offered=found), room) == found
    assert room.looks.count <= SAMPLE_SIZE + 1
    assert choose(fleet.standing(demand), Attempt(demand, seed=1), room) == found


def test_what_is_offered_and_does_not_do_is_not_taken() -> None:
    """A node that was offered is none of those that take a job if it is excluded, is full, or is not there any more."""
    fleet = a_fleet(*(a_node(f"n{number}", cores=1) for number in range(1_000)))
    demand = demand_of(a_job(cpu="1"))
    full = NodeId("n1")
    fleet.hold(full, "e1", Amounts(cpu=1))  # type: ignore[arg-type]
    standing = fleet.standing(demand)

    assert choose(standing, Attempt(demand, offered=full), fleet) != full
    assert choose(standing, Attempt(demand, excluded={NodeId("n2")}, offered=NodeId("n2")), fleet) != "n2"
    assert choose(standing, Attempt(demand, offered=NodeId("gone")), fleet) is not None


def test_a_port_that_others_use_is_waited_for() -> None:
    """A job that names a port which others use on its only node waits, is told which port, and goes there once that is free;
    other jobs are not held up.
    """
    world = World(a_node("n1", ports_taken=[8_080]))
    task = replace(a_job().task, network=Network("Host", ports=[Port("web", static=8_080)]))
    world.submit(replace(a_job(), tasks=[task]))
    assert not world.executions()
    assert world.job.queued is not None
    assert world.job.queued.code == NO_ROOM
    assert world.job.queued.details == {"n1": "fits, but its port 8080 is taken now"}
    assert world.job.queued.message.endswith("none has room now: it fits, but its port 8080 is taken now")

    other = replace(task, network=Network("Host", ports=[Port("web", static=8_081)]))
    assert chosen(world.fleet, demand_of(replace(a_job(), tasks=[other]))) == "n1"
    assert world.fleet.put(a_node("n1", ports_taken=[8_080, 9_090])) is News.NONE
    assert world.fleet.put(a_node("n1", ports_taken=[9_090])) is News.ROOM
    world.look()
    assert len(world.open()) == 1


def test_ports_of_the_range_that_others_use_are_not_given() -> None:
    """Of the ports that a node gives to jobs, those count that are left by the other programs of its machine."""
    two = Network("Host", ports=[Port("a"), Port("b")])
    world = World(a_node("n1", ports=2, ports_lost=1))
    world.submit(replace(a_job(), tasks=[replace(a_job().task, network=two)]))
    assert not world.executions()
    assert world.job.queued is not None
    assert world.job.queued.details == {"n1": "fits, but has 1 of the 2 dynamic ports free now"}
    assert world.fleet.put(a_node("n1", ports=2)) is News.ROOM
    world.look()
    assert len(world.open()) == 1
