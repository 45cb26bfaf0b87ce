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

from protocol import failpoints
from protocol.bus import ENTRY_MAX_BYTES, Append, Bus, Outcome, Refused, Stale, Stored
from protocol.clock import Clock
from protocol.entries import Assigned, Entry, Event
from protocol.errors import Exhausted, Fault, Invalid
from protocol.ids import JobKey, NodeId
from protocol.messages import encode
from requester.agenda import LOOKS, Agenda
from requester.applier import LATER_S, Applier
from requester.backlog import Backlog
from requester.committer import Committer
from requester.core.commands import orders
from requester.core.giving_up import lost_after
from requester.core.model import JobRecord
from requester.core.newcomers import Newcomers
from requester.core.standing import Demand
from requester.core.step import counts, step
from requester.core.turns import Turns
from requester.core.view import View
from requester.deadlines import Deadlines
from requester.dispatch import Dispatch
from requester.jobs import Jobs
from requester.live import Input, Live
from requester.presence import Presence
from requester.recorder import Recorder
from requester.settings import Settings

_log = structlog.get_logger(__name__)
_TAKEN_MAX: Final = 16
"""Inputs in one entry: reports with their outputs must fit into it."""
_MOMENT_S: Final = 0.5
"""The rest before looking at what waits behind inputs of which nothing came."""


class Orchestrator:
    """Decides about jobs in memory. `gone` are the nodes given up, kept by the registry's look at their silence;
    `entries_max` is how many entries the log takes of one job, 0 for any number."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        jobs: Jobs,
        committer: Committer,
        presence: Presence,
        recorder: Recorder,
        position: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._jobs = jobs
        self._fleet = jobs.fleet
        self._committer = committer
        self._presence = presence
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
            acting=lambda: self.acting,
        )
        self._deadlines = Deadlines(clock, settings.policy, jobs=jobs, agenda=self._agenda)
        self.applier = Applier(
            bus,
            clock,
            jobs=jobs,
            recorder=recorder,
            newcomers=Newcomers(settings.policy),
            agenda=self._agenda,
            deadlines=self._deadlines,
            backlog=self._backlog,
            position=position,
            decide=self.decide,
        )
        self.dispatch = Dispatch(
            bus,
            clock,
            jobs=jobs,
            put=self.put,
            at_once=settings.commands_max,
            timeout_s=settings.command_timeout_s,
        )
        self.gone: Mapping[NodeId, float] = {}
        self.acting = False
        """Whether the log has been read to its end, so that unasked decisions may be made."""
        self.settled = False
        self.entries_max = 0
        self.counters = {"entries": 0, "stale": 0, "refused": 0}

    async def run(self) -> None:
        """Look at the jobs that need it, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.dispatch.run())
            tasks.create_task(self.applier.run())
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
        if self._jobs.leave_away(record):
            self.applier.passed_by(record)
        else:
            self._deadlines.await_next(self._jobs.adopt(record), record.modified_at)

    def attend_mine(self) -> None:
        """Every open job that this requester owns may need a look: requesters came or went, or a while has passed.

        Not those that only wait: they need one when room appears, when a time of theirs has come, or when there is no hope
        any more (`attend_hopeless`).
        """
        for key, live in self._jobs.open.items():
            if not self._jobs.only_waits(live) and not self._presence.rank(key):
                self.attend(key)

    async def attend_hopeless(self) -> None:
        """Those that no node could ever run need a look, for their end; there may be a million, so a few at a time."""
        if not self.acting or not self.settled:
            return
        for number, key in enumerate(self._jobs.queue.hopeless(self._hope)):
            if not self._presence.rank(key):
                self.attend(key)
            while number % LOOKS == 0 and (self._agenda or len(self._committer) >= LOOKS):
                await self._clock.sleep(self._settings.tick_s)

    def _hope(self, demand: Demand) -> bool:
        return self._fleet.standing(demand).hopeful

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
                    self.applier.reread(live)
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
        view = View(
            self._fleet, self.gone, self._jobs.running_since, self.settled, self.turns, self.entries_max
        )
        try:
            decision = step(live.record, events, view, now, job=job, policy=self._settings.policy)
        except Fault as fault:
            self._undecidable(live, taken, fault)
            return
        self._backlog.lacked(live.key, decision.full)
        if not decision.events:
            for item in taken:
                item.done(None)
            self._deadlines.await_next(live, now)
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
            self._agenda.remind(self._clock.now() + _MOMENT_S, live.key)
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
            self._tell_of_many(live)
            failpoints.reached("requester.entry.folded")
            if live.record is not None:
                for node, command in orders(live.record, entry, outcome.seq):
                    self.dispatch.tell(node, command)
            for item in taken:
                item.done(outcome)
            if not known:
                self.applier.after(live, freed)
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
                self._agenda.remind(self._clock.now() + LATER_S, live.key)
            else:
                self.applier.reread(live)
            return
        if isinstance(outcome, Refused):
            self.counters["refused"] += 1
            _log.error("the log refused an entry", job=entry.job, reason=outcome.reason, full=outcome.full)
        for item in taken:
            item.done(outcome)
        if live.record is None:
            self._let_go(live)
        else:
            self._agenda.remind(self._clock.now() + LATER_S, live.key)

    def _tell_of_many(self, live: Live) -> None:
        """Say once of a job that half of the entries are written that the log takes of it."""
        if live.record is not None and self.entries_max and live.record.entries == self.entries_max // 2:
            _log.warning(
                "a job has half of the entries that the log takes of one, and is ended before it has all",
                job=live.record.id,
                name=live.record.spec.name,
                entries=live.record.entries,
                hint="stop it, delete it and submit it again at a good time; if it is started again and again, see why",
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
