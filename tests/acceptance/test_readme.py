"""What README.md shows, done: its deployment by hand with its own commands, its job, and the links between the two."""

import json
import os
import re
import shlex
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy.programs import ROOT, need
from deploy.servers import Kubo
from tests.acceptance.data import Bucket, digests, read_tree
from tests.acceptance.deployment import (
    Api,
    Containers,
    Said,
    program,
    shoal,
    wait_until_empty,
    wait_until_ready,
)
from tests.acceptance.jobs import job, publish, shell

Json = dict[str, Any]

README: Final = (ROOT / "README.md").read_text()
NATS_HOST, REQUESTER_HOST = "127.0.0.2", "127.0.0.3"
NODE_HOSTS: Final = ("127.0.0.4", "127.0.0.5")


def commands(heading: str) -> list[list[list[str]]]:
    """The commands of the blocks of shell below a heading, word by word, without their comments."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [
        [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]
        for block in blocks
    ]


def typed(words: list[str]) -> list[str]:
    """A command of the README with this test's hosts and programs in the places of its own."""
    hosts = {"NATS_HOST": NATS_HOST, "REQUESTER_HOST": REQUESTER_HOST}
    programs = {"python": sys.executable, "nats-server": str(need("nats-server"))}
    found = [re.sub("|".join(hosts), lambda name: hosts[name[0]], word) for word in words]
    return [programs.get(found[0], found[0]), *found[1:]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 without being told")
@pytest.mark.timeout(240)
def test_deployment_by_hand(
    containers: Containers, busybox_image: str, bucket: Bucket, kubo: Kubo, tmp_path: Path
) -> None:
    """The README's commands, each in a folder and on an address of its own, make a deployment that runs a job.

    Its nodes have no S3 account: what they read from there is public.
    """
    keys, processes = commands("Deploy it by hand")
    nats, serve, compute, submit = map(typed, processes)
    public(bucket)
    bucket.put("words/a", b"one two three")
    inputs = [bucket.source("words/*", "/in")]
    task = shell(
        busybox_image,
        "cat /in/a > /outputs/$BACALHAU_PARTITION_INDEX",
        InputSources=inputs,
        **publish({"Type": "ipfs"}),
    )
    elsewhere = machine(tmp_path, "elsewhere")
    (elsewhere / "spec.yaml").write_text(yaml.safe_dump(job(task, Count=2)))
    with ExitStack() as stack:

        def start(name: str, words: list[str], **env: str) -> None:
            folder = machine(tmp_path, name)
            own = {"HOME": str(folder), "XDG_DATA_HOME": str(folder / "data"), **env}
            stack.enter_context(program(words, env=own, cwd=folder, log=folder / "log"))

        trusted = machine(tmp_path, "trusted")
        # The second node is enrolled like the first.
        for words in (*keys, [word.replace("n1", "n2") for word in keys[-1]]):
            said = shoal(*words[1:], env={"HOME": str(trusted), "XDG_DATA_HOME": str(trusted)}, cwd=trusted)
            assert said.code == 0, said.err
        shutil.copy(ROOT / "nats.conf", machine(tmp_path, "nats"))
        for name, file in (
            ("nats", "accounts.conf"),
            ("requester", "r1.creds"),
            ("node1", "n1.creds"),
            ("node2", "n2.creds"),
        ):
            shutil.move(trusted / file, machine(tmp_path, name))
        # Its address as nats.conf says to change it; the monitoring port may be another server's on this machine.
        start("nats", [*nats, "-a", NATS_HOST, "-m", "-1"])
        start("requester", serve, SHOAL_API_HOST=REQUESTER_HOST)
        for number, host in enumerate(NODE_HOSTS, 1):
            start(
                f"node{number}",
                [word.replace("n1", f"n{number}") for word in compute],
                SHOAL_PUBLISHERS_TYPES_LOCAL_ADDRESS=host,
                SHOAL_NODE_IPFS_CONNECT=kubo.multiaddr,
                SHOAL_COMPUTE_ALLOCATEDCAPACITY_CPU="1",
                # All these machines are one.
                SHOAL_COMPUTE_ADDRESSES_ALLOW="loopback",
                DOCKER_HOST=containers.host,
            )
        api = Api(f"http://{REQUESTER_HOST}:1234")
        wait_until_ready(api, len(NODE_HOSTS))
        env = {"HOME": str(elsewhere)}

        said = shoal(*submit[3:], env=env, cwd=elsewhere)

        assert said.code == 0, said.err
        identifier = said.out.split()[-1]
        got = shoal(
            *("get", identifier, "--api-host", REQUESTER_HOST, "--output-dir", "home"),
            *("--ipfs-connect", kubo.multiaddr),
            env=env,
            cwd=elsewhere,
        )
        assert got.code == 0, got.err
        assert read_tree(elsewhere / "home" / "outputs") == digests(dict.fromkeys("01", b"one two three"))
        executions = api.call("GET", f"{api.jobs}/{identifier}/executions")["Items"]
        nodes = {each["NodeID"] for each in executions}
        assert len(executions) == 2
        wait_until_empty(lambda: [name for node in nodes for name in containers.names(f"shoal.node={node}")])
    for name in ("requester", "node1", "node2"):
        assert os.listdir(tmp_path / name / "data"), f"{name} kept its data elsewhere"


def machine(tmp_path: Path, name: str) -> Path:
    """A folder that stands for a machine."""
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name


def public(bucket: Bucket) -> None:
    """Let anyone read a bucket."""
    allowed = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{bucket.name}", f"arn:aws:s3:::{bucket.name}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)


def test_the_job_of_the_readme() -> None:
    """The job that the README shows is a valid spec."""
    (spec,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)

    said = shoal("validate", "-", env={}, given=spec)

    assert said.code == 0, said.err
    assert "Warning" not in said.err


def test_commands_of_the_readme_exist() -> None:
    """Every `shoal` command in the README is one, and its flags are that command's."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    helped: dict[tuple[str, ...], Said] = {}
    for line in re.findall(r"^shoal .*$", blocks, re.MULTILINE):
        words = shlex.split(line, comments=True)[1:]
        nouns = ("job", "docker", "wasm", "node", "requester", "cluster")
        command = tuple(words[: 2 if words[0] in nouns else 1])
        if command not in helped:
            helped[command] = shoal(*command, "--help", env={})
        assert helped[command].code == 0, line
        for flag in (word for word in words[len(command) :] if word.startswith("--")):
            assert flag in helped[command].out, line


def test_two_commands() -> None:
    """The README's `make demo` and `make test` are there, and CI runs the README's test command."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {line.split()[1] for line in re.findall(r"^make \w+", README, re.MULTILINE)}

    assert {"demo", "test"} <= shown <= targets
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")


def test_links_of_the_readme() -> None:
    """Every file that the README links to is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
