"""How fast bytes move to and from IPFS: a large file and a folder of small ones beside ``ipfs get``, results beside
``ipfs add``, and the same without a node of our own, through a gateway that is not believed.

Knows: the drivers as a node uses them. What arrived is compared by SHA-256, what was published by its CID, each time.
Nothing that was added stays for the next round: Kubo would be faster with what it has.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

from benchmarks.record import Figure, figure
from benchmarks.standstill import MARK, Delay, latest_s, show, watching, worst
from benchmarks.transfers import (
    ROUNDS,
    SMALL_FILES,
    fetcher,
    made_small,
    remove,
    run,
    scratch_with_data,
    turns,
)
from deploy.programs import Missing, need
from deploy.servers import Kubo, kubo
from protocol.ids import ExecutionId, JobId, NodeId
from storage.contract import Label, silent
from storage.drivers import open_drivers
from storage.params import read_params
from storage.settings import StorageSettings

MARK_GET: Final = "at most 0.8 times"
MARK_ADD: Final = "at most 1.1 times"
LARGE: Final = "1 GiB file"
IDLE: Final = "an idle loop beside ipfs get"
WATCHED: Final = 3
"""Rounds of each transfer in which the loop is looked at, and no time is taken; as many with its process served first."""
WEIGHED_S: Final = 0.01
SMALL: Final = f"{SMALL_FILES} files of 4 KiB"


class Times(Struct, frozen=True):
    """What was timed: seconds of ours and of the peer's."""

    name: str
    ours: list[float]
    peer: str
    beside: list[float]
    mark: str = ""

    def figure(self) -> Figure:
        """As it is shown and kept."""
        return figure(self.name, self.ours, "s", peer=self.peer, peer_values=self.beside, mark=self.mark)


async def measure() -> list[Figure]:
    """All figures of this part."""
    try:
        tool = str(need("ipfs"))
    except Missing as missing:
        print(f"left out IPFS: {missing}", flush=True)
        return []
    async with scratch_with_data() as (folder, data, digest):
        small = await asyncio.to_thread(made_small, folder / "small")
        watch = Watch()
        async with kubo(folder / "kubo", offline=True) as node, watch.weighing():
            ipfs = [tool, "--api", node.multiaddr]
            times: list[Times] = []
            for name, path, wanted in ((SMALL, folder / "small", small), (LARGE, data, digest)):
                times += await _gets(folder, node, ipfs, name, path, wanted, watch)
            for name, path in ((SMALL, folder / "small"), (LARGE, data)):
                times.append(await _adds(folder, node, ipfs, name, path, watch))
        return [*(each.figure() for each in times), *watch.figures()]


async def _gets(
    folder: Path, node: Kubo, ipfs: list[str], name: str, path: Path, digest: str, watch: "Watch"
) -> list[Times]:
    cid = (await run([*ipfs, "add", "-rQ", "--cid-version=1", str(path)])).strip()

    async def peer(into: Path) -> Path:
        await run([*ipfs, "get", "-o", str(into), cid])
        return into

    times = []
    for what, connect, gateways in (
        (f"{name} from IPFS to disk", node.multiaddr, ()),
        (f"{name} from IPFS to disk, through a gateway", "", (node.gateway_url,)),
    ):
        async with fetcher(
            folder, "ipfs", {"CID": cid}, "", ipfs_connect=connect, ipfs_gateways=gateways
        ) as fetch:
            ours, beside = await turns(folder, digest, fetch, peer)
            for number in range(2 * WATCHED):
                for kept, bring in ((watch.over, fetch), (watch.beside, peer)):
                    into = folder / f"watched-{secrets.token_hex(4)}"
                    async with kept.looking(first=bool(number % 2)):
                        await bring(into)
                    await asyncio.to_thread(remove, into)
        mark = "" if gateways else MARK_GET
        times.append(Times(what, ours, "ipfs get", beside, mark))
    return times


async def _adds(folder: Path, node: Kubo, ipfs: list[str], name: str, path: Path, watch: "Watch") -> Times:
    result = folder / f"result-{path.name}"
    result.mkdir()
    os.rename(path, result / path.name)
    settings = StorageSettings(folder=folder / "drivers", ipfs_connect=node.multiaddr)
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    async with open_drivers(settings) as drivers:
        driver = drivers.publishers["ipfs"]
        params = read_params({}, driver.params, "ipfs")
        label = Label(JobId("j-1"), ExecutionId("e-1"), NodeId("n-1"), time.time())

        async def publish(folder: Path) -> str:
            return str((await driver.publish(folder, params, label, silent)).params["CID"])

        for number in range(ROUNDS + 1):
            cids = set()
            for way in sorted(times, reverse=bool(number % 2)):
                began = time.perf_counter()
                if way == "ours":
                    cid = await publish(result)
                else:
                    cid = (await run([*ipfs, "add", "-rQ", str(result)])).strip()
                took = time.perf_counter() - began
                cids.add(cid)
                await _forget(ipfs, cid)
                if number:
                    times[way].append(took)
            if len(cids) != 1:
                raise RuntimeError(f"other bytes were published than were given: {cids}")
        for number in range(2 * WATCHED):
            async with watch.over.looking(first=bool(number % 2)):
                cid = await publish(result)
            await _forget(ipfs, cid)
    mark = MARK_ADD if name == LARGE else ""
    return Times(f"{name} published to IPFS", times["ours"], "ipfs add", times["peer"], mark)


async def _forget(ipfs: list[str], cid: str) -> None:
    await run([*ipfs, "pin", "rm", cid])
    await run([*ipfs, "repo", "gc", "--silent"])


class Loop:
    """How late the loop of this process was, as the machine served it, and served first."""

    def __init__(self) -> None:
        self.delays: list[Delay] = []
        self.delays_first: list[Delay] = []

    @asynccontextmanager
    async def looking(self, *, first: bool) -> AsyncIterator[None]:
        """Watch what is done in here, which is not timed."""
        async with watching(first=first) as delays:
            yield
        kept = self.delays_first if first else self.delays
        kept += delays


class Watch:
    """What our transfers do to the process that they run in: how long its loop stood still, how much memory it took; and how
    long it stood while a tool of another process did the same, so that only the machine can have held it up."""

    def __init__(self) -> None:
        self.over = Loop()
        self.beside = Loop()
        self._memory_bytes: list[int] = []

    @asynccontextmanager
    async def weighing(self) -> AsyncIterator[None]:
        """Take the memory of the process until the context ends."""
        weighing = asyncio.create_task(self._weigh())
        try:
            yield
        finally:
            weighing.cancel()
            await asyncio.wait([weighing])

    async def _weigh(self) -> None:
        process = psutil.Process()
        while True:
            self._memory_bytes.append(process.memory_info().rss)
            await asyncio.sleep(WEIGHED_S)

    def figures(self) -> list[Figure]:
        """The longest pause and the most memory, of all transfers together; where the loop stood is printed."""
        still = worst(self.over.delays_first)
        show(still.own_s, still.where)
        return [
            figure(
                "event loop stood still during IPFS transfers, longest",
                [latest_s(self.over.delays) * 1e3],
                "ms",
                peer=IDLE,
                peer_values=[latest_s(self.beside.delays) * 1e3],
            ),
            figure(
                "event loop stood still during IPFS transfers, its process served first",
                [still.own_s * 1e3],
                "ms",
                peer=IDLE,
                peer_values=[worst(self.beside.delays_first).own_s * 1e3],
                mark=MARK,
            ),
            figure(
                "memory of the process in IPFS transfers",
                [max(self._memory_bytes) / 1e6],
                "MB",
                mark="at most 200 MB",
            ),
        ]
