"""One decision about a job after another: what goes into it, its entry's way into the log, and what follows from that.

Knows: what is done before and after an entry is in the log. Must not know: when a job is looked at (`orchestrator`), why a
step decides as it does (`requester.core`), or how the log is read.

One entry of a job is in flight at a time; what comes meanwhile joins the next.
"""

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import Final

import structlog
from msgspec.structs import replace

from protocol import failpoints
from protocol.bus import ENTRY_MAX_BYTES, Append, Outcome, Refused, Stale, Stored
from protocol.clock import Clock
from protocol.entries import Assigned, Entry, Event, write_entry
from protocol.errors import Exhausted, Fault, Invalid
from protocol.ids import JobKey, RequesterId
from requester.agenda import Agenda
from requester.applier import LATER_S, Applier
from requester.backlog import Backlog
from requester.committer import Committer
from requester.core.commands import orders
from requester.core.giving_up import taken_out
from requester.core.policy import Policy
from requester.core.snapshots import Retelling
from requester.core.step import Decision, counts, step
from requester.core.view import View
from requester.deadlines import Deadlines
from requester.dispatch import Dispatch
from requester.jobs import Jobs
from requester.live import Input, Live

_log = structlog.get_logger(__name__)
_TAKEN_MAX: Final = 16
"""Inputs in one entry: reports with their outputs must fit into it."""
_RETOLD_MAX: Final = 10
"""So often a snapshot gives way to what others write at the same moment; then it waits for its next turn."""
_MOMENT_S: Final = 0.5
"""The rest before looking at what waits behind inputs of which nothing came."""


class Decider:
    """Decides about jobs in memory, for the requester `me`. `view` is what it goes by, besides the job, at this moment;
    `position` is how far the log has been read, `log_created` which one that is."""

    def __init__(
        self,
        clock: Clock,
        policy: Policy,
        me: RequesterId,
        *,
        jobs: Jobs,
        committer: Committer,
        agenda: Agenda,
        deadlines: Deadlines,
        backlog: Backlog,
        applier: Applier,
        dispatch: Dispatch,
        view: Callable[[], View],
        position: Callable[[], int],
        log_created: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._policy = policy
        self._me = me
        self._jobs = jobs
        self._fleet = jobs.fleet
        self._committer = committer
        self._agenda = agenda
        self._deadlines = deadlines
        self._backlog = backlog
        self._applier = applier
        self._dispatch = dispatch
        self._view = view
        self._position = position
        self._log_created = log_created
        self._ops = count(1)
        # Unique to this start of this requester, and a token: 16 digits, then the number of the operation.
        self._op_prefix = blake2b(f"{me} {clock.now()}".encode(), digest_size=8).hexdigest()
        self.counters = {"entries": 0, "stale": 0, "refused": 0}

    def decide(self, live: Live) -> None:
        """Write what follows about a job; if an entry of it is on its way, or must be read first, after that."""
        live.missed = live.inflight
        if live.inflight or live.behind:
            return
        if not self._jobs.holds(live):
            self._hand_over(live, [])
            return
        if live.retelling is not None and live.retelling.ready and self._retell(live, live.retelling):
            return
        taken, events = self._take(live)
        now = self._clock.now()
        decision = self._decided(live, taken, events, now)
        blocked = decision.blocked if decision is not None else None
        if blocked is not None and self._backlog.hold_back(live.key, blocked, now):
            live.inputs[:0] = taken
            return
        self._backlog.let_go(live.key)
        if decision is None:
            return
        self._backlog.lacked(live.key, decision.full)
        if not decision.events:
            for item in taken:
                item.done(None)
            self._deadlines.await_next(live, now)
            return
        self._write(live, taken, self._entry(decision, now), decision)

    def _decided(self, live: Live, taken: list[Input], events: list[Event], now: float) -> Decision | None:
        """What the step makes of a job; None if there is no job, or none that can be decided, which is told then."""
        job = live.record.id if live.record is not None else (taken[0].job if taken else None)
        if job is None:
            self.forget_gone(live)
            return None
        try:
            return step(live.record, events, self._view(), now, job=job, policy=self._policy)
        except Fault as fault:
            self._undecidable(live, taken, fault)
            return None

    def _retell(self, live: Live, retelling: Retelling) -> bool:
        """Write a snapshot of a job, if it can be done now; what was to be decided is decided after it."""
        record = live.record
        retelling.tries += 1
        draft = None
        if record is not None and live.guard == record.revision and retelling.tries <= _RETOLD_MAX:
            draft = retelling.draft(record)
        if record is None or draft is None:
            live.retelling = None
            return False
        # It assigns nothing: what it tells of executions is so already.
        decision = Decision(record.id, [], record)
        entry = self._entry(decision, self._clock.now())
        self._write(live, [], replace(entry, events=draft.events, snapshot=draft.snapshot), decision)
        live.missed = True
        return live.inflight

    def _entry(self, decision: Decision, now: float) -> Entry:
        op = f"{self._op_prefix}{next(self._ops)}"
        return Entry(decision.job, op, self._me, now, decision.events)

    def _write(self, live: Live, taken: list[Input], entry: Entry, decision: Decision) -> None:
        """Hold the room that a decision assigns, and send its entry to the log; or tell those who asked why not."""
        data = write_entry(entry)
        if len(data) > ENTRY_MAX_BYTES:
            self._too_large(live, taken, len(data))
            return
        if decision.after is not None:
            spec = decision.after.spec
            for event in decision.events:
                if isinstance(event, Assigned):
                    self._jobs.promise(spec, event.node, event.execution, event.amounts)
        done = partial(self._done, live, entry, taken, decision.more)
        try:
            self._committer.put(
                Append(live.key, live.guard, entry.op, data, self._log_created()),
                done,
                must=live.record is not None,
            )
        except Exhausted as fault:
            self._give_back(live.key, entry)
            self._settle(taken, fault)
            self._let_go(live)
            return
        live.flying = (data, entry)
        live.placed = decision.after is None or decision.after.queued is None

    def _take(self, live: Live) -> tuple[list[Input], list[Event]]:
        """The inputs of the next entry: a submission alone, or some others. What would change nothing is told so."""
        taken: list[Input] = []
        events: list[Event] = []
        while live.inputs and len(taken) < _TAKEN_MAX:
            item = live.inputs[0]
            if item.job is not None and taken:
                break
            del live.inputs[0]
            if not item.wanted:
                continue
            try:
                event = item.event(live.record)
            except Fault as fault:
                item.done(fault)
                continue
            if not counts(live.record, event):
                item.done(None)
                continue
            taken.append(item)
            events.append(event)
            if item.job is not None:
                break
        return taken, events

    def _too_large(self, live: Live, taken: list[Input], size: int) -> None:
        """Try half of the inputs; one that is too large alone is refused."""
        if len(taken) > 1:
            half = len(taken) // 2
            live.inputs[:0] = taken[half:]
            rest, live.inputs = live.inputs, taken[:half]
            self.decide(live)
            live.inputs += rest
            return
        fault = Invalid(
            f"the entry would have {size} bytes, the log takes at most {ENTRY_MAX_BYTES}",
            hint="Make the job smaller: put data into S3, IPFS or an inline input.",
        )
        self._settle(taken, fault)
        self._let_go(live)

    def _undecidable(self, live: Live, taken: list[Input], fault: Fault) -> None:
        """A job that no rule fits (its spec cannot be read as it stands) harms no other: it is told, and left alone."""
        _log.error("a job cannot be decided", key=live.key, reason=fault.message)
        self._settle(taken, fault)
        self._let_go(live)

    def _let_go(self, live: Live) -> None:
        """Nothing came of what was taken. What waits behind it is looked at in a moment; a job without any is let go."""
        if live.inputs:
            self._agenda.remind(self._clock.now() + _MOMENT_S, live.key)
        else:
            self._jobs.forget(live)

    def _came_too_late(self, entry: Entry) -> bool:
        """Whether an entry gave work to a node that people took out meanwhile: who looked did not find it there yet.

        Not one that counts as silent: that may be back, until the next look at silence, and would be given up as often as
        it is chosen.
        """
        nodes = {event.node for event in entry.events if isinstance(event, Assigned)}
        if not nodes or entry.snapshot is not None:
            return False
        view, now = self._view(), self._clock.now()
        return any(taken_out(node, view, now) is not None for node in nodes)

    def _done(
        self, live: Live, entry: Entry, taken: list[Input], more: bool, outcome: Outcome | Fault
    ) -> None:
        """An entry's outcome: fold it and tell the nodes, or read on and decide again; or nobody knows it."""
        live.flying = None
        if isinstance(outcome, Stored):
            self.counters["entries"] += 1
            # The log's reader often brings it before the answer does.
            known = live.has_folded(outcome.seq)
            freed = self._jobs.fold(live, entry, outcome.seq) if not known else set()
            self._tell_of_many(live)
            failpoints.reached("requester.entry.folded")
            if live.record is not None:
                for node, command in orders(live.record, entry, outcome.seq):
                    self._dispatch.tell(node, command)
            for item in taken:
                item.done(outcome)
            if not known:
                self._applier.after(live, freed)
            missed = live.record is not None and (live.missed or self._came_too_late(entry))
            if more or live.inputs or missed:
                self.decide(live)
            else:
                self.forget_gone(live)
            return
        self._give_back(live.key, entry)
        if not self._jobs.holds(live):
            self._hand_over(live, taken)
            return
        if isinstance(outcome, Stale):
            self.counters["stale"] += 1
            live.inputs[:0] = taken
            if outcome.last > live.guard:
                live.behind = outcome.last
                self._agenda.remind(self._clock.now() + LATER_S, live.key)
            else:
                self._applier.reread(live)
            return
        if isinstance(outcome, Refused):
            self.counters["refused"] += 1
            if entry.snapshot is not None:
                live.retelling = None
            _log.error("the log refused an entry", job=entry.job, reason=outcome.reason, full=outcome.full)
        for item in taken:
            item.done(outcome)
        if live.record is None:
            self._let_go(live)
        else:
            self._agenda.remind(self._clock.now() + LATER_S, live.key)

    def _tell_of_many(self, live: Live) -> None:
        """Say once of a job that half of the entries are written that the log takes of it."""
        entries_max = self._view().entries_max
        if live.record is not None and entries_max and live.record.entries == entries_max // 2:
            _log.warning(
                "a job has half of the entries that the log takes of one, and is ended before it has all",
                job=live.record.id,
                name=live.record.spec.name,
                entries=live.record.entries,
                hint="Stop it, delete it and submit it again at a good time; if it is started again and again, see why. "
                "A service or daemon comes so far only while a requester of an earlier version is there, or where its "
                "executions do not fit one entry.",
            )

    def _hand_over(self, live: Live, taken: list[Input]) -> None:
        """All was forgotten while this was on its way: what waits goes on with the job as it is in memory now."""
        here = self._jobs.make(live.key)
        here.inputs[:0] = [*taken, *live.inputs]
        live.inputs = []
        self._agenda.remind(self._clock.now(), live.key)

    def _give_back(self, key: JobKey, entry: Entry) -> None:
        """Take back the room of assignments that did not come to be."""
        live = self._jobs.get(key)
        known = live.record.executions if live is not None and live.record is not None else {}
        for event in entry.events:
            if isinstance(event, Assigned):
                execution = known.get(event.execution)
                if execution is None or execution.node != event.node or not execution.open:
                    self._fleet.release(event.node, event.execution)
        if live is not None:
            self._jobs.requeue(live)
        self._backlog.changed()

    def forget_gone(self, live: Live) -> None:
        """Forget a job of which nothing is left, if the log's reader has come to its last entry; else the reader does it."""
        if live.record is None and self._position() >= live.guard:
            self._jobs.forget(live)

    def _settle(self, taken: list[Input], fault: Fault) -> None:
        for item in taken:
            item.done(fault)
