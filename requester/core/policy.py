"""What follows from a failure: try again, elsewhere, later, or give up.

Knows: which failures a second attempt can mend, how many attempts a partition gets and how long it rests between them.
Must not know: the job's state or the nodes.
"""

from typing import Final

from msgspec import Struct

from protocol.errors import Failure

LASTING: Final = frozenset({"Invalid", "Denied", "NotFound", "ProgramFailed"})
"""Codes of failures that come back whatever is tried; a failure that says `retryable` itself is believed."""
LASTING_EXACT: Final = frozenset({"TimedOut.Execution", "Exhausted.Memory"})
"""The job's own limits: the same program would pass them again."""


class Policy(Struct, frozen=True):
    """How patient the system is with one job. All times in seconds.

    `attempts_max` bounds the failed attempts of a partition; a lost node is no failure of the job and never counts.
    `join_grace_s` is how long a job waits for a node that could run it before it is told that there is none.
    `execution_grace_s` is added to the node's own limit before the requester ends an execution itself. One entry assigns
    at most `events_max` executions and ends at most as many, so that it never outgrows the log's limit.
    """

    attempts_max: int = 3
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    restart_backoff_max_s: float = 300.0
    join_grace_s: float = 5.0
    execution_grace_s: float = 15.0
    events_max: int = 100


def lasting(failure: Failure | None) -> bool:
    """Whether another attempt would end the same way."""
    if failure is None or failure.code in LASTING_EXACT:
        return failure is not None
    return not failure.retryable and failure.code.partition(".")[0] in LASTING


def backoff_s(policy: Policy, failures: int, *, restarts: bool = False) -> float:
    """The rest before the next attempt after that many failures: doubled each time, up to a limit."""
    if failures < 1:
        return 0.0
    limit = policy.restart_backoff_max_s if restarts else policy.backoff_max_s
    return float(min(limit, policy.backoff_s * 2 ** min(failures - 1, 20)))
