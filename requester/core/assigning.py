"""Where the next attempts go: for a job in partitions, and for one that runs on every node.

Knows: which attempts are due and how a decision shares out the room it sees. Must not know: what becomes of those that
find no room (`step`).
"""

from collections.abc import Callable

from protocol.entries import Assigned
from protocol.ids import ExecutionId, NodeId, execution_id
from protocol.jobs import Amounts
from requester.core.attempts import by_node, by_partition, failures_by_node, refusals
from requester.core.fleet import Fleet
from requester.core.model import JobRecord
from requester.core.placement import Demand, Standing, choose
from requester.core.policy import Policy, rule_of
from requester.core.view import View


def partitions(
    record: JobRecord, standing: Standing, demand: Demand, view: View, now: float, policy: Policy
) -> tuple[list[Assigned], int]:
    """The next attempt for each partition that has none, and how many of them find no node.

    A partition goes to the node that has failed this job least, so a second attempt is on another node if there is one.
    """
    rule = rule_of(record.spec, policy)
    attempts = by_partition(record, rule)
    current = record.current() if attempts else []
    failures = failures_by_node(current)
    excluded = frozenset(refusals(current))
    room = _Room(view.fleet)
    assigned: list[Assigned] = []
    short_of = 0
    for partition in range(record.spec.count):
        tried = attempts.get(partition)
        if tried is not None and (tried.open or tried.over(rule) or now < tried.ready_at(rule)):
            continue
        if short_of:
            short_of += 1
            continue
        attempt = tried.number + 1 if tried else 1
        execution = execution_id(record.id, record.version, partition, attempt)
        node = choose(
            standing,
            demand.amounts,
            free=room.free,
            capacity=view.fleet.capacity,
            failures=failures,
            excluded=excluded,
            seed=int(execution[2:10], 16),
        )
        if node is None:
            short_of = 1
            continue
        room.take(node, demand.amounts)
        assigned.append(_assigned(execution, partition, attempt, node, demand.amounts, standing))
        if len(assigned) >= policy.events_max:
            break
    return assigned, short_of


def everywhere(
    record: JobRecord, standing: Standing, wanted: Amounts, view: View, now: float, policy: Policy
) -> tuple[list[Assigned], int]:
    """One execution on each node that fits and has none, and how many such nodes have no room (or: that there is none)."""
    rule = rule_of(record.spec, policy)
    attempts = by_node(record, rule)
    excluded = refusals(record.current())
    assigned: list[Assigned] = []
    short_of = 0
    number = max((tried.number for tried in attempts.values()), default=0)
    for node, _ in standing.fitting:
        tried = attempts.get(node)
        if node in excluded:
            continue
        if tried is not None and (tried.open or tried.over(rule) or now < tried.ready_at(rule)):
            continue
        if not wanted.fits(view.fleet.free(node)):
            short_of += 1
            continue
        attempt = number + len(assigned) + 1
        execution = execution_id(record.id, record.version, 0, attempt)
        assigned.append(_assigned(execution, 0, attempt, node, wanted, standing))
        if len(assigned) >= policy.events_max:
            break
    return assigned, short_of or int(not attempts and not assigned)


def _assigned(
    execution: ExecutionId, partition: int, attempt: int, node: NodeId, amounts: Amounts, standing: Standing
) -> Assigned:
    known = len(standing.fitting) + len(standing.away) + len(standing.unfit)
    why = f"{len(standing.fitting)} of {known} nodes fit"
    return Assigned(execution, partition, attempt, node, amounts, why)


class _Room:
    """What is free on each node, less what this decision has already taken."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._taken: dict[NodeId, Amounts] = {}
        self.free: Callable[[NodeId], Amounts] = fleet.free

    def take(self, node: NodeId, amounts: Amounts) -> None:
        self._taken[node] = self._taken.get(node, Amounts()) + amounts
        self.free = self._left

    def _left(self, node: NodeId) -> Amounts:
        free = self._fleet.free(node)
        taken = self._taken.get(node)
        return free if taken is None else free - taken
