"""Why a job waits, as things stand: what it is told is worked out when it is asked for.

Knows: how the nodes stand towards a job that has no place. Must not know: whose turn it is (`turns`), or what follows from
it (`step`).

The log has the reason for which a job began to wait, and no more: nodes come and go for a million waiting jobs at once, and
each change would be an entry of each.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from protocol.errors import Failure
from protocol.ids import NodeId
from requester.core.attempts import serves
from requester.core.fleet import Fleet
from requester.core.fold import lacking
from requester.core.model import JobRecord
from requester.core.refusing import refusals
from requester.core.room import Remaining
from requester.core.standing import Demand, demand_of, explain, no_room


def why_it_waits(
    record: JobRecord, fleet: Fleet, refused: Mapping[NodeId, Failure], *, needed: int, room: Remaining
) -> Failure:
    """Why `needed` executions have no place in the `room` that a decision leaves; nodes have `refused` the job."""
    demand = demand_of(record.spec)
    return explain(
        fleet.standing(demand),
        refused,
        needed=needed,
        waits=record.spec.type == "daemon" or bool(record.older()) or serves(record),
        lack=lambda node: no_room(demand, room.unlimited(node), room.of(node).ports),
    )


def reason_now(record: JobRecord, fleet: Fleet) -> Failure:
    """Why a job that waits does so now."""
    refused = refusals(record, fleet.nodes)
    return why_it_waits(record, fleet, refused, needed=lacking(record), room=Remaining(fleet))


def as_they_wait(records: Iterable[JobRecord], fleet: Fleet) -> list[JobRecord]:
    """Jobs with the reason for which they wait now, if they do, instead of that for which they began to.

    What many ask alike that never had an execution is worked out once.
    """
    reasons: dict[tuple[Demand, int], Failure] = {}
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
