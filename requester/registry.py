"""The nodes: hears their beats, judges their silence, and keeps what people decided about them.

Knows: beats, cells of membership, and when a node counts as gone. Must not know: jobs; what a change leads to is told to the
orchestrator, what a beat says of executions to the repair.
"""

from asyncio import Event
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from protocol import subjects
from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Broken, Conflict, Fault, NotFound
from protocol.ids import ExecutionId, NodeId, is_token
from protocol.messages import Beat, RequesterBeat, decode, encode
from protocol.nodes import NodeInfo
from protocol.together import together
from requester.beats import Beats
from requester.core.fleet import Fleet
from requester.core.membership import APPROVED, DELETED, PENDING, silent, silent_before
from requester.core.model import Cordon, NodeRecord
from requester.presence import Presence
from requester.settings import Settings

_log = structlog.get_logger(__name__)
_SAVED_TOGETHER: Final = 256
"""Cells that are written at the same time."""


class NodeCell(Struct, frozen=True, omit_defaults=True):
    """What is kept of a node in its cell. `deleted` is the incarnation that a person deleted; a later one joins again.

    `incarnation` is the newest one heard, 0 where that was not kept: a person may delete the node through a requester that
    has never heard it. `forgiven_at` is when a person last said that its troubles are over, in unix seconds.
    """

    info: NodeInfo
    membership: str
    message: str = ""
    deleted: int = 0
    cordon: Cordon | None = None
    forgiven_at: float = 0.0
    incarnation: int = 0


class Registry:
    """All nodes known. `changed` is told of a node that came, went or changed, `moves` of one whose work may have to leave
    it; `heard` of each beat of an approved one."""

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
        heard: Callable[[Beat], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._presence = presence
        self._changed = changed
        self._moves = moves
        self._heard = heard
        self._spoken_of: dict[NodeId, Collection[ExecutionId]] = {}
        self._beats = Beats()
        self._agreed: dict[NodeId, tuple[NodeInfo, NodeInfo]] = {}
        """What a node's cell and its beats say of it, when they were last found to be equal."""
        self._cells: dict[NodeId, tuple[NodeCell, int]] = {}
        self._read_to = 0
        """The newest revision when all cells were last read."""
        self._decided = Event()
        self._to_save: dict[NodeId, None] = {}
        self._drained: dict[NodeId, float] = {}
        """Nodes whose time to drain was seen to be over, with that time."""

    async def listen(self) -> None:
        """Take beats until cancelled."""
        async with self._bus.subscribe(subjects.ALL_BEATS) as messages:
            async for message in messages:
                try:
                    beat = self._beats.read(message.subject, message.data)
                except Broken as fault:
                    _log.warning("a beat cannot be read", subject=message.subject, reason=fault.message)
                    continue
                if beat.node.id != subjects.node_in(message.subject):
                    _log.warning("a beat names another node", subject=message.subject, names=beat.node.id)
                    continue
                self.take(beat)

    def take(self, beat: Beat) -> None:
        """A node is alive: it joins, comes back, or says what is new about it."""
        id_ = beat.node.id
        now = self._clock.now()
        cell = self._cells[id_][0] if id_ in self._cells else None
        if cell is not None and cell.membership == DELETED and beat.incarnation <= cell.deleted:
            return
        self._spoken_of[id_] = beat.executions.keys()
        known = self._fleet.nodes.get(id_)
        connected = not beat.leaving
        if known is None:
            node = NodeRecord(
                beat.node,
                self._membership(cell),
                connected,
                now,
                now,
                incarnation=beat.incarnation,
                held=beat.held or {},
                cordon=cell.cordon if cell is not None and cell.membership != DELETED else None,
            )
            news = self._fleet.put(node)
        elif _nothing_new(known, beat):
            node = known
            news = False
            self._fleet.heard(node, now)
        else:
            same = known.info is beat.node or known.info == beat.node
            node = replace(
                known,
                info=known.info if same else beat.node,
                connected=connected,
                expected=True,
                last_beat_at=now,
                connected_since=known.connected_since if known.connected else now,
                incarnation=beat.incarnation,
                held=known.held if beat.held is None else beat.held,
            )
            news = self._fleet.put(node)
        if cell is None or cell.membership == DELETED or not self._agree(cell, beat):
            self._to_save[id_] = None
        if news:
            _log.info("node", node=id_, connected=connected, membership=node.membership)
            self._changed()
        if node.membership == APPROVED:
            self._heard(beat)

    def _agree(self, cell: NodeCell, beat: Beat) -> bool:
        """Whether a node's cell says what its beat says; each pair of descriptions is compared once."""
        if cell.incarnation != beat.incarnation:
            return False
        kept, said = cell.info, beat.node
        agreed = self._agreed.get(said.id)
        if agreed is not None and agreed[0] is kept and agreed[1] is said:
            return True
        if kept != said:
            return False
        self._agreed[said.id] = kept, said
        return True

    def _membership(self, cell: NodeCell | None) -> str:
        if cell is not None and cell.membership != DELETED:
            return cell.membership
        return PENDING if self._settings.manual_approval else APPROVED

    def look(self) -> None:
        """Find the nodes that have fallen silent, and those that have been away for so long that nobody waits for them."""
        now = self._clock.now()
        since = self._fleet.hearing_since
        # Ten times a second over all nodes: for nearly all of them, one comparison.
        quiet = silent_before(since, now, self._settings.silence_s)
        silent_ones = [node for node in self._fleet.nodes.values() if node.last_beat_at < quiet]
        gone = [node for node in silent_ones if node.connected]
        away = silent_before(since, now, self._settings.away_s)
        forgone = [
            node for node in silent_ones if node.last_beat_at < away and not node.connected and node.expected
        ]
        for node in forgone:
            self._fleet.put(replace(node, expected=False))
        for node in gone:
            _log.warning("a node is silent", node=node.info.id, seconds=round(now - node.last_beat_at, 1))
            self._fleet.put(replace(node, connected=False, disconnected_since=now))
        if gone or forgone:
            self._changed()

    def look_at_people(self) -> None:
        """What a person's word or a node's troubles come to with time: drains that are over, nodes set aside and back."""
        now = self._clock.now()
        self._fleet.health.fade(now)
        asides = self._fleet.health.asides(now, self._able)
        kept = [*self._fleet.kept_away, *(id_ for id_ in asides if id_ not in self._fleet.kept_away)]
        changed = False
        for id_ in kept:
            node = self._fleet.nodes[id_]
            aside = asides.get(id_)
            if aside != node.aside:
                _log.warning("a node", node=id_, aside=aside.reason if aside is not None else "is back")
                self._fleet.put(replace(node, aside=aside))
                changed = True
            drain_by = node.drain_by
            if drain_by is not None and now >= drain_by and self._drained.get(id_) != drain_by:
                self._drained[id_] = drain_by
                self._moves(id_)
        if changed:
            self._changed()

    def _able(self) -> list[NodeId]:
        """The nodes that could take work, as far as people and the network are concerned."""
        return [
            id_
            for id_, node in self._fleet.nodes.items()
            if node.connected and node.membership == APPROVED and node.cordon is None
        ]

    def spoken_of(self) -> set[ExecutionId]:
        """The executions that connected nodes still speak of."""
        return {
            execution
            for id_, executions in self._spoken_of.items()
            if (node := self._fleet.nodes.get(id_)) is not None and node.connected
            for execution in executions
        }

    def gone(self) -> Mapping[NodeId, float]:
        """The nodes that hold work and have been silent for too long, with the seconds of their silence."""
        now = self._clock.now()
        since = self._fleet.hearing_since
        found: dict[NodeId, float] = {}
        for id_ in self._fleet.holders():
            node = self._fleet.nodes.get(id_)
            last = node.last_beat_at if node is not None else 0.0
            if silent(last, since, now, self._settings.silence_s):
                found[id_] = now - max(last, since)
        return found

    # What people decided

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

    async def refresh(self) -> None:
        """Read all cells, and save what was learned of nodes that this requester looks after."""
        try:
            await self._load()
            waiting = list(self._to_save)
            for first in range(0, len(waiting), _SAVED_TOGETHER):
                await self._save_some(waiting[first : first + _SAVED_TOGETHER])
        except Fault as fault:
            _log.debug("cells cannot be reached", reason=fault.message)

    async def _save_some(self, some: Sequence[NodeId]) -> None:
        """Side by side, so that a fleet that joins costs a few groups of writes. A next beat brings back what fails."""
        for id_ in some:
            self._to_save.pop(id_, None)
        await together(self._save(id_) for id_ in some if not self._presence.rank(id_))

    async def _load(self) -> None:
        for cell in await self._bus.list_cells():
            id_ = NodeId(cell.name)
            self._read_to = max(self._read_to, cell.revision)
            earlier = self._cells.get(id_)
            if earlier is not None and earlier[1] >= cell.revision:
                continue
            try:
                kept = decode(cell.data, NodeCell)
            except Broken as fault:
                _log.warning("a cell cannot be read", cell=cell.name, reason=fault.message)
                continue
            self._cells[id_] = (kept, cell.revision)
            self._apply(id_, kept)

    def _apply(self, id_: NodeId, cell: NodeCell) -> None:
        """Take over what people say of a node, here or to another requester."""
        known = self._fleet.nodes.get(id_)
        if cell.membership == DELETED:
            if known is not None and known.incarnation <= cell.deleted:
                self._fleet.drop(id_)
                self._changed()
            elif known is not None:
                # It has come back already, as a new one.
                self._take_over(known, self._membership(cell), None)
            return
        if known is None:
            node = NodeRecord(
                cell.info,
                cell.membership,
                connected=False,
                incarnation=cell.incarnation,
                cordon=cell.cordon,
            )
            self._fleet.put(node)
            return
        if cell.forgiven_at:
            self._fleet.health.forgive(id_, cell.forgiven_at)
        self._take_over(known, cell.membership, cell.cordon)

    def _take_over(self, known: NodeRecord, membership: str, cordon: Cordon | None) -> None:
        id_ = known.info.id
        aside = known.aside if self._fleet.health.troubles(id_) else None
        if self._fleet.put(replace(known, membership=membership, cordon=cordon, aside=aside)):
            self._changed()
            self._moves(id_)

    async def _save(self, id_: NodeId) -> None:
        node = self._fleet.nodes.get(id_)
        if node is None or not is_token(id_):
            return
        cell, revision = self._cells.get(id_, (None, 0))
        new = NodeCell(node.info, node.membership, cordon=node.cordon, incarnation=node.incarnation)
        if cell is not None:
            new = replace(new, message=cell.message, forgiven_at=cell.forgiven_at)
        saved = await self._bus.put_cell(id_, encode(new), revision=revision)
        if saved is not None:
            self._cells[id_] = (new, saved)

    async def set_membership(self, id_: NodeId, membership: str, message: str) -> NodeRecord:
        """Write a person's decision about a node. Raises `NotFound`, `Conflict`, `Unavailable`."""

        def decided(node: NodeRecord, kept: NodeCell) -> NodeCell:
            if kept.membership == membership:
                raise Conflict(f"node {id_} is already {membership.lower()}")
            if membership == DELETED:
                # All of it: who comes back under that name is a new node.
                return NodeCell(node.info, DELETED, message, deleted=max(kept.incarnation, 1))
            return replace(kept, membership=membership, message=message, deleted=0)

        node = await self._write(id_, decided)
        _log.info("membership", node=id_, membership=membership, message=message)
        return node

    async def set_cordon(self, id_: NodeId, cordon: Cordon | None) -> NodeRecord:
        """Keep new work from a node, or let it come again and forgive the node's troubles. Raises as above."""
        forgiven_at = self._clock.now() if cordon is None else 0.0

        def decided(node: NodeRecord, kept: NodeCell) -> NodeCell:
            return replace(kept, cordon=cordon, forgiven_at=forgiven_at or kept.forgiven_at)

        node = await self._write(id_, decided)
        _log.info("cordon", node=id_, cordon=cordon)
        return node

    async def _write(self, id_: NodeId, change: Callable[[NodeRecord, NodeCell], NodeCell]) -> NodeRecord:
        """Change what is kept of a node, whoever else does so at the same time; the node as it is then."""
        for _ in range(5):
            node = self._fleet.nodes.get(id_)
            if node is None:
                raise NotFound(f"node {id_} is not known")
            cell = await self._bus.get_cell(id_)
            kept = decode(cell.data, NodeCell) if cell is not None else None
            if kept is not None and kept.membership == DELETED and node.incarnation <= kept.deleted:
                # Another requester was told a moment ago to forget it.
                self._apply(id_, kept)
                raise NotFound(f"node {id_} is not known")
            if kept is None or kept.membership == DELETED:
                kept = NodeCell(node.info, node.membership)
            newest = max(node.incarnation, kept.incarnation)
            new = change(node, replace(kept, info=node.info, incarnation=newest))
            saved = await self._bus.put_cell(id_, encode(new), revision=cell.revision if cell else 0)
            if saved is not None:
                self._cells[id_] = (new, saved)
                # All of the cell: another's word may stand in it that was not known here yet.
                self._apply(id_, new)
                await self._presence.tell_decided(saved)
                known = self._fleet.nodes.get(id_, node)
                return replace(known, membership=new.membership, cordon=new.cordon)
        raise Conflict(f"node {id_} is being changed by others", hint="try again")


def _nothing_new(known: NodeRecord, beat: Beat) -> bool:
    """Whether a beat says only that its node is still there, as nearly all do."""
    return (
        known.info is beat.node
        and known.connected
        and known.expected
        and not beat.leaving
        and known.incarnation == beat.incarnation
        and beat.held is None
    )
