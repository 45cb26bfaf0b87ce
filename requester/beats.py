"""Reads beats. Most say of their node what the last one said, and that is not read again.

Knows: the form of a `Beat`, and the bytes in which each node last described itself. Must not know: what follows from a beat.
Who gets two beats with the same description gets the very same `NodeInfo`, so that looking for a change costs nothing.
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from protocol import subjects
from protocol.errors import Broken
from protocol.ids import ExecutionId
from protocol.messages import Beat, decode
from protocol.nodes import NodeInfo
from protocol.states import ExecutionState

_NODE: Final = b'{"node":'
"""How each beat begins that our nodes send."""


class _Rest(Struct, frozen=True, gc=False):
    """A `Beat` but for its node."""

    incarnation: int
    at: float
    upto: int = 0
    leaving: bool = False
    executions: dict[ExecutionId, ExecutionState] = field(default_factory=dict)
    held: dict[str, int] | None = None


class _Closed(Struct, frozen=True, gc=False):
    """A beat's node, not read."""

    node: Raw


_rest = msgspec.json.Decoder(_Rest)
_closed = msgspec.json.Decoder(_Closed)


class Beats:
    """The descriptions of all nodes heard, by the subject of their beats."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[bytes, NodeInfo]] = {}
        """How the last beat of each began, up to the comma behind its node; and that node."""

    def read(self, subject: str, data: bytes) -> Beat:
        """The beat. Raises `Broken`, also if it is in another node's name."""
        last = self._last.get(subject)
        try:
            if last is not None and data.startswith(last[0]):
                node, rest = last[1], _rest.decode(b"{" + data[len(last[0]) :])
            else:
                node, rest = self._described(subject, data), _rest.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Broken(f"a message cannot be read: {error}") from error
        return Beat(node, rest.incarnation, rest.at, rest.upto, rest.leaving, rest.executions, rest.held)

    def forget(self, subject: str) -> None:
        """Nobody is heard there any more."""
        self._last.pop(subject, None)

    def _described(self, subject: str, data: bytes) -> NodeInfo:
        """The node, which describes itself anew."""
        described = bytes(_closed.decode(data).node)
        node = decode(described, NodeInfo)
        if node.id != subjects.node_in(subject):
            raise Broken(f"it names the node {node.id}")
        begins = _NODE + described + b","
        if data.startswith(begins):
            self._last[subject] = begins, node
        return node
