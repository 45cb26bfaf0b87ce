"""A Docker daemon of a test's own, which may be stopped and killed while others use the machine's.

It lives in a network namespace of its own: two daemons in one would take each other's bridge and packet filter away.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from aiodocker import Docker

from deploy import images
from deploy.docker import answers
from deploy.processes import Process
from deploy.programs import HOW_TO_GET, Missing, find
from deploy.servers import Server

START_S: Final = 60.0
STOP_S: Final = 30.0


class OwnDaemon(Server):
    """One daemon that can be stopped, killed and started again on the same data and socket."""

    def __init__(self, folder: Path, runtime: Path, *, live_restore: bool) -> None:
        super().__init__(self._started)
        self.host = f"unix://{runtime}/docker.sock"
        self._folder = folder
        self._containerd = runtime / "exec" / "containerd" / "containerd.pid"
        self._command = [
            *("unshare", "--net", str(find("dockerd"))),
            *("--data-root", str(folder / "data")),
            *("--exec-root", str(runtime / "exec")),
            *("--pidfile", str(runtime / "docker.pid")),
            *("--host", self.host),
            *(["--live-restore"] if live_restore else []),
        ]

    async def _started(self) -> Process:
        """It answers when this returns."""
        process = Process.start(self._command, name="dockerd", log=self._folder / "dockerd.log")
        try:
            await process.ready(lambda: answers(self.host), within_s=START_S)
        except BaseException:
            await process.kill()
            raise
        return process

    async def stop(self) -> None:
        """End it in order, as ``systemctl stop docker`` does."""
        await self.process.stop(within_s=STOP_S)

    async def kill(self) -> None:
        """``kill -9``. Its containers go on; containerd, which it started, goes with it."""
        await super().kill()
        with suppress(OSError):
            os.kill(int(self._containerd.read_text()), signal.SIGKILL)
        # Where nobody collects orphans, the next daemon would take the dead one for a live one.
        self._containerd.unlink(missing_ok=True)


@asynccontextmanager
async def own_daemon(*, live_restore: bool, below: Path | None = None) -> AsyncIterator[OwnDaemon]:
    """A daemon that has the busybox image; afterwards nothing of it is left. Its folders are made `below`, else where the
    system has such. Raises `Missing`.
    """
    if find("dockerd") is None or shutil.which("unshare") is None or os.geteuid() != 0:
        raise Missing("a Docker daemon of one's own", HOW_TO_GET["dockerd"])
    # Paths of sockets are at most some hundred bytes long.
    folder, runtime = (
        Path(tempfile.mkdtemp(prefix="shoal-own-docker-", dir=each)) for each in (below, below or "/run")
    )
    daemon = OwnDaemon(folder, runtime, live_restore=live_restore)
    try:
        await daemon.start()
        await images.busybox_image(daemon.host)
        yield daemon
    finally:
        await _end(daemon)
        for each in (folder, runtime):
            _unmount(each)
            shutil.rmtree(each)


async def _end(daemon: OwnDaemon) -> None:
    """End it with all of its containers, which else might outlive it."""
    if not await answers(daemon.host):
        await daemon.kill()
        await daemon.start()
    async with Docker(daemon.host) as docker:
        for container in await docker.containers.list(all=True):
            await container.delete(force=True, v=True)
    await daemon.stop()


def _unmount(folder: Path) -> None:
    """A daemon leaves its data folder mounted on itself."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=True)
