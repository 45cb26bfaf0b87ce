"""A process that fetches into a cache, killed at random moments, again and again.

``python -m tests.storage.cache_kills --kills 100`` does it as often as wanted and prints what it found. The fetches are slow
enough to be hit half-way, the budget so small that entries go all the time. After each kill the cache is opened as a
new process does, and every byte that it would serve is compared with what was to be fetched.
"""

import argparse
import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec import Struct

from storage.cache import Cache
from storage.cache_entries import DATA, ENTRY, key_of
from storage.contract import Fetched, Progress, Resolved, silent
from tests.contracts.trees import Tree, snapshot, with_folders

STRANGERS = [".arriving-00", ".leaving-00", "no-key", "0" * 32]
NAMES = [f"in-{number}" for number in range(12)]
FILES = 6
BUDGET_BYTES = 3_000_000


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


def killed(folder: Path, *, kills: int, seed: int, most_s: float = 0.15) -> Served:
    """Let a process fetch into the cache in `folder`, and kill it, so many times."""
    chance = random.Random(seed)
    served = Served(0, 0, [])
    command = [sys.executable, "-m", "tests.storage.cache_kills", "--work", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
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
        there = {key_of("test", name): name for name in NAMES}
        for key in cache.shelf.here():
            served.entries += 1
            if snapshot(folder / key / DATA) != with_folders(content_of(there[key])):
                served.wrong.append(there[key])
        served.wrong += [why for why in (await cache.verify()).values() if why]
    served.wrong += [path.name for path in folder.iterdir() if not (path / ENTRY).exists()]


def _serve(folder: Path) -> None:
    """For each line read, start a worker, say its number, and with which signal it ended. Forking spares the imports."""
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


async def _work(folder: Path, told: int) -> None:
    """Fetch for ever, three at a time, slowly; let go of most."""
    async with asyncio.TaskGroup() as tasks:
        cache = Cache(folder, BUDGET_BYTES, tasks)
        await cache.open()
        os.write(told, b"!")
        for number in range(3):
            tasks.create_task(_fetch_on(cache, str(number)))


async def _fetch_on(cache: Cache, holder: str) -> None:
    while True:
        name = random.choice(NAMES)
        cache.claim(holder, {key_of("test", name): 0})
        await cache.bring("test", Resolved(name, cacheable=True), _slow(name), silent)
        cache.release(holder)


def _slow(name: str):  # type: ignore[no-untyped-def]
    async def fetch(into: Path, progress: Progress) -> Fetched:
        for path, data in content_of(name).items():
            assert isinstance(data, bytes)
            file = into / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb", buffering=0) as out:
                for start in range(0, len(data), 50_000):
                    out.write(data[start : start + 50_000])
                    await asyncio.sleep(0)
        return Fetched(into)

    return fetch


def main() -> None:
    """Kill as often as asked, and say what came of it."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--kills", type=int, default=100)
    flags.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    flags.add_argument("--work", type=Path)
    given = flags.parse_args()
    if given.work:
        _serve(given.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        served = killed(Path(folder) / "cache", kills=given.kills, seed=given.seed)
    print(f"seed {given.seed}: {given.kills} kills, {served.half_way} of them in the middle of a fetch;")
    print(
        f"{served.entries} entries were found and compared, {len(served.wrong)} were wrong {served.wrong[:5]}"
    )
    sys.exit(bool(served.wrong))


if __name__ == "__main__":
    main()
