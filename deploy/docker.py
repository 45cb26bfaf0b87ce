"""The Docker daemon that tests, demo and benchmarks use: the one that answers, or one started by hand.

Knows: sockets, the daemon's flags and its folders. Must not know: what runs in it. A daemon started here has its data, its
runtime folder and its socket to itself, so that a machine's own Docker is never touched; only the bridge ``docker0`` and
its packet filter rules belong to the whole machine, which is why a daemon that already answers is always preferred.

What was found to work on Debian 12's docker.io 20.10 in a small virtual machine without systemd: plain ``dockerd``, which
chooses overlay2 itself, on the hybrid cgroup tree, with the iptables of either kind. ``--bridge none`` must not be used:
containers with the default network then fail to start.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp

from deploy.processes import Failed, Process
from deploy.programs import HOW_TO_GET, Missing, cache_folder, find

SYSTEM_SOCKET: Final = Path("/var/run/docker.sock")
ADDRESS: Final = "address"
READY_S: Final = 60.0
STOP_S: Final = 20.0


class DockerDaemon:
    """A daemon that answers at `host` (as in ``DOCKER_HOST``). `process` is None if it was there already."""

    def __init__(self, host: str, process: Process | None = None, runtime: Path | None = None) -> None:
        self.host = host
        self.process = process
        self._runtime = runtime

    async def stop(self) -> None:
        """End the daemon if it was started here, its containers with it; one that was there already goes on."""
        if self.process is not None:
            await self.process.stop(within_s=STOP_S)
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)


@asynccontextmanager
async def docker_daemon(
    *, folder: Path | None = None, socket: Path | None = None
) -> AsyncIterator[DockerDaemon]:
    """A working Docker daemon: that of ``DOCKER_HOST``, of the system, or (as root) one started here and ended at exit.

    A daemon started here keeps its images below `folder` (the cache), and listens at `socket`. Raises `Missing`, and
    `Failed` with the end of the daemon's log.
    """
    if host := await running_daemon(folder=folder, socket=socket):
        yield DockerDaemon(host)
        return
    daemon = await start_daemon(folder=folder, socket=socket)
    try:
        yield daemon
    finally:
        await daemon.stop()


async def running_daemon(*, folder: Path | None = None, socket: Path | None = None) -> str | None:
    """The address of a daemon that answers, or None. ``DOCKER_HOST``, if set, is the only one asked.

    Else these are, in order: `socket`, the system's, and one that an earlier run started on `folder` and left running.
    """
    if named := os.environ.get("DOCKER_HOST"):
        return named if await answers(named) else None
    candidates = [f"unix://{each}" for each in (socket, SYSTEM_SOCKET) if each is not None]
    with suppress(OSError):
        candidates.append((_data(folder) / ADDRESS).read_text())
    for candidate in candidates:
        if await answers(candidate):
            return candidate
    return None


async def start_daemon(*, folder: Path | None = None, socket: Path | None = None) -> DockerDaemon:
    """Start a daemon of our own, which runs until its `stop`. Raises `Missing` and `Failed`."""
    program = find("dockerd")
    if program is None or os.geteuid() != 0:
        raise Missing("a Docker daemon", HOW_TO_GET["dockerd"])
    data = _data(folder)
    data.mkdir(parents=True, exist_ok=True)
    # Paths of sockets are at most some hundred bytes long, wherever the data is.
    runtime = Path(
        tempfile.mkdtemp(prefix="shoal-docker-", dir="/run" if os.access("/run", os.W_OK) else None)
    )
    listen = socket or runtime / "docker.sock"
    listen.parent.mkdir(parents=True, exist_ok=True)
    process = Process.start(
        [
            program,
            *("--data-root", data / "data"),
            *("--exec-root", runtime / "exec"),
            *("--pidfile", runtime / "docker.pid"),
            *("--host", f"unix://{listen}"),
        ],
        name="dockerd",
        log=data / "dockerd.log",
        env={
            "PATH": os.pathsep.join(
                [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
            )
        },
    )
    try:
        await process.ready(lambda: answers(f"unix://{listen}"), within_s=READY_S)
    except BaseException:
        await process.kill()
        shutil.rmtree(runtime, ignore_errors=True)
        raise
    # Two daemons cannot share a data folder: should this one be left behind, the next run takes it over.
    (data / ADDRESS).write_text(f"unix://{listen}")
    return DockerDaemon(f"unix://{listen}", process, runtime)


def _data(folder: Path | None) -> Path:
    return (folder or cache_folder() / "docker").resolve()


async def answers(host: str) -> bool:
    """Whether a Docker daemon answers there."""
    connector: aiohttp.BaseConnector
    if host.startswith("unix://"):
        path = host.removeprefix("unix://")
        if not Path(path).is_socket():
            return False
        connector, url = aiohttp.UnixConnector(path=path), "http://docker/_ping"
    else:
        connector, url = aiohttp.TCPConnector(), f"{host.replace('tcp://', 'http://', 1)}/_ping"
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as session:
        try:
            async with session.get(url) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, ValueError):
            return False


__all__ = ["DockerDaemon", "Failed", "Missing", "answers", "docker_daemon", "running_daemon", "start_daemon"]
