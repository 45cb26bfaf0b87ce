"""Reads beats. Most say of their node what the last one said, and that is not read again.

Knows: the form of a `Beat`, and the bytes of each node's last one. Must not know: what follows from a beat. Who gets two
beats with the same description gets the very same `NodeInfo`, and for two that differ by their time alone the very same
`Beat`: so looking for a change costs nothing.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from protocol import subjects
from protocol.errors import Broken
from protocol.ids import ExecutionId, NodeId
from protocol.messages import Beat, decode
from protocol.nodes import NodeInfo
from protocol.states import ExecutionState

_NODE: Final = b'{"node":'
"""How each beat begins that our nodes send,"""
_TIME: Final = re.compile(rb'"incarnation":\d+,"at":(\d+\.\d+)(?=[,}])')
"""and how it goes on behind its node."""


class _Rest(Struct, frozen=True, gc=False):
    """A `Beat` without its node."""

    incarnation: int
    at: float
    upto: int = 0
    leaving: bool = False
    executions: dict[ExecutionId, ExecutionState] = field(default_factory=dict)
    held: dict[str, int] | None = None
    ports_taken: list[int] = field(default_factory=list)
    ports_lost: int = 0


class _Closed(Struct, frozen=True, gc=False):
    """A beat's node, not read."""

    node: Raw


class _Last(Struct, frozen=True, gc=False):
    """A node's last beat: the bytes before its time, `described` of them up to the comma behind its node, and the others."""

    begins: bytes
    described: int
    ends: bytes
    beat: Beat


_rest = msgspec.json.Decoder(_Rest)
_closed = msgspec.json.Decoder(_Closed)


class Beats:
    """The last beats of all nodes heard, by their subjects."""

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}

    def read(self, subject: str, data: bytes) -> Beat:
        """The beat, with the time of an earlier one if nothing else is new. Raises `Broken`, also if it is in another node's
        name.
        """
        last = self._last.get(subject)
        if (
            last is not None
            and data.startswith(last.begins)
            and data.endswith(last.ends)
            and data[len(last.begins) : -len(last.ends)].replace(b".", b"", 1).isdigit()
        ):
            return last.beat
        try:
            return self._read(subject, data, last)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Broken(f"a message cannot be read: {error}") from error

    def forget(self, node: NodeId) -> None:
        """Nobody is heard under that name any more."""
        self._last.pop(subjects.beats(node), None)

    def _read(self, subject: str, data: bytes, last: _Last | None) -> Beat:
        if last is not None and data.startswith(described := last.begins[: last.described]):
            node, rest = last.beat.node, _rest.decode(b"{" + data[last.described :])
        else:
            bytes_ = bytes(_closed.decode(data).node)
            node, rest = decode(bytes_, NodeInfo), _rest.decode(data)
            if node.id != subjects.node_in(subject):
                raise Broken(f"it names the node {node.id}")
            described = _NODE + bytes_ + b","
        beat = Beat(
            node,
            rest.incarnation,
            rest.at,
            rest.upto,
            rest.leaving,
            rest.executions,
            rest.held,
            rest.ports_taken,
            rest.ports_lost,
        )
        time = _TIME.match(data, len(described)) if data.startswith(described) else None
        if time is not None:
            starts, ends = time.span(1)
            self._last[subject] = _Last(data[:starts], len(described), data[ends:], beat)
        return beat
