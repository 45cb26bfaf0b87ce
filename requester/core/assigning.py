"""Where the next attempts go: for a job in partitions, and for one that runs on every node.

Knows: which attempts are due and how a decision shares out the room it sees. Must not know: what becomes of those that
find no room (`step`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from protocol.entries import Assigned
from protocol.errors import Failure
from protocol.held import input_token
from protocol.ids import NodeId, execution_id
from protocol.jobs import Amounts
from protocol.ranking import Ranking
from requester.core.attempts import by_node, by_partition, failures_by_node, replicas_by_node, rule_for
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.placement import Attempt, rank
from requester.core.policy import Policy
from requester.core.room import Remaining
from requester.core.standing import Demand, Standing, spreads
from requester.core.view import View


class Case(Struct, frozen=True):
    """A job that may need places, and all that is looked at to find them. `now` is in unix seconds.

    `refused` are nodes that do not take it. `left` are executions that this same decision takes away: their room may be
    taken by what follows them. `limits` is the most that may be used of nodes that are kept for others; `behind`: others
    like it wait before it, and go first.
    """

    record: JobRecord
    demand: Demand
    standing: Standing
    view: View
    now: float
    policy: Policy
    refused: Mapping[NodeId, Failure] = {}
    left: Sequence[ExecutionRecord] = ()
    limits: Mapping[NodeId, Amounts] = {}
    behind: bool = False


class Assignment(NamedTuple):
    """What was assigned, how many executions found no node, and the room as it then is. `full` are nodes that have no room
    for what can be nowhere else.
    """

    events: list[Assigned]
    short_of: int
    room: Remaining
    full: Collection[NodeId] = ()


def partitions(case: Case) -> Assignment:
    """The next attempt for each partition that has none, and how many of them find no node.

    A partition goes to the node that has failed this job least, so a second attempt is on another node if there is one; of a
    service, to one that has fewest of its others.
    """
    record, demand, now = case.record, case.demand, case.now
    rule = rule_for(record, case.policy)
    attempts = by_partition(record, rule)
    serving = {each.partition for each in record.older()}
    failures = failures_by_node(record.current() if attempts else ())
    replicas = replicas_by_node(record)
    spread = spreads(record.spec)
    room = _room(case)
    turns = case.view.turns
    offered = turns.offered_to(record.key) if turns is not None else None
    assigned: list[Assigned] = []
    short_of = 0
    for partition in range(record.spec.count):
        tried = attempts.get(partition)
        if tried is not None and (tried.open or tried.over(rule) or now < tried.ready_at(rule)):
            continue
        if partition in serving:
            continue
        if short_of or case.behind:
            short_of += 1
            continue
        number = tried.number + 1 if tried else 1
        id_ = execution_id(record.id, record.version, partition, number)
        inputs = inputs_of(record, partition)
        seed = int(id_[2:10], 16)
        attempt = Attempt(demand, inputs, failures, case.refused, seed, offered, replicas)
        choice = rank(case.standing, attempt, room)
        if choice is None:
            short_of = 1
            continue
        room.take(choice.node, demand)
        if spread:
            replicas[choice.node] = replicas.get(choice.node, 0) + 1
        event = Assigned(id_, partition, number, choice.node, demand.amounts, choice.why, choice.ranking)
        assigned.append(event)
        if len(assigned) >= case.policy.events_max:
            break
    return Assignment(assigned, short_of, room)


def everywhere(case: Case) -> Assignment:
    """One execution on each node that fits and has none, and how many such nodes have no room (or: that there is none).

    An ops job that shares out its inputs does so among the nodes that fit when it begins: each has a part of its own, and
    one that joins later has none. It begins when all nodes have had the time to be heard.
    """
    record, demand, standing, now = case.record, case.demand, case.standing, case.now
    rule = rule_for(record, case.policy)
    attempts = by_node(record, rule)
    serving = {each.node for each in record.older()}
    room = _room(case)
    parts = _Parts(case) if record.spec.type == "ops" and record.spec.shares_out() else None
    if parts is not None and not case.view.settled:
        return Assignment([], 0, room)
    assigned: list[Assigned] = []
    full: list[NodeId] = []
    why = f"it runs on every node that fits: {len(standing.order)} of {standing.known}"
    ranking = Ranking(standing.known, len(standing.order), others=dict(standing.reasons))
    for host in standing.order:
        node = host.id
        if node in case.refused or node in serving:
            continue
        tried = attempts.get(node)
        if tried is not None and (tried.open or tried.over(rule) or now < tried.ready_at(rule)):
            continue
        part = parts.of(tried.last if tried is not None else None) if parts is not None else 0
        if part is None:
            continue
        if not room.of(node).has(demand.amounts, demand.ports):
            full.append(node)
            continue
        # Counted on each node, so the node is in the id.
        attempt = tried.number + 1 if tried is not None else 1
        room.take(node, demand)
        id_ = execution_id(record.id, record.version, part, attempt, node)
        count = parts.count if parts is not None else 0
        assigned.append(Assigned(id_, part, attempt, node, demand.amounts, why, ranking, count))
        if len(assigned) >= case.policy.events_max:
            break
    idle = not serving and not assigned and not any(each.open for each in attempts.values())
    nowhere = idle and (not attempts or (record.spec.type == "daemon" and _fits_nowhere(case)))
    short_of = len(full) or int(nowhere)
    return Assignment(assigned, short_of, room, full)


def _fits_nowhere(case: Case) -> bool:
    """Whether no node is left that could go on with a job, as far as is known once all have had the time to be heard."""
    return case.view.settled and all(host.id in case.refused for host in case.standing.order)


class _Parts:
    """The parts of an ops job's inputs: as many as nodes fitted when it began, each given to one node."""

    def __init__(self, case: Case) -> None:
        known = case.record.current()
        self.count = max((each.partitions for each in known), default=len(case.standing.order))
        given = {each.partition for each in known}
        self._left = iter([part for part in range(self.count) if part not in given])

    def of(self, earlier: ExecutionRecord | None) -> int | None:
        """The part of a node: what its earlier attempt had, else the next one, None if all are given."""
        return earlier.partition if earlier is not None else next(self._left, None)


def inputs_of(record: JobRecord, partition: int) -> list[str]:
    """The tokens of what a partition reads."""
    sources = record.spec.task.input_sources
    return [input_token(each.source, partition, max(record.spec.count, 1)) for each in sources]


def _room(case: Case) -> Remaining:
    room = Remaining(case.view.fleet, case.limits)
    for execution in case.left:
        room.give_back(execution)
    return room
