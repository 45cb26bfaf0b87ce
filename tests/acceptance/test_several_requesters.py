"""Two requesters, neither special: any of them answers for every job, and either may vanish."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.devstack import Cluster, cluster
from deploy.servers import Missing
from tests.acceptance.deployment import END_S, Api, Containers, shoal, state, wait_until_empty
from tests.acceptance.jobs import Gate, job, publish, shell, stdout
from tests.conftest import Background, skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the nodes may mount."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def pair(background: Background, containers: Containers, shared: Path) -> Iterator[Cluster]:
    """Two requesters and two nodes."""
    context = cluster(
        requesters=2,
        computes=2,
        env={"DOCKER_HOST": containers.host},
        requester_flags=["-c", f"Orchestrator.NodeManager.DisconnectTimeout={END_S:g}s"],
        compute_flags=["--cpu", "2", "--allow-local", f"{shared}/**:ro", "-c", "Compute.StopGrace=1s"],
    )
    try:
        ours = background.run(context.__aenter__())
    except Missing as missing:
        skip(missing)
    yield ours
    background.run(context.__aexit__(None, None, None))
    wait_until_empty(
        lambda: [name for part in ours.computes for name in containers.names(f"shoal.node={part.name}")]
    )


@pytest.fixture
def gate(shared: Path) -> Iterator[Gate]:
    gate = Gate(shared / uuid4().hex)
    yield gate
    gate.open()


def test_submitted_to_one_and_fetched_from_the_other(
    pair: Cluster, busybox_image: str, tmp_path: Path
) -> None:
    """A job submitted to one requester is at once there on the other: to watch, describe, list, stop and get."""
    one, other = (Api(each.url) for each in pair.requesters)
    env = {"BACALHAU_API_HOST": "127.0.0.1", "BACALHAU_API_PORT": str(pair.requesters[1].port)}
    task = shell(busybox_image, "echo x > /outputs/y", **publish({"Type": "local"}))
    identifier = one.submit(job(task, Name="shared"))

    # Asked before it can have heard of it.
    status, found = other.answer("GET", f"{other.jobs}/{identifier}")
    assert status == 200
    assert found["Job"]["Name"] == "shared"
    assert state(other.ended(identifier)) == "Completed"
    assert shoal("describe", "shared", env=env).code == 0
    assert identifier in shoal("list", "--wide", env=env).out
    assert shoal("get", identifier, "--output-dir", tmp_path / "home", env=env).code == 0
    assert (tmp_path / "home" / "outputs" / "y").read_text() == "x\n"


def test_stopped_from_the_other(pair: Cluster, busybox_image: str) -> None:
    """A job submitted to one requester can be stopped at the other."""
    one, other = (Api(each.url) for each in pair.requesters)
    identifier = one.submit(job(shell(busybox_image, "sleep 1000")))
    one.running(identifier)

    other.call("DELETE", f"{other.jobs}/{identifier}")

    assert state(one.ended(identifier)) == "Stopped"


def test_the_first_is_killed(pair: Cluster, busybox_image: str, gate: Gate, background: Background) -> None:
    """`kill -9` of the requester that took a job interrupts nothing: the other sees it to its end, nothing runs twice."""
    one, other = (Api(each.url) for each in pair.requesters)
    task = gate.holds(busybox_image, "echo through", Resources={"CPU": "1", "Memory": "64Mb"})
    identifier = one.submit(job(task, Count=6))
    one.running(identifier, 4)

    os.kill(pair.requesters[0].pid, signal.SIGKILL)
    gate.open()
    view = other.ended(identifier)

    background.run(pair.requesters[0].restart())
    assert state(view) == "Completed"
    assert [stdout(each) for each in view["Executions"]] == ["through\n"] * 6
    assert {each["Attempt"] for each in view["Executions"]} == {1}
    background.run(pair.requesters[0].ready())
    status, _ = one.answer("GET", f"{one.jobs}/{identifier}")
    assert status == 200
