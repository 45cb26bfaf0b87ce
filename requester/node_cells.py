"""What is kept of nodes in cells: read, taken over, and brought up to date.

Knows: who writes a node's cell, and what a cell changes in the fleet. Must not know: beats, jobs, or how people's words get
into cells (`requester.words`).
"""

from asyncio import Event
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from msgspec.structs import replace

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Broken, Fault
from protocol.ids import NodeId, is_token
from protocol.messages import RequesterBeat, decode, encode
from protocol.together import together
from requester.core.fleet import Fleet, News
from requester.core.membership import APPROVED, DELETED, PENDING
from requester.core.model import Cordon, NodeRecord
from requester.notes import NodeCell, Notes
from requester.presence import Presence
from requester.settings import Settings

TOGETHER: Final = 256
"""Cells that are written, or removed, at the same time."""

_log = structlog.get_logger(__name__)


class NodeCells:
    """The cells of all nodes. `changed` is told of a node that went or changed, `moves` of one whose work may have to leave
    it, each of `left` of one that is not known any more."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        fleet: Fleet,
        presence: Presence,
        changed: Callable[[], None],
        moves: Callable[[NodeId], None],
        left: Sequence[Callable[[NodeId], None]],
    ) -> None:
        self.notes = Notes()
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._presence = presence
        self._changed = changed
        self._moves = moves
        self._left = left
        self._read_to = 0
        """The newest revision when all cells were last read,"""
        self._read_at = clock.elapsed()
        """and when that was begun, in elapsed seconds."""
        self._decided = Event()
        self._to_save: dict[NodeId, None] = {}

    def told(self, beat: RequesterBeat) -> None:
        """Another requester is there; it may have been told something about a node that is not known here yet."""
        if beat.decided > self._read_to:
            self._decided.set()

    async def listen_to_people(self) -> None:
        """Take over what people say to other requesters as soon as that is heard of, until cancelled."""
        while True:
            await self._decided.wait()
            self._decided.clear()
            await self.refresh()

    async def refresh(self) -> bool:
        """Read all cells, and save what was learned of nodes that this requester looks after; whether they were in reach."""
        try:
            await self._load()
            waiting = list(self._to_save)
            for first in range(0, len(waiting), TOGETHER):
                await self._save_some(waiting[first : first + TOGETHER])
        except Fault as fault:
            _log.debug("cells cannot be reached", reason=fault.message)
            return False
        return True

    def begin_anew(self) -> None:
        """The servers have other cells than before: what was known of revisions is void, and what the cells say counts."""
        for note in self.notes.values():
            note.keep(note.cell, 0)
        self._read_to = self._presence.decided = 0
        self._decided.set()

    def save_soon(self, id_: NodeId) -> None:
        """The node's cell may not say what its node says."""
        self._to_save[id_] = None

    def membership(self, cell: NodeCell | None) -> str:
        """Whether a node of which that is kept takes part."""
        if cell is not None and cell.membership != DELETED:
            return cell.membership
        return PENDING if self._settings.manual_approval else APPROVED

    def apply(self, id_: NodeId, cell: NodeCell) -> None:
        """Take over what people say of a node, here or to another requester."""
        known = self._fleet.nodes.get(id_)
        if cell.membership == DELETED:
            if not cell.away_since:
                # Of a version that did not write it down.
                self.notes[id_].ignored_at = self._clock.now()
            if known is not None and cell.bars(known.incarnation):
                self._drop(id_)
                self._changed()
            elif known is not None:
                # It has come back already, as a new one.
                self._take_over(known, self.membership(cell), None)
            return
        if known is None:
            node = NodeRecord(
                cell.info,
                cell.membership,
                connected=False,
                disconnected_since=cell.away_since,
                incarnation=cell.incarnation,
                cordon=cell.cordon,
                away_since=cell.away_since,
            )
            self._fleet.put(node)
            if cell.membership != APPROVED or cell.cordon is not None:
                # It may have been given work by a requester that heard of it, before it went silent.
                self._moves(id_)
            return
        if cell.bars(known.incarnation) or known.incarnation < cell.incarnation:
            # What was known here was removed or has ended, and another one has joined, unheard: that one's next beat counts.
            now = self._clock.now()
            known = replace(known, connected=False, disconnected_since=now, incarnation=cell.incarnation)
        if cell.forgiven_at:
            self._fleet.health.forgive(id_, cell.forgiven_at)
        if not known.connected:
            known = replace(known, away_since=max(known.away_since, cell.away_since))
        self._take_over(known, cell.membership, cell.cordon)

    def lost(self, id_: NodeId, *, unheard: bool = False) -> None:
        """Nothing is kept of a node any more: one that is there, or was until lately, is written down anew, others go.

        It is then a new one if a word about it may have been `unheard` here. A node against which a word stands is not
        forgotten: what is remembered was taken back before. Who cannot have missed that knows that the cell went otherwise.
        """
        node = self._fleet.nodes.get(id_)
        if node is not None and node.expected:
            self.notes[id_].keep(None, 0)
            if unheard:
                self._take_over(node, self.membership(None), None)
            return
        _log.info("a node is forgotten", node=id_)
        self._drop(id_)
        self.notes.pop(id_, None)
        if node is not None:
            self._changed()

    async def _load(self) -> None:
        known = {id_: note.revision for id_, note in self.notes.items() if note.cell is not None}
        began_at = self._clock.elapsed()
        cells = await self._bus.list_cells()
        unheard = 0 < self._settings.forget_s <= self._clock.elapsed() - self._read_at
        self._read_at = began_at
        for cell in cells:
            id_ = NodeId(cell.name)
            known.pop(id_, None)
            self._read_to = max(self._read_to, cell.revision)
            note = self.notes[id_]
            if note.revision >= cell.revision:
                continue
            try:
                kept = decode(cell.data, NodeCell)
            except Broken as fault:
                _log.warning("a cell cannot be read", cell=cell.name, reason=fault.message)
                continue
            note.keep(kept, cell.revision)
            self.apply(id_, kept)
        for id_, revision in known.items():
            if id_ in self.notes and self.notes[id_].revision == revision:
                self.lost(id_, unheard=unheard)

    def _take_over(self, known: NodeRecord, membership: str, cordon: Cordon | None) -> None:
        id_ = known.info.id
        aside = known.aside if self._fleet.health.troubles(id_) else None
        news = self._fleet.put(replace(known, membership=membership, cordon=cordon, aside=aside))
        if news is not News.NONE:
            self._changed()
            self._moves(id_)

    async def _save_some(self, some: Sequence[NodeId]) -> None:
        """Side by side, so that a fleet that joins costs a few groups of writes. A next beat brings back what fails."""
        for id_ in some:
            self._to_save.pop(id_, None)
        await together(self._save(id_) for id_ in some if not self._presence.rank(id_))

    async def _save(self, id_: NodeId) -> None:
        node = self._fleet.nodes.get(id_)
        if node is None or not is_token(id_):
            return
        note = self.notes[id_]
        cell = note.cell
        new = NodeCell(node.info, node.membership, cordon=node.cordon, incarnation=node.incarnation)
        if cell is not None:
            new = replace(new, message=cell.message, forgiven_at=cell.forgiven_at, ahead=cell.ahead)
        if not node.expected:
            new = replace(new, away_since=node.away_since)
        if new == cell:
            return
        saved = await self._bus.put_cell(id_, encode(new), revision=note.revision)
        if saved is not None:
            note.keep(new, saved)

    def _drop(self, id_: NodeId) -> None:
        """A node is not known any more; what is kept of one that a person deleted stays."""
        self._fleet.drop(id_)
        self._to_save.pop(id_, None)
        note = self.notes[id_]
        note.spoken_of, note.drained = (), None
        for tell in self._left:
            tell(id_)
