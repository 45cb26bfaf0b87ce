"""The nodes: hears their beats, and judges their silence.

Knows: beats, and when a node counts as gone. Must not know: jobs, or how what is kept of a node is read and written; what a
change leads to is told to the orchestrator, what a beat says of executions to the repair.
"""

from collections.abc import Callable

import structlog
from msgspec.structs import replace

from protocol import subjects
from protocol.bus import Bus, Message
from protocol.clock import Clock
from protocol.errors import Broken
from protocol.ids import ExecutionId, NodeId
from protocol.messages import APART, Beat
from requester.beats import Beats
from requester.core.fleet import Fleet, News
from requester.core.membership import APPROVED, DELETED, silent, silent_before
from requester.core.model import NodeRecord
from requester.core.twins import Twins, outlived
from requester.node_cells import NodeCells
from requester.notes import NodeCell, Note
from requester.settings import Settings

_log = structlog.get_logger(__name__)


class Registry:
    """All nodes known. `changed` is told of a node that came, went or changed, `freed` of one that has more room, `moves` of
    one whose work may have to leave it, `heard` of each beat of an approved one, `unwanted` of each of one that gets no
    work (its membership says why, and a person's message), `doubled` now and then of one as which an earlier process speaks
    too."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        fleet: Fleet,
        cells: NodeCells,
        beats: Beats,
        changed: Callable[[], None],
        freed: Callable[[NodeId], None],
        moves: Callable[[NodeId], None],
        heard: Callable[[Beat], None],
        unwanted: Callable[[Beat, str, str], None],
        doubled: Callable[[NodeRecord], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._cells = cells
        self._notes = cells.notes
        self._beats = beats
        self._changed = changed
        self._freed = freed
        self._moves = moves
        self._heard = heard
        self._unwanted = unwanted
        self._doubled = doubled
        self._twins = Twins()

    async def listen(self) -> None:
        """Take beats until cancelled."""
        async with self._bus.subscribe(subjects.ALL_BEATS) as messages:
            while some := await messages.several():
                now = self._clock.now()
                for message in some:
                    self._take(message, now)

    def _take(self, message: Message, now: float) -> None:
        """A node is alive: it joins, comes back, or says what is new about it."""
        try:
            beat = self._beats.read(message.subject, message.data)
        except Broken as fault:
            _log.warning("a beat cannot be read", subject=message.subject, reason=fault.message)
            return
        id_ = beat.node.id
        note = self._notes[id_]
        node = self._fleet.nodes.get(id_)
        if beat is note.beat and node is note.node:
            # As nearly always: it says only that its node is still there.
            self._fleet.hearing.hear(id_, now)
        else:
            node = self._learn(beat, now, note, node)
        if node is not None:
            if node.membership == APPROVED:
                self._heard(beat)
            else:
                self._unwanted(beat, node.membership, note.message(node.membership))

    def _learn(self, beat: Beat, now: float, note: Note, known: NodeRecord | None) -> NodeRecord | None:
        """Take what may be new in a beat; the node as it is then, or None if a person has deleted it, or a later process is
        the node."""
        id_ = beat.node.id
        cell = note.cell
        if cell is not None and cell.bars(beat.incarnation):
            note.ignored_at = now
            self._unwanted(beat, DELETED, note.message(DELETED))
            return None
        if known is not None:
            if outlived(known, beat.incarnation):
                self._twins.hear_older(id_, now)
                # The next beat of the later one is looked at.
                note.beat = None
                return None
            if beat.incarnation != known.incarnation:
                self._twins.drop(id_)
            elif self._twins.hear_newest(id_):
                known = self._tell_of_two(known, now)
        note.spoken_of = beat.executions
        if known is not None and _nothing_new(known, beat):
            node, news = known, News.NONE
        else:
            membership = self._cells.membership(cell)
            node = _met(beat, now, membership, cell) if known is None else _news(known, beat, now)
            news = self._fleet.put(node)
        self._fleet.hearing.hear(id_, now)
        if not note.agrees(beat):
            self._cells.save_soon(id_)
        elif node is known:
            note.beat, note.node = beat, node
        # What else is new, as its room on disk, is news for the jobs and none for a person.
        if known is None or _comes(known, node):
            _log.info("a node is here", node=id_, connected=node.connected, membership=node.membership)
        if news is News.STANDING:
            self._changed()
        elif news is News.ROOM:
            self._freed(id_)
        return node

    def _tell_of_two(self, node: NodeRecord, now: float) -> NodeRecord:
        """Two processes speak as one node; the node as it is then."""
        if not node.doubled_since:
            _log.warning(
                "two processes speak as one node: only the one that was started last counts",
                node=node.info.id,
                hint=f"End the other, or {APART}",
            )
            node = replace(node, doubled_since=now)
            self._fleet.put(node)
        self._doubled(node)
        return node

    def look(self) -> None:
        """Find the nodes that have fallen silent, and those that have been away for so long that nobody waits for them."""
        now = self._clock.now()
        since, nodes, hearing = self._fleet.hearing_since, self._fleet.nodes, self._fleet.hearing
        missed = hearing.missed(silent_before(since, now, self._settings.away_s))
        fallen = hearing.silent(silent_before(since, now, self._settings.silence_s))
        for id_ in fallen:
            _log.warning("a node is silent", node=id_, seconds=round(now - hearing.at(id_), 1))
            self._fleet.put(replace(nodes[id_], connected=False, disconnected_since=now))
        for id_ in missed:
            node = nodes[id_]
            away_since = node.away_since or node.disconnected_since or now
            self._fleet.put(replace(node, expected=False, away_since=away_since))
            self._cells.save_soon(id_)
        for id_ in self._twins.gone(silent_before(since, now, self._settings.silence_s)):
            if id_ in nodes and nodes[id_].doubled_since:
                _log.info("one process speaks as the node again", node=id_)
                self._fleet.put(replace(nodes[id_], doubled_since=0.0))
        if fallen or missed:
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
                if aside is not None:
                    _log.warning("a node is set aside", node=id_, reason=aside.reason)
                else:
                    _log.info("a node is no longer set aside", node=id_)
                self._fleet.put(replace(node, aside=aside))
                changed = True
            drain_by = node.drain_by
            note = self._notes[id_]
            if drain_by is not None and now >= drain_by and note.drained != drain_by:
                note.drained = drain_by
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
            for id_, note in self._notes.items()
            if (node := self._fleet.nodes.get(id_)) is not None and node.connected
            for execution in note.spoken_of
        }

    def gone(self) -> dict[NodeId, float]:
        """The nodes that hold work and have been silent for too long, with the seconds of their silence."""
        now = self._clock.now()
        since = self._fleet.hearing_since
        found: dict[NodeId, float] = {}
        for id_ in self._fleet.holders():
            last = self._fleet.hearing.at(id_)
            if silent(last, since, now, self._settings.silence_s):
                found[id_] = now - max(last, since)
        return found


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
        ports_taken=beat.ports_taken,
        ports_lost=beat.ports_lost,
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
        ports_taken=beat.ports_taken,
        ports_lost=beat.ports_lost,
        away_since=0.0,
        doubled_since=known.doubled_since if known.incarnation == beat.incarnation else 0.0,
    )


def _comes(known: NodeRecord, node: NodeRecord) -> bool:
    """Whether a node came, went, was started again or is another version's."""
    return (known.connected, known.membership, known.incarnation, known.info.version) != (
        node.connected,
        node.membership,
        node.incarnation,
        node.info.version,
    )


def _nothing_new(known: NodeRecord, beat: Beat) -> bool:
    """Whether a beat says only that its node is still there, as nearly all do."""
    return (
        known.info is beat.node
        and known.connected
        and known.expected
        and not beat.leaving
        and known.incarnation == beat.incarnation
        and beat.held is None
        and (known.ports_lost, known.ports_taken) == (beat.ports_lost, beat.ports_taken)
    )
