"""Who was heard when, in the order of hearing: whoever has been silent for long is found without a look at the others.

Knows: nodes, and when each was last heard. Must not know: how long a silence may be, or what follows from it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from protocol.ids import NodeId
from requester.core.model import NodeRecord


class Hearing:
    """When each node was last heard, in unix seconds. Each is in one of three lines, whoever was heard longest ago in front:
    those that are there, those that are not but are still waited for, and those that nobody waits for. Who takes leave gets
    into the second one before others that were heard earlier and are not missed yet: those are found there later, by no more
    than a silence may last.
    """

    def __init__(self) -> None:
        self._there: dict[NodeId, float] = {}
        self._missed: OrderedDict[NodeId, float] = OrderedDict()
        self._away: dict[NodeId, float] = {}

    def __len__(self) -> int:
        """Of how many nodes it is known."""
        return len(self._there) + len(self._missed) + len(self._away)

    def at(self, node: NodeId) -> float:
        """When a node was heard; 0 for never."""
        return self._there.get(node) or self._missed.get(node) or self._away.get(node) or 0.0

    def hear(self, node: NodeId, now: float) -> None:
        """A node that is known was heard, later than all others."""
        for line in (self._there, self._missed, self._away):
            if line.pop(node, None) is not None:
                line[node] = now
                return

    def place(self, node: NodeRecord) -> None:
        """A node is known, and there or not; heard last as its record says, if nothing later is known."""
        id_ = node.info.id
        line = self._there if node.connected else self._missed if node.expected else self._away
        if id_ in line:
            return
        heard_at = self.at(id_) or node.last_beat_at
        self.drop(id_)
        line[id_] = heard_at
        if not heard_at and line is self._missed:
            # It is known by what others wrote down.
            self._missed.move_to_end(id_, last=False)

    def drop(self, node: NodeId) -> None:
        """A node is not known any more."""
        for line in (self._there, self._missed, self._away):
            line.pop(node, None)

    def silent(self, before: float) -> list[NodeId]:
        """Those that are there and were last heard before that time."""
        return list(_first(self._there, before))

    def missed(self, before: float) -> list[NodeId]:
        """Those that are not there, are still waited for, and were last heard before that time."""
        return list(_first(self._missed, before))


def _first(line: Mapping[NodeId, float], before: float) -> Iterator[NodeId]:
    for node, heard_at in line.items():
        if heard_at >= before:
            return
        yield node
