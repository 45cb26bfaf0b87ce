"""How fast bytes come: 1 GiB from S3 beside ``s5cmd``, 1 GiB from IPFS beside ``ipfs get``.

Knows: the drivers as a node uses them. Ours and the tool take turns, on the same servers and the same disk; what arrived is
compared byte for byte (by SHA-256) each time.
"""

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.record import Figure, figure
from deploy.programs import Missing, need
from deploy.servers import kubo, s3_server
from storage.addresses import read_policy
from storage.contract import Share, silent
from storage.drivers import open_drivers
from storage.params import read_params
from storage.settings import StorageSettings

SIZE_BYTES: Final = 1 << 30
ROUNDS: Final = 5
BUCKET: Final = "bench"
PIECE_BYTES: Final = 1 << 20


async def measure() -> list[Figure]:
    """All figures of this part."""
    figures: list[Figure] = []
    # On the disk of the cache, not in a memory-backed /tmp: bytes end on a disk.
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=os.environ.get("SHOAL_BENCH_DIR")) as scratch:
        folder = Path(scratch)
        data = folder / "data"
        digest = await asyncio.to_thread(_make, data)
        for name, part in (("S3", _s3), ("IPFS", _ipfs)):
            try:
                figures += await part(folder, data, digest)
            except Missing as missing:
                print(f"left out {name}: {missing}", flush=True)
    return figures


async def _s3(folder: Path, data: Path, digest: str) -> list[Figure]:
    tool = need("s5cmd")
    async with s3_server(folder / "s3") as server:
        os.environ.update(server.environment)
        await _run([str(tool), "--endpoint-url", server.endpoint, "mb", f"s3://{BUCKET}"])
        await _run([str(tool), "--endpoint-url", server.endpoint, "cp", str(data), f"s3://{BUCKET}/data"])
        params = {"Bucket": BUCKET, "Key": "data", "Endpoint": server.endpoint, "Region": server.region}

        async def peer(into: Path) -> Path:
            await _run([str(tool), "--endpoint-url", server.endpoint, "cp", f"s3://{BUCKET}/data", str(into)])
            return into

        async with _fetcher(folder, "s3", params, "data") as fetch:
            ours, beside = await _turns(folder, digest, fetch, peer)
    return [
        figure(
            "1 GiB object from S3 to disk",
            ours,
            "s",
            peer="s5cmd cp",
            peer_values=beside,
            mark="at most 1.3 times",
        )
    ]


async def _ipfs(folder: Path, data: Path, digest: str) -> list[Figure]:
    tool = need("ipfs")
    async with kubo(folder / "kubo", offline=True) as node:
        cid = (
            await _run([str(tool), "--api", node.multiaddr, "add", "-Q", "--cid-version=1", str(data)])
        ).strip()

        async def peer(into: Path) -> Path:
            await _run([str(tool), "--api", node.multiaddr, "get", "-o", str(into), cid])
            return into

        async with _fetcher(folder, "ipfs", {"CID": cid}, "", ipfs_connect=node.multiaddr) as fetch:
            ours, beside = await _turns(folder, digest, fetch, peer)
    return [
        figure(
            "1 GiB file from IPFS to disk",
            ours,
            "s",
            peer="ipfs get",
            peer_values=beside,
            mark="at most 1.3 times",
        )
    ]


@asynccontextmanager
async def _fetcher(
    folder: Path, type: str, params: dict[str, Any], inside: str, *, ipfs_connect: str = ""
) -> AsyncIterator[Callable[[Path], Awaitable[Path]]]:
    """A function that fetches with our driver, resolve included, and returns the file.

    The driver is opened once, as in a node; what its first transfer makes ready falls into the round that does not count.
    """
    settings = StorageSettings(
        folder=folder / "drivers", ipfs_connect=ipfs_connect, addresses=read_policy(["loopback"])
    )
    async with open_drivers(settings) as drivers:
        driver = drivers.sources[type]
        read = read_params(params, driver.params, type)

        async def fetch(into: Path) -> Path:
            resolved = await driver.resolve(read, Share())
            fetched = await driver.fetch(read, resolved, into, silent)
            return fetched.path / inside if inside else fetched.path

        yield fetch


async def _turns(
    folder: Path,
    digest: str,
    ours: Callable[[Path], Awaitable[Path]],
    peer: Callable[[Path], Awaitable[Path]],
) -> tuple[list[float], list[float]]:
    """Seconds of both in turn, after one round that does not count.

    Who comes first changes with each round: the disk may still be busy with what the one before has written.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        both = [(ours, times[0]), (peer, times[1])]
        for each, kept in both if number % 2 else reversed(both):
            into = folder / "arrived"
            began = time.perf_counter()
            path = await each(into)
            took = time.perf_counter() - began
            if await asyncio.to_thread(_digest, path) != digest:
                raise RuntimeError("other bytes arrived than were sent")
            await asyncio.to_thread(_remove, into)
            if number:
                kept.append(took)
    return times


def _make(path: Path) -> str:
    """A file of bytes that do not repeat; its digest."""
    seen = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(SIZE_BYTES // PIECE_BYTES):
            piece = os.urandom(PIECE_BYTES)
            seen.update(piece)
            file.write(piece)
    return seen.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


async def _run(command: list[str]) -> str:
    """Run a tool to its end; what it wrote. Raises `RuntimeError` with its words if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(
            f"{command[0]} ended with {process.returncode}: {err.decode(errors='replace').strip()}"
        )
    return out.decode()
