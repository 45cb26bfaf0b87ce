"""The commands of the storage providers' page and the spec of the IPFS publisher's page, as they stand there.

Each is typed with `python -m requester` in place of the other program's name, and with addresses of this session.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.processes import free_ports
from deploy.servers import Kubo, NatsServer
from tests.acceptance.data import Bucket, Ipfs, write_tree
from tests.acceptance.deployment import Api, Deployment, program, shoal, wait_until_ready
from tests.acceptance.jobs import job, module, publish

Json = dict[str, Any]

PUBLISHED = """
Type: batch
Count: 1
Tasks:
  - Name: main
    Engine: {Type: wasm, Params: {EntryModule: /module/probe.wasm, Parameters: [copy, /in, /outputs/copy]}}
    Publisher:
      Type: ipfs
    ResultPaths: [{Name: outputs, Path: /outputs}]
"""


def a_job_with_ipfs(cid: str) -> str:
    """The publisher as its page writes it, in a job that reads a CID as well."""
    spec = yaml.safe_load(PUBLISHED)
    task = module(InputSources=[{"Target": "/in", "Source": {"Type": "ipfs", "Params": {"CID": cid}}}])
    spec["Tasks"][0]["InputSources"] = task["InputSources"]
    return str(yaml.safe_dump(spec))


def reads_and_publishes(api: Api, env: dict[str, str], ipfs: Ipfs, folder: Path) -> None:
    """A job reads a CID and publishes to IPFS; REST and `describe` show the CID, and `get` brings it home."""
    cid = ipfs.add(write_tree(folder, {"in": b"through IPFS"}) / "in")

    said = shoal("submit", "--id-only", "-", env=env, given=a_job_with_ipfs(cid))

    assert said.code == 0, said.err
    identifier = said.out.strip()
    (execution,) = api.call("GET", f"{api.jobs}/{identifier}/executions")["Items"]
    result = execution["PublishedResult"]
    assert result["Type"] == "ipfs"
    published = result["Params"]["CID"]
    assert ipfs.cat(f"{published}/outputs/copy") == b"through IPFS"
    described = shoal("describe", identifier, env=env)
    assert "ipfs" in described.out
    assert published in described.out
    in_yaml = yaml.safe_load(shoal("describe", identifier, "-o", "yaml", env=env).out)
    assert in_yaml["Executions"]["Items"][0]["PublishedResult"] == {
        "Type": "ipfs",
        "Params": {"CID": published},
    }


@contextmanager
def serving(words: list[str], nats: NatsServer, folder: Path) -> Iterator[tuple[Api, dict[str, str]]]:
    """``serve …`` beside a NATS server; gives its API when a node is registered, and how clients find it."""
    (port,) = free_ports(1)
    env = {"BACALHAU_API_HOST": "127.0.0.1", "BACALHAU_API_PORT": str(port)}
    around = ["--nats", nats.url, "--api-host", "127.0.0.1", "--api-port", str(port)]
    command = [
        sys.executable,
        "-m",
        "requester",
        "serve",
        *words,
        *around,
        "--data-dir",
        str(folder / "data"),
        "--credentials",
        str(nats.requester()),
        "-c",
        f"Compute.Credentials={nats.node('beside')}",
    ]
    # The node's own server of results takes any free port: another node of this machine may have the usual one.
    own = {"SHOAL_PUBLISHERS_TYPES_LOCAL_PORT": "0"}
    with program(command, env=own, log=folder / "serve.log") as process:
        api = Api(f"http://127.0.0.1:{port}")
        wait_until_ready(api, 0, process)
        yield api, env


def test_serve_ipfs_connect(nats: NatsServer, kubo: Kubo, ipfs: Ipfs, tmp_path: Path) -> None:
    """`serve --ipfs-connect /ip4/…/p2p/…` runs a requester and a node whose jobs consume and publish CIDs."""
    with serving(["--ipfs-connect", kubo.multiaddr_with_peer], nats, tmp_path) as (api, env):
        wait_until_ready(api, 1)
        reads_and_publishes(api, {**env, "SHOAL_NODE_IPFS_CONNECT": kubo.multiaddr}, ipfs, tmp_path)


def test_node_ipfs_connect_in_the_configuration(
    nats: NatsServer, kubo: Kubo, ipfs: Ipfs, tmp_path: Path
) -> None:
    """`Node.IPFS.Connect` in the configuration file does the same."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"Node": {"IPFS": {"Connect": kubo.multiaddr_with_peer}}}))
    with serving(["-c", str(config)], nats, tmp_path) as (api, env):
        wait_until_ready(api, 1)
        reads_and_publishes(api, env, ipfs, tmp_path)


@pytest.mark.parametrize("how", ["flag", "file"])
def test_ipfs_connect_on_the_node(nats: NatsServer, kubo: Kubo, ipfs: Ipfs, tmp_path: Path, how: str) -> None:
    """The node takes `--ipfs-connect`, and `Node.IPFS.Connect` in its configuration file, as well."""
    words = ["--ipfs-connect", kubo.multiaddr_with_peer]
    if how == "file":
        (tmp_path / "node.yaml").write_text(
            yaml.safe_dump({"Node": {"IPFS": {"Connect": kubo.multiaddr_with_peer}}})
        )
        words = ["-c", str(tmp_path / "node.yaml")]
    node = [sys.executable, "-m", "compute", "--nats", nats.url, "--credentials", str(nats.node()), *words]
    node += ["--data-dir", str(tmp_path / "node")]
    with ExitStack() as stack:
        api, env = stack.enter_context(serving([], nats, tmp_path))
        stack.enter_context(program([*node, "--publish-port", "0"], env={}, log=tmp_path / "node.log"))
        wait_until_ready(api, 1)
        reads_and_publishes(api, env, ipfs, tmp_path)


def test_docker_run_with_an_s3_input(deployment: Deployment, image: str, bucket: Bucket) -> None:
    """`docker run -i src=s3://bucket/key,dst=/my/input/path,opt=endpoint=…,opt=region=… IMAGE …` reads that object."""
    bucket.put("key", b"from the bucket\n")
    source = f"src=s3://{bucket.name}/key,dst=/my/input/path,{bucket.options}"

    said = deployment.shoal("docker", "run", "-f", "-i", source, image, "cat", "/my/input/path/key")

    assert (said.code, said.out) == (0, "from the bucket\n"), said.err


def test_docker_run_with_an_s3_publisher(
    deployment: Deployment, api: Api, image: str, bucket: Bucket, tmp_path: Path
) -> None:
    """`docker run -p s3://bucket/key,opt=endpoint=…,opt=region=… IMAGE …` puts the result there; `get JOB` fetches it."""
    publisher = f"s3://{bucket.name}/key,{bucket.options}"

    said = deployment.shoal("docker", "run", "--id-only", "-p", publisher, image, "echo", "to the bucket")

    assert said.code == 0, said.err
    assert bucket.keys() == ["key.tar.gz"]
    identifier = said.out.strip()
    got = deployment.shoal("get", identifier, "--output-dir", tmp_path / "home")
    assert got.code == 0, got.err
    assert (tmp_path / "home" / "stdout").read_text() == "to the bucket\n"
    results = api.call("GET", f"{api.jobs}/{identifier}/results")["Items"]
    assert [(each["Type"], each["Params"]["Key"]) for each in results] == [("s3PreSigned", "key.tar.gz")]


def test_get_from_ipfs(deployment: Deployment, api: Api, ipfs: Ipfs, tmp_path: Path) -> None:
    """`get JOB` brings home a result from IPFS, from the node that the client is told of."""
    execution = api.completed(job(module("print", "hello", **publish({"Type": "ipfs"}))))[0]

    said = deployment.shoal("get", execution["JobID"], "--output-dir", tmp_path / "home")

    assert said.code == 0, said.err
    assert (tmp_path / "home" / "stdout").read_text() == "hello"
