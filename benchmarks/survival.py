"""How long it is felt when something is killed: a requester by those who submit, a node by the work that it had.

Knows: the real programs, and kills them as a crash would.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.client import Connection, body_of, connections
from benchmarks.jobs import noop_module
from benchmarks.record import Figure, figure
from deploy.devstack import Part, cluster

KILLS: Final = 3
JOBS: Final = 300
LIMIT_S: Final = 60.0
LOOK_S: Final = 0.02


async def measure() -> list[Figure]:
    """All figures of this part."""
    return [await _requester(), await _node()]


async def _requester() -> Figure:
    """The longest time of a job while the other requester is killed, beside the longest without that."""
    calm, killed = [], []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        async with (
            cluster(Path(scratch), requesters=2, computes=1) as ours,
            connections(ours.requesters[0]) as (client,),
        ):
            await _longest(client, JOBS // 3, "warm")
            for number in range(KILLS):
                calm.append(await _longest(client, JOBS, f"calm-{number}"))
                jobs = asyncio.create_task(_longest(client, JOBS, f"killed-{number}"))
                await asyncio.sleep(0.3)
                await ours.requesters[1].kill()
                killed.append(await jobs)
                await ours.requesters[1].start()
                await ours.requesters[1].ready()
    return figure(
        "the longest job while another requester is killed",
        killed,
        "ms",
        peer="nobody is killed",
        peer_values=calm,
        mark="at most 3,000 ms",
    )


async def _longest(client: Connection, count: int, name: str) -> float:
    """Run so many jobs one after the other; the longest, in milliseconds."""
    longest = 0.0
    for number in range(count):
        began = time.perf_counter()
        state = await client.closed(await client.submit(body_of(noop_module(f"{name}-{number}"))))
        longest = max(longest, (time.perf_counter() - began) * 1e3)
        if state != "Completed":
            raise RuntimeError(f"a no-op job ended {state}")
    return longest


async def _node() -> Figure:
    """Seconds from the kill of a node, for good, until its work runs on another."""
    times = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        async with (
            cluster(Path(scratch), requesters=1, computes=2, compute_flags=["--engines", "noop"]) as ours,
            connections(ours.api) as (client,),
        ):
            for number in range(KILLS):
                task = {"Name": "main", "Engine": {"Type": "noop", "Params": {"Seconds": 600}}}
                job = await client.submit(
                    body_of({"Name": f"long-{number}", "Type": "batch", "Tasks": [task]})
                )
                first = await _runs_on(client, job, other_than="")
                part = _part(ours.computes, first)
                began = time.perf_counter()
                await part.kill()
                await _runs_on(client, job, other_than=first)
                times.append(time.perf_counter() - began)
                await part.start()
                await ours.registered(2)
                await client.stop(job)
    return figure("a killed node's work runs elsewhere after", times, "s", mark="at most 7 s")


def _part(parts: list[Part], node: str) -> Part:
    return next(part for part in parts if part.name == node)


async def _runs_on(client: Connection, job: str, *, other_than: str) -> str:
    """The node on which a job runs, once it runs on another than that."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            for execution in await client.executions(job):
                if execution["ComputeState"]["StateType"] == RUNNING and execution["NodeID"] != other_than:
                    return str(execution["NodeID"])
            await asyncio.sleep(LOOK_S)


RUNNING: Final = 6
"""Bacalhau's number for an execution that runs."""
