"""The nodes: hears their beats, judges their silence, keeps what people decided about them, and forgets who stays away.

Knows: beats, cells of membership, and when a node counts as gone. Must not know: jobs; what a change leads to is told to the
orchestrator, what a beat says of executions to the repair.

A node that has been away for very long leaves everything here: its owner removes its cell, and who finds that gone lets
the node go as well. Not one that holds work, nor one that a person has rejected or cordoned: that word counts until it is
taken back, or the node is deleted. Of a deleted one only the cell stays, as long as its process is heard and for the same
time after.
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
from requester.core.membership import APPROVED, DELETED, PENDING, forgotten, silent, silent_before
from requester.core.model import Cordon, NodeRecord
from requester.presence import Presence
from requester.settings import Settings

_log = structlog.get_logger(__name__)
_TOGETHER: Final = 256
"""Cells that are written, or removed, at the same time."""
_FORGET_AGAIN_S: Final = 600.0
"""The rest before cells are removed again, where that was refused or nobody answered."""


class NodeCell(Struct, frozen=True, omit_defaults=True):
    """What is kept of a node in its cell. `deleted` is the incarnation that a person deleted; a later one joins again.

    `incarnation` is the newest one heard, 0 where that was not kept: a person may delete the node through a requester that
    has never heard it. `forgiven_at` is when a person last said that its troubles are over, in unix seconds; `away_since`
    from when on its absence counts, 0 while it is there or was until lately.
    """

    info: NodeInfo
    membership: str
    message: str = ""
    deleted: int = 0
    cordon: Cordon | None = None
    forgiven_at: float = 0.0
    incarnation: int = 0
    away_since: float = 0.0


class _Notes(Struct):
    """What is noted here of a node beside its record: all in one place, so that it is looked up and forgotten at once.

    `cell` is what is kept of it, at `revision`. `agreed` is the description in its beats that was found to be the cell's,
    None for none yet. `spoken_of` are the executions in its last beat, `drained` the time to drain that was seen to be over.
    `ignored_at` is when it was last heard since it was deleted, in unix seconds.
    """

    cell: NodeCell | None = None
    revision: int = 0
    agreed: NodeInfo | None = None
    spoken_of: Collection[ExecutionId] = ()
    drained: float | None = None
    ignored_at: float = 0.0

    def keep(self, cell: NodeCell | None, revision: int) -> None:
        """The cell is this now."""
        self.cell, self.revision, self.agreed = cell, revision, None


class Registry:
    """All nodes known. `changed` is told of a node that came, went or changed, `moves` of one whose work may have to leave
    it; `heard` of each beat of an approved one, `left` of one that is not known any more."""

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
        left: Callable[[NodeId], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._presence = presence
        self._changed = changed
        self._moves = moves
        self._heard = heard
        self._left = left
        self._beats = Beats()
        self._notes: dict[NodeId, _Notes] = {}
        self._read_to = 0
        """The newest revision when all cells were last read."""
        self._decided = Event()
        self._to_save: dict[NodeId, None] = {}
        self._forget_at = 0.0

    async def listen(self) -> None:
        """Take beats until cancelled."""
        async with self._bus.subscribe(subjects.ALL_BEATS) as messages:
            async for message in messages:
                try:
                    beat = self._beats.read(message.subject, message.data)
                except Broken as fault:
                    _log.warning("a beat cannot be read", subject=message.subject, reason=fault.message)
                    continue
                self.take(beat)

    def take(self, beat: Beat) -> None:
        """A node is alive: it joins, comes back, or says what is new about it."""
        id_ = beat.node.id
        now = self._clock.now()
        notes = self._noted(id_)
        cell = notes.cell
        if cell is not None and cell.membership == DELETED and beat.incarnation <= cell.deleted:
            notes.ignored_at = now
            return
        notes.spoken_of = beat.executions.keys()
        known = self._fleet.nodes.get(id_)
        if known is not None and _nothing_new(known, beat):
            node, news = known, False
        else:
            node = _met(beat, now, self._membership(cell), cell) if known is None else _news(known, beat, now)
            news = self._fleet.put(node)
        self._fleet.heard_at[id_] = now
        if not _agree(notes, beat):
            self._to_save[id_] = None
        if news:
            _log.info("node", node=id_, connected=node.connected, membership=node.membership)
            self._changed()
        if node.membership == APPROVED:
            self._heard(beat)

    def _noted(self, id_: NodeId) -> _Notes:
        notes = self._notes.get(id_)
        if notes is None:
            notes = self._notes[id_] = _Notes()
        return notes

    def _membership(self, cell: NodeCell | None) -> str:
        if cell is not None and cell.membership != DELETED:
            return cell.membership
        return PENDING if self._settings.manual_approval else APPROVED

    def look(self) -> None:
        """Find the nodes that have fallen silent, and those that have been away for so long that nobody waits for them."""
        now = self._clock.now()
        since = self._fleet.hearing_since
        nodes = self._fleet.nodes
        # Ten times a second over all nodes: for nearly all of them, one comparison.
        quiet = silent_before(since, now, self._settings.silence_s)
        away = silent_before(since, now, self._settings.away_s)
        changed = False
        for id_ in [id_ for id_, heard_at in self._fleet.heard_at.items() if heard_at < quiet]:
            node, heard_at = nodes[id_], self._fleet.heard_at[id_]
            if node.connected:
                _log.warning("a node is silent", node=id_, seconds=round(now - heard_at, 1))
                self._fleet.put(replace(node, connected=False, disconnected_since=now))
                changed = True
            elif node.expected and heard_at < away:
                since_when = node.away_since or node.disconnected_since or now
                self._fleet.put(replace(node, expected=False, away_since=since_when))
                self._to_save[id_] = None
                changed = True
        if changed:
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
            notes = self._noted(id_)
            if drain_by is not None and now >= drain_by and notes.drained != drain_by:
                notes.drained = drain_by
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
            for id_, notes in self._notes.items()
            if (node := self._fleet.nodes.get(id_)) is not None and node.connected
            for execution in notes.spoken_of
        }

    def gone(self) -> Mapping[NodeId, float]:
        """The nodes that hold work and have been silent for too long, with the seconds of their silence."""
        now = self._clock.now()
        since = self._fleet.hearing_since
        found: dict[NodeId, float] = {}
        for id_ in self._fleet.holders():
            last = self._fleet.heard_at.get(id_, 0.0)
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
        """Read all cells, save what was learned of nodes that this requester looks after, and forget who stays away."""
        try:
            await self._load()
            waiting = list(self._to_save)
            for first in range(0, len(waiting), _TOGETHER):
                await self._save_some(waiting[first : first + _TOGETHER])
        except Fault as fault:
            _log.debug("cells cannot be reached", reason=fault.message)
            return
        try:
            await self._forget_some()
        except Fault as fault:
            self._forget_at = self._clock.now() + _FORGET_AGAIN_S
            _log.warning("nodes that are gone cannot be forgotten", reason=fault.message, hint=fault.hint)

    async def _save_some(self, some: Sequence[NodeId]) -> None:
        """Side by side, so that a fleet that joins costs a few groups of writes. A next beat brings back what fails."""
        for id_ in some:
            self._to_save.pop(id_, None)
        await together(self._save(id_) for id_ in some if not self._presence.rank(id_))

    async def _load(self) -> None:
        known = {id_: notes.revision for id_, notes in self._notes.items() if notes.cell is not None}
        for cell in await self._bus.list_cells():
            id_ = NodeId(cell.name)
            known.pop(id_, None)
            self._read_to = max(self._read_to, cell.revision)
            notes = self._noted(id_)
            if notes.revision >= cell.revision:
                continue
            try:
                kept = decode(cell.data, NodeCell)
            except Broken as fault:
                _log.warning("a cell cannot be read", cell=cell.name, reason=fault.message)
                continue
            notes.keep(kept, cell.revision)
            self._apply(id_, kept)
        for id_, revision in known.items():
            if id_ in self._notes and self._notes[id_].revision == revision:
                self._lost_cell(id_)

    def _apply(self, id_: NodeId, cell: NodeCell) -> None:
        """Take over what people say of a node, here or to another requester."""
        known = self._fleet.nodes.get(id_)
        if cell.membership == DELETED:
            if not cell.away_since:
                # Of a version that did not write it down.
                self._noted(id_).ignored_at = self._clock.now()
            if known is not None and known.incarnation <= cell.deleted:
                self._drop(id_)
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
                disconnected_since=cell.away_since,
                incarnation=cell.incarnation,
                cordon=cell.cordon,
                away_since=cell.away_since,
            )
            self._fleet.put(node)
            return
        if cell.forgiven_at:
            self._fleet.health.forgive(id_, cell.forgiven_at)
        if not known.connected:
            known = replace(known, away_since=max(known.away_since, cell.away_since))
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
        notes = self._noted(id_)
        cell = notes.cell
        new = NodeCell(node.info, node.membership, cordon=node.cordon, incarnation=node.incarnation)
        if cell is not None:
            new = replace(new, message=cell.message, forgiven_at=cell.forgiven_at)
        if not node.expected:
            new = replace(new, away_since=node.away_since)
        if new == cell:
            return
        saved = await self._bus.put_cell(id_, encode(new), revision=notes.revision)
        if saved is not None:
            notes.keep(new, saved)

    # Who is forgotten

    async def _forget_some(self) -> None:
        """Forget some of the nodes that have been away for long enough."""
        now, settings = self._clock.now(), self._settings
        if now < self._forget_at:
            return
        over = forgotten(self._away(now), now, settings.forget_s, settings.away_max)
        await together(self._forget(id_) for id_ in over[:_TOGETHER])

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
        for id_, notes in self._notes.items():
            cell = notes.cell
            if cell is None or cell.membership != DELETED or id_ in fleet.nodes:
                continue
            if silent(notes.ignored_at, fleet.hearing_since, now, self._settings.away_s):
                away[id_] = max(cell.away_since, notes.ignored_at)
        return away

    async def _forget(self, id_: NodeId) -> None:
        """Let a node go, with its cell if this requester looks after it; another's goes when its cell has gone."""
        notes = self._noted(id_)
        revision = notes.revision
        if revision:
            if self._presence.rank(id_):
                return
            await self._bus.remove_cell(id_, revision)
            if self._notes.get(id_) is not notes or notes.revision != revision:
                # A word came that was not known here yet, and stands.
                return
        self._lost_cell(id_)

    def _lost_cell(self, id_: NodeId) -> None:
        """Nothing is kept of a node any more: one that is there, or was until lately, is written down anew, others go."""
        node = self._fleet.nodes.get(id_)
        if node is not None and node.expected:
            self._noted(id_).keep(None, 0)
            return
        _log.info("a node is forgotten", node=id_)
        self._drop(id_)
        self._notes.pop(id_, None)
        if node is not None:
            self._changed()

    def _drop(self, id_: NodeId) -> None:
        """A node is not known any more; what is kept of one that a person deleted stays."""
        self._fleet.drop(id_)
        self._beats.forget(subjects.beats(id_))
        self._to_save.pop(id_, None)
        notes = self._noted(id_)
        notes.spoken_of, notes.drained = (), None
        self._left(id_)

    # What people say here

    async def set_membership(self, id_: NodeId, membership: str, message: str) -> NodeRecord:
        """Write a person's decision about a node. Raises `NotFound`, `Conflict`, `Unavailable`."""

        def decided(node: NodeRecord, kept: NodeCell) -> NodeCell:
            if kept.membership == membership:
                raise Conflict(f"node {id_} is already {membership.lower()}")
            if membership == DELETED:
                # All of it: who comes back under that name is a new node.
                deleted = max(kept.incarnation, 1)
                return NodeCell(node.info, DELETED, message, deleted=deleted, away_since=self._clock.now())
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
            # Of whom a person speaks is not forgotten at that moment.
            away_since = self._clock.now() if kept.away_since or not node.expected else 0.0
            new = change(node, replace(kept, info=node.info, incarnation=newest, away_since=away_since))
            saved = await self._bus.put_cell(id_, encode(new), revision=cell.revision if cell else 0)
            if saved is not None:
                self._noted(id_).keep(new, saved)
                # All of the cell: another's word may stand in it that was not known here yet.
                self._apply(id_, new)
                await self._presence.tell_decided(saved)
                known = self._fleet.nodes.get(id_, node)
                return replace(known, membership=new.membership, cordon=new.cordon)
        raise Conflict(f"node {id_} is being changed by others", hint="try again")


def _met(beat: Beat, now: float, membership: str, cell: NodeCell | None) -> NodeRecord:
    """A node that was not known."""
    return NodeRecord(
        beat.node,
        membership,
        not beat.leaving,
        now,
        now,
        now if beat.leaving else 0.0,
        incarnation=beat.incarnation,
        held=beat.held or {},
        cordon=cell.cordon if cell is not None and cell.membership != DELETED else None,
    )


def _news(known: NodeRecord, beat: Beat, now: float) -> NodeRecord:
    """A known node as it is now."""
    connected = not beat.leaving
    return replace(
        known,
        # The very object that the next beat has too: to compare that costs nothing.
        info=beat.node,
        connected=connected,
        expected=True,
        connected_since=known.connected_since if known.connected else now,
        disconnected_since=now if known.connected and not connected else known.disconnected_since,
        incarnation=beat.incarnation,
        held=known.held if beat.held is None else beat.held,
        away_since=0.0,
    )


def _agree(notes: _Notes, beat: Beat) -> bool:
    """Whether a node's cell says what its beat says; each pair of descriptions is compared once."""
    cell, said = notes.cell, beat.node
    if cell is None or cell.incarnation != beat.incarnation:
        return False
    if notes.agreed is said:
        return True
    if cell.membership == DELETED or cell.away_since or cell.info != said:
        return False
    notes.agreed = said
    return True


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
