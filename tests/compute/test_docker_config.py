"""What the daemon is asked for, without a daemon."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from compute.engines.contract import Mount, Run
from compute.engines.docker.config import check, container_config, container_name, environment, network_mode
from compute.engines.docker.devices import DeviceFile, device_files
from compute.engines.docker.settings import CAPABILITIES, DockerSettings
from compute.gpus import AMD, INTEL, NVIDIA
from protocol.errors import Denied, Invalid, Unavailable
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts, Network, Port
from protocol.nodes import Gpu
from protocol.spec.engines import DockerParams

RUN: Run[DockerParams] = Run(
    ExecutionId("e-1"), JobId("j-1"), NodeId("n-1"), DockerParams(image="alpine"), Path("/run/e-1")
)


def config(settings: DockerSettings | None = None, **changes: Any) -> dict[str, Any]:
    """The container for a run that differs from the plain one in these fields."""
    return container_config(msgspec.structs.replace(RUN, **changes), settings or DockerSettings())


def test_labels_lead_back_to_the_execution() -> None:
    """A container names its job, execution and node, beside whatever labels the node's owner wants."""
    labels = config(DockerSettings(labels={"owner": "us", "shoal.job": "forged"}))["Labels"]

    assert labels == {"owner": "us", "shoal.job": "j-1", "shoal.execution": "e-1", "shoal.node": "n-1"}
    assert container_name(RUN.node, RUN.execution) == "shoal-n-1-e-1"


def test_the_images_own_words_are_kept_unless_replaced() -> None:
    """Entrypoint, command and working directory are the image's own where the job says nothing."""
    assert not {"Entrypoint", "Cmd", "WorkingDir"} & config().keys()

    given = config(
        params=DockerParams(
            image="alpine", entrypoint=["/bin/sh", "-c"], parameters=["true"], working_directory="/w"
        )
    )

    assert (given["Entrypoint"], given["Cmd"], given["WorkingDir"]) == (["/bin/sh", "-c"], ["true"], "/w")


def _gpu(index: int, vendor: str = NVIDIA, address: str = "") -> Gpu:
    return Gpu(index, "a name", vendor, 0, address)


def test_limits() -> None:
    """Cores, memory without swap, processes and devices are limited as the job asks."""
    host = config(amounts=Amounts(cpu=0.5, memory_bytes=512_000_000), gpus=[_gpu(1), _gpu(3)])["HostConfig"]

    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 512_000_000, 512_000_000)
    assert host["PidsLimit"] == 2048
    assert host["DeviceRequests"] == [{"DeviceIDs": ["1", "3"], "Capabilities": [["gpu"]]}]
    assert not {"NanoCpus", "Memory", "MemorySwap", "DeviceRequests"} & config()["HostConfig"].keys()
    assert config(amounts=Amounts(cpu=0.001))["HostConfig"]["NanoCpus"] == 10_000_000


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The device files of a machine with two AMD devices, of which one drives no screen, and one of Intel's."""
    dri = tmp_path / "dev" / "dri"
    (dri / "by-path").mkdir(parents=True)
    (tmp_path / "dev" / "kfd").touch()
    names = {"e7:00.0-card": "card1", "e7:00.0-render": "renderD129", "03:00.0-render": "renderD128"}
    for name, node in (names | {"e9:00.0-card": "card2", "e9:00.0-render": "renderD130"}).items():
        (dri / node).touch()
        (dri / "by-path" / f"pci-0000:{name}").symlink_to(f"../{node}")
    return tmp_path


def test_devices_of_amd_and_intel(machine: Path) -> None:
    """A container sees the device files of its own GPUs alone, under the names that the kernel gave them, and is in the
    group that may use them; AMD's have one way to compute for all.
    """
    run = [
        _gpu(0, AMD, "0000:e7:00.0"),
        _gpu(1, AMD, "0000:03:00.0"),
        _gpu(2, INTEL, "0000:e9:00.0"),
        _gpu(3),
    ]
    files = device_files(run, machine)
    group = (machine / "dev" / "kfd").stat().st_gid

    assert [each.path for each in files] == [
        *("/dev/kfd", "/dev/dri/card1", "/dev/dri/renderD129"),
        *("/dev/dri/renderD128", "/dev/dri/card2", "/dev/dri/renderD130"),
    ]
    host = container_config(
        msgspec.structs.replace(RUN, gpus=run), DockerSettings(), devices=[*files, DeviceFile("/dev/x", 44)]
    )["HostConfig"]
    assert host["Devices"][0] == {
        "PathOnHost": "/dev/kfd",
        "PathInContainer": "/dev/kfd",
        "CgroupPermissions": "rwm",
    }
    assert host["GroupAdd"] == sorted({"44"} | ({str(group)} if group else set()))
    assert host["DeviceRequests"] == [{"DeviceIDs": ["3"], "Capabilities": [["gpu"]]}]


@pytest.mark.parametrize(
    ("gpu", "says"),
    [
        (_gpu(4, INTEL, "0000:aa:00.0"), "pci-0000:aa:00.0-render"),
        (_gpu(5, AMD, "0000:bb:00.0"), "/dev/kfd"),
        (_gpu(6, AMD), "no device file"),
    ],
)
def test_a_device_without_files(machine: Path, gpu: Gpu, says: str) -> None:
    """A device whose driver is not loaded is told with the file that is missing, and the execution may go elsewhere."""
    with pytest.raises(Unavailable) as caught:
        device_files([gpu], machine)
    assert says in f"{caught.value.message} {caught.value.hint}"
    assert device_files([_gpu(7)], machine) == []


def test_isolation() -> None:
    """No container has more than the documented capabilities, or can gain any."""
    host = config()["HostConfig"]

    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], list(CAPABILITIES))
    assert "no-new-privileges" in host["SecurityOpt"]
    assert not {"NET_RAW", "MKNOD", "SYS_ADMIN", "SYS_PTRACE", "SYS_CHROOT"} & set(host["CapAdd"])
    assert "Privileged" not in host


def test_mounts() -> None:
    """Inputs are mounted read-only, outputs are not."""
    mounts = [Mount(Path("/data/in"), "/inputs"), Mount(Path("/data/out"), "/outputs", read_only=False)]

    asked = config(mounts=mounts)["HostConfig"]["Mounts"]

    assert [(mount["Type"], mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in asked] == [
        ("bind", "/data/in", "/inputs", True),
        ("bind", "/data/out", "/outputs", False),
    ]


@pytest.mark.parametrize("target", ["relative", "/", "/inputs/../etc", ""])
def test_mounts_elsewhere_are_refused(target: str) -> None:
    """Nothing is mounted over the whole root, or at a path that leads elsewhere."""
    with pytest.raises(Invalid, match="mounted"):
        config(mounts=[Mount(Path("/data"), target)])


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        ("Default", "bridge"),
        ("", "bridge"),
        ("None", "none"),
        ("Bridge", "bridge"),
        ("Host", "host"),
        ("Full", "host"),
        ("host", "host"),
    ],
)
def test_networks(asked: str, mode: str) -> None:
    """Each of Bacalhau's network types has its meaning, in any case."""
    assert network_mode(msgspec.structs.replace(RUN, network=Network(type=asked)), DockerSettings()) == mode


def test_host_network_knows_its_host() -> None:
    """A container on the host's network finds the host by name."""
    host = config(network=Network(type="Host"))["HostConfig"]

    assert host["ExtraHosts"] == ["host.docker.internal:host-gateway"]


def test_a_node_may_give_no_network() -> None:
    """Where the owner gives no network, a job that does not care has none, and one that asks for one is refused."""
    closed = DockerSettings(networking=False)

    assert config(closed)["HostConfig"]["NetworkMode"] == "none"
    assert config(closed, network=Network(type="None"))["HostConfig"]["NetworkMode"] == "none"
    for asked in ("Bridge", "Host", "Full", "HTTP"):
        with pytest.raises(Denied, match=asked):
            config(closed, network=Network(type=asked))


def test_networks_that_there_are_not() -> None:
    """A type that is not supported is refused by name, not replaced by another."""
    with pytest.raises(Invalid, match="Wifi"):
        config(network=Network(type="Wifi"))


def test_a_network_of_named_domains() -> None:
    """A container of Network.Type HTTP is on the node's network that leads nowhere, is told of the proxy in all spellings,
    whatever the job's own variables say, and bears the names of what it may reach.
    """
    network = Network(type="HTTP", domains=["a.com", ".b.com"])
    run = msgspec.structs.replace(RUN, network=network, env={"HTTP_PROXY": "http://other"})

    made = container_config(run, DockerSettings(), proxy="http://172.30.0.1:3128")

    assert made["HostConfig"]["NetworkMode"] == f"shoal-{RUN.node}-http"
    assert json.loads(made["Labels"]["shoal.domains"]) == ["a.com", ".b.com"]
    seen = dict(each.split("=", 1) for each in made["Env"])
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        assert seen[name] == "http://172.30.0.1:3128"


def test_ports() -> None:
    """A bridge publishes each port at its address, and the program is told both numbers."""
    network = Network(type="Bridge", ports=[Port("web", host_network="127.0.0.1"), Port("api")])

    made = config(network=network, ports={"web": (20001, 80), "api": (20002, 8080)})

    assert made["ExposedPorts"] == {"80/tcp": {}, "8080/tcp": {}}
    assert made["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20001"}],
        "8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "20002"}],
    }
    assert {"BACALHAU_PORT_web=80", "BACALHAU_HOST_PORT_web=20001"} <= set(made["Env"])


def test_ports_of_datagrams() -> None:
    """A port is published for the protocol that it names, for TCP where it names none; one inside may be at several ports
    outside."""
    network = Network(
        type="Bridge", ports=[Port("dns", protocol="udp"), Port("dns_tcp"), Port("also", host_network="::1")]
    )

    made = config(network=network, ports={"dns": (5353, 53), "dns_tcp": (5353, 53), "also": (20001, 53)})

    assert made["ExposedPorts"] == {"53/udp": {}, "53/tcp": {}}
    assert made["HostConfig"]["PortBindings"] == {
        "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "5353"}],
        "53/tcp": [{"HostIp": "0.0.0.0", "HostPort": "5353"}, {"HostIp": "::1", "HostPort": "20001"}],
    }


def test_ports_on_the_host() -> None:
    """On the host's network there is one number, and nothing to publish."""
    made = config(network=Network(type="Host"), ports={"web": (20001, 80)})

    assert "PortBindings" not in made["HostConfig"]
    assert {"BACALHAU_PORT_web=20001", "BACALHAU_HOST_PORT_web=20001"} <= set(made["Env"])


def test_environment_order() -> None:
    """The engine's variables win over the task's, and the system's over both."""
    params = DockerParams(image="alpine", environment_variables=["A=engine", "EMPTY=", "EQUALS=a=b"])
    env = {"A": "task", "B": "task", "BACALHAU_JOB_ID": "j-1"}

    seen = environment(msgspec.structs.replace(RUN, params=params, env=env), "none")

    assert seen == {"A": "engine", "B": "task", "EMPTY": "", "EQUALS": "a=b", "BACALHAU_JOB_ID": "j-1"}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (DockerParams(), "Image is empty"),
        (DockerParams(image="Alpine"), "alpine"),
        (DockerParams(image="alpine", working_directory="tmp"), "WorkingDirectory 'tmp'"),
        (DockerParams(image="alpine", environment_variables=["A=1", "B"]), r"EnvironmentVariables\[1\]"),
        (DockerParams(image="alpine", environment_variables=["=1"]), r"EnvironmentVariables\[0\]"),
        (DockerParams(image="alpine", environment_variables=["BACALHAU_X=1"]), "BACALHAU_X"),
        (DockerParams(image="alpine", parameters=["a\0b"]), "Parameters contains a NUL"),
        (DockerParams(image="alpine", entrypoint=[""]), "Entrypoint is empty"),
    ],
)
def test_bad_params(params: DockerParams, said: str) -> None:
    """Params that can never work are refused with the field and what to do."""
    with pytest.raises(Invalid) as caught:
        check(params)

    assert re.search(said, f"{caught.value.message} {caught.value.hint}")


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A": "nul\0"}])
def test_bad_environment(env: dict[str, str]) -> None:
    """A variable that no program can be given is refused before anything is made."""
    with pytest.raises(Invalid, match="environment variable"):
        config(env=env)
