"""Reads beats. Most say of their node what the last one said, and that is not read again.

Knows: the form of a `Beat`, and the bytes in which each node last described itself. Must not know: what follows from a beat.
Who gets two beats with the same description gets the very same `NodeInfo`, so that looking for a change costs nothing.
"""

import msgspec
from msgspec import Raw, Struct, field

from protocol.errors import Broken
from protocol.ids import ExecutionId
from protocol.messages import Beat, decode
from protocol.nodes import NodeInfo
from protocol.states import ExecutionState


class _Closed(Struct, frozen=True):
    """A `Beat` whose node has not been read."""

    node: Raw
    incarnation: int
    at: float
    upto: int = 0
    leaving: bool = False
    executions: dict[ExecutionId, ExecutionState] = field(default_factory=dict)
    held: dict[str, int] | None = None


_closed = msgspec.json.Decoder(_Closed)


class Beats:
    """The descriptions of all nodes heard, by the subject of their beats."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[bytes, NodeInfo]] = {}

    def read(self, subject: str, data: bytes) -> Beat:
        """The beat. Raises `Broken`."""
        try:
            beat = _closed.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Broken(f"a message cannot be read: {error}") from error
        described = bytes(beat.node)
        last = self._last.get(subject)
        if last is None or last[0] != described:
            last = self._last[subject] = described, decode(described, NodeInfo)
        return Beat(last[1], beat.incarnation, beat.at, beat.upto, beat.leaving, beat.executions, beat.held)
