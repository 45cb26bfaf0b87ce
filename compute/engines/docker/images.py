"""Images on this node: there already, or pulled.

Knows: when an image has to be pulled, with which credentials, and how to tell of it. Must not know: containers.
An image that is here is used as it is: no registry is asked, so a node without one works.
"""

import os
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import msgspec
from aiodocker import DockerError

from compute.engines.contract import Preparing
from compute.engines.docker.daemon import Daemon
from compute.engines.docker.faults import pull_fault
from compute.engines.docker.logins import credentials_for, has_credential_program
from compute.engines.docker.progress import Pull, advance
from protocol.clock import Clock
from protocol.errors import NotFound, Unavailable
from protocol.spec.images import Reference, parse_reference

FRESH_S: Final = 300.0
"""For how long an image that was seen is taken to be there still; if it is not, the daemon says so when it is used."""
KNOWN_MAX: Final = 1000
WHAT: Final = "image"


class Images:
    """The images of one daemon."""

    def __init__(self, daemon: Daemon, clock: Clock) -> None:
        self._daemon = daemon
        self._clock = clock
        self._seen_at: dict[str, float] = {}
        self._volumes: dict[str, list[str]] = {}

    async def ensure(self, image: str, preparing: Preparing) -> None:
        """Have the image here: its caller sets the deadline.

        Raises `Invalid`, `NotFound`, `Denied`, `Exhausted` (the disk is full) and `Unavailable` (registry or daemon).
        """
        reference = parse_reference(image)
        if self._clock.elapsed() - self._seen_at.get(image, -FRESH_S) < FRESH_S:
            return
        if len(self._seen_at) >= KNOWN_MAX:
            self._seen_at.clear()
            self._volumes.clear()
        if not await self._is_here(image):
            if reference.id:
                raise NotFound(
                    f"image {image} is not on this node, and an image's id alone cannot be pulled",
                    hint="Name it as NAME:TAG or NAME@sha256:…",
                    kind="Image",
                )
            await self._pull(image, reference, preparing)
        self._seen_at[image] = self._clock.elapsed()

    def forget(self, image: str) -> None:
        """It turned out not to be here."""
        self._seen_at.pop(image, None)

    def volumes(self, image: str) -> list[str]:
        """The paths at which its containers each have a volume of their own, as far as it was looked at."""
        return self._volumes.get(image, [])

    async def _is_here(self, image: str) -> bool:
        try:
            found = await self._daemon.insist("look up an image", lambda docker: docker.images.inspect(image))
        except DockerError as error:
            if error.status == 404:
                return False
            raise Unavailable(f"Docker cannot say whether image {image} is here ({error.message})") from error
        self._volumes[image] = list((found.get("Config") or {}).get("Volumes") or ())
        return True

    async def _pull(self, image: str, reference: Reference, preparing: Preparing) -> None:
        config = docker_config()
        login = credentials_for(reference.registry, config)
        pull = Pull()
        preparing(WHAT, 0, None)
        try:
            async with aclosing(self._daemon.pull(reference.name, reference.version, login)) as events:
                async for event in events:
                    pull = advance(pull, event)
                    preparing(WHAT, pull.done_bytes, pull.total_bytes)
        except DockerError as error:
            program = login is None and has_credential_program(reference.registry, config)
            raise pull_fault(image, reference.registry, error.message, program=program) from error
        # The daemon ends the stream without a word when it is itself ended.
        if not await self._is_here(image):
            raise Unavailable(
                f"image {image} was pulled, and is not here", hint="See the Docker daemon's log."
            )


def docker_config() -> dict[str, Any]:
    """What ``docker login`` wrote, as the user that runs the node; empty if there is nothing that can be read."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
