"""One job in memory: its newest record, what waits to be written about it, and who watches it.

Knows: one job, and what its nodes say between two entries. Must not know: which jobs are in memory (`requester.jobs`), what
to decide, or the bus.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from protocol.bus import Outcome
from protocol.entries import Entry, Event
from protocol.errors import Fault
from protocol.ids import ExecutionId, JobId, JobKey
from protocol.messages import Progress, Report
from protocol.states import may_follow
from requester.core.model import JobRecord
from requester.core.snapshots import Retelling

WATCH_MAX: Final = 64
"""Updates that wait for one watcher; beyond that the oldest progress, then the oldest record, gives way."""

Settled = Outcome | Fault | None
"""How an input ended: its entry's outcome, the fault that refused it, or None if it would have changed nothing."""


class Input:
    """Something that waits to be written: `event` makes it from the record as it then is, or raises a `Fault`.

    `job` is the id that a submission brings; it also says that the input wants an entry of its own. `wanted` is false once
    whoever asked has gone: what has not been sent by then is not written any more.
    """

    __slots__ = ("done", "event", "job", "wanted")

    def __init__(
        self,
        event: Callable[[JobRecord | None], Event],
        done: Callable[[Settled], None],
        job: JobId | None = None,
    ) -> None:
        self.event = event
        self.done = done
        self.job = job
        self.wanted = True


class Watcher:
    """One who is told of each change of a job. Slow ones miss what lies between, never the newest."""

    def __init__(self) -> None:
        self._updates: deque[JobRecord | Progress] = deque(maxlen=WATCH_MAX)
        self._news = asyncio.Event()
        self._fault: Fault | None = None

    def tell(self, update: JobRecord | Progress) -> None:
        if isinstance(update, Progress) and len(self._updates) == WATCH_MAX:
            return
        self._updates.append(update)
        self._news.set()

    def end(self, fault: Fault) -> None:
        """There is nothing more to tell."""
        self._fault = fault
        self._news.set()

    async def next(self) -> JobRecord | Progress:
        """The next update, waiting for it if need be. Raises the fault that ended the watch."""
        while not self._updates and self._fault is None:
            self._news.clear()
            await self._news.wait()
        if self._fault is not None:
            raise self._fault
        return self._updates.popleft()


class Live:
    """One job in memory.

    `guard` is the last sequence known of its subject, `behind` one that must be folded first. `flying` is the entry on
    its way to the log, as written and as meant: when the log's reader brings it first, it need not be read again;
    `placed` says that nothing of the job waits for room once that is stored. `missed` says that a look was due meanwhile.
    `deleted` are sequence and time of the last entry that deleted a job of this name; there may be another one by now, then
    there is a `record`. `retelling` is its snapshot in the making, if there is one. `life` counts how often all was
    forgotten before it came to memory.
    """

    __slots__ = (
        "behind",
        "deleted",
        "due",
        "flying",
        "guard",
        "inputs",
        "key",
        "life",
        "missed",
        "noted",
        "placed",
        "record",
        "retelling",
        "watchers",
        "written",
    )

    def __init__(self, key: JobKey, record: JobRecord | None = None, life: int = 0) -> None:
        self.key = key
        self.life = life
        self.record = record
        self.guard = record.revision if record is not None else 0
        self.written = self.guard
        self.behind = 0
        self.deleted: tuple[int, float] | None = None
        self.flying: tuple[bytes, Entry] | None = None
        self.retelling: Retelling | None = None
        self.placed = False
        self.missed = False
        self.due: float | None = None
        self.inputs: list[Input] = []
        self.noted: dict[ExecutionId, Report] = {}
        self.watchers: list[Watcher] = []

    @property
    def inflight(self) -> bool:
        """Whether an entry is on its way."""
        return self.flying is not None

    @property
    def undecided(self) -> bool:
        """Whether anything waits to be written, is on its way, or has to be read first."""
        return bool(self.inflight or self.inputs or self.behind)

    @property
    def is_deleted(self) -> bool:
        """Whether the job was deleted, and no other one of its name has come."""
        return self.record is None and self.deleted is not None

    @property
    def busy(self) -> bool:
        """Whether something still hangs on it, so that it must stay in memory."""
        return self.undecided or bool(self.watchers)

    def has_folded(self, seq: int) -> bool:
        """Whether the entry at this sequence is in the record, or deleted it."""
        if self.record is None:
            return self.deleted is not None and self.deleted[0] >= seq
        return self.record.revision >= seq

    def present(self) -> JobRecord | None:
        """The record with what nodes have said since its last entry."""
        if self.record is None or not self.noted:
            return self.record
        executions = dict(self.record.executions)
        for report in self.noted.values():
            known = executions.get(report.execution)
            if known is not None and may_follow(known.state, report.state):
                executions[known.id] = replace(
                    known,
                    state=report.state,
                    stages=report.stages or known.stages,
                    inputs=report.inputs or known.inputs,
                    ports=report.ports or known.ports,
                )
        return replace(self.record, executions=executions)

    def tell(self, update: Progress | None = None) -> None:
        """Tell the watchers of a change, or of progress."""
        if self.watchers:
            news = update or self.present()
            if news is not None:
                for watcher in self.watchers:
                    watcher.tell(news)
