"""Whether the daemon was restarted.

Knows: the one sign of it that the API shows: the default network is made anew whenever a daemon starts, except that one with
live-restore keeps it while containers run. Must not know: what a restart means for whom.
"""

from datetime import datetime
from typing import Any, Final

from aiodocker import Docker, DockerError

from compute.engines.docker.daemon import Daemon
from protocol.errors import Unavailable

DEFAULT_NETWORK: Final = "bridge"


async def restarted_since(daemon: Daemon, moment: str, *, unknown: bool) -> bool:
    """Whether the daemon was started after `moment` (as the API writes times); `unknown` if it has no default network.

    Raises `Unavailable`.
    """
    try:
        network = await _ask(daemon, f"networks/{DEFAULT_NETWORK}")
    except DockerError as error:
        if error.status == 404:
            return unknown
        raise Unavailable(f"Docker cannot show its default network ({error.message})") from error
    return datetime.fromisoformat(network["Created"]) > datetime.fromisoformat(moment)


async def lives_on(daemon: Daemon) -> bool:
    """Whether containers outlive the daemon (live-restore). Raises `Unavailable`."""
    try:
        return bool((await _ask(daemon, "info"))["LiveRestoreEnabled"])
    except DockerError as error:
        raise Unavailable(f"Docker cannot tell of itself ({error.message})") from error


async def _ask(daemon: Daemon, path: str) -> Any:
    def request(docker: Docker) -> Any:
        return docker._query_json(path)  # noqa: SLF001 - the library's own calls ask twice

    return await daemon.insist("tell of itself", request)
