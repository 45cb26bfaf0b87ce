"""Transfers that are timed: ours and a peer's in turn, on the same servers and the same disk, compared each time.

Knows: how a driver is used as a node uses it. Must not know: which store is measured.
"""

import asyncio
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from storage.addresses import read_policy
from storage.contents import contents_of
from storage.contract import Share, silent
from storage.drivers import open_drivers
from storage.params import read_params
from storage.settings import StorageSettings
from storage.spread import spread
from storage.tree import digest_file

SIZE_BYTES: Final = 1 << 30
SMALL_FILES: Final = 1000
SMALL_BYTES: Final = 4096
ROUNDS: Final = 5
PIECE_BYTES: Final = 1 << 20


@asynccontextmanager
async def scratch_with_data() -> AsyncIterator[tuple[Path, Path, str]]:
    """A folder to work in, a large file in it, and that one's digest."""
    # On a disk, not in a memory-backed /tmp, and what arrives in each round apart from what was removed after others.
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=os.environ.get("SHOAL_BENCH_DIR")) as scratch:
        spread(Path(scratch))
        data = Path(scratch) / "data"
        yield Path(scratch), data, await asyncio.to_thread(made, data)


@asynccontextmanager
async def fetcher(
    folder: Path,
    type: str,
    params: dict[str, Any],
    inside: str,
    *,
    ipfs_connect: str = "",
    ipfs_gateways: tuple[str, ...] = (),
) -> AsyncIterator[Callable[[Path], Awaitable[Path]]]:
    """A function that fetches with our driver, resolve included, and returns the file.

    The driver is opened once, as in a node; what its first transfer makes ready falls into the round that does not count.
    """
    settings = StorageSettings(
        folder=folder / "drivers",
        ipfs_connect=ipfs_connect,
        ipfs_gateways=ipfs_gateways,
        addresses=read_policy(["loopback"]),
    )
    async with open_drivers(settings) as drivers:
        driver = drivers.sources[type]
        read = read_params(params, driver.params, type)

        async def fetch(into: Path) -> Path:
            resolved = await driver.resolve(read, Share())
            fetched = await driver.fetch(read, resolved, into, silent)
            return fetched.path / inside if inside else fetched.path

        yield fetch


async def turns(
    folder: Path,
    digest: str,
    ours: Callable[[Path], Awaitable[Path]],
    peer: Callable[[Path], Awaitable[Path]],
    rounds: int = ROUNDS,
) -> tuple[list[float], list[float]]:
    """Seconds of both in turn, after one round that does not count.

    Who comes first changes with each round: the disk may still be busy with what the one before has written.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        both = [(ours, times[0]), (peer, times[1])]
        for each, kept in both if number % 2 else reversed(both):
            into = folder / f"arrived-{secrets.token_hex(4)}"
            began = time.perf_counter()
            path = await each(into)
            took = time.perf_counter() - began
            if await asyncio.to_thread(digest_of, path) != digest:
                raise RuntimeError("other bytes arrived than were sent")
            if path.is_file():
                await asyncio.to_thread(remove, into)
            if number:
                kept.append(took)
    # Not between the rounds: to make a file just after many others were removed costs ext4 a search.
    for into in folder.glob("arrived-*"):
        await asyncio.to_thread(remove, into)
    return times


def digest_of(path: Path) -> str:
    """Of a file's bytes, or of all that is in a folder."""
    if path.is_dir():
        return contents_of(path).sha256
    return digest_file(os.open(path, os.O_RDONLY | os.O_CLOEXEC), lambda: None)


def made(path: Path, size_bytes: int = SIZE_BYTES) -> str:
    """A file of bytes that do not repeat; its digest."""
    seen = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size_bytes // PIECE_BYTES):
            piece = os.urandom(PIECE_BYTES)
            seen.update(piece)
            file.write(piece)
    return seen.hexdigest()


def made_small(folder: Path) -> str:
    """A folder of small files; its digest."""
    folder.mkdir()
    for number in range(SMALL_FILES):
        (folder / f"file{number:04}").write_bytes(os.urandom(SMALL_BYTES))
    return digest_of(folder)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


async def run(command: list[str]) -> str:
    """Run a tool to its end; what it wrote. Raises `RuntimeError` with its words if it fails.

    In a thread: uvloop forks on the loop, and waits there until the tool's program is in place. A loop that was watched
    beside a tool stood still for that alone.
    """
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{command[0]} ended with {ended.returncode}: {ended.stderr.strip()}")
    return ended.stdout
