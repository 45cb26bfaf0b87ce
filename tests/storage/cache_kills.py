"""A process that fetches into a cache, killed at random moments, again and again.

``python -m tests.storage.cache_kills --kills 100`` does it as often as wanted and prints what it found; with ``--s3`` or
``--ipfs`` what is fetched comes from a real S3 server or a Kubo node by the driver. The budget is so small that entries go
all the time. After each kill the cache is opened as a new process does, and every byte that it would serve is compared with
what was to be fetched.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from deploy.servers import kubo, s3_server
from protocol.ids import ExecutionId, JobId, NodeId
from storage.cache import Cache, Fetch
from storage.cache_entries import DATA, ENTRY, MANIFEST, entries_in, key_of
from storage.contract import Fetched, Label, Progress, Resolved, Share, silent
from storage.ipfs import IpfsPublisher, IpfsSource, Kubo, PublisherParams
from storage.manifest import difference
from storage.params import read_params
from storage.s3 import S3Client, S3Settings, S3Source
from tests.contracts.trees import Tree, plant, snapshot, with_folders
from tests.storage.s3_world import LOOPBACK, new_bucket

STRANGERS = [".arriving-00", ".leaving-00", "no-key", "0" * 32]
NAMES = [f"in-{number}" for number in range(12)]
FILES = 6
BUDGET_BYTES = 3_000_000
BUCKET = "kills"
ENDPOINT = "CACHE_KILLS_S3"
KUBO = "CACHE_KILLS_IPFS"
"""The variables that say where the inputs are; without them they are made up."""
CIDS = "CACHE_KILLS_CIDS"
"""The variable with the CID of each input, as JSON."""


class Served(Struct):
    """What came of it: entries found after kills, those among them that were wrong, kills that hit a fetch half-way."""

    entries: int
    half_way: int
    wrong: list[str]


def content_of(name: str) -> Tree:
    """What an input of that name holds: files of up to 200 kB whose bytes follow from the name."""
    seed = random.Random(name)
    return {
        f"folder-{number % 2}/file-{number}": hashlib.sha256(f"{name}{number}".encode()).digest()
        * seed.randrange(1, 6000)
        for number in range(FILES)
    }


def killed(
    folder: Path, *, kills: int, seed: int, most_s: float = 0.15, env: Mapping[str, str] | None = None
) -> Served:
    """Let a process fetch into the cache in `folder`, and kill it, so many times."""
    chance = random.Random(seed)
    served = Served(0, 0, [])
    command = [sys.executable, "-m", "tests.storage.cache_kills", "--work", str(folder)]
    variables = {**os.environ, **(env or {})}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(kills):
            print("fetch", file=parent.stdin, flush=True)
            worker = int(parent.stdout.readline())
            time.sleep(chance.uniform(0, most_s))
            os.kill(worker, signal.SIGKILL)
            assert parent.stdout.readline() == f"{signal.SIGKILL}\n"
            names = [path.name for path in folder.iterdir()]
            served.half_way += any(name.startswith(".arriving") for name in names)
            asyncio.run(_look(folder, served))
        parent.stdin.close()
    return served


async def _look(folder: Path, served: Served) -> None:
    """Compare all that a new process would serve."""
    async with asyncio.TaskGroup() as tasks:
        cache = Cache(folder, BUDGET_BYTES, tasks)
        await cache.open()
        names = {path.name: _name_in(entry.identity) for path, entry in entries_in(folder)}
        for key in cache.shelf.here():
            served.entries += 1
            if snapshot(folder / key / DATA) != with_folders(content_of(names[key])):
                served.wrong.append(names[key])
    served.wrong += filter(None, (_difference(path) for path, _ in entries_in(folder)))
    served.wrong += [path.name for path in folder.iterdir() if not (path / ENTRY).exists()]


def _difference(entry: Path) -> str:
    """What is wrong with an entry, by its own digests."""
    return difference(entry / DATA, entry / MANIFEST, lambda: None)


def _serve(folder: Path) -> None:
    """For each line read, start a worker, say its number, and with which signal it ended. Forking spares the imports, those
    that a driver's first use leads to as well.
    """
    asyncio.run(_find_one())
    for _ in sys.stdin:
        ready, told = os.pipe()
        worker = os.fork()
        if not worker:
            asyncio.run(_work(folder, told))
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        print(worker, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) * -1, flush=True)


async def _find_one() -> None:
    async with _origin() as origin:
        await origin.find(NAMES[0])


async def _work(folder: Path, told: int) -> None:
    """Fetch for ever, three at a time; let go of most."""
    async with _origin() as origin, asyncio.TaskGroup() as tasks:
        cache = Cache(folder, BUDGET_BYTES, tasks)
        await cache.open()
        os.write(told, b"!")
        for number in range(3):
            tasks.create_task(_fetch_on(cache, origin, str(number)))


async def _fetch_on(cache: Cache, origin: "_MadeUp | _FromS3 | _FromIpfs", holder: str) -> None:
    while True:
        kind, resolved, fetch = await origin.find(random.choice(NAMES))
        cache.claim(holder, {key_of(kind, resolved.identity): resolved.size_bytes or 0})
        await cache.bring(kind, resolved, fetch, silent)
        cache.release(holder)


@asynccontextmanager
async def _origin() -> AsyncIterator["_MadeUp | _FromS3 | _FromIpfs"]:
    endpoint = os.environ.get(ENDPOINT, "")
    if at := os.environ.get(KUBO, ""):
        async with Kubo(at) as node:
            yield _FromIpfs(IpfsSource(node))
        return
    if not endpoint:
        yield _MadeUp()
        return
    client = S3Client(S3Settings(endpoint=endpoint, addresses=LOOPBACK))
    try:
        yield _FromS3(S3Source(client=client))
    finally:
        await client.close()


class _MadeUp:
    """Inputs that are written piece by piece."""

    async def find(self, name: str) -> tuple[str, Resolved, Fetch]:
        return "test", Resolved(name, cacheable=True), partial(self._write, name)

    async def _write(self, name: str, into: Path, progress: Progress) -> Fetched:
        for path, data in content_of(name).items():
            assert isinstance(data, bytes)
            file = into / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb", buffering=0) as out:
                for start in range(0, len(data), 50_000):
                    out.write(data[start : start + 50_000])
                    await asyncio.sleep(0)
        return Fetched(into)


class _FromS3:
    """Inputs that are prefixes in a bucket."""

    def __init__(self, source: S3Source) -> None:
        self._source = source

    async def find(self, name: str) -> tuple[str, Resolved, Fetch]:
        params: Any = read_params({"Bucket": BUCKET, "Key": f"{name}/"}, self._source.params, "s3")
        resolved = await self._source.resolve(params, Share())
        return "s3", resolved, partial(self._source.fetch, params, resolved)


class _FromIpfs:
    """Inputs that are folders in a Kubo node."""

    def __init__(self, source: IpfsSource) -> None:
        self._source = source
        self._cids: dict[str, str] = json.loads(os.environ[CIDS])

    async def find(self, name: str) -> tuple[str, Resolved, Fetch]:
        params: Any = read_params({"CID": self._cids[name]}, self._source.params, "ipfs")
        resolved = await self._source.resolve(params, Share())
        return "ipfs", resolved, partial(self._source.fetch, params, resolved)


def _name_in(identity: str) -> str:
    """The input that an identity is of."""
    for name, cid in json.loads(os.environ.get(CIDS, "{}")).items():
        if identity.endswith(cid):
            return str(name)
    found = re.search(r"in-\d+", identity)
    assert found is not None, identity
    return found[0]


async def _killed_over_s3(folder: Path, kills: int, seed: int) -> Served:
    """As `killed`, with what is fetched on a server that goes on meanwhile."""
    async with s3_server(folder / "s3") as server, new_bucket(server, BUCKET) as bucket:
        for name in NAMES:
            for path, data in content_of(name).items():
                assert isinstance(data, bytes)
                await bucket.put(f"{name}/{path}", data)
        env = {**server.environment, ENDPOINT: server.endpoint}
        work = partial(killed, folder / "cache", kills=kills, seed=seed, most_s=1.5, env=env)
        return await asyncio.to_thread(work)


async def _killed_over_ipfs(folder: Path, kills: int, seed: int) -> Served:
    """As `killed`, with what is fetched in a Kubo node that goes on meanwhile."""
    async with kubo(folder / "kubo", offline=True) as node, Kubo(node.multiaddr) as added:
        cids = {}
        for name in NAMES:
            tree = plant(content_of(name), folder / name)
            label = Label(JobId("j"), ExecutionId(name), NodeId("n"), at=0.0)
            cids[name] = (await IpfsPublisher(added).publish(tree, PublisherParams(), label, silent)).params[
                "CID"
            ]
        os.environ.update({KUBO: node.multiaddr, CIDS: json.dumps(cids)})
        return await asyncio.to_thread(killed, folder / "cache", kills=kills, seed=seed, most_s=1.5)


def main() -> None:
    """Kill as often as asked, and say what came of it."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--kills", type=int, default=100)
    flags.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    flags.add_argument("--s3", action="store_true")
    flags.add_argument("--ipfs", action="store_true")
    flags.add_argument("--work", type=Path)
    given = flags.parse_args()
    if given.work:
        _serve(given.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        if given.s3:
            served = asyncio.run(_killed_over_s3(Path(folder), given.kills, given.seed))
        elif given.ipfs:
            served = asyncio.run(_killed_over_ipfs(Path(folder), given.kills, given.seed))
        else:
            served = killed(Path(folder) / "cache", kills=given.kills, seed=given.seed)
    print(f"seed {given.seed}: {given.kills} kills, {served.half_way} of them in the middle of a fetch;")
    print(
        f"{served.entries} entries were found and compared, {len(served.wrong)} were wrong {served.wrong[:5]}"
    )
    sys.exit(bool(served.wrong))


if __name__ == "__main__":
    main()
