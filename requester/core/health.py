"""Which nodes have had trouble lately: work that failed on them for reasons around the program.

Knows: how ends of executions add up to trouble, and when it is forgotten. Must not know: what follows for placement, or
any clock; the time of each end is told. Every requester follows the whole log, so all come to about the same; what one has
forgotten by a restart costs a worse choice or two.
"""

from typing import Final

from msgspec import Struct

from protocol.ids import NodeId
from protocol.states import ExecutionState
from requester.core.model import ExecutionRecord
from requester.core.policy import cause_of

FADE_S: Final = 600.0
"""Trouble that long ago says nothing any more."""


class Trouble(Struct):
    """The failures of a node in a row, the last of them, and when it was (unix seconds)."""

    streak: int
    last_at: float
    message: str


class Health:
    """The troubles of all nodes. One end of work that went well, or failed by its own fault, clears a node."""

    def __init__(self) -> None:
        self._troubles: dict[NodeId, Trouble] = {}

    def ended(self, execution: ExecutionRecord) -> None:
        """Take the end of an execution."""
        cause = cause_of(execution)
        if cause == "system":
            message = execution.failure.message if execution.failure is not None else "failed"
            known = self._troubles.get(execution.node)
            streak = known.streak + 1 if known is not None else 1
            self._troubles[execution.node] = Trouble(streak, execution.modified_at, message)
        elif cause == "program" or execution.state is ExecutionState.COMPLETED:
            self._troubles.pop(execution.node, None)

    def troubles(self, node: NodeId) -> int:
        """How many failures in a row the node has had."""
        known = self._troubles.get(node)
        return known.streak if known is not None else 0

    def fade(self, now: float) -> None:
        """Forget what was long ago."""
        for node in [node for node, each in self._troubles.items() if now - each.last_at > FADE_S]:
            del self._troubles[node]
