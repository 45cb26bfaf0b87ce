"""One real deployment for all these tests, and what each test needs of its own in it.

A requester and three compute nodes run as processes of their own, on the session's NATS server, S3 server, Kubo node and
Docker daemon. A test gets a bucket and a namespace that nobody else has. After each test nothing of its jobs may be on the
machine, and after the last one nothing at all: the tests that follow have the machine for themselves.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from deploy.devstack import cluster
from deploy.servers import Kubo, Missing, NatsServer, S3Server, nats_server
from tests.acceptance.data import Bucket, Ipfs
from tests.acceptance.deployment import END_S, Api, Containers, Deployment, processes_of, wait_until_empty
from tests.acceptance.fragile import _fragile, fragile, store
from tests.acceptance.jobs import Gate
from tests.conftest import Background, skip

__all__ = ["_fragile", "fragile", "store"]

NODES: Final = 3
NODE_CPU: Final = "2"
NODE_MEMORY: Final = "2Gb"
"""What each node gives to jobs: the tests count on it."""


@pytest.fixture(scope="session")
def containers(background: Background, docker_host: str) -> Containers:
    """The Docker daemon's containers."""
    return Containers(background, docker_host)


@pytest.fixture(scope="package")
def deployment(
    background: Background,
    s3: S3Server,
    kubo: Kubo,
    containers: Containers,
    busybox_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The deployment. When it has ended, no process, container or folder of it is left."""
    shared = tmp_path_factory.mktemp("shared")
    context = cluster(
        computes=NODES,
        env={
            **s3.environment,
            "SHOAL_NODE_IPFS_CONNECT": kubo.multiaddr_with_peer,
            "DOCKER_HOST": containers.host,
        },
        # That a silent node is given up is shown elsewhere: here none of them is ever away.
        requester_flags=["-c", f"Orchestrator.NodeManager.DisconnectTimeout={END_S:g}s"],
        compute_flags=[
            *("--cpu", NODE_CPU, "--memory", NODE_MEMORY, "--publish-address", "127.0.0.1"),
            *("--allow-local", f"{shared}/read/**:ro", "--allow-local", f"{shared}/write/**:rw"),
            # Programs that heed no signal are ended after this; the default is meant for people.
            *("-c", "Compute.StopGrace=1s"),
        ],
    )
    try:
        ours = background.run(context.__aenter__())
    except Missing as missing:
        skip(missing)
    made = Deployment(ours, s3, kubo, containers, busybox_image, shared)
    yield made
    background.run(context.__aexit__(None, None, None))
    wait_until_empty(made.leftovers)
    wait_until_empty(lambda: processes_of(ours.folder))
    assert not ours.folder.exists(), f"the data folder {ours.folder} is still there"


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test's jobs are ended, and no container and no folder of theirs stays."""
    yield
    if "deployment" in request.fixturenames:
        request.getfixturevalue("deployment").end_all()


@pytest.fixture
def api(deployment: Deployment) -> Api:
    """The deployment's REST API."""
    return deployment.api


@pytest.fixture
def image(deployment: Deployment) -> str:
    """A busybox image that the daemon has."""
    return deployment.image


@pytest.fixture
def namespace() -> str:
    """A namespace of this test's own."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    """A bucket of this test's own."""
    bucket = Bucket(s3, f"test-{uuid4().hex[:12]}")
    bucket.make()
    return bucket


@pytest.fixture
def ipfs(kubo: Kubo) -> Ipfs:
    """The session's Kubo node."""
    return Ipfs(kubo)


@pytest.fixture
def gate(deployment: Deployment) -> Iterator[Gate]:
    """A gate of this test's own; it is open when the test has ended."""
    gate = Gate(deployment.shared / "read" / uuid4().hex)
    yield gate
    gate.open()


@pytest.fixture
def nats(background: Background, tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server of this test's own, for a deployment of its own."""
    context = nats_server(tmp_path / "nats")
    yield background.run(context.__aenter__())
    background.run(context.__aexit__(None, None, None))
