"""What this machine is and offers, looked at again and again.

Knows: processors, memory, disk, GPUs, and which engines and drivers answer. Must not know: who asks, or what runs.

Limits of the control group this process lives in count: a node in a container gives what the container has.
"""

import asyncio
import contextlib
import math
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct, field

from compute.engines.contract import Engine
from protocol.clock import Clock
from protocol.errors import Fault, Invalid
from protocol.ids import NodeId
from protocol.jobs import Amounts
from protocol.nodes import Gpu, NodeInfo, Offer
from protocol.spec.quantities import parse_bytes, parse_cpu, parse_gpu
from storage.contract import Drivers

_log = structlog.get_logger(__name__)
PROBE_EVERY_S: Final = 15.0
PROBE_LOST_S: Final = 2.0
"""A part that was here and is missing is looked for more often: until it is back, jobs that need it wait."""
RESTART_S: Final = 30.0
"""How long jobs wait for a part that was here: it, or its machine, may be restarting. After that they are told that it is
gone. An engine that this very process has met is this machine's own, and is always awaited."""
ENGINE: Final = "engine"
SOURCE: Final = "source"
PUBLISHER: Final = "publisher"
PROBE_REST_S: Final = 1.0
"""The least time between two probes, however often somebody asks."""
PROBE_S: Final = 10.0
FIRST_PROBE_S: Final = 2.0
"""A node that starts does not wait longer for an engine or server that hangs."""
NVIDIA_S: Final = 10.0
VERSION: Final = "0.2.0"
"""Raised with each release: nodes of one version are taken to read jobs alike (ADR 0022)."""
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


async def find_gpus() -> list[Gpu]:
    """The NVIDIA devices that ``nvidia-smi`` lists; none if it is not there or does not answer."""
    query = ["--query-gpu=index,name,memory.total,pci.bus_id", "--format=csv,noheader,nounits"]
    try:
        process = await asyncio.create_subprocess_exec(
            "nvidia-smi", *query, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return []
    try:
        async with asyncio.timeout(NVIDIA_S):
            listed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return []
    return read_gpus(listed.decode(errors="replace")) if process.returncode == 0 else []


def read_gpus(listed: str) -> list[Gpu]:
    """The devices in ``nvidia-smi``'s list; a line of another form is no device."""
    gpus = []
    for line in listed.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdecimal():
            memory = int(parts[2]) if parts[2].isdecimal() else 0
            gpus.append(Gpu(int(parts[0]), parts[1], "NVIDIA", memory, parts[3]))
    return gpus


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


class Facts:
    """A node's facts as they are now. `info` is replaced when something has changed; `before` is the last process's."""

    def __init__(
        self,
        info: NodeInfo,
        engines: Mapping[str, Engine[Any]],
        drivers: Drivers,
        clock: Clock,
        *,
        before: NodeInfo | None = None,
    ) -> None:
        self.info = info
        self._engines = engines
        self._drivers = drivers
        self._clock = clock
        self._look = asyncio.Event()
        # Of all that was here: since when it is not, infinity where it is.
        self._gone_at: dict[tuple[str, str], float] = {}
        self._met: set[tuple[str, str]] = set()
        self._worked: dict[tuple[str, str], bool] = {}
        if before is not None:
            self._gone_at = {
                part: clock.elapsed() for part, offer in _parts(before) if offer.available or offer.lost
            }

    async def first_probe(self) -> None:
        """Ask once, for the node's first beat. Who takes longer than that is asked again beside the work."""
        await self.probe(FIRST_PROBE_S)
        if not all(offer.available for offer in self._offers()):
            self.look()

    async def probe(self, within_s: float = PROBE_S) -> bool:
        """Ask every engine and driver whether it works; returns whether any answer is new."""
        engines, sources, publishers = await asyncio.gather(
            _offers(self._engines, within_s),
            _offers(self._drivers.sources, within_s),
            _offers(self._drivers.publishers, within_s),
        )
        found = msgspec.structs.replace(self.info, engines=engines, sources=sources, publishers=publishers)
        told = {part: self._lost(part, offer) for part, offer in _parts(found)}
        for part, offer in told.items():
            self._log_if_new(part, offer)
        info = msgspec.structs.replace(
            found,
            engines=[told[ENGINE, each.type] for each in engines],
            sources=[told[SOURCE, each.type] for each in sources],
            publishers=[told[PUBLISHER, each.type] for each in publishers],
        )
        changed = info != self.info
        self.info = info
        return changed

    def _log_if_new(self, part: tuple[str, str], offer: Offer) -> None:
        """Tell the node's owner, once, what does not work: else they hear of a slip in a setting from who submits jobs."""
        worked = self._worked.get(part)
        self._worked[part] = offer.available
        if offer.available and worked is False:
            _log.info("offered", kind=part[0], type=part[1])
        elif not offer.available and worked is not False:
            log = _log.warning if worked else _log.info
            log("not offered", kind=part[0], type=part[1], reason=offer.reason, hint=offer.hint)

    def _lost(self, part: tuple[str, str], offer: Offer) -> Offer:
        """The offer, which says so if its part was here before and is still awaited."""
        if offer.available:
            self._gone_at[part] = math.inf
            self._met.add(part)
            return offer
        if part not in self._gone_at:
            return offer
        now = self._clock.elapsed()
        self._gone_at[part] = min(self._gone_at[part], now)
        awaited_s = math.inf if part[0] == ENGINE and part in self._met else RESTART_S
        return msgspec.structs.replace(offer, lost=now - self._gone_at[part] < awaited_s)

    def _offers(self) -> list[Offer]:
        return [offer for _, offer in _parts(self.info)]

    def look(self) -> None:
        """Probe soon, not only when it is time."""
        self._look.set()

    async def watch(self, changed: Callable[[], None]) -> None:
        """Probe every `PROBE_EVERY_S`, when asked to and when an engine says so, for ever; tell what has changed."""
        async with asyncio.TaskGroup() as tasks:
            for engine in self._engines.values():
                tasks.create_task(self._look_when_changed(engine))
            while True:
                with contextlib.suppress(TimeoutError):
                    lost = any(at < math.inf for at in self._gone_at.values())
                    async with asyncio.timeout(PROBE_LOST_S if lost else PROBE_EVERY_S):
                        await self._look.wait()
                self._look.clear()
                if await self.probe():
                    changed()
                await self._clock.sleep(PROBE_REST_S)

    async def _look_when_changed(self, engine: Engine[Any]) -> None:
        while True:
            await engine.changed()
            self.look()
            await self._clock.sleep(PROBE_REST_S)


def _parts(info: NodeInfo) -> list[tuple[tuple[str, str], Offer]]:
    """All that a node offers or not, by kind and type."""
    kinds = ((ENGINE, info.engines), (SOURCE, info.sources), (PUBLISHER, info.publishers))
    return [((kind, offer.type), offer) for kind, offers in kinds for offer in offers]


async def _offers(parts: Mapping[str, Any], within_s: float) -> list[Offer]:
    """The offers of engines, sources or publishers, by type."""
    return list(await asyncio.gather(*(_offer(name, part, within_s) for name, part in sorted(parts.items()))))


async def _offer(name: str, part: Any, within_s: float) -> Offer:
    try:
        async with asyncio.timeout(within_s):
            offer: Offer = await part.probe()
            return offer
    except TimeoutError:
        return Offer(name, available=False, reason=f"it did not answer within {within_s:g} s")
    except Fault as fault:
        return Offer(name, available=False, reason=fault.message, hint=fault.hint)
    except Exception as error:  # noqa: BLE001 (one part that fails as nobody foresaw must not end the node and all its work)
        _log.exception("a part of this node could not be asked whether it works", part=name)
        return Offer(name, available=False, reason=f"it could not be asked: {type(error).__name__}: {error}")


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
