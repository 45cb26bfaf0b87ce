"""What this machine has, and how much of it jobs get.

Knows: processors, memory, disk, GPUs, and how an owner writes a share of them. Must not know: who asks, or what runs.

Limits of the control group this process lives in count: a node in a container gives what the container has.
"""

import contextlib
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from protocol.errors import Fault, Invalid
from protocol.ids import NodeId
from protocol.jobs import Amounts
from protocol.nodes import Gpu
from protocol.spec.quantities import parse_bytes, parse_cpu, parse_gpu

RESERVE_SHARE: Final = "5%"
RESERVE_BYTES: Final = 10 << 30
_UNLIMITED: Final = 1 << 60
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Share(Struct, frozen=True):
    """How much of the machine jobs may have, as people write it: a percentage or an amount."""

    cpu: str = "80%"
    memory: str = "80%"
    disk: str = "80%"
    gpu: str = "100%"


class Machine(Struct, frozen=True):
    """What there is to give: cores, bytes, bytes of the data folder's disk (free now or kept for later), devices."""

    cpu: float
    memory_bytes: int
    disk_bytes: int
    gpus: list[Gpu] = field(default_factory=list)


def machine(folder: Path, gpus: list[Gpu], *, kept_bytes: int = 0, reserve_bytes: int = 0) -> Machine:
    """Look at this machine. `folder` (it exists) is on the disk that counts, where `kept_bytes` can be had back at any time
    and `reserve_bytes` stay free. Blocks for a millisecond.
    """
    import psutil

    cpu = float(psutil.cpu_count() or 1)
    limit = _cgroup_cpu()
    memory = min(psutil.virtual_memory().total, _cgroup_memory() or _UNLIMITED)
    disk = max(psutil.disk_usage(str(folder)).free + kept_bytes - reserve_bytes, 0)
    return Machine(min(cpu, limit or cpu), memory, disk, gpus)


def disk_reserve(folder: Path, share: str) -> int:
    """How many bytes of the disk that `folder` is on are never given out: a percentage of all or an amount; empty is
    `RESERVE_SHARE`, at most `RESERVE_BYTES`. Raises `Invalid`.
    """
    import psutil

    total = psutil.disk_usage(str(folder)).total
    if not share:
        return min(int(_part("DiskReserve", RESERVE_SHARE, total, parse_bytes)), RESERVE_BYTES)
    return int(_part("DiskReserve", share, total, parse_bytes))


def cache_budget(share: str, capacity: Amounts) -> int:
    """How much inputs may take that nobody uses: a percentage of the disk for jobs, or an amount. Raises `Invalid`."""
    return int(_part("Cache", share, capacity.disk_bytes, parse_bytes))


def capacity(share: Share, machine: Machine, ports: int = 0) -> Amounts:
    """How much of the machine jobs get, never more disk than there is, and how many `ports`. Raises `Invalid`, naming
    the part that cannot be read or that is not there.
    """
    return Amounts(
        cpu=_part("CPU", share.cpu, machine.cpu, parse_cpu),
        memory_bytes=int(_part("Memory", share.memory, machine.memory_bytes, parse_bytes)),
        disk_bytes=min(int(_part("Disk", share.disk, machine.disk_bytes, parse_bytes)), machine.disk_bytes),
        gpu=int(_part("GPU", share.gpu, len(machine.gpus), parse_gpu)),
        dynamic_ports=ports,
    )


def labels(node: NodeId, machine: Machine, given: Mapping[str, str]) -> dict[str, str]:
    """The node's labels: what the machine is, under Bacalhau's names, and what its owner says."""
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    system = platform.system().lower()
    found = {
        "Architecture": architecture,
        "Operating-System": system,
        "os_arch": architecture,
        "os_type": system,
        "name": node,
        "hostname": platform.node(),
    }
    for gpu in machine.gpus:
        found[f"GPU-{gpu.index}"] = gpu.name.replace(" ", "-")
        found[f"GPU-{gpu.index}-Memory"] = f"{gpu.memory_mib}-MiB"
    return found | dict(given)


def _part(name: str, share: str, there: float, parse: Callable[[str], float]) -> float:
    text = share.strip()
    if not text.endswith("%"):
        try:
            amount = parse(text)
        except Fault as fault:
            raise Invalid(f"capacity {name}: {fault.message}", hint=fault.hint) from fault
        if name == "GPU" and amount > there:
            raise Invalid(
                f"capacity GPU: {amount:g} of {there:g} devices", hint="Ask for no more than there are."
            )
        return amount
    try:
        percent = float(text[:-1])
    except ValueError as error:
        raise Invalid(
            f"capacity {name}: {share!r} is no percentage", hint="Write 80%, or an amount."
        ) from error
    if not 0 <= percent <= 100:
        raise Invalid(f"capacity {name}: {share} is not between 0% and 100%")
    return there * percent / 100


def _cgroup_cpu() -> float | None:
    """Cores by the control group's quota, version 2 or 1."""
    two = _read("/sys/fs/cgroup/cpu.max").split()
    if len(two) == 2 and two[0].isdecimal():
        return int(two[0]) / int(two[1])
    quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _cgroup_memory() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path)
        if text.isdecimal():
            return int(text)
    return None


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return ""
