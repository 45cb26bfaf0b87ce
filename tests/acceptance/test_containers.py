"""What a program finds in its container, what it may not do there, and what is left of it."""

import os
from typing import Any, Final

import pytest

from deploy import images
from tests.acceptance.data import Bucket
from tests.acceptance.deployment import Api, Deployment, wait_until_empty
from tests.acceptance.jobs import Gate, job, publish, shell, stdout
from tests.conftest import Background

Json = dict[str, Any]

MIB: Final = 1 << 20
# Version 2 of control groups, else version 1.
LIMITS: Final = """
cd /sys/fs/cgroup
echo memory $(cat memory.max memory/memory.limit_in_bytes 2>/dev/null)
echo pids $(cat pids.max pids/pids.max 2>/dev/null)
echo cpu $(cat cpu.max 2>/dev/null || cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)
"""
KEPT: Final = {
    0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 4: "FSETID", 5: "KILL", 6: "SETGID", 7: "SETUID", 10: "NET_BIND_SERVICE",
}  # fmt: skip
"""Numbers of the capabilities that a program keeps, from linux/capability.h."""


def run(api: Api, image: str, script: str, **task: Any) -> str:
    """What a shell line prints that has to succeed."""
    (execution,) = api.completed(job(shell(image, script, **task)))
    return stdout(execution)


def test_entrypoint_parameters_and_folder(api: Api, image: str) -> None:
    """Entrypoint, Parameters, WorkingDirectory and Env mean what they mean in Docker."""
    params = {
        "Image": image,
        "Entrypoint": ["/bin/sh", "-c", 'echo "$0|$1|$PWD|$WHO|$MORE"'],
        "Parameters": ["first word", "second; word"],
        "WorkingDirectory": "/usr/bin",
        "EnvironmentVariables": ["MORE=engine's", "WHO=engine's"],
    }
    task = {"Engine": {"Type": "docker", "Params": params}, "Env": {"WHO": "task's"}}

    (execution,) = api.completed(job(task))

    # The engine's own variables win over the task's.
    assert stdout(execution) == "first word|second; word|/usr/bin|engine's|engine's\n"


def test_images_own_command(api: Api, image: str) -> None:
    """Without Entrypoint and Parameters the image's own command runs."""
    (execution,) = api.completed(job({"Engine": {"Type": "docker", "Params": {"Image": image}}}))

    assert execution["RunOutput"]["ExitCode"] == 0


def test_a_program_is_told_what_it_is(api: Api, image: str) -> None:
    """A program finds in its environment which job, execution, node and partition it is."""
    (execution,) = api.completed(job(shell(image, "env")))

    found = dict(line.partition("=")[::2] for line in stdout(execution).splitlines())
    assert found["BACALHAU_JOB_ID"] == execution["JobID"]
    assert found["BACALHAU_EXECUTION_ID"] == execution["ID"]
    assert found["BACALHAU_NODE_ID"] == execution["NodeID"]
    assert found["BACALHAU_PARTITION_INDEX"] == "0"
    assert found["BACALHAU_PARTITION_COUNT"] == "1"
    assert found["BACALHAU_JOB_TYPE"] == "batch"


def test_inputs_are_read_only(api: Api, image: str, bucket: Bucket) -> None:
    """A program cannot change, remove or add to its inputs, even as root."""
    bucket.put("in/file", b"as it was")
    script = "echo x > /in/file; echo x > /in/new; rm /in/file; mount -o remount,rw /in; cat /in/file; ls /in"

    said = run(api, image, script, InputSources=[bucket.source("in/*", "/in")])

    assert said == "as it wasfile\n"


def test_limits_seen_from_inside(api: Api, image: str) -> None:
    """Memory, processor time and processes are limited to what the job asked for."""
    said = run(api, image, LIMITS, Resources={"CPU": "0.5", "Memory": "128MiB"})

    found = {name: list(map(int, values)) for name, *values in map(str.split, said.splitlines())}
    assert found["memory"] == [128 * MIB]
    quota, period = found["cpu"]
    assert quota / period == 0.5
    (pids,) = found["pids"]
    assert 0 < pids <= 4096


def test_privileges_seen_from_inside(api: Api, image: str) -> None:
    """A program has only a small set of capabilities, and no program that it starts can get more."""
    said = run(api, image, "id -u; grep -E '^(Cap(Eff|Prm|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status")

    user, *lines = said.splitlines()
    status = dict(line.split(":\t") for line in lines)
    assert user == "0"
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    allowed = sum(1 << number for number in KEPT)
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[name], 16) == allowed


def test_no_network(api: Api, image: str) -> None:
    """With `Network: {Type: None}` there is no way out of the container."""
    assert run(api, image, "ls /sys/class/net", Network={"Type": "None"}) == "lo\n"


def test_bridge_and_host_network(api: Api, image: str) -> None:
    """`Bridge` is a network of the container's own, `Host` is the node's."""
    look = "ls /sys/class/net"

    assert run(api, image, look, Network={"Type": "Bridge"}).split() == ["eth0", "lo"]
    found = run(api, image, look, Network={"Type": "Host"}).split()
    assert _lasting(found) == _lasting(os.listdir("/sys/class/net"))


def _lasting(interfaces: list[str]) -> set[str]:
    """Those that do not come and go with other containers."""
    return {each for each in interfaces if not each.startswith("veth")}


def test_labels(deployment: Deployment, api: Api, image: str, gate: Gate) -> None:
    """A container carries labels that say which job, execution and node it belongs to."""
    identifier = api.submit(job(gate.holds(image)))
    (execution,) = api.running(identifier)

    (container,) = deployment.docker.inspect(f"shoal.job={identifier}")

    labels = container["Config"]["Labels"]
    assert labels["shoal.execution"] == execution["ID"]
    assert labels["shoal.node"] == execution["NodeID"]
    assert container["HostConfig"]["Privileged"] is False


@pytest.mark.parametrize("script", ["true", "exit 3"])
def test_removal(deployment: Deployment, api: Api, image: str, script: str) -> None:
    """When an execution has ended, well or badly, its container and its folder are removed."""
    view = api.run(job(shell(image, script, **publish({"Type": "local"}))))

    wait_until_empty(lambda: deployment.docker.names(f"shoal.job={view['Job']['ID']}"))
    wait_until_empty(deployment.leftovers)


def test_root_writes_its_outputs(deployment: Deployment, api: Api, image: str, bucket: Bucket) -> None:
    """A program that is root in its image writes its outputs, whatever owner and mode it gives them, and all arrive."""
    script = """
        cd /outputs && mkdir -p a/b && echo 1 > a/b/secret && chmod 600 a/b/secret && chown -R nobody a && chmod 700 a
        echo 2 > mine && chmod 400 mine
    """

    run(api, image, script, **publish(bucket.publisher("r", Encoding="plain")))

    assert bucket.get("r/outputs/a/b/secret") == b"1\n"
    assert bucket.get("r/outputs/mine") == b"2\n"


def test_any_user_writes_outputs(api: Api, image: str, bucket: Bucket) -> None:
    """A program that gives up being root writes its outputs all the same."""
    script = "su nobody -s /bin/sh -c 'echo mine > /outputs/file; id -un'"

    assert run(api, image, script, **publish(bucket.publisher("r", Encoding="plain"))) == "nobody\n"

    assert bucket.get("r/outputs/file") == b"mine\n"


def test_image_pull(
    background: Background, deployment: Deployment, api: Api, registry_host: str, pushed_image: str
) -> None:
    """An image that the node lacks is pulled before the program starts, and whoever watches sees it."""
    background.run(images.take_name(deployment.docker.host, pushed_image))
    try:
        identifier = api.submit(job(shell(pushed_image, "echo from the registry")))
        seen = list(api.views(identifier))
    finally:
        background.run(images.take_name(deployment.docker.host, pushed_image))

    assert seen[-1]["Job"]["State"]["StateType"] == "Completed", seen[-1]
    assert stdout(seen[-1]["Executions"][0]) == "from the registry\n"
    told = [view["Progress"] for view in seen if "Progress" in view]
    assert "image" in {each["What"].split()[0] for each in told}
