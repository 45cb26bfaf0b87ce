"""Where a task can run: which nodes fit, which fit but are full or away, and for each of the others why not.

Knows: what a task demands, what a node offers, and how to choose among nodes that fit. Must not know: jobs, attempts or the
log; what counts as promised on a node is told by `fleet`.

Three answers are kept apart, because they end differently: a node that **fits** takes the task when it has room (a full
cluster queues); one that is **away** would fit if it were connected and approved (the job waits for it); one that is
**unfit** lacks something lasting, and a job for which every node is unfit is told so with a reason for each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from protocol.errors import Failure
from protocol.ids import NodeId, short
from protocol.jobs import Amounts, Constraint, Job, Resources
from protocol.nodes import NodeInfo, Offer
from protocol.spec.quantities import amounts
from protocol.spec.selectors import format_selector, matches
from requester.core.membership import APPROVED, PENDING
from requester.core.model import NodeRecord

SAMPLE_ABOVE: Final = 64
"""With more fitting nodes than this the choice is the best of a sample, not of all."""
SAMPLE_SIZE: Final = 8
NODES_TOLD: Final = 32
"""Nodes named one by one in an explanation; the rest is counted."""

NO_SUITABLE_NODE: Final = "NoSuitableNode"
NO_ROOM: Final = "Exhausted.NoRoom"

FAVOUR: Final = "favour_"
"""A constraint's key with this prefix is a preference: it ranks and does not filter."""

_NO_PUBLISHER: Final = frozenset({"", "noop"})


class Demand(Struct, frozen=True):
    """What a task asks of a node; equal demands are decided alike, so it serves as the key of what was worked out."""

    engine: str
    sources: tuple[str, ...]
    publisher: str
    constraints: tuple[tuple[str, str, tuple[str, ...]], ...]
    amounts: Amounts


class Unfit(Struct, frozen=True):
    """Why one node cannot take a task, and what would change that."""

    node: NodeId
    reason: str
    hint: str = ""


class Standing(Struct, frozen=True):
    """How all nodes stand towards one demand. `fitting` are connected and approved, with the preferences they meet."""

    fitting: tuple[tuple[NodeId, int], ...]
    away: tuple[Unfit, ...]
    unfit: tuple[Unfit, ...]


Free = Callable[[NodeId], Amounts]
"""What is not promised on a node just now."""


def demand_of(job: Job) -> Demand:
    """What the job's task demands."""
    task = job.task
    return Demand(
        engine=task.engine.type.lower(),
        sources=tuple(sorted({source.source.type.lower() for source in task.input_sources})),
        publisher=task.publisher.type.lower(),
        constraints=tuple((each.key, each.operator, tuple(each.values)) for each in job.constraints),
        amounts=_amounts(task.resources),
    )


@lru_cache(maxsize=1024)
def _amounts(resources: Resources) -> Amounts:
    return amounts(resources)


def standing(demand: Demand, nodes: Iterable[NodeRecord]) -> Standing:
    """Sort nodes by how they stand towards a demand."""
    fitting: list[tuple[NodeId, int]] = []
    away: list[Unfit] = []
    unfit: list[Unfit] = []
    filters, favours = _constraints(demand)
    for node in nodes:
        lack = _lack(node, demand, filters)
        if lack is not None:
            unfit.append(lack)
        elif node.membership == PENDING:
            away.append(Unfit(node.info.id, "is not approved yet", "approve it: node approve"))
        elif not node.connected and not node.expected:
            unfit.append(
                Unfit(node.info.id, "has been away for long", "start it again, or forget it: node delete")
            )
        elif not node.connected:
            away.append(Unfit(node.info.id, "is not connected", "start it again, or wait for it"))
        else:
            liked = sum(matches(favour, node.info.labels) for favour in favours)
            fitting.append((node.info.id, liked))
    return Standing(tuple(fitting), tuple(away), tuple(unfit))


def choose(
    standing: Standing,
    wanted: Amounts,
    *,
    free: Free,
    capacity: Free,
    failures: Mapping[NodeId, int],
    excluded: frozenset[NodeId],
    seed: int,
) -> NodeId | None:
    """The best node with room, or None.

    Fewest failures of this job first, then most preferences met, then the emptiest (work spreads). Ties go round by
    `seed`; among very many nodes the best of a sample drawn by `seed` is taken, so that deciding stays cheap.
    """
    fitting = standing.fitting
    count = len(fitting)
    if not count:
        return None
    if count > SAMPLE_ABOVE:
        step = (seed >> 16) % count | 1
        sample = [fitting[(seed + turn * step) % count] for turn in range(SAMPLE_SIZE)]
        found = _best(sample, wanted, free, capacity, failures, excluded)
        if found is not None:
            return found
    start = seed % count
    return _best((*fitting[start:], *fitting[:start]), wanted, free, capacity, failures, excluded)


def _best(
    nodes: Iterable[tuple[NodeId, int]],
    wanted: Amounts,
    free: Free,
    capacity: Free,
    failures: Mapping[NodeId, int],
    excluded: frozenset[NodeId],
) -> NodeId | None:
    best: NodeId | None = None
    best_score = (0, 0, 0.0)
    for node, liked in nodes:
        room = free(node)
        if not wanted.fits(room) or node in excluded:
            continue
        score = (failures.get(node, 0), -liked, -_share(room, capacity(node)))
        if best is None or score < best_score:
            best, best_score = node, score
    return best


def _share(room: Amounts, whole: Amounts) -> float:
    """The free share of a node: of cores or of memory, whichever is scarcer."""
    cpu = room.cpu / whole.cpu if whole.cpu else 1.0
    memory = room.memory_bytes / whole.memory_bytes if whole.memory_bytes else 1.0
    return min(cpu, memory)


def explain(standing: Standing, excluded: Mapping[NodeId, str], *, needed: int) -> Failure:
    """Why a task cannot be placed now: for lack of room, of a node that is away, or of any node that could run it.

    The message is made for people, one line a node; `details` has the same by node id.
    """
    refused = [Unfit(node, reason) for node, reason in excluded.items()]
    could = [node for node, _ in standing.fitting if node not in excluded]
    known = len(standing.fitting) + len(standing.away) + len(standing.unfit)
    if could:
        full = [Unfit(node, "fits, but has no room now") for node in could]
        return Failure(
            code=NO_ROOM,
            message=f"waiting for room: {len(could)} of {_nodes(known)} could run this job, and none has room now",
            hint="the job starts as soon as running work ends; or add a node, or ask for less in Resources",
            retryable=True,
            details=_details([*full, *standing.away, *refused, *standing.unfit]),
        )
    if standing.away:
        return Failure(
            code=f"{NO_SUITABLE_NODE}.Away",
            message=f"waiting for a node: {len(standing.away)} of {_nodes(known)} could run this job, and none is here",
            hint="start or approve one of them",
            retryable=True,
            details=_details([*standing.away, *refused, *standing.unfit]),
        )
    lines = [*refused, *standing.unfit]
    if not lines:
        return Failure(
            code=f"{NO_SUITABLE_NODE}.NoNodes",
            message=f"no node can run this job (needs {needed}, has 0 of 0): no compute node is connected",
            hint="start one with: python -m compute --nats nats://HOST:4222",
        )
    table = "".join(
        f"\n  {short(each.node)}  {each.reason}" + (f"  fix: {each.hint}" if each.hint else "")
        for each in lines[:NODES_TOLD]
    )
    return Failure(
        code=NO_SUITABLE_NODE,
        message=f"no node can run this job (needs {needed}, has 0 of {known}){table}",
        hint="change the job, or a node as told above; a QueueTimeout makes the job wait for such a node",
        details=_details(lines),
    )


def _details(lines: Sequence[Unfit]) -> dict[str, str]:
    details = {
        str(each.node): each.reason + (f" (fix: {each.hint})" if each.hint else "")
        for each in lines[:NODES_TOLD]
    }
    if len(lines) > NODES_TOLD:
        details["others"] = str(len(lines) - NODES_TOLD)
    return details


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


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


def _lack(node: NodeRecord, demand: Demand, filters: Sequence[Constraint]) -> Unfit | None:
    """The first lasting reason why a node cannot take the task."""
    info = node.info
    if node.membership not in (APPROVED, PENDING):
        return Unfit(info.id, "is rejected", "approve it: node approve")
    wanted = [("engines", demand.engine), *(("sources", source) for source in demand.sources)]
    if demand.publisher not in _NO_PUBLISHER:
        wanted.append(("publishers", demand.publisher))
    for kind, type_ in wanted:
        lack = _not_offered(info, kind, type_)
        if lack is not None:
            return lack
    for constraint in filters:
        if not matches(constraint, info.labels):
            value = info.labels.get(constraint.key)
            has = f"label {constraint.key}={value}" if value is not None else f"no label {constraint.key}"
            return Unfit(info.id, f"{has}: not {format_selector([constraint])}", "from Constraints")
    return _too_large(info, demand.amounts)


def _not_offered(info: NodeInfo, kind: str, type_: str) -> Unfit | None:
    what = f"{kind.removesuffix('s')} {type_}"
    offer: Offer | None = info.offers(kind, type_)
    if offer is None:
        return Unfit(info.id, f"has no {what}")
    if not offer.available:
        return Unfit(info.id, f"{what} is not available: {offer.reason or 'no reason given'}", offer.hint)
    return None


def _too_large(info: NodeInfo, wanted: Amounts) -> Unfit | None:
    limit = info.largest if info.largest != Amounts() else info.capacity
    if wanted.fits(limit):
        return None
    gib = 1024**3
    for name, needs, offers, key in (
        ("cores", f"{wanted.cpu:g}", f"{limit.cpu:g}", "CPU"),
        ("GiB memory", f"{wanted.memory_bytes / gib:.3g}", f"{limit.memory_bytes / gib:.3g}", "Memory"),
        ("GiB disk", f"{wanted.disk_bytes / gib:.3g}", f"{limit.disk_bytes / gib:.3g}", "Disk"),
        ("GPUs", str(wanted.gpu), str(limit.gpu), "GPU"),
    ):
        part = {
            "CPU": wanted.cpu > limit.cpu,
            "Memory": wanted.memory_bytes > limit.memory_bytes,
            "Disk": wanted.disk_bytes > limit.disk_bytes,
            "GPU": wanted.gpu > limit.gpu,
        }[key]
        if part:
            return Unfit(
                info.id, f"needs {needs} {name}, offers {offers}", f"lower Resources.{key} or add a node"
            )
    return None
