"""Jobs in memory: every open one, and the closed ones of late.

Knows: where each job is, and what its executions hold of nodes and of the queue. Must not know: what to decide, or the bus.
Entries come in by `fold` alone, from the log or from this requester's own commits, whichever is first.

Of a long queue only the jobs that were looked at last are here whole. Of the others the queue keeps what their turn depends
on, and the read model has the rest; who asks for one gets it as if it had never left.
"""

from collections.abc import Callable, Sequence

from protocol.clock import Clock
from protocol.entries import Assigned, Cancelled, Deleted, Entry, Lost, Reported
from protocol.ids import ExecutionId, JobKey, NodeId
from protocol.jobs import EVERYWHERE, LONG_RUNNING, Amounts, Job
from protocol.messages import Report
from protocol.states import ExecutionState, may_follow
from requester.core.fleet import Fleet
from requester.core.fold import begins_anew, fold
from requester.core.model import ExecutionRecord, JobRecord
from requester.core.newcomers import Newcomer
from requester.core.queue import Queue, hopes
from requester.core.requests import missed
from requester.core.snapshots import Retelling
from requester.core.standing import demand_of, static_ports
from requester.live import Live
from requester.recent import Recent


class Jobs:
    """All jobs in memory, and what follows from their executions for the nodes and the queue.

    `closed_max` closed jobs are kept, and `waiting_max` of those that wait and never had an execution, `size_max_bytes` of
    either; older ones leave once they are in the read model. `load` reads one that waits from there.
    """

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        *,
        closed_max: int,
        waiting_max: int,
        size_max_bytes: int,
        load: Callable[[JobKey], JobRecord | None],
    ) -> None:
        self.fleet = fleet
        self.queue = Queue()
        self.open: dict[JobKey, Live] = {}
        """Those that are here, by far not all of a long queue."""
        self.away = 0
        """How many open jobs the queue and the read model have between them."""
        # One at least: a job that comes back for its next version is the newest.
        self.closed = Recent(closed_max, size_max_bytes)
        self.everywhere: dict[JobKey, None] = {}
        """Open jobs that run on every node, in order: each new node concerns them."""
        self.key_of_execution: dict[ExecutionId, JobKey] = {}
        self.told_at: dict[ExecutionId, float] = {}
        """When (elapsed seconds) an open execution was first known here, or its node last told of it."""
        self.running_since: dict[ExecutionId, float] = {}
        self.newest = 0
        """The highest sequence folded: one's own entries are folded before the log's reader brings them."""
        self._clock = clock
        self._waiting = Recent(waiting_max, size_max_bytes)
        """The open jobs that may leave."""
        self._load = load
        self._life = 0

    def get(self, key: JobKey) -> Live | None:
        """A job in memory, or one that waits and has left it; None for all others."""
        live = self.open.get(key) or self.closed.get(key)
        return self.recall(key) if live is None and key in self.queue else live

    def recall(self, key: JobKey) -> Live | None:
        """Take back a job that waits (or has its turn just now) from the read model. None if that was emptied meanwhile, or
        if the job's entry cannot be read: it is passed over, and waits no longer.
        """
        record = self._load(key)
        self.away -= 1
        if record is None:
            self.queue.remove(key)
            return None
        live = self.open[key] = Live(key, record, self._life)
        self._waiting.put(live)
        self._let_one_go()
        return live

    def __len__(self) -> int:
        """How many jobs are open."""
        return len(self.open) + self.away

    def adopt(self, record: JobRecord) -> Live:
        """Take a job from the read model, unless a newer state of it is here."""
        live = self.get(record.key)
        if live is None:
            live = Live(record.key, record, self._life)
            self._place(live)
            for execution in record.executions.values():
                if execution.open:
                    self._began(execution, live)
        return live

    def restore(self, live: Live, record: JobRecord) -> None:
        """Give a job that is here without a record the one the read model has."""
        live.record = record
        live.guard = max(live.guard, record.revision)
        live.written = record.revision
        self._place(live)

    def pass_by(self, new: Newcomer) -> None:
        """Let a new job wait without coming to memory; whoever asks for that sees to it that `load` finds it."""
        self.queue.put(
            new.key,
            new.demand,
            priority=new.priority,
            namespace=new.namespace,
            age=new.at,
            since=new.at,
            hopes=new.hopes,
        )
        self.away += 1
        self.newest = max(self.newest, new.seq)

    def leave_away(self, record: JobRecord) -> bool:
        """Let a job of the read model wait without coming to memory, if it may leave at once: nothing hangs on it, and there
        are enough of those that wait. True if so.
        """
        if record.queued is None or not self.crowded or not record.untried:
            return False
        self._line_up(record)
        self.away += 1
        self.newest = max(self.newest, record.revision)
        return True

    @property
    def crowded(self) -> bool:
        """Whether as many that wait are here as are kept."""
        return self._waiting.full

    def make(self, key: JobKey) -> Live:
        """The job of this key, made without a record if it is new here."""
        live = self.get(key)
        if live is None:
            live = self.open[key] = Live(key, life=self._life)
        return live

    def fold(self, live: Live, entry: Entry, seq: int) -> set[NodeId]:
        """Fold an entry, and return the nodes on which it freed room."""
        if self.get(live.key) is not live:
            # All was forgotten while it was on its way: the log's reader brings it anew; here it only answers its caller.
            live.record = fold(live.record, entry, seq)
            return set()
        self.newest = max(self.newest, seq)
        freed: set[NodeId] = set()
        live.guard = max(live.guard, seq)
        before = live.record
        record = live.record = fold(before, entry, seq)
        if live.retelling is not None:
            self._retold(live, live.retelling, entry, seq)
        if before is not None and (record is None or begins_anew(before, entry)):
            freed |= self._let_go(live, before, record)
        if record is None and isinstance(entry.first, Deleted):
            self._deleted(live, seq, entry.at)
        if record is None or record is before:
            return freed
        for event in entry.events:
            if isinstance(event, Assigned | Cancelled | Lost):
                self._moved(live, record.executions.get(event.execution), freed)
            elif isinstance(event, Reported):
                self._moved(live, record.executions.get(event.report.execution), freed)
        if before is not None and (record.closed or entry.snapshot is not None):
            freed |= self._release(live, [each for each in before.open() if each.id not in record.executions])
        self._place(live)
        live.tell()
        return freed

    def _retold(self, live: Live, retelling: Retelling, entry: Entry, seq: int) -> None:
        """An entry came while a snapshot is in the making: it will be told too, unless it is one, or ends the job."""
        if entry.snapshot is not None or live.record is None or live.record.closed:
            live.retelling = None
        else:
            retelling.add(seq, entry)

    def _deleted(self, live: Live, seq: int, at: float) -> None:
        """A job is no more; its name stays in memory until the log's reader has brought the entry that says so."""
        live.deleted, live.written = (seq, at), seq
        self.closed.pop(live.key)
        self.open[live.key] = live

    def vanished(self, live: Live) -> set[NodeId]:
        """Forget a job of which the log has nothing any more, and return the nodes on which that frees room."""
        freed = self._let_go(live, live.record, None) if live.record is not None else set()
        live.record, live.deleted, live.guard = None, None, 0
        self.closed.pop(live.key)
        self.open[live.key] = live
        return freed

    def _let_go(self, live: Live, record: JobRecord, after: JobRecord | None) -> set[NodeId]:
        """Give back what a record's executions hold: if it was open here, its end came while this requester was away."""
        if not record.closed and (after is None or after.id != record.id):
            for watcher in live.watchers:
                watcher.end(missed(f"job {record.id}"))
        live.written = 0
        self._waiting.pop(live.key)
        self.queue.remove(live.key)
        self.everywhere.pop(live.key, None)
        return self._release(live, record.open())

    def _release(self, live: Live, unseen: Sequence[ExecutionRecord]) -> set[NodeId]:
        """Give back what executions hold that have ended unseen."""
        freed = set()
        for execution in unseen:
            self._forget_execution(live, execution.id)
            if self.fleet.release(execution.node, execution.id):
                freed.add(execution.node)
        return freed

    def forget(self, live: Live) -> None:
        """Let a job go that was never stored, or that is closed."""
        if not live.busy and (live.record is None or live.record.closed):
            self.open.pop(live.key, None)
            if live.record is None:
                self.closed.pop(live.key)
                self.requeue(live)

    def drop(self, key: JobKey) -> bool:
        """Let a closed job go that leaves the read model too. False if something hangs on a job of this name."""
        live = self.get(key)
        if live is None:
            return True
        if live.busy or live.record is None or not live.record.closed:
            return False
        self.closed.pop(key)
        return True

    def holds(self, live: Live) -> bool:
        """Whether this came to memory after all was forgotten: what was there before knows less than the log."""
        return live.life == self._life

    def clear(self) -> None:
        """Forget everything: the log is read anew. Who watches a job is told of it again from there, and what waits to be
        written about one goes on waiting.
        """
        busy = []
        for live in [*self.open.values(), *self.closed]:
            for execution in live.record.executions.values() if live.record is not None else ():
                self.fleet.release(execution.node, execution.id)
            if live.watchers or live.inputs:
                busy.append(live)
        self.newest = 0
        self._life += 1
        self.open.clear()
        self.closed.clear()
        self.everywhere.clear()
        self.key_of_execution.clear()
        self.told_at.clear()
        self.running_since.clear()
        self._waiting.clear()
        self.away = 0
        self.queue.clear()
        for live in busy:
            here = self.make(live.key)
            here.watchers, here.inputs, live.inputs = live.watchers, live.inputs, []

    def end_watches(self) -> None:
        """The log has been read anew to its end: who watches a job of which it has nothing is told."""
        for live in [each for each in self.open.values() if each.record is None and each.watchers]:
            watchers, live.watchers = live.watchers, []
            for watcher in watchers:
                watcher.end(missed("the job"))
            self.forget(live)

    def passed_over(self, written: int) -> list[Live]:
        """The jobs whose newest entry was written here and is not in the read model, though that is `written` up to behind
        it: the log's reader has not brought it.
        """
        return [
            live
            for each in (self.open.values(), self.closed)
            for live in each
            if live.record is not None and live.written < live.record.revision <= written
        ]

    def note(self, live: Live, report: Report) -> None:
        """Keep in memory what a node says of an execution that goes on."""
        known = live.record.executions.get(report.execution) if live.record is not None else None
        if known is None or not known.open:
            return
        earlier = live.noted.get(report.execution)
        reached = earlier.state if earlier is not None else known.state
        if report.state is reached or not may_follow(reached, report.state):
            return
        live.noted[report.execution] = report
        if report.state is ExecutionState.RUNNING:
            self.running_since.setdefault(report.execution, self._clock.now())
        live.tell()

    def _moved(self, live: Live, execution: ExecutionRecord | None, freed: set[NodeId]) -> None:
        """Follow one execution that an entry names: its room, and who asks after it."""
        if execution is None:
            return
        if execution.open:
            self._began(execution, live)
            if execution.state is ExecutionState.RUNNING:
                self.running_since.setdefault(execution.id, self._clock.now())
            return
        if self.fleet.release(execution.node, execution.id):
            self.fleet.health.ended(execution)
            freed.add(execution.node)
        self._forget_execution(live, execution.id)

    def _forget_execution(self, live: Live, execution: ExecutionId) -> None:
        self.key_of_execution.pop(execution, None)
        self.told_at.pop(execution, None)
        self.running_since.pop(execution, None)
        live.noted.pop(execution, None)

    def _began(self, execution: ExecutionRecord, live: Live) -> None:
        assert live.record is not None
        self.promise(live.record.spec_of(execution), execution.node, execution.id, execution.amounts)
        if execution.id not in self.key_of_execution:
            self.key_of_execution[execution.id] = live.key
            self.told_at[execution.id] = self._clock.elapsed()

    def promise(self, spec: Job, node: NodeId, execution: ExecutionId, amounts: Amounts) -> None:
        """Hold a job's room on a node; the same execution again changes nothing."""
        stays = spec.type in LONG_RUNNING
        self.fleet.hold(node, execution, amounts, static_ports(spec), spec.namespace, stays=stays)

    def _place(self, live: Live) -> None:
        """Put a job where it belongs: open or closed, waiting or not."""
        record = live.record
        if record is None:
            return
        if record.closed:
            self.queue.remove(live.key)
            self._waiting.pop(live.key)
            self.everywhere.pop(live.key, None)
            self.open.pop(live.key, None)
            live.noted.clear()
            self.closed.put(live)
            self._shed()
            return
        self.closed.pop(live.key)
        self.open[live.key] = live
        if record.spec.type in EVERYWHERE:
            self.everywhere[live.key] = None
        self.requeue(live)

    def requeue(self, live: Live) -> None:
        """Let a job wait in the queue if its record says so."""
        record = live.record
        self._waiting.pop(live.key)
        if record is None or record.queued is None or record.closed:
            self.queue.remove(live.key)
            return
        self._line_up(record)
        if record.untried:
            self._waiting.put(live)
            self._let_one_go()

    def _line_up(self, record: JobRecord) -> None:
        spec = record.spec
        self.queue.put(
            record.key,
            demand_of(spec),
            priority=spec.priority,
            namespace=spec.namespace,
            age=record.submitted_at,
            since=record.queued_at if record.queued_at is not None else record.submitted_at,
            hopes=hopes(record),
        )

    def only_waits(self, live: Live) -> bool:
        """Whether a job waits that never had an execution, and nothing hangs on it: it needs no look until news come."""
        return live.key in self._waiting and not live.busy

    def recorded(self) -> None:
        """More has been written to the read model: who waited for that may leave."""
        self._shed()
        for _ in range(len(self._waiting)):
            if not self._waiting.overfull:
                return
            self._let_one_go()

    def _let_one_go(self) -> None:
        """The waiting job that was looked at longest ago leaves, if there are too many and nothing hangs on it."""
        if not self._waiting.overfull:
            return
        live = self._waiting.oldest()
        if live.record is None or live.written < live.record.revision or live.busy:
            self._waiting.look(live.key)
            return
        self._waiting.pop(live.key)
        del self.open[live.key]
        self.away += 1

    def _shed(self) -> None:
        """Let the oldest closed jobs go, if they are in the read model and nobody asks for them."""
        while self.closed.overfull:
            live = self.closed.oldest()
            if live.busy or live.record is None or live.written < live.record.revision:
                break
            self.closed.pop(live.key)
