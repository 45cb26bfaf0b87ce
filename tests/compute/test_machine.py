"""What a machine has, and how much of it jobs get."""

from pathlib import Path
from typing import Any

import pytest

from compute.machine import Machine, Share, cache_budget, capacity, disk_reserve, labels, machine
from protocol.errors import Invalid
from protocol.ids import NodeId
from protocol.nodes import Gpu

MACHINE = Machine(cpu=4, memory_bytes=1000, disk_bytes=10_000, gpus=[Gpu(0, "A 100", "NVIDIA", 40_000)])


def test_capacity_is_a_share_or_an_amount() -> None:
    """80 % of each part by default, or as much as is said."""
    assert capacity(Share(), MACHINE).cpu == pytest.approx(3.2)
    given = capacity(Share(cpu="500m", memory="50%", disk="2kb", gpu="1"), MACHINE)
    assert (given.cpu, given.memory_bytes, given.disk_bytes, given.gpu) == (0.5, 500, 2000, 1)


def test_a_node_never_gives_out_its_reserve(tmp_path: Path) -> None:
    """Of the disk's free space the reserve is taken off first, and what the cache keeps for nobody is there to be given."""
    there = machine(tmp_path, [])
    reserve = disk_reserve(tmp_path, "1GB")
    assert reserve == 10**9
    assert machine(tmp_path, [], reserve_bytes=1 << 60).disk_bytes == 0
    kept = machine(tmp_path, [], kept_bytes=1 << 40, reserve_bytes=reserve)
    assert kept.disk_bytes > there.disk_bytes
    assert capacity(Share(disk="1000TB"), MACHINE).disk_bytes == MACHINE.disk_bytes
    assert 0 < disk_reserve(tmp_path, "") <= 10 << 30
    assert cache_budget("50%", capacity(Share(disk="2kb"), MACHINE)) == 1000
    with pytest.raises(Invalid, match="DiskReserve"):
        disk_reserve(tmp_path, "some")


@pytest.mark.parametrize(
    ("share", "name"),
    [
        ({"cpu": "101%"}, "CPU"),
        ({"memory": "x%"}, "Memory"),
        ({"disk": "much"}, "Disk"),
        ({"gpu": "2"}, "GPU"),
    ],
)
def test_a_capacity_that_is_none_is_refused(share: dict[str, Any], name: str) -> None:
    """What cannot be read, is no share, or is not there, is an error that names the part."""
    with pytest.raises(Invalid, match=f"capacity {name}"):
        capacity(Share(**share), MACHINE)


def test_labels_tell_of_the_machine() -> None:
    """A node's labels tell of its system and GPUs, under Bacalhau's names; what its owner says wins."""
    found = labels(NodeId("n1"), MACHINE, {"region": "eu", "name": "mine"})
    assert found["GPU-0"] == "A-100"
    assert found["Operating-System"] == "linux"
    assert (found["region"], found["name"]) == ("eu", "mine")
