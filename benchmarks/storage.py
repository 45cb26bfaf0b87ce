"""How fast bytes move: large and small objects from S3, and results to it, beside ``s5cmd``; 1 GiB from IPFS beside
``ipfs get``.

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
from protocol.ids import ExecutionId, JobId, NodeId
from storage.addresses import read_policy
from storage.contract import Label, Share, silent
from storage.drivers import open_drivers
from storage.params import read_params
from storage.settings import StorageSettings
from storage.tree import digest_of

SIZE_BYTES: Final = 1 << 30
SMALL_FILES: Final = 1000
SMALL_BYTES: Final = 4096
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
    tool = str(need("s5cmd"))
    async with s3_server(folder / "s3") as server:
        os.environ.update(server.environment)
        s5cmd = [tool, "--endpoint-url", server.endpoint]
        await _run([*s5cmd, "mb", f"s3://{BUCKET}"])
        await _run([*s5cmd, "cp", str(data), f"s3://{BUCKET}/data"])
        small = await asyncio.to_thread(_make_small, folder / "small")
        await _run([*s5cmd, "cp", f"{folder}/small/", f"s3://{BUCKET}/small/"])
        place = {"Bucket": BUCKET, "Endpoint": server.endpoint, "Region": server.region}
        figures = []
        for name, key, wanted in (
            ("1 GiB object from S3 to disk", "data", digest),
            (f"{SMALL_FILES} objects of 4 KiB from S3 to disk", "small/", small),
        ):
            async with _fetcher(
                folder, "s3", {**place, "Key": key}, "data" if key == "data" else ""
            ) as fetch:
                ours, beside = await _turns(folder, wanted, fetch, _copier(s5cmd, key))
            mark = "at most 1.0 times"
            figures.append(figure(name, ours, "s", peer="s5cmd cp", peer_values=beside, mark=mark))
        return [*figures, *await _published(folder, data, digest, s5cmd, place)]


def _copier(s5cmd: list[str], key: str) -> Callable[[Path], Awaitable[Path]]:
    """A function that has the peer bring a key's object, or all of a prefix."""

    async def copy(into: Path) -> Path:
        whole = key.endswith("/")
        await _run(
            [*s5cmd, "cp", f"s3://{BUCKET}/{key}{'*' if whole else ''}", f"{into}{'/' if whole else ''}"]
        )
        return into

    return copy


async def _published(
    folder: Path, data: Path, digest: str, s5cmd: list[str], place: dict[str, Any]
) -> list[Figure]:
    """1 GiB to S3, plain and as an archive, beside the peer; each is brought back and compared, which is not timed."""
    (folder / "result").mkdir()
    os.link(data, folder / "result" / "data")
    times: dict[str, list[float]] = {"plain": [], "gzip": [], "peer": []}
    async with open_drivers(StorageSettings(folder=folder / "drivers")) as drivers:
        driver = drivers.publishers["s3"]
        for number in range(ROUNDS + 1):
            for way in sorted(times, reverse=bool(number % 2)):
                began = time.perf_counter()
                if way == "peer":
                    await _run([*s5cmd, "cp", str(data), f"s3://{BUCKET}/published/peer"])
                else:
                    given = {**place, "Key": f"published/{number}{way}", "Encoding": way}
                    label = Label(JobId("j-1"), ExecutionId("e-1"), NodeId("n-1"), time.time())
                    params = read_params(given, driver.params, "s3")
                    await driver.publish(folder / "result", params, label, silent)
                took = time.perf_counter() - began
                await _check_published(folder, digest, s5cmd, way)
                if number:
                    times[way].append(took)
    return [
        figure(name, times[way], "s", peer="s5cmd cp", peer_values=times["peer"], mark="at most 1.1 times")
        for name, way in (
            ("1 GiB published to S3, plain", "plain"),
            ("1 GiB published to S3, archive", "gzip"),
        )
    ]


async def _check_published(folder: Path, digest: str, s5cmd: list[str], way: str) -> None:
    """Bring back whatever lies below ``published/``, compare it, and remove it."""
    back = folder / "back"
    await _run([*s5cmd, "cp", f"s3://{BUCKET}/published/*", f"{back}/"])
    await _run([*s5cmd, "rm", f"s3://{BUCKET}/published/*"])
    (path,) = (each for each in back.rglob("*") if each.is_file())
    if way == "gzip":
        await _run(["tar", "-xzf", str(path), "-C", str(back)])
        path = back / "data"
    if await asyncio.to_thread(digest_of, path) != digest:
        raise RuntimeError("other bytes were published than were given")
    await asyncio.to_thread(_remove, back)


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
            if await asyncio.to_thread(digest_of, path) != digest:
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


def _make_small(folder: Path) -> str:
    """A folder of small files; its digest."""
    folder.mkdir()
    for number in range(SMALL_FILES):
        (folder / f"file{number:04}").write_bytes(os.urandom(SMALL_BYTES))
    return digest_of(folder)


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
