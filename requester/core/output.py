"""Which execution goes on where another one has ended: for those who follow a job's output.

Knows: which executions are attempts at the same: those at one partition, or on one node of a job that runs on every node.
Must not know: what was written, or where it is kept.
"""

from protocol.ids import NodeId
from protocol.jobs import EVERYWHERE
from requester.core.attempts import by_node, by_partition, rule_for
from requester.core.fleet import Fleet
from requester.core.meant import place_of
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.policy import Policy
from requester.core.refusing import refusals
from requester.core.standing import demand_of


def next_attempt_at(record: JobRecord, last: ExecutionRecord) -> ExecutionRecord | None:
    """The newest execution that came in the place of one, of the same version or a later one; None if there is none yet."""
    place = _place(record, last)
    later = [
        each
        for each in record.current()
        if each.ordered > last.ordered and each.id != last.id and _place(record, each) == place
    ]
    return later[-1] if later else None


def is_last_attempt(
    record: JobRecord, last: ExecutionRecord, policy: Policy, fleet: Fleet | None = None
) -> bool:
    """Whether nothing comes in the place of an execution any more. False as long as its end is not in the log. Without a
    `fleet` it is not known which nodes the job goes to.
    """
    if record.closed:
        return True
    known = record.executions.get(last.id)
    if known is not None and known.open:
        return False
    everywhere = record.spec.type in EVERYWHERE
    if everywhere and fleet is not None and not _goes_to(record, last.node, fleet):
        return True
    if last.version != record.version:
        # Of a version with fewer partitions, nothing is at those that are too many.
        return not everywhere and last.partition >= record.spec.count
    rule = rule_for(record, policy)
    attempts = (
        by_node(record, rule).get(last.node) if everywhere else by_partition(record, rule).get(last.partition)
    )
    return attempts is not None and attempts.over(rule)


def _goes_to(record: JobRecord, node: NodeId, fleet: Fleet) -> bool:
    """Whether a job that runs on every node goes to this one, now or when it is back."""
    standing = fleet.standing(demand_of(record.spec))
    there = node in standing.fitting or any(each.node == node for each in standing.away)
    return there and node not in refusals(record, fleet.nodes)


def _place(record: JobRecord, execution: ExecutionRecord) -> str | int:
    return place_of(record.spec.type, execution.node, execution.partition)
