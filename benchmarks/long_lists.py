"""How long an event loop stands by its own doing while it is asked for what is long: the keys of a bucket, a folder of very
many files, a log, all jobs of a requester.

Knows: drivers and a requester as programs of ours use them, all on the loop of this process. What is timed is the loop, not
the work. Beside each figure stands what an idle loop did on the same machine by the same measure.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.long_listing import BUCKET, PREFIX
from benchmarks.record import Figure, figure
from benchmarks.standstill import MARK, Delay, latest_s, show, watching, worst
from benchmarks.start import connected, fill
from deploy.programs import Missing
from deploy.servers import NatsServer, kubo, nats_server
from protocol import heap
from protocol.ids import ExecutionId, JobId, NodeId, RequesterId
from requester.api.app import application, listening
from requester.serve import running
from requester.settings import Settings
from storage.addresses import read_policy
from storage.contract import Label, Share, silent
from storage.drivers import open_drivers
from storage.params import read_params
from storage.s3 import load
from storage.settings import StorageSettings
from storage.spread import spread

KEYS: Final = (100_000, 1_000_000)
FILES: Final = 100_000
JOBS: Final = 20_000
LISTED: Final = 10_000
IDLE_S: Final = 3.0
GET: Final = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"
"""What a client runs, in a process of its own."""


class Stands:
    """How long the loop stood in each thing that was measured."""

    def __init__(self) -> None:
        self._found: dict[str, list[Delay]] = {}

    @asynccontextmanager
    async def during(self, name: str) -> AsyncIterator[None]:
        """Watch the loop in what is done in here."""
        async with watching(first=True) as delays:
            yield
        self._found[name] = delays

    def figures(self, idle: list[Delay]) -> list[Figure]:
        """One of each, in milliseconds; where the loop stood for too long is printed."""
        told = []
        for name, delays in self._found.items():
            still = worst(delays)
            print(f"  {name}: at most {latest_s(delays) * 1e3:.1f} ms late, whoever made it", flush=True)
            show(still.own_s, still.where)
            told.append(
                figure(
                    f"loop stood still by its own doing: {name}",
                    [still.own_s * 1e3],
                    "ms",
                    peer="an idle loop",
                    peer_values=[worst(idle).own_s * 1e3],
                    mark=MARK,
                )
            )
        return told


async def measure() -> list[Figure]:
    """All figures of this part."""
    await asyncio.to_thread(load)
    heap.settle()
    stands = Stands()
    async with watching(first=True) as idle:
        await asyncio.sleep(IDLE_S)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=os.environ.get("SHOAL_BENCH_DIR")) as scratch:
        folder = Path(scratch)
        spread(folder)
        for part in (_keys, _folder, _requester):
            try:
                await part(folder, stands)
            except Missing as missing:
                print(f"left out: {missing}", flush=True)
    return stands.figures(idle)


async def _keys(folder: Path, stands: Stands) -> None:
    """Resolve a prefix of a bucket that another process plays: nobody fills one with a million keys."""
    settings = StorageSettings(folder=folder / "s3", addresses=read_policy(["loopback"]))
    for count in KEYS:
        async with _played(count) as endpoint, open_drivers(settings) as drivers:
            driver = drivers.sources["s3"]
            given = {"Bucket": BUCKET, "Key": PREFIX, "Endpoint": endpoint, "Region": "us-east-1"}
            params = read_params(given, driver.params, "s3")
            async with stands.during(f"{count:,} keys of S3 listed and pinned"):
                await driver.resolve(params, Share())


@asynccontextmanager
async def _played(count: int) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.long_listing",
        str(count),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def _folder(folder: Path, stands: Stands) -> None:
    """Publish one folder of very many files to IPFS, which shards it; look into it and bring it back."""
    result = folder / "result"
    await asyncio.to_thread(_made, result)
    async with kubo(folder / "kubo", offline=True) as node:
        settings = StorageSettings(folder=folder / "ipfs", ipfs_connect=node.multiaddr)
        async with open_drivers(settings) as drivers:
            publisher, source = drivers.publishers["ipfs"], drivers.sources["ipfs"]
            label = Label(JobId("j-1"), ExecutionId("e-1"), NodeId("n-1"), time.time())
            wanted = read_params({}, publisher.params, "ipfs")
            async with stands.during(f"{FILES:,} files published to IPFS"):
                spec = await publisher.publish(result, wanted, label, silent)
            params = read_params(spec.params, source.params, "ipfs")
            async with stands.during(f"a sharded folder of {FILES:,} entries looked into"):
                found = await source.resolve(params, Share())
            async with stands.during(f"{FILES:,} files brought from IPFS"):
                await source.fetch(params, found, folder / "in", silent)


def _made(folder: Path) -> None:
    folder.mkdir()
    for number in range(FILES):
        (folder / f"file-{number:06d}").write_bytes(b"%d" % number)


async def _requester(folder: Path, stands: Stands) -> None:
    """Read a log, and list the jobs in it."""
    async with nats_server(folder / "nats") as server, connected(server) as bus:
        await fill(bus, JOBS)
        # As a requester's program does at its start.
        heap.settle(to_read=True)
        settings = Settings(id=RequesterId("r1"), data_dir=folder / "r1")
        async with stands.during(f"a log of {JOBS:,} jobs read"):
            await _read(server, settings)
        await _listed(server, settings, stands)


async def _read(server: NatsServer, settings: Settings) -> None:
    async with connected(server, "r1") as bus, running(bus, settings) as service:
        while service.facts()["recorded"] < service.facts()["folded"]:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.05)


async def _listed(server: NatsServer, settings: Settings, stands: Stands) -> None:
    async with connected(server, "r1") as bus, running(bus, settings) as service:
        heap.settle()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with listening(application(service, "0"), listener) as port:
                url = f"http://127.0.0.1:{port}/api/v1/orchestrator/jobs?limit={LISTED}"
                async with stands.during(f"{LISTED:,} jobs told over REST"):
                    # Not by asyncio: its loop forks, and stands for it.
                    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", GET, url], check=True)
