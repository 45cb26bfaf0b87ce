"""Which nodes have had trouble lately: work that failed on them for reasons around the program.

Knows: how ends of executions add up to trouble, and when it is forgotten. Must not know: what follows for placement, or
any clock; the time of each end is told. Every requester follows the whole log, so all come to about the same; what one has
forgotten by a restart costs a worse choice or two.
"""

from collections.abc import Callable, Collection
from typing import Final

from msgspec import Struct

from protocol.ids import JobId, NodeId
from protocol.states import ExecutionState
from requester.core.model import Aside, ExecutionRecord
from requester.core.policy import cause_of

FADE_S: Final = 1_800.0
"""Trouble that long ago says nothing any more."""


ASIDE_AFTER: Final = 5
"""Failures in a row after which a node is set aside, if they were"""
ASIDE_JOBS: Final = 3
"""of so many jobs: one alone may fail everywhere by its own fault."""
ASIDE_S: Final = 60.0
ASIDE_MAX_S: Final = 900.0
"""How long: doubled with each failure after that, up to a limit."""


PORT_TAKEN: Final = frozenset({"Conflict.Port", "Unavailable.Port", "Exhausted.Port"})
"""The job wanted a port there that another program has: neither is ill."""


class Trouble(Struct):
    """The failures of a node in a row, the jobs they were of (a few), the last of them, and when it was (unix seconds)."""

    streak: int
    jobs: frozenset[JobId]
    last_at: float
    message: str


class Health:
    """The troubles of all nodes. One end of work that went well, or failed by its own fault, clears a node."""

    def __init__(self) -> None:
        self.troubled: dict[NodeId, Trouble] = {}

    def ended(self, execution: ExecutionRecord) -> None:
        """Take the end of an execution."""
        cause = cause_of(execution)
        if execution.failure is not None and execution.failure.code in PORT_TAKEN:
            return
        if cause == "system":
            message = execution.failure.message if execution.failure is not None else "failed"
            known = self.troubled.get(execution.node)
            streak, jobs = (known.streak, known.jobs) if known is not None else (0, frozenset[JobId]())
            if len(jobs) < ASIDE_JOBS:
                jobs |= {execution.job}
            self.troubled[execution.node] = Trouble(streak + 1, jobs, execution.modified_at, message)
        elif cause == "program" or execution.state is ExecutionState.COMPLETED:
            self.troubled.pop(execution.node, None)

    def troubles(self, node: NodeId) -> int:
        """How many failures in a row the node has had."""
        known = self.troubled.get(node)
        return known.streak if known is not None else 0

    def asides(self, now: float, able: Callable[[], Collection[NodeId]]) -> dict[NodeId, Aside]:
        """Which of the nodes that are able to take work are set aside, until when and why: at most half of them.

        If most nodes fail, it is not they who are ill. A node that is back from its pause needs one failure to go again.
        """
        found: list[tuple[int, NodeId, Aside]] = []
        for node, each in self.troubled.items():
            if each.streak < ASIDE_AFTER or len(each.jobs) < ASIDE_JOBS:
                continue
            pause_s = min(ASIDE_MAX_S, ASIDE_S * 2 ** min(each.streak - ASIDE_AFTER, 10))
            if now < each.last_at + pause_s:
                reason = (
                    f"is set aside for {pause_s:.0f} s: {each.streak} executions in a row failed there, "
                    f"the last one: {each.message}"
                )
                found.append((-each.streak, node, Aside(each.last_at + pause_s, reason)))
        if not found:
            return {}
        nodes = set(able())
        worst = [(node, aside) for _, node, aside in sorted(found, key=lambda one: one[:2]) if node in nodes]
        return dict(worst[: len(nodes) // 2])

    def forgive(self, node: NodeId, at: float) -> None:
        """Forget what a node had by then: a person says that it is over."""
        known = self.troubled.get(node)
        if known is not None and known.last_at <= at:
            del self.troubled[node]

    def forget(self, node: NodeId) -> None:
        """The node is not known any more."""
        self.troubled.pop(node, None)

    def fade(self, now: float) -> None:
        """Forget what was long ago."""
        for node in [node for node, each in self.troubled.items() if now - each.last_at > FADE_S]:
            del self.troubled[node]
