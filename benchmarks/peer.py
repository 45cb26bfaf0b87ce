"""shoal beside Bacalhau itself, on one machine: one small job alone, many at once, and what each costs. ``ONLY=peer``.

Knows: both REST APIs, each used in the way it has for waiting. Must not know: what either does with a job.

It takes some four minutes (``ROUNDS=1``: two) and needs `deploy/setup peer`, so it is not in the default run. The two run in
turn, never both.
Every doubt is in Bacalhau's favour: it also runs with room and workers in plenty, and the configuration that does better
counts; its burst is shorter, and ends when its own record says so; its orchestrator and its node share a process.
"""

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import psutil
from msgspec import Struct

from benchmarks.bacalhau import WIDE, Asking, Bacalhau, bacalhau
from benchmarks.client import Connection, body_of, connections, opened, submit_all
from benchmarks.jobs import noop_module
from benchmarks.orchestration import CLIENTS, SETTLE_S, run_alone, run_burst
from benchmarks.processes import Usage, of_cluster
from benchmarks.record import Figure, figure, percentile
from deploy.devstack import Cluster, cluster

ROUNDS: Final = int(os.environ.get("ROUNDS", "2"))
ALONE: Final = 100
WARM_UP: Final = 10
OUR_BURST: Final = 2_000
THEIR_BURST: Final = 500
LIMIT_S: Final = 300.0
SELDOM_S: Final = 0.1
CONFIGURATIONS: Final[Mapping[str, Sequence[str]]] = {
    "as shipped": (),
    "with room and workers in plenty": WIDE,
}


class Run(Struct, frozen=True):
    """What one start of either showed: each job alone, jobs a second of a burst, and the processor time of a job in it."""

    alone_ms: list[float]
    per_s: float
    spent_ms: float

    def __str__(self) -> str:
        p50, p99 = (percentile(self.alone_ms, share) for share in (0.5, 0.99))
        alone = f"alone p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        return f"{alone}; burst {self.per_s:.1f} jobs/s, {self.spent_ms:.2f} ms of processor time a job"


async def measure() -> list[Figure]:
    """All figures of this part. Raises `Missing` where Bacalhau was not built."""
    ours: list[Run] = []
    theirs: dict[str, list[Run]] = {how: [] for how in CONFIGURATIONS}
    version = ""
    for _ in range(ROUNDS):
        for how, settings in CONFIGURATIONS.items():
            with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
                async with bacalhau(Path(scratch), settings) as server:
                    version = await _version(server)
                    theirs[how].append(await _theirs(server))
            print(f"  Bacalhau {version}, {how}: {theirs[how][-1]}", flush=True)
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
            async with (
                cluster(Path(scratch), requesters=1, computes=1) as started,
                connections(started.api, CLIENTS) as ours_clients,
            ):
                ours.append(await _ours(started, ours_clients))
        print(f"  shoal: {ours[-1]}", flush=True)
    return compared(ours, theirs, f"Bacalhau {version}")


async def _version(server: Bacalhau) -> str:
    async with opened(Asking, server.port, 1) as (client,):
        return await client.version()


def compared(ours: Sequence[Run], theirs: Mapping[str, Sequence[Run]], peer: str) -> list[Figure]:
    """Both sides; of theirs the configuration that did better at what the figure is about."""
    alone_ms = [each for run in ours for each in run.alone_ms]
    their_alone_ms = [[each for run in runs for each in run.alone_ms] for runs in theirs.values()]
    per_s = max(([run.per_s for run in runs] for runs in theirs.values()), key=median)
    spent_ms = min(([run.spent_ms for run in runs] for runs in theirs.values()), key=median)
    return [
        *(
            figure(
                f"no-op module, submit to completed, beside Bacalhau, {name}",
                [percentile(alone_ms, share)] * len(alone_ms),
                "ms",
                peer=peer,
                peer_values=[min(percentile(each, share) for each in their_alone_ms)],
            )
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ),
        figure(
            "burst of no-op modules, beside Bacalhau",
            [run.per_s for run in ours],
            "jobs/s",
            peer=peer,
            peer_values=per_s,
            better="more",
            mark="at least 20 times",
        ),
        figure(
            "processor time a job in a burst, all processes, beside Bacalhau",
            [run.spent_ms for run in ours],
            "ms",
            peer=peer,
            peer_values=spent_ms,
        ),
    ]


async def _ours(started: Cluster, clients: Sequence[Connection]) -> Run:
    for _ in range(WARM_UP):
        await run_alone(clients[0])
    await asyncio.sleep(SETTLE_S)
    alone_ms = [await run_alone(clients[0]) for _ in range(ALONE)]
    processes = of_cluster(started)
    del processes["client"]
    burst = await run_burst(clients, OUR_BURST, processes, within_s=LIMIT_S)
    return Run(alone_ms, OUR_BURST / burst.took_s, sum(burst.spent_s.values()) / OUR_BURST * 1e3)


async def _theirs(server: Bacalhau) -> Run:
    async with opened(Asking, server.port, 1) as (client,):
        for _ in range(WARM_UP):
            await _their_alone(client)
        await asyncio.sleep(SETTLE_S)
        alone_ms = [await _their_alone(client) for _ in range(ALONE)]
    bodies = [body_of(noop_module(f"burst-{number}")) for number in range(THEIR_BURST)]
    usage = Usage({"node": [psutil.Process(server.pid)]})
    # It closes connections on which nothing was said for 20 s.
    async with opened(Asking, server.port, CLIENTS) as clients, asyncio.timeout(LIMIT_S):
        began = time.time()
        jobs = await submit_all(clients, bodies)
    async with opened(Asking, server.port, 1) as (client,), asyncio.timeout(LIMIT_S):
        # What was submitted last ends about last: asking for it first, and seldom, costs those before it next to nothing.
        ended = [await client.ended(job, ask_again_s=SELDOM_S) for job in reversed(jobs)]
    spent_ms = sum(usage.seconds().values()) / THEIR_BURST * 1e3
    for job in ended:
        _completed(job["State"]["StateType"])
    took_s = max(job["ModifyTime"] for job in ended) / 1e9 - began
    return Run(alone_ms, THEIR_BURST / took_s, spent_ms)


async def _their_alone(client: Asking) -> float:
    """Milliseconds of one job."""
    body = body_of(noop_module(f"alone-{secrets.token_hex(6)}"))
    began = time.perf_counter()
    ended = await client.ended(await client.submit(body))
    took_ms = (time.perf_counter() - began) * 1e3
    _completed(ended["State"]["StateType"])
    return took_ms


def _completed(state: str) -> None:
    if state != "Completed":
        raise RuntimeError(f"a no-op job ended {state}")
