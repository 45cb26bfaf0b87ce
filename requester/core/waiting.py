"""Why a job waits, as things stand: what it is told is worked out when it is asked for.

Knows: how the nodes stand towards a job that has no place, and how that is told. Must not know: how they come to stand so
(`standing`), whose turn it is (`turns`), or what follows from it (`step`).

The log has the reason for which a job began to wait, and no more: nodes come and go for a million waiting jobs at once, and
each change would be an entry of each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from msgspec.structs import replace

from protocol.errors import NO_SUITABLE_NODE, Failure
from protocol.ids import NodeId, short
from protocol.jobs import Amounts
from protocol.spelling import some_of
from requester.core.attempts import serves
from requester.core.fleet import Fleet
from requester.core.fold import lacking
from requester.core.model import JobRecord
from requester.core.refusing import refusals
from requester.core.room import Remaining
from requester.core.standing import (
    GIB,
    NOT_APPROVED,
    Demand,
    Standing,
    Unfit,
    demand_of,
)

NO_ROOM: Final = "Exhausted.NoRoom"

NODES_TOLD: Final = 32
"""Nodes, or reasons, told one by one in an explanation; the rest is counted."""
ALIKE_NAMED: Final = 3
"""Of the nodes with one and the same reason."""

WAITING_TOLD: Final = 4
"""Nodes named where a job only has to wait: there may be a million such reasons. `job explain` works out the rest."""


def reason_now(record: JobRecord, fleet: Fleet) -> Failure:
    """Why a job that waits does so now."""
    demand = demand_of(record.spec)
    refused = refusals(record, fleet.nodes)
    return why_it_waits(
        record, demand, fleet.standing(demand), refused, needed=lacking(record), room=Remaining(fleet)
    )


Reasons = dict[tuple[Demand, int], Failure]
"""Why jobs wait that never had an execution, by what each of them wants: executions of that demand, so many."""


def as_they_wait(
    records: Iterable[JobRecord], fleet: Fleet, reasons: Reasons | None = None
) -> list[JobRecord]:
    """Jobs with the reason for which they wait now, if they do, instead of that for which they began to.

    What many ask alike that never had an execution is worked out once; `reasons` has what was already, for others.
    """
    reasons = {} if reasons is None else reasons
    found: list[JobRecord] = []
    for record in records:
        if record.queued is None or record.closed:
            found.append(record)
            continue
        alike = (demand_of(record.spec), lacking(record)) if record.untried else None
        reason = reasons.get(alike) if alike is not None else None
        if reason is None:
            reason = reason_now(record, fleet)
            if alike is not None:
                reasons[alike] = reason
        found.append(replace(record, queued=reason))
    return found


def why_it_waits(
    record: JobRecord,
    demand: Demand,
    standing: Standing,
    refused: Mapping[NodeId, Failure],
    *,
    needed: int,
    room: Remaining,
) -> Failure:
    """Why `needed` executions have no place in the `room` that a decision leaves; nodes have `refused` the job."""
    return explain(
        standing,
        refused,
        needed=needed,
        waits=record.spec.type == "daemon" or bool(record.older()) or serves(record),
        lack=lambda node: no_room(demand, room.unlimited(node), room.of(node).unavailable),
    )


def explain(
    standing: Standing,
    refused: Mapping[NodeId, Failure],
    *,
    needed: int,
    waits: bool = False,
    lack: Callable[[NodeId], str] = lambda _: "fits, but has no room now",
) -> Failure:
    """Why a task cannot be placed now: for lack of room, of a node that is away, or of any node that could run it.

    `lack` says what a node that fits lacks just now; `waits`: whatever the reason is, it is waited until that changes. The
    message is made for people, one line a reason; `details` has the same by node id. Nodes that have `refused` the task
    count for nothing, however they stand.
    """
    known = standing.known
    could = [node for node in standing.fitting if node not in refused]
    if could:
        return _no_room_now([Unfit(node, lack(node)) for node in could[:WAITING_TOLD]], len(could), known)
    unfit = [
        Unfit(node, f"refused: {refused[node].message}", refused[node].hint)
        for node in (*standing.fitting, *(each.node for each in standing.away))
        if node in refused
    ]
    unfit += standing.unfit
    away = [each for each in standing.away if each.node not in refused]
    if away:
        return _all_away(away, unfit, known)
    if not unfit:
        return _no_nodes(needed, waits)
    return _none_fits(unfit, needed, known, waits)


def no_room(demand: Demand, free: Amounts, ports: frozenset[int]) -> str:
    """What a node that fits lacks just now."""
    for name, wants, has in (
        ("cores", demand.amounts.cpu, free.cpu),
        ("GiB memory", demand.amounts.memory_bytes / GIB, free.memory_bytes / GIB),
        ("GiB disk", demand.amounts.disk_bytes / GIB, free.disk_bytes / GIB),
        ("GPUs", demand.amounts.gpu, free.gpu),
        ("dynamic ports", demand.amounts.dynamic_ports, free.dynamic_ports),
    ):
        if wants > has + 1e-9:
            return f"fits, but has {max(has, 0):.3g} of the {wants:.3g} {name} free now"
    taken = sorted(ports.intersection(demand.ports))
    if taken:
        return f"fits, but its port {taken[0]} is taken now"
    return "fits, but its room is kept for others now"


def _no_room_now(full: Sequence[Unfit], could: int, known: int) -> Failure:
    """What all of them lack is the headline; what each lacks, where that differs, stands beside it."""
    lacks = {each.reason for each in full}
    what = (
        f": {'it' if could == 1 else 'each'} {lacks.pop()}" if could == len(full) and len(lacks) == 1 else ""
    )
    return Failure(
        code=NO_ROOM,
        message=f"waiting for room: {could} of {_nodes(known)} could run this job, and none has room now{what}",
        hint="The job starts as soon as running work ends; or add a node, or ask for less in Resources.",
        retryable=True,
        details=_details(full, more=known - len(full)),
    )


def _all_away(away: Sequence[Unfit], unfit: Sequence[Unfit], known: int) -> Failure:
    able = f"{len(away)} of {_nodes(known)} could run this job"
    unapproved = [each.node for each in away if each.reason == NOT_APPROVED]
    wait = "waits" if len(unapproved) == 1 else "wait"
    which = f": {len(unapproved)} of them {wait} to be approved" if unapproved else ""
    return Failure(
        code=f"{NO_SUITABLE_NODE}.Away",
        message=f"waiting for a node: {able}, and none takes work now{which}",
        hint=_approve(unapproved)
        or _only(each.hint for each in away)
        or "Bring one of them back, as said for each.",
        retryable=True,
        details=_details([*away, *unfit]),
    )


def _no_nodes(needed: int, waits: bool) -> Failure:
    what = "waiting for a node" if waits else f"no node can run this job (needs {needed}, has 0 of 0)"
    return Failure(
        code=f"{NO_SUITABLE_NODE}.NoNodes",
        message=f"{what}: no compute node is connected",
        hint="Start one with: python -m compute --nats nats://HOST:4222",
        retryable=waits,
    )


def _none_fits(unfit: Sequence[Unfit], needed: int, known: int, waits: bool) -> Failure:
    what = (
        f"waiting for a node: none of {_nodes(known)} can run this job"
        if waits
        else f"no node can run this job (needs {needed}, has 0 of {known})"
    )
    alike: dict[tuple[str, str], list[str]] = {}
    for each in unfit:
        alike.setdefault((each.reason, each.hint), []).append(short(each.node))
    table = "".join(
        f"\n  {some_of(nodes, ALIKE_NAMED)}  {reason}" + (f"  fix: {hint}" if hint else "")
        for (reason, hint), nodes in islice(alike.items(), NODES_TOLD)
    )
    wait = "" if waits else " With a QueueTimeout the job waits for such a node."
    return Failure(
        code=NO_SUITABLE_NODE,
        message=what + table,
        hint=f"Change the job, or a node as said above.{wait}",
        retryable=waits,
        details=_details(unfit),
    )


def _approve(nodes: Sequence[NodeId]) -> str:
    """The command that lets the first of these nodes take work; nothing if there are none."""
    if not nodes:
        return ""
    others = "; the others: shoal node list --filter-approval pending" if len(nodes) > 1 else ""
    return f"Approve it: shoal node approve {short(nodes[0])}{others}"


def _only(hints: Iterable[str]) -> str:
    """The one hint that there is, else nothing."""
    found = set(hints)
    return found.pop() if len(found) == 1 else ""


def _details(lines: Sequence[Unfit], more: int = 0) -> dict[str, str]:
    details = {
        str(each.node): each.reason + (f" (fix: {each.hint})" if each.hint else "")
        for each in lines[:NODES_TOLD]
    }
    more += max(len(lines) - NODES_TOLD, 0)
    if more:
        details["others"] = str(more)
    return details


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
