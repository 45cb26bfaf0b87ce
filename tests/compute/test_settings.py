"""What a node is told, and where."""

from pathlib import Path
from typing import Any

import pytest

from compute.facts import Machine, Share, capacity, labels, read_gpus
from compute.settings import Settings, settings
from protocol.errors import Fault, Invalid, NotFound
from protocol.ids import NodeId
from protocol.nodes import Gpu

DEFAULT = Settings(data_dir=Path("/data"))
MACHINE = Machine(cpu=4, memory_bytes=1000, disk_bytes=10_000, gpus=[Gpu(0, "A 100", "NVIDIA", 40_000)])


def test_bacalhaus_keys_of_both_versions_mean_the_same(tmp_path: Path) -> None:
    """A configuration file of 1.4 and one of 1.9 give the same node."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(
        "Node:\n  IPFS:\n    Connect: /ip4/127.0.0.1/tcp/5001\n  Labels: {region: eu}\n"
        "  Network: {Orchestrators: ['nats://a:4222']}\n  AllowListedLocalPaths: ['/d/**:rw']\n"
        "  Compute: {Capacity: {TotalResourceLimits: {CPU: '2'}}}\n"
    )
    new.write_text(
        "compute:\n  orchestrators: [nats://a:4222]\n  allowlistedlocalpaths: ['/d/**:rw']\n"
        "  AllocatedCapacity: {CPU: 2}\nLabels: {region: eu}\nAPI: {Port: 1234}\n"
        "InputSources: {Types: {IPFS: {Endpoint: /ip4/127.0.0.1/tcp/5001}}}\n"
    )
    made = settings(DEFAULT, configs=[str(old)])
    assert made == settings(DEFAULT, configs=[str(new)])
    assert made.ipfs_connect == "/ip4/127.0.0.1/tcp/5001"
    assert made.labels == {"region": "eu"}
    assert made.share.cpu == "2"


def test_each_place_wins_over_the_ones_before(tmp_path: Path) -> None:
    """Default, file, environment, -c, flag: the later one wins; labels add up."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "Name: file\nDataDir: /file\nLabels: {a: file, b: file}\nCompute: {AllocatedCapacity: {CPU: '1'}}"
    )
    made = settings(
        DEFAULT,
        configs=[str(file), "DataDir=/pair", "Labels.a=pair"],
        environ={"BACALHAU_NAME": "env", "BACALHAU_DATADIR": "/env", "SHOAL_NATS": "nats://x,nats://y"},
        flags={"Labels": ["c=flag"]},
    )
    assert (made.name, str(made.data_dir), made.share.cpu) == ("env", "/pair", "1")
    assert made.labels == {"a": "pair", "b": "file", "c": "flag"}
    assert made.nats == ("nats://x", "nats://y")


@pytest.mark.parametrize(
    ("config", "text", "hint"),
    [
        ("Compute.AlocatedCapacity.CPU=3", "unknown key", "Compute.AllocatedCapacity.CPU"),
        ("Node.IPFS.Connect=/ip4/127.0.0.1/udp/5001", "Node.IPFS.Connect", "/tcp/"),
        ("Publishers.Types.Local.Port=99999", "99999 is not a port", "65535"),
        ("Compute.AllowListedLocalPaths=data", "not absolute", "/data"),
        ("Compute.StagingTimeout=soon", "StagingTimeout", "1m30s"),
        ("JobAdmissionControl.RejectNetworkedJobs=perhaps", "neither true nor false", ""),
        ("Labels=x", "no label", "region=eu"),
    ],
)
def test_a_wrong_setting_is_named(config: str, text: str, hint: str) -> None:
    """The message says which key of which place, the hint how to write it."""
    with pytest.raises(Invalid) as caught:
        settings(DEFAULT, configs=[config])
    assert text in caught.value.message
    assert "-c " in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("content", "kind"),
    [(None, NotFound), ("a: [", Invalid), ("- a", Invalid), ("\0", Invalid), ("x" * 2_000_000, Invalid)],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, kind: type[Fault]) -> None:
    """A missing or malformed file is an error with its path."""
    path = tmp_path / "node.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(kind, match=r"node\.yaml"):
        settings(DEFAULT, configs=[str(path)])


def test_capacity_is_a_share_or_an_amount() -> None:
    """80 % of each part by default, or as much as is said."""
    assert capacity(Share(), MACHINE).cpu == pytest.approx(3.2)
    given = capacity(Share(cpu="500m", memory="50%", disk="2kb", gpu="1"), MACHINE)
    assert (given.cpu, given.memory_bytes, given.disk_bytes, given.gpu) == (0.5, 500, 2000, 1)


@pytest.mark.parametrize(
    ("share", "name"),
    [({"cpu": "101%"}, "CPU"), ({"memory": "x%"}, "Memory"), ({"disk": "much"}, "Disk"), ({"gpu": "2"}, "GPU")],
)
def test_a_capacity_that_is_none_is_refused(share: dict[str, Any], name: str) -> None:
    """What cannot be read, is no share, or is not there, is an error that names the part."""
    with pytest.raises(Invalid, match=f"capacity {name}"):
        capacity(Share(**share), MACHINE)


def test_gpus_are_read_and_labelled() -> None:
    """What nvidia-smi lists are devices with their index; lines of another form are none."""
    gpus = read_gpus("0, NVIDIA A100, 40960, 00000000:01:00.0\nno devices\n1, T4, [N/A], 00000000:02:00.0\n")
    assert [(gpu.index, gpu.name, gpu.memory_mib) for gpu in gpus] == [
        (0, "NVIDIA A100", 40_960),
        (1, "T4", 0),
    ]
    found = labels(NodeId("n1"), MACHINE, {"region": "eu", "name": "mine"})
    assert found["GPU-0"] == "A-100"
    assert found["Operating-System"] == "linux"
    assert (found["region"], found["name"]) == ("eu", "mine")
