"""The unnamed volumes that images ask for.

Knows: how to find those of this node's containers that lost their container. Must not know: why. Docker removes a container
first and its volumes then, and makes them in the other order: one that was killed in between knows afterwards of volumes
that nobody uses. They bear the node's label, so they can be told from everybody else's.
"""

from typing import Any, Final

import msgspec
from aiodocker import Docker, DockerError

from compute.engines.docker.config import NODE_LABEL
from compute.engines.docker.daemon import Daemon
from protocol.errors import Unavailable
from protocol.ids import NodeId

GONE: Final = (404, 409)
"""It is not there any more, or a container has it."""


class Volumes:
    """Those of one node."""

    def __init__(self, daemon: Daemon, node: NodeId) -> None:
        self._daemon = daemon
        self._node = node
        self._losses = 0

    async def sweep_after_loss(self) -> None:
        """Sweep if the daemon went away since that was last done. Raises `Unavailable`."""
        if self._daemon.losses != self._losses:
            await self.sweep()

    async def sweep(self) -> None:
        """Remove those without a container. Raises `Unavailable`."""
        losses = self._daemon.losses
        filters = {"label": [f"{NODE_LABEL}={self._node}"], "dangling": ["true"]}
        query = {"filters": msgspec.json.encode(filters).decode()}
        try:
            found = await self._daemon.insist("list volumes", lambda docker: _list(docker, query))
            for each in found["Volumes"] or ():
                await self._remove(each["Name"])
        except DockerError as error:
            raise Unavailable(f"Docker cannot remove unused volumes ({error.message})") from error
        self._losses = losses

    async def _remove(self, name: str) -> None:
        try:
            await self._daemon.insist("remove a volume", lambda docker: _delete(docker, name))
        except DockerError as error:
            if error.status not in GONE:
                raise


async def _list(docker: Docker, query: dict[str, str]) -> Any:
    return await docker._query_json("volumes", params=query)  # noqa: SLF001 - the library's own list takes no filters


async def _delete(docker: Docker, name: str) -> None:
    async with docker._query(f"volumes/{name}", method="DELETE"):  # noqa: SLF001 - the library's own asks twice
        pass
