"""Who is alive: judged by the last beat heard, and by how long we could have heard any; who is forgotten, and who stays out.

Knows: when silence means absence, when an absence has lasted long enough, and which lives of a node a removal is about. Must
not know: how beats arrive or what follows from an absence.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Final

from protocol.ids import NodeId

SILENCE_S: Final = 5.0
APPROVED: Final = "APPROVED"
PENDING: Final = "PENDING"
REJECTED: Final = "REJECTED"
DELETED: Final = "DELETED"
_WHY_OUT: Final = {
    PENDING: ("no person has approved it yet", "`shoal node approve {node}` lets it take work"),
    REJECTED: ("a person rejected it", "`shoal node approve {node}` lets it take work again"),
    DELETED: ("a person removed it", "Start it again, and it joins as a new one"),
}
AHEAD_MAX: Final = 16
"""How many deleted incarnations with a fast clock are remembered of one node."""


def silent_before(hearing_since: float, now: float, silence_s: float = SILENCE_S) -> float:
    """The time such that whoever was last heard before it has been silent for too long; before all time while nobody has.

    Silence counts only from `hearing_since`: one who has just started, was cut off from the bus or stood still has heard
    nobody, and that says nothing about them.
    """
    before = now - silence_s
    return before if hearing_since < before else -inf


def silent(last_beat_at: float, hearing_since: float, now: float, silence_s: float = SILENCE_S) -> bool:
    """Whether a node (or requester) has been silent for too long."""
    return last_beat_at < silent_before(hearing_since, now, silence_s)


def removed(incarnation: int, deleted: int, removed_at: float) -> bool:
    """Whether a removal at that time (unix seconds, 0 if nobody noted it) is about this life of a node: `deleted`, which was
    the newest then, or one before it.

    An incarnation is the time of a start in milliseconds, where clocks are right (docs/adr/0037). If `deleted` lies behind
    the removal its clock was fast, and says nothing about others: that one is known by its number (`ahead`).
    """
    return incarnation <= (min(deleted, removed_at * 1000) if removed_at else deleted)


def why_out(node: NodeId, membership: str, message: str) -> tuple[str, str]:
    """Why a node of that membership, not `APPROVED`, gets no work, and what to do. `message` is what the person said."""
    reason, hint = _WHY_OUT[membership]
    return f"{reason}: {message}" if message else reason, hint.format(node=node)


def ahead(before: Sequence[int], deleted: int, removed_at: float) -> list[int]:
    """The lives that were removed, `deleted` or one of those `before`, and whose starts lie behind the removal: no time
    tells them from a machine that is set up in their place.
    """
    return [life for life in (*before, deleted) if life > removed_at * 1000][-AHEAD_MAX:]


def forgotten(away: Mapping[NodeId, float], now: float, forget_s: float, away_max: int) -> list[NodeId]:
    """Which nodes to forget of those that are away, each with the time since when (unix seconds), the longest first: after
    `forget_s` (0: never), and earlier where more than `away_max` are away, as of a fleet whose names are made up anew.
    """
    if not forget_s:
        return []
    order = sorted(away, key=lambda node: (away[node], node))
    too_many = len(order) - away_max
    return [node for number, node in enumerate(order) if number < too_many or now - away[node] >= forget_s]
