"""How fast very many small files come: objects of S3 beside ``s5cmd``, a folder of IPFS beside ``ipfs get``.

Knows: the drivers as a node uses them. What arrived is compared each time. Beside the time stands what our process computed
for each file: that is the same on a busy machine.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from benchmarks.record import Figure, figure
from benchmarks.storage import BUCKET, copier
from benchmarks.transfers import digest_of, fetcher, run, turns
from deploy.programs import Missing, need
from deploy.servers import kubo, s3_server
from storage.spread import spread

FILES: Final = 30_000
IN_A_FOLDER: Final = 1_000
SIZE_BYTES: Final = 100
ROUNDS: Final = 2
MARK: Final = "at most 1.0 times"


async def measure() -> list[Figure]:
    """All figures of this part."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=os.environ.get("SHOAL_BENCH_DIR")) as scratch:
        folder = Path(scratch)
        spread(folder)
        digest = await asyncio.to_thread(_made, folder / "files")
        for part in (_s3, _ipfs):
            try:
                figures += await part(folder, digest)
            except Missing as missing:
                print(f"left out: {missing}", flush=True)
    return figures


def _made(folder: Path) -> str:
    for number in range(FILES):
        above = folder / f"{number // IN_A_FOLDER:03}"
        above.mkdir(parents=True, exist_ok=True)
        (above / f"{number:06}").write_bytes(os.urandom(SIZE_BYTES))
    return digest_of(folder)


async def _s3(folder: Path, digest: str) -> list[Figure]:
    tool = str(need("s5cmd"))
    async with s3_server(folder / "s3") as server:
        os.environ.update(server.environment)
        s5cmd = [tool, "--endpoint-url", server.endpoint]
        await run([*s5cmd, "mb", f"s3://{BUCKET}"])
        await run([*s5cmd, "cp", f"{folder}/files/", f"s3://{BUCKET}/files/"])
        params = {"Bucket": BUCKET, "Endpoint": server.endpoint, "Region": server.region, "Key": "files/"}
        async with fetcher(folder, "s3", params, "") as fetch:
            return await _figures("S3", "s5cmd cp", folder, digest, fetch, copier(s5cmd, "files/"))


async def _ipfs(folder: Path, digest: str) -> list[Figure]:
    tool = str(need("ipfs"))
    async with kubo(folder / "kubo", offline=True) as node:
        ipfs = [tool, "--api", node.multiaddr]
        cid = (await run([*ipfs, "add", "-rQ", "--cid-version=1", f"{folder}/files"])).strip()

        async def get(into: Path) -> Path:
            await run([*ipfs, "get", "-o", str(into), cid])
            return into

        async with fetcher(folder, "ipfs", {"CID": cid}, "", ipfs_connect=node.multiaddr) as fetch:
            return await _figures("IPFS", "ipfs get", folder, digest, fetch, get)


async def _figures(
    where: str,
    peer: str,
    folder: Path,
    digest: str,
    fetch: Callable[[Path], Awaitable[Path]],
    peers: Callable[[Path], Awaitable[Path]],
) -> list[Figure]:
    computed: list[float] = []

    async def ours(into: Path) -> Path:
        began = time.process_time()
        path = await fetch(into)
        computed.append(time.process_time() - began)
        return path

    times, beside = await turns(folder, digest, ours, peers, ROUNDS)
    name = f"{FILES:,} files of {SIZE_BYTES} bytes from {where}"
    # What the first round makes ready is not the files'.
    costs = [each / FILES * 1e3 for each in computed[1:]]
    return [
        figure(f"{name} to disk", times, "s", peer=peer, peer_values=beside, mark=MARK),
        figure(f"{name}, our processor time a file", costs, "ms"),
    ]
