"""A long queue: what a million jobs that wait cost a requester, and how soon a second one helps. ``ONLY=million``.

Takes some five minutes on a quiet machine, so it is not in the default run. ``QUEUED=100000`` makes it shorter.

The queue goes into the log beside the requester: each entry is the one that it wrote of a job of its own, under another
name. To the requester that is a second one's work. Submissions are as people's are, in turn to this cluster and to one
without a queue: what the machine does meanwhile, it does to both.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil
from msgspec.structs import replace

from benchmarks.client import Connection, body_of, connections, submit_all
from benchmarks.processes import Usage
from benchmarks.record import Figure, figure
from deploy.devstack import Cluster, Requester, cluster
from protocol.bus import BATCH_MAX, Append, Bus, Stored
from protocol.entries import Entry, Submitted
from protocol.ids import job_id, job_key, key_of
from protocol.messages import decode, encode
from protocol.nats_bus import connect

QUEUED: Final = int(os.environ.get("QUEUED", "1000000"))
SLICES: Final = 5
EACH: Final = 2_000
"""Jobs submitted in one slice."""
CLIENTS: Final = 64
NOOP: Final = ["--engines", "noop"]
JOIN_LIMIT_S: Final = 600.0
AT_ONCE: Final = 4
"""Batches that are on their way to the log at once."""


async def measure() -> list[Figure]:
    """All figures of this part."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        root = Path(scratch)
        async with cluster(root / "long", requesters=2, computes=1, compute_flags=NOOP) as ours:
            first, second = ours.requesters
            await second.stop()
            await _queue(ours)
            async with cluster(root / "empty", requesters=1, computes=1, compute_flags=NOOP) as beside:
                long, empty = await _in_turn(first, beside.requesters[0])
                await beside.requesters[0].stop()
            memory = _peak_mib(first)
            joined = await _join(second)
            # A cluster that ends stops its jobs, each one: nobody is to wait for that.
            await first.stop()
            await second.stop()
    return [
        figure(
            f"submissions with {QUEUED} queued",
            long,
            "jobs/s",
            peer="with none",
            peer_values=empty,
            better="more",
            mark="at least 0.9 times",
        ),
        figure(f"memory of a requester with {QUEUED} queued", [memory], "MiB", mark="at most 1,024 MiB"),
        figure(f"a second requester is useful with {QUEUED} queued", [joined], "s", mark="at most 60 s"),
    ]


async def _queue(ours: Cluster) -> None:
    """A million jobs that wait, known to the requester."""
    async with connections(ours.requesters[0]) as (client,):
        await _take_everything(client)
        there = await client.open_jobs()
        like = await client.submit(body_of(_waiting("like")))
    await _fill(ours, like)
    # What is idle for long is cut off.
    async with connections(ours.requesters[0]) as (client,):
        began = time.perf_counter()
        while await client.open_jobs() < there + QUEUED:  # noqa: ASYNC110 (another process is asked)
            await asyncio.sleep(0.1)
        print(f"  read {time.perf_counter() - began:.1f} s after the last was written", flush=True)


async def _in_turn(long: Requester, empty: Requester) -> tuple[list[float], list[float]]:
    """Jobs submitted a second, slice by slice, to the one with a queue and to the one without."""
    rates: dict[str, list[float]] = {"long": [], "empty": []}
    async with connections(long, CLIENTS) as to_long, connections(empty, CLIENTS) as to_empty:
        await _take_everything(to_empty[0])
        await _submit(long, to_long, "warm-long")
        await _submit(empty, to_empty, "warm-empty")
        for each in range(SLICES):
            rates["empty"].append(await _submit(empty, to_empty, f"empty-{each}"))
            rates["long"].append(await _submit(long, to_long, f"long-{each}"))
    return rates["long"], rates["empty"]


async def _join(second: Requester) -> float:
    """Seconds until a requester that starts takes jobs and knows all of the queue."""
    began = time.perf_counter()
    await second.start()
    await second.ready(within_s=JOIN_LIMIT_S)
    async with connections(second) as (client,):
        await client.submit(body_of(_waiting("second")))
        if await client.open_jobs() < QUEUED:
            raise RuntimeError("the second requester does not know all jobs")
    joined_s = time.perf_counter() - began
    print(f"  the second: {_peak_mib(second):.0f} MiB", flush=True)
    return joined_s


def _waiting(name: str) -> dict[str, Any]:
    """A job that fits the node, on which another one has taken everything."""
    task = {
        "Name": "main",
        "Engine": {"Type": "noop", "Params": {}},
        "Env": {"NAME": name},
        "Resources": {"CPU": "1m", "Memory": "1Mb"},
    }
    return {"Name": name, "Type": "batch", "Tasks": [task]}


async def _take_everything(client: Connection) -> None:
    block = _waiting("block")
    block["Tasks"][0]["Engine"]["Params"] = {"Seconds": 86_400}
    block["Tasks"][0]["Resources"] = {"CPU": str(await client.capacity_cpu())}
    # On a machine that is busy for seconds the node may seem lost: the others must not run for that.
    block |= {"Disconnect": {"LostAfter": 86_400}, "Priority": 100}
    await client.submit(body_of(block))


async def _submit(requester: Requester, clients: list[Connection], name: str) -> float:
    """Submit some jobs; how many a second."""
    bodies = [body_of(_waiting(f"{name}-{number}")) for number in range(EACH)]
    usage = Usage({"requester": [psutil.Process(requester.process.pid)]})
    began = time.perf_counter()
    await submit_all(clients, bodies)
    rate = EACH / (time.perf_counter() - began)
    spent_ms = usage.seconds()["requester"] / EACH * 1e3
    print(f"  {name}: {rate:.0f}/s, {spent_ms:.3f} ms a job, {_peak_mib(requester):.0f} MiB", flush=True)
    return rate


async def _fill(ours: Cluster, like: str) -> None:
    """So many jobs more in the log, each with the entry that the requester wrote of the job `like`."""
    nats = ours.nats
    bus = await connect(nats.url, name="fill", role="requester", credentials=nats.requester("fill"))
    try:
        key = key_of(like)
        record = await bus.last(key) if key is not None else None
        if record is None:
            raise RuntimeError(f"the log has nothing of {like}")
        entry = decode(record.data, Entry)
        starts = iter(range(0, QUEUED, BATCH_MAX))
        began = time.perf_counter()
        await asyncio.gather(*(_fill_some(bus, entry, starts) for _ in range(AT_ONCE)))
        print(f"  {QUEUED} written at {QUEUED / (time.perf_counter() - began):.0f}/s", flush=True)
    finally:
        await bus.close()


async def _fill_some(bus: Bus, like: Entry, starts: Any) -> None:
    for start in starts:
        appends = [_append(like, number) for number in range(start, min(start + BATCH_MAX, QUEUED))]
        outcomes = await bus.append(appends)
        if not all(isinstance(each, Stored) for each in outcomes):
            raise RuntimeError(f"the log refused: {outcomes[0]}")


def _append(like: Entry, number: int) -> Append:
    submitted, *rest = like.events
    assert isinstance(submitted, Submitted)
    name = f"queued-{number}"
    key = job_key(submitted.spec.namespace, name)
    task = replace(submitted.spec.task, env={"NAME": name})
    spec = replace(submitted.spec, name=name, tasks=[task])
    op = f"{number:016x}f"
    events = [replace(submitted, spec=spec), *rest]
    entry = Entry(job_id(key, number), op, like.by, like.at + number * 1e-3, events)
    return Append(key, 0, op, encode(entry))


def _peak_mib(requester: Requester) -> float:
    return Usage({"requester": [psutil.Process(requester.process.pid)]}).peaks_mib()["requester"]
