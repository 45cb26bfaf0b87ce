"""Who is alive: judged by the last beat heard, and by how long we could have heard any.

Knows: when silence means absence. Must not know: how beats arrive or what follows from an absence.
"""

from math import inf
from typing import Final

SILENCE_S: Final = 5.0
APPROVED: Final = "APPROVED"
PENDING: Final = "PENDING"
REJECTED: Final = "REJECTED"
DELETED: Final = "DELETED"


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
