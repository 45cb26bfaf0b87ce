"""The table of engines."""

from pathlib import Path

import pytest

from compute.engines.docker.settings import DockerSettings
from compute.engines.table import ENGINES, EngineSettings, open_engines
from protocol.errors import Invalid
from protocol.ids import NodeId
from protocol.spec import engines as spec

NODE = NodeId("n-table")


def test_every_engine_of_the_spec_is_there() -> None:
    """Each type of engine that a spec may name has its line, and no other has."""
    assert ENGINES.keys() == spec.ENGINES.keys()


async def test_engines_are_what_they_are_listed_as(tmp_path: Path) -> None:
    """Each engine has the type under which it is listed, and takes the params that the spec has for it."""
    async with open_engines(EngineSettings(NODE, tmp_path, types=tuple(ENGINES))) as engines:
        assert {name: engine.type for name, engine in engines.items()} == {name: name for name in ENGINES}
        assert {name: engine.params for name, engine in engines.items()} == spec.ENGINES


async def test_types_may_be_written_in_any_case(tmp_path: Path) -> None:
    """A node's settings name engines in any case, once or twice."""
    async with open_engines(EngineSettings(NODE, tmp_path, types=("Docker", "docker", "NoOp"))) as engines:
        assert list(engines) == ["docker", "noop"]


async def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    """A type that does not exist is an error at the start, which names those that do."""
    with pytest.raises(Invalid, match="podman") as caught:
        async with open_engines(EngineSettings(NODE, tmp_path, types=("podman",))):
            pass

    assert "docker" in caught.value.hint


async def test_a_daemon_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    """A node starts without a Docker daemon, and says of the engine why it is not here and what to do."""
    settings = EngineSettings(NODE, tmp_path, docker=DockerSettings(host=f"unix://{tmp_path}/docker.sock"))

    async with open_engines(settings) as engines:
        offer = await engines["docker"].probe()

    assert not offer.available
    assert str(tmp_path) in offer.reason
    assert "Start Docker" in offer.hint
