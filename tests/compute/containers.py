"""What the tests of the Docker engine share: a label on everything they make, and its removal."""

import json
from typing import Final

from aiodocker import Docker

from compute.engines.docker.config import NODE_LABEL

TEST_LABEL: Final = "shoal.test"
SETTINGS_LABEL: Final = {TEST_LABEL: "engine"}


async def remove_containers(docker_host: str, node: str) -> None:
    """Remove all containers that tests made for a node, whatever their state."""
    async with Docker(docker_host) as docker:
        filters = json.dumps({"label": [TEST_LABEL, f"{NODE_LABEL}={node}"]})
        for container in await docker.containers.list(all=True, filters=filters):
            await container.delete(force=True, v=True)
