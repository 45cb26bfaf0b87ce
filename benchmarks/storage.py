"""How fast bytes move from and to S3: large and small objects, and results, beside ``s5cmd``.

Knows: the drivers as a node uses them. Ours and the tool take turns, on the same servers and the same disk; what arrived is
compared byte for byte (by SHA-256) each time.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.record import Figure, figure
from benchmarks.transfers import (
    ROUNDS,
    SMALL_FILES,
    digest_of,
    fetcher,
    made_small,
    remove,
    run,
    scratch_with_data,
    turns,
)
from deploy.programs import Missing, need
from deploy.servers import s3_server
from protocol.ids import ExecutionId, JobId, NodeId
from storage.addresses import read_policy
from storage.contract import Label, silent
from storage.drivers import open_drivers
from storage.params import read_params
from storage.settings import StorageSettings

BUCKET: Final = "bench"


async def measure() -> list[Figure]:
    """All figures of this part."""
    async with scratch_with_data() as (folder, data, digest):
        try:
            return await _s3(folder, data, digest)
        except Missing as missing:
            print(f"left out S3: {missing}", flush=True)
            return []


async def _s3(folder: Path, data: Path, digest: str) -> list[Figure]:
    tool = str(need("s5cmd"))
    async with s3_server(folder / "s3") as server:
        os.environ.update(server.environment)
        s5cmd = [tool, "--endpoint-url", server.endpoint]
        await run([*s5cmd, "mb", f"s3://{BUCKET}"])
        await run([*s5cmd, "cp", str(data), f"s3://{BUCKET}/data"])
        small = await asyncio.to_thread(made_small, folder / "small")
        await run([*s5cmd, "cp", f"{folder}/small/", f"s3://{BUCKET}/small/"])
        place = {"Bucket": BUCKET, "Endpoint": server.endpoint, "Region": server.region}
        figures = []
        for name, key, wanted in (
            ("1 GiB object from S3 to disk", "data", digest),
            (f"{SMALL_FILES} objects of 4 KiB from S3 to disk", "small/", small),
        ):
            async with fetcher(folder, "s3", {**place, "Key": key}, "data" if key == "data" else "") as fetch:
                ours, beside = await turns(folder, wanted, fetch, copier(s5cmd, key))
            mark = "at most 1.0 times"
            figures.append(figure(name, ours, "s", peer="s5cmd cp", peer_values=beside, mark=mark))
        return [*figures, *await _published(folder, data, digest, s5cmd, place)]


def copier(s5cmd: list[str], key: str) -> Callable[[Path], Awaitable[Path]]:
    """A function that has the peer bring a key's object, or all of a prefix."""

    async def copy(into: Path) -> Path:
        whole = key.endswith("/")
        await run(
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
    settings = StorageSettings(folder=folder / "drivers", addresses=read_policy(("loopback",)))
    async with open_drivers(settings) as drivers:
        driver = drivers.publishers["s3"]
        for number in range(ROUNDS + 1):
            for way in sorted(times, reverse=bool(number % 2)):
                began = time.perf_counter()
                if way == "peer":
                    await run([*s5cmd, "cp", str(data), f"s3://{BUCKET}/published/peer"])
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
    await run([*s5cmd, "cp", f"s3://{BUCKET}/published/*", f"{back}/"])
    await run([*s5cmd, "rm", f"s3://{BUCKET}/published/*"])
    (path,) = (each for each in back.rglob("*") if each.is_file())
    if way == "gzip":
        await run(["tar", "-xzf", str(path), "-C", str(back)])
        path = back / "data"
    if await asyncio.to_thread(digest_of, path) != digest:
        raise RuntimeError("other bytes were published than were given")
    await asyncio.to_thread(remove, back)
