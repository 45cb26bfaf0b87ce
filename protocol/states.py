"""The states of executions and jobs, and every arrow between them.

Knows: which state may follow which. Must not know: who moves them, or why. Every transition in the system is in `ARROWS`;
the diagram in the documentation is printed from it (``python -m protocol.states``).

Bacalhau's own state names and numbers are not here: that translation lives at the REST edge alone.
"""

from enum import StrEnum
from typing import Final


class ExecutionState(StrEnum):
    """One attempt at one partition, from the decision to its end."""

    ASSIGNED = "assigned"
    STAGING = "staging"
    RUNNING = "running"
    PUBLISHING = "publishing"
    COMPLETED = "completed"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class JobState(StrEnum):
    """What a person is told of a job. `QUEUED`: wants to run and no node has room or fits."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


S = ExecutionState
_AWAY: Final = {S.FAILED, S.CANCELLED, S.LOST}

ARROWS: Final[dict[ExecutionState, frozenset[ExecutionState]]] = {
    S.ASSIGNED: frozenset({S.STAGING, S.RUNNING, S.PUBLISHING, S.COMPLETED, S.REFUSED} | _AWAY),
    S.STAGING: frozenset({S.RUNNING, S.PUBLISHING, S.COMPLETED, S.REFUSED} | _AWAY),
    S.RUNNING: frozenset({S.PUBLISHING, S.COMPLETED} | _AWAY),
    S.PUBLISHING: frozenset({S.COMPLETED} | _AWAY),
    S.COMPLETED: frozenset(),
    S.REFUSED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
    S.LOST: frozenset(),
}
"""Where each state may go. A report carries only the newest state, so stages in between may be skipped, never reversed.

`REFUSED` is for lasting reasons (bad params, no such engine, policy), found at the latest while staging; lack of room is
no reason: the node waits.
"""

ENDS: Final = frozenset(state for state, after in ARROWS.items() if not after)
JOB_ENDS: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.STOPPED})


def may_follow(before: ExecutionState, after: ExecutionState) -> bool:
    """Whether `after` is one arrow away from `before`."""
    return after in ARROWS[before]


def diagram() -> str:
    """The arrows as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {S.ASSIGNED}"]
    for state, after in ARROWS.items():
        lines += [f"    {state} --> {target}" for target in S if target in after]
        if state in ENDS:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
