"""The device files by which a container reaches its GPUs, where Docker has no driver that knows them.

Knows: which files belong to a device of AMD or Intel, by its PCI address, and how a container is given them. Must not know:
who gets which device. NVIDIA's are handed over by a driver of Docker's, which is asked for them by number.

Source of the rules: AMD's and Intel's instructions for containers: ``/dev/kfd`` is all AMD devices' way to compute, a
``render`` node in ``/dev/dri`` is one device's. Both belong to a group that a program which is not root has to be in.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from compute.gpus import AMD, NVIDIA
from protocol.errors import Unavailable
from protocol.nodes import Gpu

KFD: Final = "dev/kfd"
_BY_PATH: Final = "dev/dri/by-path"


class DeviceFile(Struct, frozen=True):
    """A device file of this machine, and the group that may use it."""

    path: str
    group: int


def device_files(gpus: Sequence[Gpu], root: Path = Path("/")) -> list[DeviceFile]:
    """The files of these devices, none of NVIDIA's. Blocks for a moment. Raises `Unavailable` for a device without one."""
    found: list[DeviceFile] = []
    for gpu in gpus:
        if gpu.vendor == NVIDIA:
            continue
        ways = [f"{_BY_PATH}/pci-{gpu.pci_address}-{kind}" for kind in ("card", "render")]
        files = [_file(root, way) for way in ([KFD, *ways] if gpu.vendor == AMD else ways)]
        # A device that drives no screen may have no card node; what computes needs the rest.
        if files[-1] is None or (files[0] is None and gpu.vendor == AMD):
            raise Unavailable(
                f"GPU {gpu.index} ({gpu.name}) has no device file on this node",
                hint=f"Its driver must be loaded: look for /{ways[-1]}"
                + (" and /dev/kfd." if gpu.vendor == AMD else "."),
                kind="Gpu",
            )
        found += [each for each in files if each is not None and each not in found]
    return found


def device_config(gpus: Sequence[Gpu], files: Sequence[DeviceFile]) -> dict[str, Any]:
    """What a container's ``HostConfig`` says of its devices."""
    config: dict[str, Any] = {}
    if numbers := [str(gpu.index) for gpu in gpus if gpu.vendor == NVIDIA]:
        config["DeviceRequests"] = [{"DeviceIDs": numbers, "Capabilities": [["gpu"]]}]
    if files:
        config["Devices"] = [
            {"PathOnHost": each.path, "PathInContainer": each.path, "CgroupPermissions": "rwm"}
            for each in files
        ]
        config["GroupAdd"] = sorted({str(each.group) for each in files if each.group})
    return config


def _file(root: Path, way: str) -> DeviceFile | None:
    """Where a path leads: programs look for devices by the names that the kernel gave them."""
    real = Path(os.path.realpath(root / way))
    try:
        return DeviceFile(f"/{real.relative_to(os.path.realpath(root))}", real.stat().st_gid)
    except (OSError, ValueError):
        return None
