"""Cells in a key-value bucket: small named values changed by compare-and-set.

Knows: how a bucket is laid out in its stream (a person may look at it with ``nats kv``). Must not know: what cells mean.
"""

import secrets
from typing import Final

from protocol.bus import Cell, Outcome, Refused, Stale, Stored
from protocol.errors import Exhausted
from protocol.nats.api import Done, Kept, StreamInfo, call, subjects_of
from protocol.nats.frames import header_value
from protocol.nats.guarded import GuardedStream, Put
from protocol.nats.streams import CELL_STREAM, CELL_SUBJECTS
from protocol.nats.wire import Wire
from protocol.subjects import CELL_BUCKET

_PREFIX: Final = f"$KV.{CELL_BUCKET}."
_OPERATION: Final = "KV-Operation"
"""The header of the marks that ``nats kv del`` and ``purge`` leave in the place of a value."""
_TOGETHER: Final = 256


class Cells:
    """The cells of all requesters."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stream = GuardedStream(wire, CELL_STREAM)
        self._listed: tuple[tuple[str, int, int], list[Cell]] | None = None
        """All cells, as they were when the stream looked like that."""

    async def get(self, name: str) -> Cell | None:
        """See `protocol.bus.Bus.get_cell`."""
        (newest,) = await self._stream.newest([_PREFIX + name])
        return _cell(newest)

    async def put(self, name: str, data: bytes, revision: int) -> int | None:
        """See `protocol.bus.Bus.put_cell`."""
        outcome = await self._put(name, data, revision)
        if isinstance(outcome, Stale) and not revision:
            # A cell that a person removed left a mark behind, whose sequence is then the guard.
            (newest,) = await self._stream.newest([_PREFIX + name])
            if newest is not None and _cell(newest) is None:
                outcome = await self._put(name, data, newest.seq)
        if isinstance(outcome, Refused):
            raise Exhausted(f"the cell {name} cannot be stored: {outcome.reason}")
        return outcome.seq if isinstance(outcome, Stored) else None

    async def _put(self, name: str, data: bytes, guard: int) -> Outcome:
        (outcome,) = await self._stream.put([Put(_PREFIX + name, guard, secrets.token_hex(8), data)])
        return outcome

    async def all(self) -> list[Cell]:
        """See `protocol.bus.Bus.list_cells`. Every requester asks every few seconds, and mostly nothing is new."""
        info = await call(self._wire, f"STREAM.INFO.{CELL_STREAM}", StreamInfo)
        now = info.created, info.state.last_seq, info.state.messages
        if self._listed is None or self._listed[0] != now:
            self._listed = now, await self._read_all()
        return list(self._listed[1])

    async def remove(self, name: str, revision: int) -> None:
        """See `protocol.bus.Bus.remove_cell`. Nothing stays of it, not even a mark: names may be made up without end."""
        what = {"filter": _PREFIX + name, "seq": max(revision, 0) + 1}
        await call(self._wire, f"STREAM.PURGE.{CELL_STREAM}", Done, what)

    async def _read_all(self) -> list[Cell]:
        subjects = await subjects_of(self._wire, CELL_STREAM, CELL_SUBJECTS)
        found: list[Cell | None] = []
        for first in range(0, len(subjects), _TOGETHER):
            found += map(_cell, await self._stream.newest(subjects[first : first + _TOGETHER]))
        return [cell for cell in found if cell is not None]


def _cell(kept: Kept | None) -> Cell | None:
    if kept is None or header_value(kept.headers, _OPERATION):
        return None
    return Cell(kept.subject.removeprefix(_PREFIX), kept.data, kept.seq)
