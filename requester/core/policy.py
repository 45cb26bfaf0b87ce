"""What follows from a failure: try again, elsewhere, later, or give up.

Knows: which failures a second attempt can mend, how many attempts a partition gets and how long it rests between them.
Must not know: the job's state or the nodes.
"""

from functools import lru_cache
from typing import Final

from msgspec import Struct, UnsetType

from protocol.errors import OUT_OF_MEMORY, OVER_TIME, PROGRAM_FAILED, TAKEN, Failure
from protocol.ids import ExecutionId
from protocol.jobs import LONG_RUNNING, Job, Retry
from protocol.spec.policy_rules import CAUSES_DEFAULT
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord

LASTING: Final = frozenset({"Invalid", "Denied", "NotFound"})
"""Codes of failures that come back whatever is tried; a failure that says `retryable` itself is believed."""
MISMATCH: Final = "Broken.Mismatch"
"""The job names other bytes for an input than there are."""
LASTS: Final = "lasting"
"""The cause of such a failure: no job names it."""
OVER_DISK: Final = "Exhausted.DiskLimit"
"""Its inputs and what it wrote were more than the Disk that the job asked for."""
KILLED: Final = 137
"""The code of a program that was killed, for its memory for instance."""

NODE_REJECTED: Final = "Unavailable.NodeRejected"
NODE_DRAINED: Final = "Unavailable.NodeDrained"
SENT_AWAY: Final = frozenset({NODE_REJECTED, NODE_DRAINED})
"""Cancelled because of a person's word about the node: no failure of the job."""

_FAILURES: Final = frozenset({ExecutionState.FAILED, ExecutionState.CANCELLED})


class Policy(Struct, frozen=True, cache_hash=True):
    """How patient the system is with one job that does not say so itself. All times in seconds.

    `attempts_max` bounds the failed attempts of a partition; a lost node is no failure of the job, but after `losses_max`
    of them nobody believes any more that the job has no part in it. A job that has waited for `reserve_after_s` gets a
    node kept for it. `join_grace_s` is how long a job waits for a node that could run it before it is told that there is
    none. `execution_grace_s` is added to the node's own limit before the requester ends an execution itself. One entry
    assigns at most `events_max` executions and ends at most as many, so that it never outgrows the log's limit. An
    execution of a service or daemon is healthy once it has run for `healthy_s`.
    """

    attempts_max: int = 3
    losses_max: int = 20
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    restart_backoff_max_s: float = 300.0
    jitter: float = 0.2
    reserve_after_s: float = 10.0
    join_grace_s: float = 5.0
    execution_grace_s: float = 15.0
    healthy_s: float = 3.0
    events_max: int = 100


class Rule(Struct, frozen=True, cache_hash=True):
    """How one job's attempts follow each other: its own retry policy with the requester's in what it leaves open.

    `attempts_max` 0 means no limit. `restarts`: the program is started again however it ends.
    """

    attempts_max: int
    losses_max: int
    backoff_s: float
    backoff_max_s: float
    jitter: float
    causes: frozenset[str]
    exit_codes: frozenset[int]
    restarts: bool


def rule_of(job: Job, policy: Policy) -> Rule:
    """The rule of a job."""
    retry = job.retry
    usual = _usual(job.type, policy)
    if isinstance(retry, UnsetType):
        return usual
    # A daemon comes back with its node, whatever it is told of other jobs.
    return _own(retry, usual, always=frozenset({"node"} if job.type == "daemon" else ()))


@lru_cache(maxsize=64)
def _usual(type_: str, policy: Policy) -> Rule:
    """The rule of jobs of a type that say nothing: an ops job has one attempt on each node, and no other if it is lost."""
    restarts = type_ in LONG_RUNNING
    return Rule(
        attempts_max=0 if restarts else 1 if type_ == "ops" else policy.attempts_max,
        losses_max=0 if restarts else policy.losses_max,
        backoff_s=policy.backoff_s,
        backoff_max_s=policy.restart_backoff_max_s if restarts else policy.backoff_max_s,
        jitter=policy.jitter,
        causes=frozenset({"system"} if type_ == "ops" else CAUSES_DEFAULT),
        exit_codes=frozenset(),
        restarts=restarts,
    )


def _own(retry: Retry, usual: Rule, always: frozenset[str]) -> Rule:
    backoff_s = retry.backoff or usual.backoff_s
    return Rule(
        attempts_max=retry.attempts or usual.attempts_max,
        losses_max=usual.losses_max,
        backoff_s=backoff_s,
        backoff_max_s=max(retry.backoff_max or usual.backoff_max_s, backoff_s),
        jitter=retry.jitter,
        causes=frozenset(retry.causes or usual.causes) | always,
        exit_codes=frozenset(retry.exit_codes),
        restarts=usual.restarts,
    )


def healthy_after_s(job: Job, policy: Policy) -> float:
    """How long an execution of a service or daemon has to run to count as healthy."""
    own = 0.0 if isinstance(job.update, UnsetType) else job.update.min_healthy
    return own or policy.healthy_s


def cause_of(execution: ExecutionRecord) -> str:
    """What an execution's end is put down to: ``program``, ``timeout``, ``system``, ``node``; ``lasting`` if nothing can
    mend it; empty for an end that is no failure of the work."""
    failure, state = execution.failure, execution.state
    if state is ExecutionState.LOST:
        return "node"
    if state not in _FAILURES or sent_away(failure):
        return ""
    code = failure.code if failure is not None else ""
    if state is ExecutionState.CANCELLED and code.startswith("Conflict."):
        return ""
    if code.startswith(PROGRAM_FAILED) or code in (OUT_OF_MEMORY, OVER_DISK):
        return "program"
    if code == OVER_TIME:
        return "timeout"
    return LASTS if lasting(failure) else "system"


def mendable(execution: ExecutionRecord, rule: Rule) -> bool:
    """Whether another attempt may follow this end, as far as its cause is concerned."""
    cause = cause_of(execution)
    if cause == "program" and rule.restarts:
        return True
    if cause == "program" and rule.exit_codes and _exit_code(execution) not in rule.exit_codes:
        return False
    return not cause or cause in rule.causes


def lasting(failure: Failure | None) -> bool:
    """Whether a fault around the program would come back at any other attempt."""
    if failure is None or failure.retryable:
        return False
    return failure.code in (TAKEN, MISMATCH) or failure.code.partition(".")[0] in LASTING


def sent_away(failure: Failure | None) -> bool:
    """Whether an execution was ended for the node's sake, by a person's word about the node."""
    return failure is not None and failure.code in SENT_AWAY


def rest_s(rule: Rule, failures: int, last: ExecutionId) -> float:
    """The rest before the next attempt after that many failures: doubled each time, up to a limit.

    The part of it that the jitter leaves out follows from the last attempt's id: chance enough to keep apart what failed
    together, and the same whoever works it out.
    """
    if failures < 1:
        return 0.0
    whole: float = min(rule.backoff_max_s, rule.backoff_s * 2 ** min(failures - 1, 20))
    return whole * (1 - rule.jitter * int(last[2:10], 16) / 0x1_0000_0000)


def _exit_code(execution: ExecutionRecord) -> int:
    if execution.failure is not None and execution.failure.code == OUT_OF_MEMORY:
        return KILLED
    return execution.output.exit_code if execution.output is not None else 0
