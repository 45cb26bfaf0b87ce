"""What long-running jobs replace a few at a time: executions of an older version, and those on a node that is drained.

Knows: how many may be without a healthy execution at once, and that nothing is taken down that has no place to come up
again. Must not know: what must end at once (`giving_up`). The newly healthy make room for the next, so a version that does
not come up stops the update by itself, with the rest still running.
"""

from msgspec import UnsetType

from protocol.entries import Cancelled
from protocol.errors import Failure
from protocol.ids import NodeId
from protocol.jobs import LONG_RUNNING
from protocol.states import ExecutionState
from requester.core.assigning import Case
from requester.core.giving_up import DRAINED, SUPERSEDED
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.placement import Attempt, choose
from requester.core.policy import healthy_after_s
from requester.core.room import Remaining
from requester.core.view import View


def replaced(case: Case) -> list[Cancelled]:
    """The executions that make way now for a newer version, or leave a drained node."""
    record, standing = case.record, case.standing
    if record.spec.type not in LONG_RUNNING:
        return []
    outdated = [
        (each, why) for each in record.open() if (why := _outdated(each, record, case.view)) is not None
    ]
    if not outdated:
        return []
    daemon = record.spec.type == "daemon"
    unfit = {each.node for each in standing.unfit}
    slots = _max_parallel(record) - _unhealthy(case)
    room = Remaining(case.view.fleet, case.limits)
    gone: list[Cancelled] = []
    for execution, why in outdated:
        if daemon and execution.node in unfit:
            gone.append(Cancelled(execution.id, why))
        elif slots > 0 and _has_place(execution, case, room, daemon=daemon):
            slots -= 1
            gone.append(Cancelled(execution.id, why))
    return gone[: case.policy.events_max]


def _outdated(execution: ExecutionRecord, record: JobRecord, view: View) -> Failure | None:
    """Why an execution has to make way, or None. A daemon has no other place than its node, and stays there to the last."""
    if execution.version != record.version:
        return SUPERSEDED
    drained = record.spec.type == "service" and view.fleet.drain_by(execution.node) is not None
    return DRAINED if drained else None


def _has_place(execution: ExecutionRecord, case: Case, room: Remaining, *, daemon: bool) -> bool:
    """Whether what takes its place has one, with the room it leaves; then that is taken."""
    if daemon:
        return execution.node in case.standing.fitting and execution.node not in case.refused
    room.give_back(execution)
    node = choose(case.standing, Attempt(case.demand, excluded=case.refused), room)
    if node is None:
        room.take_again(execution)
        return False
    room.take(node, case.demand)
    return True


def _unhealthy(case: Case) -> int:
    """How many partitions (of a daemon: nodes that fit) had an execution and have no healthy one now.

    What serves in an older version counts as healthy; what never had an execution is not missed.
    """
    record = case.record
    newest: dict[int | NodeId, ExecutionRecord] = {}
    daemon = record.spec.type == "daemon"
    for execution in record.executions.values():
        place = execution.node if daemon else execution.partition
        meant = execution.node in case.standing.fitting if daemon else execution.partition < record.spec.count
        # Of another type that the job had before there may be several at a place: as long as one goes on, that serves.
        if meant and (execution.open or place not in newest or not newest[place].open):
            newest[place] = execution
    after_s = healthy_after_s(record.spec, case.policy)
    return sum(not _healthy(each, record, case.now, after_s) for each in newest.values())


def _healthy(execution: ExecutionRecord, record: JobRecord, now: float, after_s: float) -> bool:
    if not execution.open or execution.version != record.version:
        return execution.open
    return execution.state is ExecutionState.RUNNING and now >= execution.modified_at + after_s


def _max_parallel(record: JobRecord) -> int:
    update = record.spec.update
    return 1 if isinstance(update, UnsetType) else update.max_parallel
