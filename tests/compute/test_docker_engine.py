"""The Docker engine keeps the contract, on a real daemon."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from compute.engines.contract import Engine
from compute.engines.docker.engine import DockerEngine
from compute.engines.docker.settings import DockerSettings
from protocol.spec.engines import DockerParams
from tests.compute.containers import SETTINGS_LABEL, remove_containers
from tests.contracts.engine import (
    NODE,
    AskingContract,
    EngineContract,
    OutlivingContract,
    Program,
    Reopen,
)


class Shell:
    """The suite's programs as shell lines in busybox."""

    def __init__(self, image: str) -> None:
        self.image = image

    def line(self, script: str, *words: str) -> Program:
        """A shell line; `words` are its ``$1``, ``$2`` and so on."""
        return Program(
            DockerParams(image=self.image, entrypoint=["/bin/sh", "-c"], parameters=[script, "sh", *words])
        )

    def ends(self, code: int) -> Program:
        return self.line(f"exit {code}")

    def prints(self, out: str, err: str) -> Program:
        return self.line('printf %s "$1"; printf %s "$2" >&2', out, err)

    def counts(self, lines: int) -> Program:
        return self.line(f"seq 1 {lines}")

    def tells(self, name: str) -> Program:
        return self.line(f'printf "%s=%s\\n" {name} "${name}"')

    def shows(self, path: str) -> Program:
        return self.line('cat "$1"', path)

    def writes(self, path: str, text: str) -> Program:
        return self.line('printf %s "$1" > "$2"', text, path)

    def stays(self) -> Program:
        # The first process of a container heeds no signal that it has not asked for.
        return self.line("echo ready; sleep 1000")

    def obliges(self) -> Program:
        return self.line("trap 'echo bye >&2; exit 0' TERM; echo ready; sleep 1000 & wait")

    def invalid(self) -> list[Program]:
        return [
            Program(DockerParams(image="")),
            Program(DockerParams(image="Not An Image")),
            Program(DockerParams(image=self.image, working_directory="not/absolute")),
            Program(DockerParams(image=self.image, environment_variables=["no value"])),
            Program(DockerParams(image=self.image, environment_variables=["BACALHAU_JOB_ID=mine"])),
        ]

    def missing(self) -> Program:
        return Program(DockerParams(image=self.image, entrypoint=["/no/such/program"]))


class TestDocker(EngineContract, AskingContract, OutlivingContract):
    """The contract."""

    @pytest.fixture
    def settings(self, docker_host: str) -> DockerSettings:
        return DockerSettings(host=docker_host, labels=SETTINGS_LABEL)

    @pytest.fixture
    async def engine(self, docker_host: str, settings: DockerSettings) -> AsyncIterator[Engine[Any]]:
        engine = DockerEngine(NODE, settings)
        yield engine
        await engine.close()
        await remove_containers(docker_host, NODE)

    @pytest.fixture
    def programs(self, busybox_image: str) -> Shell:
        return Shell(busybox_image)

    @pytest.fixture
    async def reopen(self, settings: DockerSettings) -> AsyncIterator[Reopen]:
        others = []

        async def another() -> Engine[Any]:
            others.append(DockerEngine(NODE, settings))
            return others[-1]

        yield another
        for other in others:
            await other.close()
