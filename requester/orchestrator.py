"""Performs decisions: runs `step` on the jobs that need a look, commits what it says, and tells the nodes.

Knows: when a job is looked at, and what is done before and after an entry is in the log. Must not know: why a step decides
as it does (`requester.core`), HTTP, or how reports and beats arrive (they are brought here).

Whoever receives a call or a report commits what follows from it. All else (room that was freed, deadlines, lost nodes) is
the business of the job's owner (`requester.agenda`). One entry of a job is in flight at a time; what comes meanwhile joins
the next.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import Final

import structlog

from protocol import bus, failpoints
from protocol.bus import ENTRY_MAX_BYTES, Append, Bus, Outcome, Refused, Stale, Stored
from protocol.clock import Clock
from protocol.entries import Assigned, Entry, Event, Submitted
from protocol.errors import Broken, Exhausted, Fault, Invalid, TimedOut, Unavailable
from protocol.ids import JobKey, NodeId, key_of
from protocol.messages import decode, encode
from requester.agenda import LOOKS, Agenda
from requester.backlog import Backlog
from requester.committer import Committer
from requester.core.commands import orders
from requester.core.deadlines import next_deadline
from requester.core.fleet import Fleet
from requester.core.fold import begins_anew, fold
from requester.core.giving_up import lost_after
from requester.core.model import JobRecord
from requester.core.standing import Demand, explain
from requester.core.step import counts, step
from requester.core.turns import Turns
from requester.core.view import View
from requester.dispatch import Dispatch
from requester.jobs import Jobs
from requester.live import Input, Live
from requester.presence import Presence
from requester.recorder import Recorder
from requester.settings import Settings

_log = structlog.get_logger(__name__)
_TAKEN_MAX: Final = 16
"""Inputs in one entry: reports with their outputs must fit into it."""
_AGAIN_S: Final = 0.01
"""The rest before asking the log again while another's append is in flight."""
_PASSED_S: Final = 0.5
"""The rest before looking again at a job whose deadline has passed without anything following from it."""


class Orchestrator:
    """Decides about jobs in memory. `gone` are the nodes given up, kept by the registry's look at their silence."""

    def __init__(
        self,
        the_bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        jobs: Jobs,
        committer: Committer,
        presence: Presence,
        recorder: Recorder,
        position: Callable[[], int],
    ) -> None:
        self._bus = the_bus
        self._clock = clock
        self._settings = settings
        self._jobs = jobs
        self._fleet: Fleet = jobs.fleet
        self._committer = committer
        self._presence = presence
        self._recorder = recorder
        self._position = position
        self._ops = count(1)
        # Unique to this start of this requester, and a token: 16 digits, then the number of the operation.
        self._op_prefix = blake2b(f"{presence.me} {clock.now()}".encode(), digest_size=8).hexdigest()
        self._agenda = Agenda(clock, presence.rank, takeover_s=settings.takeover_s)
        self.turns = Turns(jobs.queue, jobs.fleet, settings.policy)
        self._backlog = Backlog(
            clock,
            self.turns,
            jobs=jobs,
            agenda=self._agenda,
            presence=presence,
            decide=self.decide,
            look=self.look,
        )
        self._tasks: asyncio.TaskGroup | None = None
        self.dispatch = Dispatch(
            the_bus,
            clock,
            jobs=jobs,
            put=self.put,
            at_once=settings.commands_max,
            timeout_s=settings.command_timeout_s,
        )
        self.gone: Mapping[NodeId, float] = {}
        self.settled = False
        self.counters = {"entries": 0, "stale": 0, "refused": 0}

    @property
    def acting(self) -> bool:
        """Whether the log has been read to its end, so that unasked decisions may be made."""
        return self._backlog.acting

    @acting.setter
    def acting(self, acting: bool) -> None:
        self._backlog.acting = acting

    async def run(self) -> None:
        """Look at the jobs that need it, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self.dispatch.run())
            await self._agenda.run(self.look)

    # Occasions

    def put(self, live: Live, item: Input) -> None:
        """Take a submission, a stop or a report, and decide at once."""
        live.inputs.append(item)
        self.decide(live)

    def attend(self, key: JobKey) -> None:
        """A job may need a decision that nobody asked for: its owner looks now, the others later."""
        if self.acting:
            self._agenda.attend(key)

    def begin_anew(self) -> None:
        """Forget all jobs: the log is read from its beginning, and until its end is reached nothing is decided unasked.

        A job half read looks as if its node still had to run what it ended long ago.
        """
        self.acting = False
        self._backlog.clear()
        self._jobs.clear()
        for key in self._jobs.open:
            self._agenda.remind(self._clock.now(), key)

    def resume(self, record: JobRecord) -> None:
        """Take an open job from the read model at the start."""
        if self._jobs.pass_by(record):
            self._passed_by(record)
        else:
            self._await_deadline(self._jobs.adopt(record), record.modified_at)

    def attend_mine(self) -> None:
        """Every open job that this requester owns may need a look: requesters came or went, or a while has passed.

        Not those that only wait: they need one when room appears, when a time of theirs has come, or when what they were
        told is no longer true (`attend_misled`).
        """
        for key, live in self._jobs.open.items():
            if not self._jobs.only_waits(live) and not self._presence.rank(key):
                self.attend(key)

    async def attend_misled(self) -> None:
        """Those that wait for another reason than they were told need a look; there may be a million, so a few at a time."""
        if not self.acting or not self.settled:
            return
        for number, key in enumerate(self._jobs.queue.misled(self._reason_now)):
            if not self._presence.rank(key):
                self.attend(key)
            while number % LOOKS == 0 and (self._agenda or len(self._committer) >= LOOKS):
                await self._clock.sleep(self._settings.tick_s)

    def _reason_now(self, demand: Demand) -> str:
        return explain(self._fleet.standing(demand), {}, needed=1).code

    def attend_node(self, node: NodeId) -> None:
        """The jobs that have work on a node need a look: it is gone, or its work has to leave it.

        A job that bears a longer silence is looked at once more when that is over.
        """
        now = self._clock.now()
        silent_s = self.gone.get(node)
        for key in dict.fromkeys(self._jobs.key_of_execution.get(each) for each in self._fleet.held(node)):
            if key is None:
                continue
            self.attend(key)
            live = self._jobs.open.get(key)
            if silent_s is not None and live is not None and live.record is not None:
                patience_s = lost_after(live.record.spec) - silent_s
                if patience_s > 0:
                    self._agenda.remind_in_turn(now + patience_s, key)

    def tick(self) -> None:
        """Look at the jobs whose time has come, and now and then at what is kept for those that wait."""
        self._backlog.tick()
        for key in self._agenda.due():
            live = self._jobs.get(key)
            if live is not None:
                live.due = None
                if live.behind:
                    self._reread(live)
                else:
                    # Also one that another requester has closed meanwhile: what waits to be written is told so.
                    self.decide(live)

    def look(self, key: JobKey) -> None:
        """Decide about a job, if it is open."""
        live = self._jobs.get(key)
        if live is not None:
            self.decide(live)

    def nodes_changed(self) -> None:
        """A node came, went or changed: look at the queue and at the jobs that run on every node."""
        self._backlog.changed()
        for key in tuple(self._jobs.everywhere):
            self.attend(key)

    # One decision

    def decide(self, live: Live) -> None:
        """Write what follows about a job; if an entry of it is on its way, or must be read first, after that."""
        live.missed = live.inflight
        if live.inflight or live.behind:
            return
        if not self._jobs.holds(live):
            self._hand_over(live, [])
            return
        taken, events = self._take(live)
        job = live.record.id if live.record is not None else (taken[0].job if taken else None)
        if job is None:
            self.forget_gone(live)
            return
        now = self._clock.now()
        view = View(self._fleet, self.gone, self._jobs.running_since, self.settled, self.turns)
        try:
            decision = step(live.record, events, view, now, job=job, policy=self._settings.policy)
        except Fault as fault:
            self._undecidable(live, taken, fault)
            return
        self._backlog.lacked(live.key, decision.full)
        if not decision.events:
            for item in taken:
                item.done(None)
            self._await_deadline(live, now)
            return
        number = next(self._ops)
        entry = Entry(job, f"{self._op_prefix}{number}", self._presence.me, now, decision.events)
        data = encode(entry)
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
                Append(live.key, live.guard, entry.op, data), done, must=live.record is not None
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
            hint="make the job smaller: put data into S3, IPFS or an inline input",
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
            self._agenda.remind(self._clock.now() + _PASSED_S, live.key)
        else:
            self._jobs.forget(live)

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
            failpoints.reached("requester.entry.folded")
            if live.record is not None:
                for node, command in orders(live.record, entry, outcome.seq):
                    self.dispatch.tell(node, command)
            for item in taken:
                item.done(outcome)
            if not known:
                self.after(live, freed)
            if more or live.inputs or (live.missed and live.record is not None):
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
                self._agenda.remind(self._clock.now() + 1.0, live.key)
            else:
                self._reread(live)
            return
        if isinstance(outcome, Refused):
            self.counters["refused"] += 1
            _log.error("the log refused an entry", job=entry.job, reason=outcome.reason, full=outcome.full)
        for item in taken:
            item.done(outcome)
        if live.record is None:
            self._let_go(live)
        else:
            self._agenda.remind(self._clock.now() + 1.0, live.key)

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

    # What follows from the log

    async def take(self, record: bus.Record) -> None:
        """Fold an entry that the log's reader brings; one that this requester wrote is folded already."""
        live = self._jobs.get(record.key)
        if live is None or not live.has_folded(record.seq):
            live = await self._fold(live, record)
        self._recorder.note(live, record.seq, record.key, record.data)
        if live is not None and live.record is None:
            self._jobs.forget(live)

    async def _fold(self, live: Live | None, record: bus.Record) -> Live | None:
        try:
            entry = _read(live, record)
        except Broken as fault:
            _log.error("an entry is passed over", seq=record.seq, key=record.key, reason=fault.message)
            if live is not None:
                live.guard = max(live.guard, record.seq)
            return live
        if live is None and self._passes_by(entry, record.seq):
            return None
        if live is None or live.record is None:
            live = await self._recall(record.key, entry) or self._jobs.make(record.key)
        freed = self._jobs.fold(live, entry, record.seq)
        if live.behind and live.guard >= live.behind:
            live.behind = 0
            self.decide(live)
        self.after(live, freed)
        return live

    def _passes_by(self, entry: Entry, seq: int) -> bool:
        """Whether this is another requester's new job that has to wait in a queue that is long already: until its turn comes
        it is in the queue and in the read model, and never was in memory.
        """
        first = entry.first
        if not self._jobs.crowded or not isinstance(first, Submitted) or first.version != 1:
            return False
        job = fold(None, entry, seq)
        if job is None or not self._jobs.pass_by(job):
            return False
        self._recorder.keep(job)
        self._passed_by(job)
        return True

    def _passed_by(self, job: JobRecord) -> None:
        """What the arrival of a job leads to that is not in memory."""
        due = self._due_at(job, min(job.modified_at, self._clock.now()))
        if due is not None:
            self._agenda.remind_in_turn(due, job.key)
        self._backlog.joined(job.key)

    async def _recall(self, key: JobKey, entry: Entry) -> Live | None:
        """A closed job that has left memory and goes on (a new version) comes back from the read model."""
        if getattr(entry.first, "version", 0) == 1:
            return None
        record = await self._recorder.load(key)
        if record is None or begins_anew(record, entry):
            return None
        live = self._jobs.get(key)
        if live is not None and live.record is None and not live.inflight:
            self._jobs.restore(live, record)
        return live or self._jobs.adopt(record)

    def after(self, live: Live, freed: set[NodeId]) -> None:
        """What a folded entry leads to: the next deadline, and a look at the queue if room was freed."""
        if live.record is not None:
            # What became due between the decision and now, for the log was slow, was not seen by it.
            self._await_deadline(live, min(live.record.modified_at, self._clock.now()))
        self._backlog.freed(freed)
        self._backlog.joined(live.key)

    def _await_deadline(self, live: Live, since: float) -> None:
        """Look again when something becomes due that nobody can have seen at `since`."""
        record = live.record
        if record is None or record.closed:
            return
        due = self._due_at(record, since)
        if due is not None and (live.due is None or due < live.due):
            live.due = due
            self._agenda.remind_in_turn(due, live.key)

    def _due_at(self, record: JobRecord, since: float) -> float | None:
        due = next_deadline(record, self._jobs.running_since, since, self._settings.policy)
        if due is None or due > (now := self._clock.now()):
            return due
        # It has passed and nothing followed: something else is awaited too (nodes that were not heard yet).
        return now + _PASSED_S

    def _reread(self, live: Live) -> None:
        if self._tasks is not None:
            live.behind = live.behind or live.guard + 1
            self._tasks.create_task(self._read_last(live))

    async def _read_last(self, live: Live) -> None:
        """A guard did not hold and the log's reader does not bring why: ask for the job's newest entry."""
        await self._clock.sleep(_AGAIN_S)
        try:
            last = await self._bus.last(live.key)
        except (Unavailable, TimedOut):
            self._agenda.remind(self._clock.now() + 1.0, live.key)
            return
        if not live.behind or not self._jobs.holds(live):
            return
        if last is None:
            await self.vanished(live)
            return
        if last.seq > self._position():
            live.behind = last.seq
            self._agenda.remind(self._clock.now() + 1.0, live.key)
            return
        if last.seq > live.guard:
            await self._recorder.settle()
            record = await self._recorder.load(live.key)
            if not self._jobs.holds(live):
                return
            if live.record is None and record is not None:
                self._jobs.restore(live, record)
            live.guard = max(live.guard, last.seq)
        live.behind = 0
        self.decide(live)

    async def vanished(self, live: Live) -> None:
        """The log has nothing of a job any more. If it was open here, its end was missed, and the read model is wrong."""
        record = live.record
        if record is not None and not record.closed:
            await self._recorder.forget(record)
            if live.record is not record or not self._jobs.holds(live):
                return
        self._backlog.freed(self._jobs.vanished(live))
        live.behind = 0
        self.decide(live)


def _read(live: Live | None, record: bus.Record) -> Entry:
    """The entry in a record of the log. Raises `Broken` if it cannot be read or belongs to another subject."""
    if live is not None and live.flying is not None and live.flying[0] == record.data:
        return live.flying[1]
    entry = decode(record.data, Entry)
    if key_of(entry.job) != record.key:
        raise Broken(f"it names {entry.job}, which is not this subject's job")
    return entry
