"""Two processes that speak as one node: when that is beyond doubt.

Knows: which nodes were spoken for by a process that another one had replaced, and how often in turn with the newer one. Must
not know: how they are heard, or what follows from it. Plain memory: the same calls in the same order give the same answers.

Of two processes the one that was started later is the node, while it is there. One late word of a process that is gone says
nothing; both live once they have been heard in turn a few times.
"""

from typing import Final

from msgspec import Struct

from protocol.ids import NodeId
from requester.core.model import NodeRecord

TURNS: Final = 3
"""How often the newer process is heard after the older one before anybody is told, the first time and each further time."""


class _Older(Struct):
    """A process that was replaced and has spoken. `turns` is how often the newer one was heard behind it, `last` whether it
    was heard last."""

    heard_at: float
    turns: int = 0
    last: bool = True


def outlived(node: NodeRecord, incarnation: int) -> bool:
    """Whether a process that was started later is the node, and is there. Once that one is silent, any may be the node."""
    return node.connected and incarnation < node.incarnation


class Twins:
    """The older processes of all nodes that have any. Times in unix seconds."""

    def __init__(self) -> None:
        self._older: dict[NodeId, _Older] = {}

    def hear_older(self, node: NodeId, now: float) -> None:
        """A process was heard that the node's newer one has outlived."""
        older = self._older.get(node)
        if older is None:
            self._older[node] = _Older(now)
        else:
            older.heard_at, older.last = now, True

    def hear_newest(self, node: NodeId) -> bool:
        """The node itself was heard. True if its older process lives beyond doubt, and it is time to say so."""
        older = self._older.get(node)
        if older is None or not older.last:
            return False
        older.last = False
        older.turns += 1
        return older.turns % TURNS == 0

    def drop(self, node: NodeId) -> None:
        """Another process is the node now."""
        self._older.pop(node, None)

    def gone(self, before: float) -> list[NodeId]:
        """The nodes whose older process was last heard before that time; it is forgotten."""
        found = [node for node, older in self._older.items() if older.heard_at < before]
        for node in found:
            del self._older[node]
        return found
