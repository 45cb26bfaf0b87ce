"""The command in namespaces of its own: however it ends, nothing of it stays.

Knows: ``unshare``, who ends whom, and what outlives a namespace (folders and containers). Must not know: what is run inside.

The command that a person started stays outside and runs itself again inside. There the network, the mounts and the
processes are a world of their own: when its first process ends, the kernel ends all others. So whatever ends the command
outside - the end of the run, Ctrl-C, ``kill``, even ``kill -9`` - ends all of them. Folder and containers are removed by
whoever is outside, and if that one was killed, by the next run.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
from aiodocker import Docker, DockerError

from deploy.docker import docker_daemon
from deploy.programs import Missing

FOLDER: Final = "SHOAL_FAULTS_FOLDER"
"""Set inside: the folder of the run."""
PREFIX: Final = "shoal-faults-"
LABEL: Final = "shoal.node"
FIRST: Final = """trap 'exit 143' TERM; "$@" & wait $!"""
"""The first process inside. It collects the ends of those whose parents were killed; with it all others end."""
END_S: Final = 5.0
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def folder_inside() -> Path | None:
    """The folder of the run if this process is inside, else None."""
    given = os.environ.get(FOLDER)
    return Path(given) if given else None


def mark_of(folder: Path) -> str:
    """What the names of this run's nodes end with: their containers carry it, on a daemon that others use too."""
    return folder.name[-6:].lower().replace("_", "x")


def missing() -> Missing | None:
    """What this machine lacks for namespaces."""
    if os.geteuid() != 0:
        return Missing("the right to make namespaces", "run this as root on Linux")
    for program, package in (
        ("unshare", "util-linux"),
        ("setpriv", "util-linux"),
        ("nsenter", "util-linux"),
        ("ip", "iproute2"),
    ):
        if shutil.which(program) is None:
            return Missing(program, f"install it (on Debian: `apt-get install {package}`)")
    return None


async def run_inside(arguments: Sequence[str]) -> int:
    """Run this command again inside, to its end or ours; its exit code. Raises `Missing`."""
    lacking = missing()
    if lacking is not None:
        raise lacking
    running = asyncio.current_task()
    assert running is not None
    for each in ENDING:
        asyncio.get_running_loop().add_signal_handler(each, _interrupt, running)
    async with docker_daemon() as daemon:
        below = Path(tempfile.gettempdir())
        await sweep(below, daemon.host)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=below))
        try:
            return await _run(folder, daemon.host, arguments)
        finally:
            await _remove(folder, daemon.host)


def _interrupt(running: "asyncio.Task[int]") -> None:
    """Cancel once: whoever is impatient does not keep it from cleaning up."""
    if not running.cancelling():
        running.cancel()


async def sweep(below: Path, docker: str) -> None:
    """Remove what runs left that were killed with ``kill -9``: their processes are gone, folders and containers are not."""
    for folder in below.glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if folder.is_dir() and owner.isdecimal() and not psutil.pid_exists(int(owner)):
            await _remove(folder, docker)


async def _run(folder: Path, docker: str, arguments: Sequence[str]) -> int:
    command = [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("sh", "-c", FIRST, "sh", sys.executable, "-m", "tests.faults", *arguments),
    ]
    env = {**os.environ, FOLDER: str(folder), "DOCKER_HOST": docker}
    process = await asyncio.create_subprocess_exec(*command, env=env, start_new_session=True)
    try:
        return await process.wait()
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the first process inside, and wait: ``unshare`` ends when the kernel has ended all that were there."""
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children() if process.returncode is None else []:
            each.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        # It had not come to listen to signals.
        process.kill()
        await process.wait()


async def _remove(folder: Path, docker: str) -> None:
    async with Docker(docker) as daemon:
        labels = f'{{"label": ["{LABEL}"]}}'
        for each in await daemon.containers.list(all=True, filters=labels):
            if str(each["Labels"][LABEL]).endswith(f"-{mark_of(folder)}"):
                # Its node may have begun to remove it.
                with suppress(DockerError):
                    await each.delete(force=True)
    shutil.rmtree(folder, ignore_errors=True)
