"""Forgets nodes that have been away for very long: they leave everything.

Knows: who may be forgotten, and since when a node has been away. Must not know: beats, or of jobs more than who has work.

A node's owner removes its cell, and who finds that gone lets the node go as well. Not one that holds work, nor one that a
person has rejected or cordoned: that word counts until it is taken back, or the node is deleted. Of a deleted one only the
cell stays, as long as its process is heard and for the same time after.
"""

from typing import Final

import structlog

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Fault
from protocol.ids import NodeId
from protocol.together import together
from requester.core.fleet import Fleet
from requester.core.membership import APPROVED, DELETED, PENDING, forgotten, silent
from requester.node_cells import TOGETHER, NodeCells
from requester.presence import Presence
from requester.settings import Settings

AGAIN_S: Final = 600.0
"""The rest before cells are removed again, where that was refused or nobody answered."""

_log = structlog.get_logger(__name__)


class Forgetting:
    """One requester's share of it."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        fleet: Fleet,
        presence: Presence,
        cells: NodeCells,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._presence = presence
        self._cells = cells
        self._not_before = 0.0

    async def some(self) -> None:
        """Forget some of the nodes that have been away for long enough."""
        now, settings = self._clock.now(), self._settings
        if now < self._not_before:
            return
        over = forgotten(self._away(now), now, settings.forget_s, settings.away_max)
        try:
            await together(self._forget(id_) for id_ in over[:TOGETHER])
        except Fault as fault:
            self._not_before = self._clock.now() + AGAIN_S
            _log.warning("nodes that are gone cannot be forgotten", reason=fault.message, hint=fault.hint)

    def _away(self, now: float) -> dict[NodeId, float]:
        """The nodes that may be forgotten, with the time since when they have been away."""
        fleet = self._fleet
        if not fleet.hearing_since or not self._settings.forget_s:
            return {}
        away = {
            id_: node.away_since
            for id_, node in fleet.nodes.items()
            if not node.expected
            and node.membership in (APPROVED, PENDING)
            and node.cordon is None
            and not fleet.held(id_)
        }
        for id_, note in self._cells.notes.items():
            cell = note.cell
            if cell is None or cell.membership != DELETED or id_ in fleet.nodes:
                continue
            if silent(note.ignored_at, fleet.hearing_since, now, self._settings.away_s):
                away[id_] = max(cell.away_since, note.ignored_at)
        return away

    async def _forget(self, id_: NodeId) -> None:
        """Let a node go, with its cell if this requester looks after it; another's goes when its cell has gone."""
        notes = self._cells.notes
        note = notes[id_]
        revision = note.revision
        if revision:
            if self._presence.rank(id_):
                return
            await self._bus.remove_cell(id_, revision)
            if notes.get(id_) is not note or note.revision != revision:
                # A word came that was not known here yet, and stands.
                return
        self._cells.lost(id_)
