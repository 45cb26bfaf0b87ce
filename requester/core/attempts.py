"""What a version's attempts add up to, partition by partition (or node by node).

Knows: how to read the executions of a job's present version. Must not know: what is decided from it (`step`), or nodes.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from msgspec.structs import replace

from protocol.ids import NodeId
from protocol.jobs import LONG_RUNNING
from protocol.states import ENDS, ExecutionState
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.policy import LASTS, Policy, Rule, cause_of, mendable, rest_s, rule_of, sent_away
from requester.core.standing import spreads


class Attempts:
    """The attempts at one partition (or on one node): how they ended, whether one is open or has succeeded.

    `number` is the newest attempt's. `failures` counts ends that were the work's own fault and count against its limit,
    `losses` those that came with the node's; `streak` the newest ends in a row that came too soon, for work that is
    restarted whenever it ends.
    """

    __slots__ = ("completed", "failures", "last", "losses", "number", "open", "streak")

    def __init__(self) -> None:
        self.number = 0
        self.failures = 0
        self.losses = 0
        self.streak = 0
        self.open: ExecutionRecord | None = None
        self.completed: ExecutionRecord | None = None
        self.last: ExecutionRecord | None = None

    def add(self, execution: ExecutionRecord, rule: Rule) -> None:
        """Take the next attempt, in the order of assignment."""
        self.number = max(self.number, execution.attempt)
        self.last = execution
        if execution.open:
            self.open = execution
            return
        if execution.state is ExecutionState.COMPLETED:
            self.completed = execution
        elif execution.state is ExecutionState.LOST:
            self.losses += 1
        elif cause_of(execution):
            self.failures += 1
        self.streak = self.streak + 1 if _ran_s(execution) < rule.backoff_max_s else 0

    def ready_at(self, rule: Rule) -> float:
        """When the next attempt may begin, in unix seconds: after a rest, unless the last one was lost or refused."""
        last = self.last
        if (
            last is None
            or last.state in (ExecutionState.LOST, ExecutionState.REFUSED)
            or sent_away(last.failure)
        ):
            return 0.0
        return last.modified_at + rest_s(rule, self.streak if rule.restarts else self.failures, last.id)

    def over(self, rule: Rule) -> bool:
        """Whether no attempt follows: it has succeeded, cannot be mended, or has used up what it gets."""
        if self.last is None or self.open is not None:
            return False
        if self.completed is not None and not rule.restarts:
            return True
        return self.exhausted(rule) or not mendable(self.last, rule)

    def exhausted(self, rule: Rule) -> bool:
        """Whether it has failed, or been lost, as often as it may."""
        tried = self.streak if rule.restarts else self.failures
        too_often = rule.attempts_max and tried >= rule.attempts_max
        return bool(too_often or (rule.losses_max and self.losses > rule.losses_max))


def _ran_s(execution: ExecutionRecord) -> float:
    """How long a program ran, by its node's clock: what came before, an image that was fetched for instance, is no run."""
    began = next((stage.at for stage in execution.stages if stage.state is ExecutionState.RUNNING), None)
    if began is not None and execution.stages[-1].state in ENDS:
        return execution.stages[-1].at - began
    never = began is None and execution.stages
    return 0.0 if never else execution.modified_at - execution.created_at


def rule_for(record: JobRecord, policy: Policy) -> Rule:
    """The rule by which a job's attempts follow each other. What has come up and is not meant to end bears what else would
    end it: images and keys that are missing for a while come back, and what runs beside is not to fall with it.
    """
    rule = rule_of(record.spec, policy)
    return _patient(rule) if serves(record) else rule


def serves(record: JobRecord) -> bool:
    """Whether a job that is not meant to end has come up, in its present version: it stays then until a person ends it."""
    return record.spec.type in LONG_RUNNING and any(map(came_up, record.current()))


@lru_cache(maxsize=64)
def _patient(rule: Rule) -> Rule:
    return replace(rule, causes=rule.causes | {LASTS})


def came_up(execution: ExecutionRecord) -> bool:
    """Whether an execution's program runs, or has run."""
    told = any(stage.state is ExecutionState.RUNNING for stage in execution.stages)
    running = execution.state in (ExecutionState.RUNNING, ExecutionState.COMPLETED)
    return told or running or cause_of(execution) == "program"


_newest: list[tuple[JobRecord, Rule, dict[int, Attempts]]] = []


def by_partition(record: JobRecord, rule: Rule) -> dict[int, Attempts]:
    """The attempts of the present version by partition; partitions without any are absent.

    One decision asks several times about the same record, which may have ten thousand of them: the newest answer is kept.
    Nobody may change it.
    """
    if not _newest or _newest[0][0] is not record or _newest[0][1] is not rule:
        _newest[:] = [(record, rule, _by_partition(record, rule))]
    return _newest[0][2]


def _by_partition(record: JobRecord, rule: Rule) -> dict[int, Attempts]:
    found: dict[int, Attempts] = {}
    for execution in record.executions.values():
        if execution.version == record.version:
            attempts = found.get(execution.partition)
            if attempts is None:
                attempts = found[execution.partition] = Attempts()
            attempts.add(execution, rule)
    return found


def by_node(record: JobRecord, rule: Rule) -> dict[NodeId, Attempts]:
    """The attempts of the present version by node."""
    found: dict[NodeId, Attempts] = {}
    for execution in record.executions.values():
        if execution.version == record.version:
            found.setdefault(execution.node, Attempts()).add(execution, rule)
    return found


def replicas_by_node(record: JobRecord) -> dict[NodeId, int]:
    """How many executions of a service each node has, of whatever version; none of a job that does not spread."""
    if not spreads(record.spec):
        return {}
    return dict(Counter(execution.node for execution in record.executions.values() if execution.open))


def failures_by_node(executions: Iterable[ExecutionRecord]) -> dict[NodeId, int]:
    """How often each node has failed or lost one of these executions."""
    counts: dict[NodeId, int] = {}
    for execution in executions:
        if execution.state in (ExecutionState.FAILED, ExecutionState.LOST, ExecutionState.CANCELLED):
            counts[execution.node] = counts.get(execution.node, 0) + 1
    return counts
