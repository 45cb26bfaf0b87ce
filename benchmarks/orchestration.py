"""How fast jobs go through: one at a time, in a burst, and in containers.

Knows: the REST API as any client would use it. The limits that modules are compared with are measured in the same run on
the same NATS server: two durable appends a job, one after the other for a job alone, in groups for a burst. The container
is compared with the bare Docker API.
"""

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
from msgspec import Struct

from benchmarks.client import ASK_AGAIN_S, Connection, body_of, connections, submit_all
from benchmarks.jobs import CONTAINER_BYTES, CONTAINER_CPU, noop_container, noop_module
from benchmarks.processes import Usage, of_cluster
from benchmarks.record import Figure, figure, percentile
from deploy import images
from deploy.devstack import Cluster, cluster
from deploy.docker import running_daemon
from protocol.bus import BATCH_MAX, Append, Bus, Stored
from protocol.entries import Entry
from protocol.ids import job_id, job_key
from protocol.messages import encode
from protocol.nats_bus import connect

ALONE: Final = 500
WARM_UP: Final = 20
SETTLE_S: Final = 5.0
"""A node that has just started still loads what it may need later."""
BURST: Final = 2_000
BURST_ROUNDS: Final = 3
CLIENTS: Final = 64
ENTRY_BYTES: Final = 1_000
"""About the size of a small job's entries."""
CONTAINERS: Final = 15
CONTAINERS_AT_ONCE: Final = 24
LIMIT_S: Final = 120.0


async def measure() -> list[Figure]:
    """All figures of this part."""
    figures: list[Figure] = []
    docker = await running_daemon()
    environment = {} if docker is None else {"DOCKER_HOST": docker}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        async with (
            cluster(Path(scratch), requesters=1, computes=1, env=environment) as ours,
            connections(ours.api, CLIENTS) as clients,
        ):
            bus = await connect(
                ours.nats.url, name="bench", role="requester", credentials=ours.nats.requester("bench")
            )
            try:
                figures += await _alone(clients[0], bus)
                figures += await _burst(ours, clients, bus)
            finally:
                await bus.close()
            if docker is None:
                print("left out: no Docker daemon answers", flush=True)
            else:
                figures += await _containers(ours, clients, docker)
    return figures


async def _alone(client: Connection, bus: Bus) -> list[Figure]:
    """One job at a time, and the two appends that each cannot do without: half before and half after the jobs."""
    await run_alone(client)
    await asyncio.sleep(SETTLE_S)
    for _ in range(WARM_UP):
        await run_alone(client)
    floors = [await _two_appends(bus) for _ in range(ALONE // 2)]
    times = [await run_alone(client) for _ in range(ALONE)]
    floors += [await _two_appends(bus) for _ in range(ALONE // 2)]
    return [
        figure(
            f"no-op module, submit to completed, {name}",
            [percentile(times, share)] * len(times),
            "ms",
            peer="two durable appends",
            peer_values=[percentile(floors, share)],
            mark=mark,
        )
        for name, share, mark in (("p50", 0.5, "at most 5 ms"), ("p99", 0.99, "at most 20 ms"))
    ]


async def run_alone(client: Connection) -> float:
    """Milliseconds of one job."""
    body = body_of(noop_module(f"alone-{secrets.token_hex(6)}"))
    began = time.perf_counter()
    state = await client.closed(await client.submit(body))
    took = (time.perf_counter() - began) * 1e3
    if state != "Completed":
        raise RuntimeError(f"a no-op job ended {state}")
    return took


class Burst(Struct, frozen=True):
    """Seconds until many jobs were submitted and until all had completed; `spent_s` of processor time, by who spent it."""

    submitted_s: float
    took_s: float
    spent_s: dict[str, float]


async def run_burst(
    clients: Sequence[Connection],
    count: int,
    processes: Mapping[str, list[psutil.Process]],
    *,
    within_s: float = LIMIT_S,
) -> Burst:
    """So many jobs at once, and what these processes spend on them."""
    prefix = f"burst-{secrets.token_hex(4)}-"
    bodies = [body_of(noop_module(f"{prefix}{each}")) for each in range(count)]
    usage = Usage(processes)
    began = time.perf_counter()
    async with asyncio.timeout(within_s):
        await submit_all(clients, bodies)
        submitted_s = time.perf_counter() - began
        await clients[0].all_closed()
    took_s = time.perf_counter() - began
    spent_s = usage.seconds()
    completed = (await clients[0].states(prefix)).count("Completed")
    if completed != count:
        raise RuntimeError(f"of {count} jobs only {completed} completed")
    return Burst(submitted_s, took_s, spent_s)


async def _two_appends(bus: Bus) -> float:
    """Milliseconds for two guarded appends to one job, one after the other."""
    began = time.perf_counter()
    guard = 0
    for append in _appends(secrets.token_hex(8)):
        (outcome,) = await bus.append([_behind(append, guard)])
        guard = _stored(outcome)
    return (time.perf_counter() - began) * 1e3


async def _bare_burst(bus: Bus) -> float:
    """Jobs a second if each were nothing but two appends in the largest groups."""
    pairs = [_appends(secrets.token_hex(8)) for _ in range(BURST)]
    began = time.perf_counter()
    for start in range(0, len(pairs), BATCH_MAX):
        group = pairs[start : start + BATCH_MAX]
        outcomes = await bus.append([first for first, _ in group])
        seconds = [
            _behind(second, _stored(outcome)) for (_, second), outcome in zip(group, outcomes, strict=True)
        ]
        for outcome in await bus.append(seconds):
            _stored(outcome)
    return len(pairs) / (time.perf_counter() - began)


def _appends(name: str) -> tuple[Append, Append]:
    """Two entries of a job's size that say nothing: whoever follows the log makes no job of them."""
    key = job_key("bench", name)
    job = job_id(key, 0)
    padding = "bench".ljust(ENTRY_BYTES, ".")
    first, second = (
        Append(key, 0, op, encode(Entry(job, op, padding, time.time(), [])))
        for op in (f"{name}1", f"{name}2")
    )
    return first, second


def _behind(append: Append, guard: int) -> Append:
    return Append(append.key, guard, append.op, append.data)


def _stored(outcome: Any) -> int:
    if not isinstance(outcome, Stored):
        raise RuntimeError(f"a bare append was not stored: {outcome}")
    return outcome.seq


async def _burst(ours: Cluster, clients: Sequence[Connection], bus: Bus) -> list[Figure]:
    rates, bare, spent = [], [], {}
    for number in range(BURST_ROUNDS):
        bare.append(await _bare_burst(bus))
        burst = await run_burst(clients, BURST, of_cluster(ours))
        spent = burst.spent_s
        rates.append(BURST / burst.took_s)
        told = ", ".join(f"{name} {seconds / BURST * 1e3:.2f}" for name, seconds in spent.items())
        print(
            f"  burst {number + 1}: submitted in {burst.submitted_s:.2f} s, completed after {burst.took_s:.2f} s",
            flush=True,
        )
        print(f"    ms of processor time a job: {told}", flush=True)
    return [
        figure(
            f"burst of {BURST} no-op modules",
            rates,
            "jobs/s",
            peer="two appends each",
            peer_values=bare,
            better="more",
            mark="at least 1,000 jobs/s",
        ),
        *(
            figure(f"processor time a job in a burst: {name}", [seconds / BURST * 1e3], "ms")
            for name, seconds in spent.items()
        ),
        figure(
            "memory of the largest process in a burst",
            [max(Usage(of_cluster(ours)).peaks_mib().values())],
            "MiB",
            mark="at most 300 MiB",
        ),
    ]


async def _containers(ours: Cluster, clients: Sequence[Connection], docker: str) -> list[Figure]:
    """A no-op container as a job, and in turn with it by the bare API; then many of both.

    Neither side is measured while the other still removes containers. A rate counts until the last one is removed: what
    is only put off costs somebody else.
    """
    import aiodocker

    await images.busybox_image(docker)
    ours_ms, bare_ms = [], []
    rates, bare_rates, serial_rates = [], [], []
    client = aiodocker.Docker(docker)
    node = ours.computes[0].name
    try:
        for number in range(CONTAINERS + 2):
            took = await _container(clients[0])
            await _removed(client, node)
            began = time.perf_counter()
            beside = await _bare_container(client)
            if number >= 2:
                ours_ms.append(took)
                bare_ms.append(beside)
                serial_rates.append(1 / (time.perf_counter() - began))
        for _ in range(3):
            began = time.perf_counter()
            await asyncio.gather(*(_container(each) for each in clients[:CONTAINERS_AT_ONCE]))
            await _removed(client, node)
            rates.append(CONTAINERS_AT_ONCE / (time.perf_counter() - began))
            began = time.perf_counter()
            await asyncio.gather(*(_bare_container(client) for _ in range(CONTAINERS_AT_ONCE)))
            bare_rates.append(CONTAINERS_AT_ONCE / (time.perf_counter() - began))
    finally:
        await client.close()
    return [
        figure(
            "no-op container, submit to completed, p50",
            ours_ms,
            "ms",
            peer="bare Docker API",
            peer_values=bare_ms,
            mark="at most 1.05 times",
        ),
        *(
            figure(
                f"{CONTAINERS_AT_ONCE} no-op containers at once{beside}",
                rates,
                "jobs/s",
                peer=f"bare Docker API, {how}",
                peer_values=peer_rates,
                better="more",
                mark="at least 1 times",
            )
            for beside, how, peer_rates in (
                (", beside one after the other", "serially", serial_rates),
                ("", "as many at once", bare_rates),
            )
        ),
    ]


async def _removed(client: Any, node: str) -> None:
    """Wait until a node has removed all of its containers."""
    filters = json.dumps({"label": [f"shoal.node={node}"]})
    while await client.containers.list(all=True, filters=filters):  # noqa: ASYNC110 (it tells nobody)
        await asyncio.sleep(ASK_AGAIN_S)


async def _container(client: Connection) -> float:
    """Milliseconds of one container job."""
    began = time.perf_counter()
    state = await client.closed(await client.submit(body_of(noop_container(f"c-{secrets.token_hex(6)}"))))
    took = (time.perf_counter() - began) * 1e3
    if state != "Completed":
        raise RuntimeError(f"a no-op container ended {state}")
    return took


async def _bare_container(client: Any) -> float:
    """Milliseconds to create, start, await and read a container with the limits that the job asks for.

    The kernel holds what starts a container to its share of a processor already: measured, a tenth of one makes
    276 ms of 212, whoever asks for it.
    """
    config = {
        "Image": images.BUSYBOX,
        "Entrypoint": ["true"],
        "Labels": {"shoal.benchmark": "bare"},
        "HostConfig": {
            "NetworkMode": "none",
            "NanoCpus": round(CONTAINER_CPU * 1e9),
            "Memory": CONTAINER_BYTES,
            "MemorySwap": CONTAINER_BYTES,
        },
    }
    began = time.perf_counter()
    container = await client.containers.create(config)
    try:
        await container.start()
        end = await container.wait()
        await container.log(stdout=True, stderr=True)
        took = (time.perf_counter() - began) * 1e3
    finally:
        await container.delete(force=True, v=True)
    if end["StatusCode"] != 0:
        raise RuntimeError("the bare container failed")
    return took
