"""What a requester notes of each node beside its record: in one place, so that it is looked up and forgotten at once.

Knows: what a cell of membership holds, and where a beat differs from it. Must not know: how cells are read and written.
"""

from collections.abc import Collection, Sequence

from msgspec import Struct

from protocol.ids import ExecutionId, NodeId
from protocol.messages import Beat
from protocol.nodes import NodeInfo
from requester.core.membership import DELETED, removed
from requester.core.model import Cordon, NodeRecord


class NodeCell(Struct, frozen=True, omit_defaults=True):
    """What is kept of a node in its cell. `deleted` is the incarnation that a person deleted; a later one joins again.

    `incarnation` is the newest one heard, 0 where that was not kept: a person may delete the node through a requester that
    has never heard it. `forgiven_at` is when a person last said that its troubles are over, in unix seconds; `away_since`
    from when on its absence counts, 0 while it is there or was until lately; of one that was deleted it is when that was.
    `ahead` are deleted incarnations of a fast clock, which stay out also when another one has joined.
    """

    info: NodeInfo
    membership: str
    message: str = ""
    deleted: int = 0
    cordon: Cordon | None = None
    forgiven_at: float = 0.0
    incarnation: int = 0
    away_since: float = 0.0
    ahead: Sequence[int] = ()

    def bars(self, incarnation: int) -> bool:
        """Whether a person has deleted that life of the node."""
        if incarnation in self.ahead:
            return True
        return self.membership == DELETED and removed(incarnation, self.deleted, self.away_since)


class Note(Struct):
    """What is noted of one node.

    `cell` is what is kept of it, at `revision`. `agreed` is the description in its beats that was found to be the cell's,
    None for none yet. `spoken_of` are the executions in its last beat, `drained` the time to drain that was seen to be over.
    `ignored_at` is when it was last heard since it was deleted, in unix seconds. `beat` is its last one, if that said
    nothing but what its record `node` and its cell say.
    """

    cell: NodeCell | None = None
    revision: int = 0
    agreed: NodeInfo | None = None
    spoken_of: Collection[ExecutionId] = ()
    drained: float | None = None
    ignored_at: float = 0.0
    beat: Beat | None = None
    node: NodeRecord | None = None

    def keep(self, cell: NodeCell | None, revision: int) -> None:
        """The cell is this now."""
        self.cell, self.revision, self.agreed = cell, revision, None
        self.beat = self.node = None

    def message(self, membership: str) -> str:
        """What the person said who made it that."""
        return self.cell.message if self.cell is not None and self.cell.membership == membership else ""

    def agrees(self, beat: Beat) -> bool:
        """Whether the node's cell says what its beat says; each pair of descriptions is compared once."""
        cell, said = self.cell, beat.node
        if cell is None or cell.incarnation != beat.incarnation:
            return False
        if self.agreed is said:
            return True
        if cell.membership == DELETED or cell.away_since or cell.info != said:
            return False
        self.agreed = said
        return True


class Notes(dict[NodeId, Note]):
    """All notes; who asks for those of a node that has none begins them."""

    def __missing__(self, node: NodeId) -> Note:
        note = self[node] = Note()
        return note
