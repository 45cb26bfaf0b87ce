"""What inputs cost a node: one that is there already beside none, and what a fetch of 1 GiB does to its loop and memory.

Knows: a whole cluster on one machine, with a real S3 server. The node is `benchmarks.probed_node`: an ordinary one that
watches its own loop.
"""

import asyncio
import base64
import json
import os
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.client import Connection, body_of, connections
from benchmarks.jobs import MODULE
from benchmarks.processes import Usage
from benchmarks.record import Figure, figure
from benchmarks.standstill import MARK, latest_s, show, watching, worst
from benchmarks.transfers import made, run
from deploy.devstack import Cluster, Part, cluster
from deploy.programs import Missing, need
from deploy.servers import S3Server, s3_server

CACHED_BYTES: Final = 200 << 20
FETCHED_BYTES: Final = 1 << 30
ROUNDS: Final = 40
FETCHES: Final = 3
SETTLE_S: Final = 5.0
NODE: Final = "probed"
BUCKET: Final = "bench"
IDLE: Final = "the loop of a client that waits for the job"


async def measure() -> list[Figure]:
    """All figures of this part."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=os.environ.get("SHOAL_BENCH_DIR")) as scratch:
        folder = Path(scratch)
        try:
            async with s3_server(folder / "s3") as s3, _cluster(folder, s3) as (ours, probe):
                await _fill(folder, s3)
                async with connections(ours.api) as (client,):
                    usage = Usage({"node": [psutil.Process(ours.computes[0].process.pid)]})
                    return [*await _cached(client, s3), *await _fetched(client, s3, probe), _peak(usage)]
        except Missing as missing:
            print(f"left out: {missing}", flush=True)
            return []


@asynccontextmanager
async def _cluster(folder: Path, s3: S3Server) -> AsyncIterator[tuple[Cluster, "Probe"]]:
    """A requester and the node that watches itself."""
    async with cluster(folder / "cluster", requesters=1, computes=0) as ours:
        file = folder / "probe.json"
        flags = ["--name", NODE, "--nats", ours.nats.url, "--credentials", str(ours.nats.node(NODE))]
        flags += ["--data-dir", str(folder / "node"), "--engines", "wasm", "--publish-port", "0"]
        flags += ["--allow-address", "loopback"]
        part = Part(NODE, ["benchmarks.probed_node", str(file), *flags], folder / "node", s3.environment)
        await part.start()
        ours.computes.append(part)
        await ours.registered(1)
        yield ours, Probe(part.process.pid, file)


class Probe:
    """What the node says of its loop."""

    def __init__(self, pid: int, file: Path) -> None:
        self._pid = pid
        self._file = file

    async def ask(self) -> dict[str, Any]:
        """The longest delays since it was last asked, and where the loop stood then."""
        self._file.unlink(missing_ok=True)
        os.kill(self._pid, signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not self._file.exists():  # noqa: ASYNC110 (it is another process that writes it)
                await asyncio.sleep(0.01)
        told: dict[str, Any] = json.loads(self._file.read_text())
        return told


async def _fill(folder: Path, s3: S3Server) -> None:
    s5cmd = [str(need("s5cmd")), "--endpoint-url", s3.endpoint]
    os.environ.update(s3.environment)
    await run([*s5cmd, "mb", f"s3://{BUCKET}"])
    for name, size_bytes in (
        ("cached", CACHED_BYTES),
        *((f"large-{n}", FETCHED_BYTES) for n in range(FETCHES)),
    ):
        data = folder / "data"
        await asyncio.to_thread(made, data, size_bytes)
        await run([*s5cmd, "cp", str(data), f"s3://{BUCKET}/{name}"])
        data.unlink()


async def _cached(client: Connection, s3: S3Server) -> list[Figure]:
    """The same job in turns with the input, which is there already, and without."""
    with_input, without = _job(s3, "cached"), _job(s3, "")
    await _run(client, with_input)
    await asyncio.sleep(SETTLE_S)
    times: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(ROUNDS):
        turns = [("with", with_input), ("without", without)]
        for name, job in turns if number % 2 else reversed(turns):
            times[name].append(await _run(client, job))
    more = [one - other for one, other in zip(sorted(times["with"]), sorted(times["without"]), strict=True)]
    return [
        figure(
            "job with a cached input of 200 MiB, submit to completed",
            times["with"],
            "ms",
            peer="without the input",
            peer_values=times["without"],
        ),
        figure("what a cached input of 200 MiB adds", more, "ms", mark="at most 20 ms"),
    ]


async def _fetched(client: Connection, s3: S3Server, probe: Probe) -> list[Figure]:
    """How long the node's loop stood still at most while 1 GiB came."""
    late, own, took = [], [], []
    idle_late, idle_own = [], []
    for number in range(FETCHES):
        await asyncio.sleep(SETTLE_S)
        await probe.ask()
        async with watching() as ours:
            took.append(await _run(client, _job(s3, f"large-{number}")) / 1000)
        idle_late.append(latest_s(ours) * 1e3)
        idle_own.append(worst(ours).own_s * 1e3)
        told = await probe.ask()
        late.append(told["late_ms"])
        own.append(told["own_ms"])
        show(told["own_ms"] / 1e3, told["where"])
    return [
        figure("job that fetches 1 GiB from S3, submit to completed", took, "s"),
        figure(
            "longest stand-still of the node's loop meanwhile",
            late,
            "ms",
            peer=IDLE,
            peer_values=idle_late,
        ),
        figure(
            "longest stand-still of the node's loop, without waiting for a free processor",
            own,
            "ms",
            peer=IDLE,
            peer_values=idle_own,
            mark=MARK,
        ),
    ]


def _peak(usage: Usage) -> Figure:
    peak_mib = usage.peaks_mib()["node"]
    return figure("peak memory of a node that fetched 1 GiB", [peak_mib], "MiB", mark="at most 200 MiB")


async def _run(client: Connection, job: dict[str, Any]) -> float:
    """Milliseconds from submitting a job to its end."""
    job = {**job, "Name": f"bench-{secrets.token_hex(6)}"}
    began = time.perf_counter()
    state = await client.closed(await client.submit(body_of(job)))
    took = (time.perf_counter() - began) * 1000
    if not state.startswith("Completed"):
        raise RuntimeError(f"a job ended as {state}")
    return took


def _job(s3: S3Server, key: str) -> dict[str, Any]:
    """A module that does nothing, with an object as its input, or with none."""
    url = "data:application/wasm;base64," + base64.b64encode(MODULE).decode()
    inputs = [{"Target": "/m.wasm", "Source": {"Type": "inline", "Params": {"URL": url}}}]
    if key:
        params = {"Bucket": BUCKET, "Key": key, "Endpoint": s3.endpoint, "Region": s3.region}
        inputs.append({"Target": "/in", "Source": {"Type": "s3", "Params": params}})
    task = {
        "Name": "main",
        "Engine": {"Type": "wasm", "Params": {"EntryModule": "/m.wasm"}},
        "InputSources": inputs,
        "Resources": {"CPU": "10m", "Memory": "16Mb"},
    }
    return {"Type": "batch", "Tasks": [task]}
