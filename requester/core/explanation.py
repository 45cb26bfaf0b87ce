"""How nodes stand towards a job right now, one by one, for a person who asks.

Knows: the same rules by which the job is placed. Must not know: how it is shown. Why an execution went where it went is not
worked out again: it is kept with the decision (`protocol.ranking`).
"""

from typing import Final

from msgspec import Struct

from protocol.ids import NodeId
from protocol.jobs import EVERYWHERE
from protocol.states import ExecutionState
from requester.core.assigning import inputs_of
from requester.core.attempts import failures_by_node, replicas_by_node
from requester.core.fleet import Fleet
from requester.core.model import JobRecord
from requester.core.placement import Attempt, rank
from requester.core.refusing import refusals
from requester.core.standing import demand_of
from requester.core.waiting import no_room

NODES_MAX: Final = 256
"""Nodes told one by one; those that fit come first."""


class NodeStanding(Struct, frozen=True):
    """One node: ``next`` (the next execution would go there), ``room``, ``full``, ``away``, ``refused`` or ``unfit``; or
    ``has`` it, of a job that runs on every node."""

    node: NodeId
    standing: str
    reason: str = ""
    hint: str = ""


def standings(record: JobRecord, fleet: Fleet) -> list[NodeStanding]:
    """How each node stands towards the job's next execution, those first that could take it."""
    demand = demand_of(record.spec)
    standing = fleet.standing(demand)
    refused = refusals(record, fleet.nodes)
    failures = failures_by_node(record.current())
    attempt = Attempt(demand, inputs_of(record, 0), failures, refused, replicas=replicas_by_node(record))
    choice = rank(standing, attempt, fleet)
    first = choice.node if choice is not None else None
    had = _had(record)
    found: list[NodeStanding] = []
    for host in standing.order[:NODES_MAX]:
        node = host.id
        if node in had:
            found.append(NodeStanding(node, "has", had[node]))
        elif node in refused:
            found.append(NodeStanding(node, "refused", refused[node].message, refused[node].hint))
        elif node == first and choice is not None:
            found.insert(0, NodeStanding(node, "next", choice.why))
        elif host.has(demand.amounts, demand.ports):
            found.append(NodeStanding(node, "room"))
        else:
            found.append(NodeStanding(node, "full", no_room(demand, host.free, host.unavailable)))
    found += [NodeStanding(each.node, "away", each.reason, each.hint) for each in standing.away]
    found += [NodeStanding(each.node, "unfit", each.reason, each.hint) for each in standing.unfit]
    return found[:NODES_MAX]


def _had(record: JobRecord) -> dict[NodeId, str]:
    """The nodes that have had a job which runs on every node, with what became of it there last."""
    if record.spec.type not in EVERYWHERE:
        return {}
    last = {each.node: each for each in (*record.older(), *record.current())}
    return {
        node: f"{each.state}" + (f": {each.failure.message}" if each.failure is not None else "")
        for node, each in last.items()
        if each.state is not ExecutionState.REFUSED
    }
