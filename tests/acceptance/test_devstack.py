"""`shoal devstack`: a whole cluster by one command, and nothing left of it."""

import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.deployment import (
    Api,
    Containers,
    Program,
    processes_of,
    program,
    shoal,
    wait_until_empty,
)
from tests.acceptance.jobs import job, shell

STAYS = "trap 'exit 0' TERM; sleep 1000 & wait"
"""Runs until it is asked to end."""
DEVSTACK = [sys.executable, "-u", "-m", "requester", "devstack"]


@contextmanager
def devstack(*words: str, env: dict[str, str] | None = None) -> Iterator[tuple[Program, dict[str, str]]]:
    """A running devstack, and the variables of the export lines it has printed."""
    with program([*DEVSTACK, *words], env=env or {}) as running:
        lines = [running.line_with("export "), running.line()]
        found = [re.fullmatch(r"export (\w+)=(\S+)", line) for line in lines]
        assert all(found), lines
        yield running, {each[1]: each[2] for each in found if each}


def test_all_it_can_be_told(tmp_path: Path) -> None:
    """`--requesters --computes --hybrids --data-dir --api-port 0` start what they say, on a free port, in that folder."""
    data = tmp_path / "data"
    words = [
        "--requesters",
        "2",
        "--computes",
        "2",
        "--hybrids",
        "1",
        "--data-dir",
        str(data),
        "--api-port",
        "0",
    ]
    with devstack(*words) as (running, env):
        assert set(env) == {"BACALHAU_API_HOST", "BACALHAU_API_PORT"}
        assert int(env["BACALHAU_API_PORT"]) > 0
        listed = shoal("node", "list", env=env)
        assert listed.out.count("CONNECTED") == 3
        serving = [line for line in processes_of(data) if " requester serve " in line]
        assert len(serving) == 3

        running.interrupt()
        said = running.ended()

    assert said.code == 0
    assert processes_of(data) == []
    assert data.exists(), "a folder that was named is kept"


def test_interrupted_in_the_middle_of_a_job(containers: Containers, busybox_image: str) -> None:
    """Ctrl+C ends the jobs that run: no process, no container and no folder is left."""
    with devstack("--computes", "2", "--api-port", "0", env={"DOCKER_HOST": containers.host}) as (
        running,
        env,
    ):
        api = Api(f"http://{env['BACALHAU_API_HOST']}:{env['BACALHAU_API_PORT']}")
        identifier = api.submit(job(shell(busybox_image, STAYS), Count=3))
        api.running(identifier, 3)
        assert len(containers.names(f"shoal.job={identifier}")) == 3
        running.interrupt()
        said = running.ended()

    (folder,) = re.findall(rf"{re.escape(tempfile.gettempdir())}/shoal-\w+", said.err)
    assert said.code == 0
    assert containers.names(f"shoal.job={identifier}") == []
    assert processes_of(Path(folder)) == []
    assert not Path(folder).exists()


def test_two_of_them(containers: Containers, busybox_image: str) -> None:
    """Two devstacks on one machine leave each other alone: the second does not touch what runs on the first."""
    own = {"DOCKER_HOST": containers.host}
    words = ["--computes", "1", "--api-port", "0"]
    with devstack(*words, env=own) as (_, first):
        api = Api(f"http://{first['BACALHAU_API_HOST']}:{first['BACALHAU_API_PORT']}")
        identifier = api.submit(job(shell(busybox_image, STAYS)))
        api.running(identifier)
        with devstack(*words, env=own):
            assert len(containers.names(f"shoal.job={identifier}")) == 1
        assert len(containers.names(f"shoal.job={identifier}")) == 1
        assert identifier in api.open_jobs()
    wait_until_empty(lambda: containers.names(f"shoal.job={identifier}"))


@pytest.mark.parametrize("words", [["--computes", "0", "--api-port", "0"]])
def test_a_terminal_that_closes(words: list[str], tmp_path: Path) -> None:
    """Ended by any polite signal, also before it is ready, it leaves no process behind."""
    with program([*DEVSTACK, *words, "--data-dir", str(tmp_path / "data")], env={}) as running:
        wait_until_empty(lambda: [] if processes_of(tmp_path / "data" / "nats") else ["no server yet"])
        running.popen.terminate()
        running.ended()

    assert processes_of(tmp_path / "data") == []


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Whoever has the port is never taken for the cluster: it is named, at once, and nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = shoal("devstack", "--api-port", str(port), "--data-dir", tmp_path / "data", env={})
    assert said.code == 1
    assert f"port {port}" in said.err
    assert not (tmp_path / "data").exists()
