"""What is still there when all jobs have ended and nobody does anything any more.

Knows: where requesters, nodes, Docker, S3 and NATS keep what belongs to a job. Must not know: jobs, or what was broken.
"""

import asyncio
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Final

import psutil
from aiodocker import Docker

from tests.faults.world import BUCKET, TEMPORARY, World, get

CLEAN_S: Final = 90.0
BEFORE_PROGRAM: Final = "runc:[2:INIT]"
"""What is in a container until its program is started."""
NETWORKS: Final = frozenset({"bridge", "host", "none"})
"""Docker's own."""


async def left(world: World) -> list[str]:
    """Containers, volumes, folders, journal rows, temporary files, unfinished uploads, consumers and credentials that nobody
    needs any more."""
    deadline = asyncio.get_running_loop().time() + CLEAN_S
    while found := await _left(world):
        if asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(0.5)
    return await asyncio.to_thread(lambda: list(_credentials(world)))


async def _left(world: World) -> list[str]:
    found = [f"temporary file {path}" for path in (world.folder / TEMPORARY).iterdir()]
    for node in world.nodes:
        found += [f"folder {path}" for path in (node.folder / "executions").glob("*")]
        with closing(sqlite3.connect(f"file:{node.folder / 'journal.db'}?mode=ro", uri=True)) as journal:
            found += [
                f"{node.name}'s journal: {name}" for (name,) in journal.execute("SELECT id FROM executions")
            ]
    uploads = world.bucket.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads") or []
    found += [f"unfinished upload of {each['Key']}" for each in uploads]
    consumers = await _consumers(world)
    if consumers > len(world.requesters):
        found.append(f"{consumers} consumers of the log for {len(world.requesters)} requesters")
    return found + await _in_docker(world) + _processes(world)


async def _in_docker(world: World) -> list[str]:
    """Containers of our nodes; where the daemon is ours alone, also every volume and network."""
    found = []
    async with Docker(world.docker) as docker:
        for node in world.nodes:
            labels = json.dumps({"label": [f"shoal.node={node.marker}"]})
            containers = await docker.containers.list(all=True, filters=labels)
            found += [f"container {each.id}" for each in containers]
        if world.daemon is not None:
            volumes = (await docker._query_json("volumes"))["Volumes"] or []
            found += [f"volume {each['Name']}" for each in volumes]
            networks = {each["Name"] for each in await docker.networks.list()}
            found += [f"network {name}" for name in sorted(networks - NETWORKS)]
    return found


async def _consumers(world: World) -> int:
    """Readers of the log: counted at the stream's leader."""
    counts = []
    for server in world.nats:
        page = await get(f"{server.monitor}/jsz?streams=true&accounts=true")
        counts += [
            stream["state"]["consumer_count"]
            for account in page.get("account_details", [])
            for stream in account.get("stream_detail", [])
            if stream["name"] == "JOBS"
        ]
    return max(counts, default=0)


def _processes(world: World) -> list[str]:
    """Processes that name our folder and belong to no part that runs. A shim that containerd left when it was killed with
    its daemon, and under which no program runs, is theirs alone: the daemon does not know of it either
    (docs/operations.md)."""
    ours = {each.pid for each in world.parts.values()}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            below = [each.name() for each in process.children()]
            if process.name().startswith("containerd-shim") and all(name == BEFORE_PROGRAM for name in below):
                continue
            above = {each.pid for each in process.parents()} | {process.pid}
            if any(str(world.folder) in word for word in process.cmdline()) and not above & (
                ours | {os.getpid()}
            ):
                below = [" ".join(each.cmdline()) or each.name() for each in process.children(recursive=True)]
                under = f", and under it: {'; '.join(below)}" if below else ""
                found.append(f"process {process.pid}: {' '.join(process.cmdline())}{under}")
    return found


def _credentials(world: World) -> Iterator[str]:
    """Files in which something stands that opens S3 or the log: what the log, requesters and nodes keep, and all they said.
    A part is told what it needs by its environment and by its own file, and writes it nowhere."""
    secrets = {world.s3.secret_key.encode(): "the key of S3"}
    for path in (world.folder / "credentials").iterdir():
        for seed in re.findall(rb"(?m)^SU[A-Z2-7]{56}$", path.read_bytes()):
            secrets[seed] = f"the seed in {path.name}"
    kept = [path for part in world.hosts for path in (world.folder / part).rglob("*") if path.is_file()]
    for path in [*kept, *world.folder.glob("*.log")]:
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            # A server that runs puts its files together.
            continue
        yield from (f"{what} stands in {path}" for secret, what in secrets.items() if secret in text)
