"""What docs/from-bacalhau.md promises to people who know Bacalhau."""

import re
from pathlib import Path

import pytest

from deploy.programs import ROOT
from tests.requester.cli.conftest import Shoal

PAGE = (ROOT / "docs" / "from-bacalhau.md").read_text()
COMMANDS = (
    *(f"job {verb}" for verb in ("run", "list", "describe", "executions", "history", "logs", "get", "stop")),
    *("job rerun", "job versions", "job validate"),
    *("docker run", "wasm run"),
    *(f"node {verb}" for verb in ("list", "describe", "approve", "reject", "delete")),
    *(f"agent {verb}" for verb in ("alive", "version", "node", "config")),
    *(f"profile {verb}" for verb in ("save", "list", "show", "select", "delete")),
    *("config list", "config set", "serve", "devstack", "version"),
)
"""Bacalhau's of 1.9.3, without those that the page says are not there."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_bacalhau_is_there(shoal: Shoal, command: str) -> None:
    """Every command that the page does not call missing is there under the same words, and explains itself."""
    ran = shoal(*command.split(), "--help")
    assert ran.code == 0
    assert f"Usage: shoal {command}" in ran.out
    noun, _, verb = command.partition(" ")
    assert f"`{command}`" in PAGE or f"`{noun}`" in PAGE or f"`{verb}`" in PAGE


def test_a_file_for_each_cluster(shoal: Shoal, folder: Path) -> None:
    """A file can name a cluster as a profile does: ``-c cluster.yaml``."""
    (folder / "cluster.yaml").write_text("API: {Host: 127.0.0.1, Port: 1}\n")
    ran = shoal("job", "list", "-c", "cluster.yaml")
    assert ran.code == 1
    assert "no requester answers at http://127.0.0.1:1 " in ran.err


def test_the_pages_that_it_names_are_there() -> None:
    """Its links lead somewhere."""
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target
