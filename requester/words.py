"""What people say here about nodes: written into cells, whoever else writes there at the same time.

Knows: how a word changes what is kept of a node. Must not know: what follows from it, or how nodes are named by people
(`requester.nodes`).
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Conflict, NotFound
from protocol.ids import NodeId
from protocol.messages import decode, encode
from protocol.together import to_its_end
from requester.core.fleet import Fleet
from requester.core.membership import DELETED, ahead
from requester.core.model import Cordon, NodeRecord
from requester.node_cells import NodeCells
from requester.notes import NodeCell
from requester.presence import Presence

_log = structlog.get_logger(__name__)


class Words:
    """Words about all nodes."""

    def __init__(self, bus: Bus, clock: Clock, *, fleet: Fleet, presence: Presence, cells: NodeCells) -> None:
        self._bus = bus
        self._clock = clock
        self._fleet = fleet
        self._presence = presence
        self._cells = cells

    async def set_membership(self, id_: NodeId, membership: str, message: str) -> NodeRecord:
        """Write a person's decision about a node. Raises `NotFound`, `Conflict`, `Unavailable`."""

        def decided(node: NodeRecord, kept: NodeCell) -> NodeCell:
            if kept.membership == membership:
                raise Conflict(f"node {id_} is already {membership.lower()}")
            if membership == DELETED:
                # All of it: who comes back under that name is a new node.
                deleted, now = max(kept.incarnation, 1), self._clock.now()
                fast = ahead(kept.ahead, deleted, now)
                return NodeCell(node.info, DELETED, message, deleted=deleted, away_since=now, ahead=fast)
            return replace(kept, membership=membership, message=message, deleted=0)

        node = await self._write(id_, decided)
        _log.info("a person decided about a node", node=id_, membership=membership, message=message)
        return node

    async def set_cordon(self, id_: NodeId, cordon: Cordon | None) -> NodeRecord:
        """Keep new work from a node, or let it come again and forgive the node's troubles. Raises as above."""
        forgiven_at = self._clock.now() if cordon is None else 0.0

        def decided(node: NodeRecord, kept: NodeCell) -> NodeCell:
            return replace(kept, cordon=cordon, forgiven_at=forgiven_at or kept.forgiven_at)

        node = await self._write(id_, decided)
        if cordon is not None:
            _log.info("a node gets no new work", node=id_, reason=cordon.reason, drain_by=cordon.drain_by)
        else:
            _log.info("a node gets work again", node=id_)
        return node

    async def _write(self, id_: NodeId, change: Callable[[NodeRecord, NodeCell], NodeCell]) -> NodeRecord:
        """Change what is kept of a node, whoever else does so at the same time; the node as it is then."""
        for _ in range(5):
            node = self._fleet.nodes.get(id_)
            if node is None:
                raise _unknown(id_)
            cell = await self._bus.get_cell(id_)
            kept = decode(cell.data, NodeCell) if cell is not None else None
            if kept is not None and kept.bars(node.incarnation):
                # Another requester was told a moment ago to forget it.
                self._cells.apply(id_, kept)
                if kept.membership != DELETED:
                    continue
                raise _unknown(id_)
            if kept is None or kept.membership == DELETED:
                # Where there is nothing any more (the cells were restored), it is what is known here.
                cordon, fast = (node.cordon, ()) if kept is None else (None, kept.ahead)
                kept = NodeCell(node.info, node.membership, cordon=cordon, ahead=fast)
            newest = max(node.incarnation, kept.incarnation)
            # Of whom a person speaks is not forgotten at that moment.
            away_since = self._clock.now() if kept.away_since or not node.expected else 0.0
            new = change(node, replace(kept, info=node.info, incarnation=newest, away_since=away_since))
            if await self._saved(id_, new, cell.revision if cell else 0):
                known = self._fleet.nodes.get(id_, node)
                return replace(known, membership=new.membership, cordon=new.cordon)
        raise Conflict(f"node {id_} is being changed by others", hint="Try again.")

    async def _saved(self, id_: NodeId, new: NodeCell, revision: int) -> bool:
        """Put a cell in the place of its `revision`, and go by it here and elsewhere; False if it was changed meanwhile.

        What is on its way is written also if who asked has hung up, so its outcome is waited for in any case.
        """
        return await to_its_end(asyncio.ensure_future(self._save(id_, new, revision)))

    async def _save(self, id_: NodeId, new: NodeCell, revision: int) -> bool:
        saved = await self._bus.put_cell(id_, encode(new), revision=revision)
        if saved is None:
            return False
        self._cells.notes[id_].keep(new, saved)
        # All of the cell: another's word may stand in it that was not known here yet.
        self._cells.apply(id_, new)
        await self._presence.tell_decided(saved)
        return True


def _unknown(node: NodeId) -> NotFound:
    return NotFound(f"node {node} is not known", hint="List nodes with: node list")
