"""How far one requester carries: ten thousand nodes, placement among them, large specs, and a second requester beside it.

Knows: the real programs on a real NATS server, except for placement, which is a function. A fleet is played by this process:
it says the beats of all its nodes over one connection.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.client import body_of, connections, submit_all
from benchmarks.processes import MIB, Usage, of_cluster
from benchmarks.record import Figure, figure
from benchmarks.throttle import throttled
from deploy.devstack import cluster
from protocol import subjects
from protocol.bus import Bus
from protocol.ids import NodeId
from protocol.jobs import Amounts, Input, Job, Resources, Spec, Task
from protocol.messages import Beat, CommandAnswer, encode
from protocol.nats_bus import connect
from protocol.nodes import NodeInfo, Offer
from requester.core.fleet import Fleet
from requester.core.model import NodeRecord
from requester.core.placement import Attempt, choose
from requester.core.standing import demand_of

NODES: Final = 10_000
BEAT_S: Final = 2.0
"""Within the default silence of 5 s, so that one lost beat harms nobody."""
ROUNDS: Final = 5
SETTLING: Final = 4
"""Longer than a requester rests before it reads again what is kept of nodes."""
DECISIONS: Final = 200_000
JOBS: Final = 2_000
JOB_ROUNDS: Final = 3
SHARE: Final = 0.25
"""Of a core, for each requester: so little that the rest keeps up with two of them on two cores."""
CLIENTS: Final = 32
LIMIT_S: Final = 120.0
GIB: Final = 1 << 30
HEAVY_JOBS: Final = 5_000
HEAVY_BYTES: Final = 100_000
"""Of text in a spec, which the log keeps with it."""


async def measure() -> list[Figure]:
    """All figures of this part."""
    return [_placement(), *await _beats(), await _heavy(), *await _requesters()]


def _info(number: int) -> NodeInfo:
    """A node as nodes are: a dozen labels, both engines, all drivers."""
    return NodeInfo(
        id=NodeId(f"node-{number:05d}"),
        version="0.1.0",
        labels={f"label-{each}": str(number % (each + 2)) for each in range(12)},
        engines=[Offer("docker", version="27.0.1"), Offer("wasm", version="wasmtime 50")],
        sources=[Offer(each) for each in ("inline", "ipfs", "local", "s3", "urldownload")],
        publishers=[Offer(each) for each in ("ipfs", "local", "s3")],
        capacity=Amounts(64.0, 256 * GIB, 1_000 * GIB, 0),
        largest=Amounts(64.0, 256 * GIB, 1_000 * GIB, 0),
    )


def _placement() -> Figure:
    """Decisions a second of one core: choose a node among ten thousand, promise its room, give another's back."""
    fleet = Fleet()
    for number in range(NODES):
        fleet.put(NodeRecord(_info(number)))
    task = Task(
        engine=Spec("wasm", {}),
        input_sources=[Input(Spec("s3", {}), "/in")],
        resources=Resources(cpu="1", memory="1Gb"),
    )
    demand = demand_of(Job(tasks=[task]))
    rates = []
    for _ in range(3):
        running: list[tuple[NodeId, Any]] = []
        began = time.process_time()
        for number in range(DECISIONS):
            node = choose(fleet.standing(demand), Attempt(demand, seed=number * 2_654_435_761 % 2**32), fleet)
            assert node is not None
            execution: Any = f"e-{number}"
            fleet.hold(node, execution, demand.amounts)
            running.append((node, execution))
            if len(running) > NODES:
                fleet.release(*running[number % NODES])
                running[number % NODES] = running.pop()
        rates.append(DECISIONS / (time.process_time() - began))
        for node, execution in running:
            fleet.release(node, execution)
    return figure(f"placement among {NODES} nodes", rates, "1/s", better="more", mark="at least 100,000 1/s")


async def _beats() -> list[Figure]:
    """What a large fleet costs a requester: to take it in, in seconds, and then its beats, as a share of a core."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        async with cluster(Path(scratch), requesters=1, computes=0) as ours:
            fleet = await connect(
                ours.nats.url, name="fleet", role="requester", credentials=ours.nats.admin()
            )
            obeying = asyncio.create_task(_obey(fleet))
            try:
                nodes = [_info(number) for number in range(NODES)]
                usage = Usage(of_cluster(ours))
                await _join(fleet, nodes)
                joining_s = usage.seconds()["requester"]
                shares = []
                for _ in range(ROUNDS):
                    usage = Usage(of_cluster(ours))
                    began = time.perf_counter()
                    await _beat(fleet, nodes)
                    shares.append(usage.seconds()["requester"] / (time.perf_counter() - began) * 100)
                async with connections(ours.api) as (client,):
                    known = await client.nodes_connected()
            finally:
                await fleet.close()
                await obeying
    if known != NODES:
        raise RuntimeError(f"the requester knows {known} of {NODES} nodes")
    name = f"{NODES} nodes that beat every {BEAT_S:g} s, share of a core"
    return [
        figure(f"{NODES} nodes that join, processor time", [joining_s], "s"),
        figure(name, shares, "%", mark="at most 15 %"),
    ]


async def _join(fleet: Bus, nodes: list[NodeInfo]) -> None:
    """Beat until the requester has written down each node, and has read once what it wrote."""
    async with asyncio.timeout(LIMIT_S):
        while len(await fleet.list_cells()) < len(nodes):
            await _beat(fleet, nodes)
    for _ in range(SETTLING):
        await _beat(fleet, nodes)


async def _obey(fleet: Bus) -> None:
    """Take every command that any of the nodes is given."""
    async with fleet.subscribe(subjects.commands(NodeId("*"))) as commands:
        async for command in commands:
            if command.respond is not None:
                await command.respond(encode(CommandAnswer(True)))


async def _beat(fleet: Bus, nodes: list[NodeInfo]) -> None:
    """One beat of each, spread over the time between two."""
    began = time.perf_counter()
    for number, node in enumerate(nodes):
        beat = Beat(node, incarnation=1, at=time.time(), upto=0)
        await fleet.publish(subjects.beats(node.id), encode(beat))
        if number % 50 == 0:
            ahead = began + BEAT_S * number / len(nodes) - time.perf_counter()
            await asyncio.sleep(max(ahead, 0))
    await asyncio.sleep(max(began + BEAT_S - time.perf_counter(), 0))


def _noop(name: str) -> bytes:
    """A job that is only played."""
    task = {
        "Name": "main",
        "Engine": {"Type": "noop", "Params": {}},
        "Resources": {"CPU": "1m", "Memory": "1Mb"},
    }
    return body_of({"Name": name, "Type": "batch", "Tasks": [task]})


async def _heavy() -> Figure:
    """The memory of a requester through which jobs with large specs went."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        async with (
            cluster(Path(scratch), computes=1, compute_flags=["--engines", "noop"]) as ours,
            connections(ours.requesters[0], CLIENTS) as clients,
        ):
            jobs = (body_of(_heavy_job(number)) for number in range(HEAVY_JOBS))
            await submit_all(clients, jobs)
            async with asyncio.timeout(LIMIT_S):
                await clients[0].all_closed()
            memory = Usage(of_cluster(ours)).peaks_mib()["requester"]
    specs_mib = HEAVY_JOBS * HEAVY_BYTES / MIB
    return figure(
        f"memory of a requester after {HEAVY_JOBS} jobs of {HEAVY_BYTES} bytes",
        [memory],
        "MiB",
        peer="their specs",
        peer_values=[specs_mib],
    )


def _heavy_job(number: int) -> dict[str, Any]:
    task = {
        "Name": "main",
        "Engine": {"Type": "noop", "Params": {}},
        "Env": {"TEXT": "x" * HEAVY_BYTES},
        "Resources": {"CPU": "10m", "Memory": "16Mb"},
    }
    return {"Name": f"heavy-{number}", "Type": "batch", "Tasks": [task]}


async def _requesters() -> list[Figure]:
    """What two requesters do beside one where they are what limits: each has a quarter of a core and no more.

    Everything else has what it wants, so the clock can show it on two cores. The processor time that a job costs all
    requesters together is told beside it: what it costs to follow what the other decides is in it.
    """
    rates: dict[int, list[float]] = {1: [], 2: []}
    for count, found in rates.items():
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
            async with cluster(
                Path(scratch),
                requesters=count,
                computes=1,
                compute_flags=["--engines", "noop"],
            ) as ours:
                await _spread(ours, 0)
                with throttled([each.process.pid for each in ours.requesters], SHARE) as limited:
                    if not limited:
                        print("left out two requesters: no control groups here for us", flush=True)
                        return []
                    for number in range(1, JOB_ROUNDS + 1):
                        usage = Usage(of_cluster(ours))
                        found.append(await _spread(ours, number))
                        cost_ms = usage.seconds()["requester"] / JOBS * 1e3
                        print(
                            f"  {count} requesters: {found[-1]:.0f} jobs/s, {cost_ms:.3f} ms a job in all",
                            flush=True,
                        )
    return [
        figure(
            f"two requesters of {SHARE:g} cores each",
            rates[2],
            "jobs/s",
            peer="one",
            peer_values=rates[1],
            better="more",
            mark="at least 1.5 times",
        )
    ]


async def _spread(ours: Any, number: int) -> float:
    """Submit jobs at all requesters, and wait until they have ended; jobs a second."""
    bodies = [_noop(f"spread-{number}-{each}") for each in range(JOBS)]
    began = time.perf_counter()
    share = -(-JOBS // len(ours.requesters))
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(
            *(
                _submit(each, bodies[index * share : (index + 1) * share])
                for index, each in enumerate(ours.requesters)
            )
        )
    return JOBS / (time.perf_counter() - began)


async def _submit(requester: Any, bodies: list[bytes]) -> None:
    async with connections(requester, CLIENTS) as clients:
        await submit_all(clients, bodies)
        await clients[0].all_closed()
