"""A long queue: what a million jobs that wait cost a requester, and how soon a second one helps. ``ONLY=million``.

Takes a quarter of an hour, so it is not in the default run. ``QUEUED=100000`` makes it shorter.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.client import body_of, connections, submit_all
from benchmarks.processes import Usage
from benchmarks.record import Figure, figure
from deploy.devstack import cluster

QUEUED: Final = int(os.environ.get("QUEUED", "1000000"))
SLICES: Final = 20
CLIENTS: Final = 64


def _waiting(number: int) -> dict[str, Any]:
    """A job that fits the node, on which another one has taken everything."""
    task = {
        "Name": "main",
        "Engine": {"Type": "noop", "Params": {}},
        "Env": {"NUMBER": str(number)},
        "Resources": {"CPU": "1m", "Memory": "1Mb"},
    }
    return {"Name": f"queued-{number}", "Type": "batch", "Tasks": [task]}


async def measure() -> list[Figure]:
    """All figures of this part."""
    rates: list[float] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        async with cluster(
            Path(scratch), requesters=2, computes=1, compute_flags=["--engines", "noop"]
        ) as ours:
            second = ours.requesters[1]
            await second.stop()
            async with connections(ours.api, CLIENTS) as clients:
                whole = await clients[0].capacity_cpu()
                block = _waiting(-1)
                block["Tasks"][0]["Engine"]["Params"] = {"Seconds": 86_400}
                block["Tasks"][0]["Resources"] = {"CPU": str(whole)}
                await clients[0].submit(body_of(block))
                usage = Usage({"requester": [psutil.Process(ours.api.process.pid)]})
                each = QUEUED // SLICES
                for part in range(SLICES):
                    bodies = [body_of(_waiting(part * each + number)) for number in range(each)]
                    began = time.perf_counter()
                    spent = usage.seconds()["requester"]
                    await submit_all(clients, bodies)
                    rates.append(each / (time.perf_counter() - began))
                    spent = (usage.seconds()["requester"] - spent) / each * 1e3
                    memory = usage.peaks_mib()["requester"]
                    print(
                        f"  {(part + 1) * each} queued: {rates[-1]:.0f}/s, {spent:.3f} ms a job, {memory:.0f} MiB",
                        flush=True,
                    )
                memory = usage.peaks_mib()["requester"]
            began = time.perf_counter()
            await second.start()
            await second.ready()
            async with connections(second) as (client,):
                await client.submit(body_of(_waiting(QUEUED)))
                if await client.open_jobs() < QUEUED:
                    raise RuntimeError("the second requester does not know all jobs")
            joined = time.perf_counter() - began
    tenth = max(len(rates) // 10, 1)
    return [
        figure(
            f"submissions with {QUEUED} queued",
            rates[-tenth:],
            "jobs/s",
            peer="with none",
            peer_values=rates[:tenth],
            better="more",
            mark="at least 0.9 times",
        ),
        figure(f"memory of a requester with {QUEUED} queued", [memory], "MiB", mark="at most 1,024 MiB"),
        figure(f"a second requester is useful with {QUEUED} queued", [joined], "s", mark="at most 60 s"),
    ]
