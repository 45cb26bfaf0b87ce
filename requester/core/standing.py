"""How nodes stand towards a task: which fit, which would but are away, and for each of the others why not.

Knows: what a task demands and what a node offers. Must not know: jobs' attempts, the log, how one of those that fit is
chosen (`placement`), or what people are told (`waiting`).

Three answers are kept apart, because they end differently: a node that **fits** takes the task when it has room (a full
cluster queues); one that is **away** would fit if it were connected and approved, and had what it has lost (the job
waits for it); one that is **unfit** lacks something lasting, and a job for which every node is unfit is told so with a
reason for each.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct, UnsetType
from msgspec.structs import replace

from protocol.ids import NodeId
from protocol.jobs import Amounts, Constraint, Job, Resources
from protocol.nodes import Gpu, NodeInfo, Offer
from protocol.ranking import REASONS_MAX
from protocol.spec.quantities import amounts, parse_bytes
from protocol.spec.selectors import format_selector, matches
from requester.core.host import Host, told
from requester.core.membership import APPROVED, PENDING
from requester.core.model import NodeRecord

GIB: Final = 1024**3

NOT_APPROVED: Final = "is not approved yet"

FAVOUR: Final = "favour_"
"""A constraint's key with this prefix is a preference: it ranks and does not filter."""

_NO_PUBLISHER: Final = frozenset({"", "noop"})


class Demand(Struct, frozen=True, gc=False, cache_hash=True):
    """What a task asks of a node; equal demands are decided alike, so it serves as the key of what was worked out.

    `ports` are those of the host that it must have, `gpu` the kind of its devices: a part of their name in lower case, and
    their memory in MiB. `pack`: of two nodes that are as good, the fuller one.
    """

    engine: str
    sources: tuple[str, ...]
    publisher: str
    constraints: tuple[tuple[str, str, tuple[str, ...]], ...]
    amounts: Amounts
    ports: tuple[int, ...] = ()
    gpu: tuple[str, int] = ("", 0)
    pack: bool = False


class Unfit(Struct, frozen=True):
    """Why one node cannot take a task, and what would change that."""

    node: NodeId
    reason: str
    hint: str = ""


class Standing(Struct, frozen=True):
    """How all nodes stand towards one demand. `fitting` are connected and approved; `order` are the same.

    `preferences` is how many each of them meets, of those that meet any. `reasons` are those of the others, the commonest
    ones, with how many nodes each holds for. `small`: any node that fits and is roomy has room for it.
    """

    fitting: Mapping[NodeId, Host]
    order: tuple[Host, ...]
    preferences: Mapping[NodeId, int]
    away: tuple[Unfit, ...]
    unfit: tuple[Unfit, ...]
    reasons: Mapping[str, int]
    small: bool

    @property
    def known(self) -> int:
        """How many nodes there are."""
        return len(self.order) + len(self.away) + len(self.unfit)

    @property
    def hopeful(self) -> bool:
        """Whether some node takes the task now, or will once it is back."""
        return bool(self.fitting or self.away)


def static_ports(job: Job) -> tuple[int, ...]:
    """The ports of its host that a job must have."""
    return job.task.network.static_ports if job.task.network.ports else ()


def dynamic_ports(job: Job) -> int:
    """How many ports of its host a job must have, whichever they are."""
    ports = job.task.network.ports
    return sum(not port.static for port in ports) if ports else 0


def demand_of(job: Job) -> Demand:
    """What the job's task demands. Jobs that ask for the same mostly get the very same demand, which is compared at once."""
    task = job.task
    return _demand(
        task.engine.type,
        tuple([each.source.type for each in task.input_sources]),
        task.publisher.type,
        tuple([(each.key, each.operator, tuple(each.values)) for each in job.constraints]),
        task.resources,
        static_ports(job),
        dynamic_ports(job),
        _packs(job),
    )


def spreads(job: Job) -> bool:
    """Whether a job's executions rather go to nodes that have none of it: it is a service of several, and is not packed."""
    return job.type == "service" and job.count > 1 and not _packs(job)


def _packs(job: Job) -> bool:
    return not isinstance(job.placement, UnsetType) and job.placement.policy == "pack"


@lru_cache(maxsize=1024)
def _demand(
    engine: str,
    sources: tuple[str, ...],
    publisher: str,
    constraints: tuple[tuple[str, str, tuple[str, ...]], ...],
    resources: Resources,
    ports: tuple[int, ...],
    any_ports: int,
    pack: bool,
) -> Demand:
    return Demand(
        engine=engine.lower(),
        sources=tuple(sorted({source.lower() for source in sources})),
        publisher=publisher.lower(),
        constraints=constraints,
        amounts=replace(amounts(resources), dynamic_ports=any_ports),
        ports=ports,
        gpu=_gpu(resources),
        pack=pack,
    )


def _gpu(resources: Resources) -> tuple[str, int]:
    name, memory = resources.gpu_name, resources.gpu_memory
    if isinstance(name, UnsetType) and isinstance(memory, UnsetType):
        return "", 0
    return (
        "" if isinstance(name, UnsetType) else name.lower(),
        0 if isinstance(memory, UnsetType) or not memory else parse_bytes(memory) >> 20,
    )


def standing(demand: Demand, nodes: Iterable[NodeRecord], host_of: Callable[[NodeId], Host]) -> Standing:
    """Sort nodes by how they stand towards a demand."""
    fitting: dict[NodeId, Host] = {}
    preferences: dict[NodeId, int] = {}
    away: list[Unfit] = []
    unfit: list[Unfit] = []
    filters, favours = _constraints(demand)
    for node in nodes:
        lack = _lack(node, demand, filters)
        if lack is not None:
            unfit.append(lack)
        elif node.membership == PENDING:
            away.append(Unfit(node.info.id, NOT_APPROVED, hint="Approve it: node approve"))
        elif not node.connected and not node.expected:
            unfit.append(
                Unfit(
                    node.info.id, "has been away for long", hint="Start it again, or forget it: node delete"
                )
            )
        elif not node.connected:
            away.append(Unfit(node.info.id, "is not connected", hint="Start it again, or wait for it"))
        elif node.cordon is not None or node.aside is not None:
            away.append(_kept_away(node))
        elif (lost := _lost(node.info, demand)) is not None:
            away.append(lost)
        else:
            fitting[node.info.id] = host_of(node.info.id)
            met = sum(matches(favour, node.info.labels) for favour in favours)
            if met:
                preferences[node.info.id] = met
    reasons = Counter(each.reason for each in (*away, *unfit)).most_common(REASONS_MAX)
    order = tuple(fitting.values())
    small = not demand.ports and not demand.amounts.dynamic_ports
    small = small and all(host.is_small(demand.amounts) for host in order)
    return Standing(fitting, order, preferences, tuple(away), tuple(unfit), dict(reasons), small)


def _kept_away(node: NodeRecord) -> Unfit:
    id_, cordon = node.info.id, node.cordon
    if cordon is not None:
        what = "is cordoned" if cordon.drain_by is None else "is being drained"
        return Unfit(
            id_, what + (f": {cordon.reason}" if cordon.reason else ""), hint="Let it back: node uncordon"
        )
    assert node.aside is not None
    return Unfit(id_, node.aside.reason, hint="Mend it; or let it back now: node uncordon")


def _constraints(demand: Demand) -> tuple[list[Constraint], list[Constraint]]:
    """Conditions that filter, and preferences under their own keys."""
    filters: list[Constraint] = []
    favours: list[Constraint] = []
    for key, operator, values in demand.constraints:
        if key.startswith(FAVOUR):
            favours.append(Constraint(key.removeprefix(FAVOUR), operator, list(values)))
        else:
            filters.append(Constraint(key, operator, list(values)))
    return filters, favours


_RELABEL: Final = "Change Constraints, or the labels of the node"


def _lack(node: NodeRecord, demand: Demand, filters: Sequence[Constraint]) -> Unfit | None:
    """The first lasting reason why a node cannot take the task."""
    info = node.info
    if node.membership not in (APPROVED, PENDING):
        return Unfit(info.id, "is rejected", hint="Approve it: node approve")
    for kind, type_ in _parts(demand):
        lack = _not_offered(info, kind, type_)
        if lack is not None:
            return lack
    for constraint in filters:
        if not matches(constraint, info.labels):
            value = info.labels.get(constraint.key)
            has = f"label {constraint.key}={value}" if value is not None else f"no label {constraint.key}"
            return Unfit(info.id, f"{has}: not {format_selector([constraint])}", hint=_RELABEL)
    return _wrong_gpus(info, demand) or _too_large(info, demand.amounts)


def _parts(demand: Demand) -> Iterator[tuple[str, str]]:
    """What a node has to offer, each with its kind."""
    yield "engines", demand.engine
    for source in demand.sources:
        yield "sources", source
    if demand.publisher not in _NO_PUBLISHER:
        yield "publishers", demand.publisher


def _lost(info: NodeInfo, demand: Demand) -> Unfit | None:
    """The first part that the node has lost and may have again."""
    for kind, type_ in _parts(demand):
        offer = info.offers(kind, type_)
        if offer is not None and offer.lost:
            return _not_available(info.id, kind, offer)
    return None


def _not_offered(info: NodeInfo, kind: str, type_: str) -> Unfit | None:
    offer: Offer | None = info.offers(kind, type_)
    if offer is None:
        return Unfit(info.id, f"has no {kind.removesuffix('s')} {type_}")
    return None if offer.available or offer.lost else _not_available(info.id, kind, offer)


def _not_available(node: NodeId, kind: str, offer: Offer) -> Unfit:
    what = f"{kind.removesuffix('s')} {offer.type.lower()}"
    return Unfit(node, f"{what} is not available: {offer.reason or 'no reason given'}", offer.hint)


def _wrong_gpus(info: NodeInfo, demand: Demand) -> Unfit | None:
    name, memory_mib = demand.gpu
    if not demand.amounts.gpu or not (name or memory_mib):
        return None
    meant = [gpu for gpu in info.gpus if _is_of_kind(gpu, demand.gpu)]
    # A node hands out whichever of its devices is free, so all must be of the kind.
    count = demand.amounts.gpu
    if len(meant) == len(info.gpus) >= count:
        return None
    has = ", ".join(sorted({f"{gpu.name} ({gpu.memory_mib} MiB)" for gpu in info.gpus})) or "no GPU"
    wanted = " ".join(part for part in (name, f"with {memory_mib} MiB" if memory_mib else "") if part)
    return Unfit(
        info.id,
        f"needs {count} GPU{'s' * (count > 1)} {wanted} and none of another kind, has {len(info.gpus)}: {has}",
        hint="Change Resources.GPUName or GPUMemory, or add a node",
    )


def _is_of_kind(gpu: Gpu, kind: tuple[str, int]) -> bool:
    """Whether a device has a name with this in it, and at least this much memory in MiB."""
    name, memory_mib = kind
    return name in gpu.name.lower() and gpu.memory_mib >= memory_mib


def _too_large(info: NodeInfo, wanted: Amounts) -> Unfit | None:
    limit = told(info.largest if info.largest != Amounts() else info.capacity)
    if wanted.fits(limit):
        return None
    for name, needs, offers, fmt, key in (
        ("cores", wanted.cpu, limit.cpu, "g", "Resources.CPU"),
        ("GiB memory", wanted.memory_bytes / GIB, limit.memory_bytes / GIB, ".3g", "Resources.Memory"),
        ("GiB disk", wanted.disk_bytes / GIB, limit.disk_bytes / GIB, ".3g", "Resources.Disk"),
        ("GPUs", wanted.gpu, limit.gpu, "g", "Resources.GPU"),
        ("dynamic ports", wanted.dynamic_ports, limit.dynamic_ports, "g", "the number of Network.Ports"),
    ):
        if needs > offers:
            what = name.removesuffix("s") if needs == 1 else name
            reason = f"needs {needs:{fmt}} {what}, offers {offers:{fmt}}"
            return Unfit(info.id, reason, hint=f"Lower {key} or add a node")
    return None
