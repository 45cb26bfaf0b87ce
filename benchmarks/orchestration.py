"""How fast jobs go through: one at a time, in a burst, and in containers.

Knows: the REST API as any client would use it. The limit that the first two are compared with is measured in the same run
on the same NATS server, half before and half after the jobs: two durable appends one after the other, which is the least a
job costs. The container is compared with the bare Docker API.
"""

import asyncio
import base64
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from wasmtime import wat2wasm

from benchmarks.record import Figure, figure, percentile
from deploy import images
from deploy.devstack import Cluster, cluster
from deploy.docker import running_daemon
from protocol.bus import Append, Bus, Stored
from protocol.ids import job_key
from protocol.nats_bus import connect

ALONE: Final = 200
WARM_UP: Final = 10
BURST: Final = 500
BURST_ROUNDS: Final = 3
OPEN_SUBMISSIONS: Final = 64
CONTAINERS: Final = 15
LIMIT_S: Final = 120.0

MODULE: Final = bytes(wat2wasm('(module (func (export "_start")))'))


def noop_module(name: str) -> dict[str, Any]:
    """A job whose program returns at once."""
    url = "data:application/wasm;base64," + base64.b64encode(MODULE).decode()
    task = {
        "Name": "main",
        "Engine": {"Type": "wasm", "Params": {"EntryModule": "/m.wasm"}},
        "InputSources": [{"Target": "/m.wasm", "Source": {"Type": "inline", "Params": {"URL": url}}}],
        "Resources": {"CPU": "10m", "Memory": "16Mb"},
    }
    return {"Name": name, "Type": "batch", "Tasks": [task]}


def noop_container(name: str) -> dict[str, Any]:
    """A job whose container ends at once."""
    task = {
        "Name": "main",
        "Engine": {"Type": "docker", "Params": {"Image": images.BUSYBOX, "Entrypoint": ["true"]}},
        "Network": {"Type": "None"},
    }
    return {"Name": name, "Type": "batch", "Tasks": [task]}


class Api:
    """A client of one requester."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/api/v1/orchestrator/jobs"
        self._facts = f"{url}/readyz"

    async def submit(self, job: dict[str, Any]) -> str:
        """Submit; the id."""
        async with self._session.put(self._url, data=msgspec.json.encode({"Job": job})) as answer:
            body = msgspec.json.decode(await answer.read())
            if answer.status != 200:
                raise RuntimeError(f"submission refused: {body}")
            return str(body["JobID"])

    async def closed(self, job: str) -> str:
        """Wait for the job's end; its state."""
        state = ""
        async with self._session.get(f"{self._url}/{job}/watch") as answer:
            async for line in answer.content:
                if view := msgspec.json.decode(line).get("Job"):
                    state = view["State"]["StateType"]
        return state

    async def all_closed(self) -> None:
        """Wait until no job is open."""
        while True:
            async with self._session.get(self._facts) as answer:
                if not msgspec.json.decode(await answer.read())["open_jobs"]:
                    return
            # Seldom enough that asking takes nothing from what is measured.
            await asyncio.sleep(0.02)

    async def states(self, prefix: str) -> list[str]:
        """The states of all jobs whose name begins so."""
        async with self._session.get(self._url) as answer:
            items = msgspec.json.decode(await answer.read())["Items"]
        return [each["State"]["StateType"] for each in items if each["Name"].startswith(prefix)]


async def measure() -> list[Figure]:
    """All figures of this part."""
    figures: list[Figure] = []
    docker = await running_daemon()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        async with cluster(Path(scratch), requesters=1, computes=1) as ours, _api(ours) as api:
            bus = await connect(ours.nats.requester_url, name="bench", role="requester")
            try:
                figures += await _alone(api, bus)
                figures += await _burst(api)
            finally:
                await bus.close()
            if docker is None:
                print("left out: no Docker daemon answers", flush=True)
            else:
                figures += await _containers(api, docker)
    return figures


async def _alone(api: Api, bus: Bus) -> list[Figure]:
    """One job at a time, and the two appends that each cannot do without.

    Those are no jobs' entries, which a requester tells in its log; so they do not run between the jobs.
    """
    times = []
    floors = [await _two_appends(bus) for _ in range(ALONE // 2)]
    for number in range(ALONE + WARM_UP):
        began = time.perf_counter()
        state = await api.closed(await api.submit(noop_module(f"alone-{secrets.token_hex(6)}")))
        took = (time.perf_counter() - began) * 1e3
        if state != "Completed":
            raise RuntimeError(f"a no-op job ended {state}")
        if number >= WARM_UP:
            times.append(took)
    floors += [await _two_appends(bus) for _ in range(ALONE // 2)]
    peer = "two durable appends"
    return [
        figure(
            "no-op module, submit to completed, p50",
            times,
            "ms",
            peer=peer,
            peer_values=floors,
            mark="at most 12 ms",
        ),
        figure(
            "no-op module, submit to completed, p95",
            [percentile(times, 0.95)] * len(times),
            "ms",
            peer=peer,
            peer_values=[percentile(floors, 0.95)],
        ),
    ]


async def _two_appends(bus: Bus) -> float:
    """Milliseconds for two guarded appends to one job, one after the other."""
    key = job_key("bench", secrets.token_hex(8))
    began = time.perf_counter()
    guard = 0
    for number in range(2):
        # No entry that a requester could read: it is ignored, with a line in its log.
        (outcome,) = await bus.append([Append(key, guard, f"bench{secrets.token_hex(8)}{number}", b"{}")])
        assert isinstance(outcome, Stored)
        guard = outcome.seq
    took = (time.perf_counter() - began) * 1e3
    await bus.purge(key)
    return took


async def _burst(api: Api) -> list[Figure]:
    rates = []
    for number in range(BURST_ROUNDS):
        prefix = f"burst-{secrets.token_hex(4)}-"
        jobs = iter([noop_module(f"{prefix}{each}") for each in range(BURST)])
        began = time.perf_counter()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(_submit_all(api, jobs) for _ in range(OPEN_SUBMISSIONS)))
            submitted = time.perf_counter() - began
            await api.all_closed()
        took = time.perf_counter() - began
        states = await api.states(prefix)
        if states.count("Completed") != BURST:
            raise RuntimeError(f"of {BURST} jobs only {states.count('Completed')} completed")
        rates.append(BURST / took)
        print(
            f"  burst {number + 1}: {BURST} submitted in {submitted:.2f} s, completed after {took:.2f} s",
            flush=True,
        )
    return [figure(f"burst of {BURST} no-op modules", rates, "jobs/s", better="more", mark="at least 200")]


async def _submit_all(api: Api, jobs: Iterator[dict[str, Any]]) -> None:
    for job in jobs:
        await api.submit(job)


async def _containers(api: Api, docker: str) -> list[Figure]:
    """A no-op container as a job, and in turn with it by the bare API."""
    import aiodocker

    await images.busybox_image(docker)
    ours, bare = [], []
    client = aiodocker.Docker(docker)
    try:
        for number in range(CONTAINERS + 2):
            began = time.perf_counter()
            state = await api.closed(await api.submit(noop_container(f"container-{secrets.token_hex(6)}")))
            took = (time.perf_counter() - began) * 1e3
            if state != "Completed":
                raise RuntimeError(f"a no-op container ended {state}")
            beside = await _bare_container(client)
            if number >= 2:
                ours.append(took)
                bare.append(beside)
    finally:
        await client.close()
    name = "no-op container, submit to completed, p50"
    return [figure(name, ours, "ms", peer="bare Docker API", peer_values=bare, mark="at most 1.15 times")]


async def _bare_container(client: Any) -> float:
    """Milliseconds to create, start, await and read a container."""
    config = {
        "Image": images.BUSYBOX,
        "Entrypoint": ["true"],
        "Labels": {"shoal.benchmark": "bare"},
        "HostConfig": {"NetworkMode": "none"},
    }
    began = time.perf_counter()
    container = await client.containers.create(config)
    try:
        await container.start()
        end = await container.wait()
        await container.log(stdout=True, stderr=True)
        took = (time.perf_counter() - began) * 1e3
    finally:
        await container.delete(force=True, v=True)
    if end["StatusCode"] != 0:
        raise RuntimeError("the bare container failed")
    return took


@asynccontextmanager
async def _api(ours: Cluster) -> AsyncIterator[Api]:
    """A client for the length of the measurements."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Api(session, ours.api.url)
