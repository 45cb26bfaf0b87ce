"""One script for every bus: what chance drew is done on any of them, and what came of it is told without its own numbers.

Sequences and revisions are told by their order, keys and names by their place, so that two buses that keep the same promises
say the same, whatever else is in their logs.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct

from protocol.bus import Append, Bus, LogState, Outcome, Stale, Stored
from protocol.errors import Fault
from tests.contracts.bus_steps import Buses, fresh_key

JOBS = 14
CELLS = 3


class Entry(Struct, frozen=True):
    """An append to job number `job`, made in knowledge of its entry `back` before the newest; or the same one `again`."""

    job: int
    back: int = 0
    again: bool = False
    size_bytes: int = 2


class AppendGroup(Struct, frozen=True):
    """Entries of different jobs, by one of the two buses."""

    bus: int
    entries: list[Entry]


class Last(Struct, frozen=True):
    """Ask for the newest entry of a job."""

    bus: int
    job: int


class Purge(Struct, frozen=True):
    """Remove a job's entries, up to the one `back` before the newest."""

    bus: int
    job: int
    back: int = 0


class Look(Struct, frozen=True):
    """Ask for the state of the log, and for its newest entry."""

    bus: int


class ReadAll(Struct, frozen=True):
    """Read all entries of this script that are still there."""

    bus: int


class PutCell(Struct, frozen=True):
    """Change a cell, known `back` revisions ago."""

    bus: int
    cell: int
    back: int


class GetCell(Struct, frozen=True):
    """Look at a cell."""

    bus: int
    cell: int


class Blob(Struct, frozen=True):
    """Store a blob and read a piece of it."""

    bus: int
    size_bytes: int
    offset: int
    limit_bytes: int


Step = AppendGroup | Last | Look | Purge | ReadAll | PutCell | GetCell | Blob

_bus = st.integers(0, 1)
_entry = st.builds(
    Entry,
    job=st.integers(0, JOBS - 1),
    back=st.sampled_from([0, 0, 0, 1, 2]),
    again=st.sampled_from([False, False, True]),
    size_bytes=st.sampled_from([0, 2, 300, 70_000]),
)
_group = st.lists(_entry, min_size=1, max_size=JOBS, unique_by=lambda entry: entry.job)
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.builds(AppendGroup, bus=_bus, entries=_group),
        st.builds(AppendGroup, bus=_bus, entries=_group),
        st.builds(Last, bus=_bus, job=st.integers(0, JOBS - 1)),
        st.builds(Look, bus=_bus),
        st.builds(Purge, bus=_bus, job=st.integers(0, JOBS - 1), back=st.sampled_from([0, 0, 1])),
        st.builds(ReadAll, bus=_bus),
        st.builds(PutCell, bus=_bus, cell=st.integers(0, CELLS - 1), back=st.integers(0, 2)),
        st.builds(GetCell, bus=_bus, cell=st.integers(0, CELLS - 1)),
        st.builds(
            Blob,
            bus=_bus,
            size_bytes=st.sampled_from([0, 1, 5_000, 300_000]),
            offset=st.integers(0, 6_000),
            limit_bytes=st.integers(1, 9_000),
        ),
    ),
    min_size=1,
    max_size=12,
)


class Player:
    """Plays one script on two connections to the same log."""

    def __init__(self, buses: Buses, before: LogState) -> None:
        self._buses = buses
        self._before = before
        self._mark = secrets.token_hex(6)
        self._keys = [fresh_key() for _ in range(JOBS)]
        self._cells = [f"cell-{self._mark}-{number}" for number in range(CELLS)]
        self._sequences: list[int] = []
        self._of_job: list[list[int]] = [[] for _ in range(JOBS)]
        self._made: list[Append | None] = [None] * JOBS
        self._revisions: list[list[int]] = [[] for _ in range(CELLS)]

    def remember(self) -> Callable[[], None]:
        """Keep what is known of the log now; what is answered makes it known again, with what was made meanwhile."""
        sequences, revisions = list(self._sequences), [list(each) for each in self._revisions]
        of_job = [list(each) for each in self._of_job]

        def recall() -> None:
            self._sequences, self._of_job, self._revisions = sequences, of_job, revisions

        return recall

    async def play(self, script: Sequence[Step]) -> list[Any]:
        """Do all steps; what came of each."""
        told = []
        for step in script:
            try:
                told.append(await self._do(step, self._buses[step.bus]))
            except Fault as fault:
                told.append(type(fault).__name__)
        return told

    async def _do(self, step: Step, bus: Bus) -> Any:
        match step:
            case AppendGroup():
                appends = [self._append(entry) for entry in step.entries]
                outcomes = await bus.append(appends)
                return [
                    self._told(entry, outcome) for entry, outcome in zip(step.entries, outcomes, strict=True)
                ]
            case Last():
                record = await bus.last(self._keys[step.job])
                return record and (self._order(record.seq), len(record.data))
            case Look():
                state, newest = await bus.log_state(), await bus.newest()
                same = state.created == self._before.created
                return same, state.entries_max, self._order(newest), newest <= state.last
            case Purge():
                known = self._of_job[step.job]
                upto = ([0, *known])[max(0, len(known) - step.back)]
                await bus.purge(self._keys[step.job], upto)
                self._of_job[step.job], self._made[step.job] = [seq for seq in known if seq > upto], None
                return None
            case ReadAll():
                return await self._read(bus)
            case PutCell():
                known = self._revisions[step.cell]
                revision = ([0, *known])[max(0, len(known) - step.back)]
                new = await bus.put_cell(self._cells[step.cell], self._mark.encode(), revision=revision)
                if new is not None:
                    known.append(new)
                return new is not None
            case GetCell():
                cell = await bus.get_cell(self._cells[step.cell])
                return cell and self._revisions[step.cell].index(cell.revision)
            case Blob():
                data = sha256(b"%d" % step.size_bytes).digest() * (step.size_bytes // 32 + 1)
                digest = await bus.put_blob(data[: step.size_bytes])
                size, piece = await bus.get_blob(digest, step.offset, step.limit_bytes)
                return digest, size, sha256(piece).hexdigest()

    def _append(self, entry: Entry) -> Append:
        made = self._made[entry.job]
        if entry.again and made is not None:
            return made
        known = [0, *self._of_job[entry.job]]
        guard = known[max(0, len(known) - 1 - entry.back)]
        data = b"x" * entry.size_bytes
        return Append(self._keys[entry.job], guard, f"{self._mark}{secrets.token_hex(4)}", data)

    def _told(self, entry: Entry, outcome: Outcome) -> Any:
        known = self._of_job[entry.job]
        if isinstance(outcome, Stored):
            if outcome.seq not in self._sequences:
                self._sequences.append(outcome.seq)
                known.append(outcome.seq)
            return "stored", known.index(outcome.seq) if outcome.seq in known else "gone"
        if isinstance(outcome, Stale):
            return "stale", known.index(outcome.last) if outcome.last in known else outcome.last
        return "refused", outcome.full

    def _order(self, seq: int) -> Any:
        return next(
            ((job, known.index(seq)) for job, known in enumerate(self._of_job) if seq in known), "another's"
        )

    async def _read(self, bus: Bus) -> Any:
        """What is there of each job, in order. How jobs lie between each other is the log's own business."""
        here = sum(map(len, self._of_job))
        if not here:
            return []
        found: dict[int, list[Any]] = {}
        wanted = {key: job for job, key in enumerate(self._keys)}
        count = 0
        async with aclosing(bus.read(self._before.last)) as batches:
            async for batch in batches:
                for record in batch:
                    if record.key in wanted:
                        count += 1
                        found.setdefault(wanted[record.key], []).append(
                            (self._order(record.seq), len(record.data))
                        )
                if count >= here:
                    break
        return sorted(found.items())


async def play(buses: Buses, script: Sequence[Step]) -> list[Any]:
    """Play a script on two connections to one bus; what came of each step."""
    return await Player(buses, await buses[0].log_state()).play(script)


Scripts = tuple[Sequence[Step], Sequence[Step], Sequence[Step]]
"""What is played before a backup, between it and a restore that forgets it, and on the restored log."""


async def play_restored(
    buses: Buses,
    scripts: Scripts,
    backup: Callable[[], Awaitable[None]],
    restore: Callable[[], Awaitable[None]],
) -> list[Any]:
    """Play all three, with a backup and a restore between them; what came of all steps."""
    player = Player(buses, await buses[0].log_state())
    told = await player.play(scripts[0])
    await backup()
    recall = player.remember()
    told += await player.play(scripts[1])
    await restore()
    recall()
    return told + await player.play(scripts[2])
