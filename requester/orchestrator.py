"""Sees to it that each job is looked at when there is an occasion: a call, a report, room, a deadline, a node that is gone.

Knows: the occasions, and whose business each is. Must not know: what a look leads to (`requester.decider`), HTTP, or how
reports and beats arrive (they are brought here).

Whoever receives a call or a report commits what follows from it. All else (room that was freed, deadlines, lost nodes) is
the business of the job's owner (`requester.agenda`).
"""

import asyncio
from collections.abc import Callable, Mapping

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.ids import JobKey, NodeId
from requester.agenda import BREATH, LOOKS, Agenda
from requester.applier import Applier
from requester.backlog import Backlog
from requester.committer import Committer
from requester.core.giving_up import lost_after
from requester.core.model import JobRecord
from requester.core.newcomers import Newcomers
from requester.core.standing import Demand
from requester.core.turns import Turns
from requester.core.view import View
from requester.deadlines import Deadlines
from requester.decider import Decider
from requester.dispatch import Dispatch
from requester.jobs import Jobs
from requester.live import Input, Live
from requester.presence import Presence
from requester.recorder import Recorder
from requester.settings import Settings


class Orchestrator:
    """Has the jobs in memory decided. `gone` are the nodes given up, with how long each has been silent (seconds), kept by
    the registry's look at their silence; `entries_max` is how many entries the log takes of one job, 0 for any number."""

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
        log_created: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._jobs = jobs
        self._fleet = jobs.fleet
        self._committer = committer
        self._presence = presence
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
            log_created=log_created,
            at_once=settings.commands_max,
            timeout_s=settings.command_timeout_s,
        )
        self._decider = Decider(
            clock,
            settings.policy,
            presence.me,
            jobs=jobs,
            committer=committer,
            agenda=self._agenda,
            deadlines=self._deadlines,
            backlog=self._backlog,
            applier=self.applier,
            dispatch=self.dispatch,
            view=self._view,
            position=position,
            log_created=log_created,
        )
        self.gone: dict[NodeId, float] = {}
        self.acting = False
        """Whether the log has been read to its end, so that unasked decisions may be made."""
        self.settled = False
        self.entries_max = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """How many entries were written, came too late, and were refused by the log."""
        return self._decider.counters

    async def run(self) -> None:
        """Look at the jobs that need it, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.dispatch.run())
            tasks.create_task(self.applier.run())
            await self._agenda.run(self.look)

    def _view(self) -> View:
        return View(
            self._fleet, self.gone, self._jobs.running_since, self.settled, self.turns, self.entries_max
        )

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

    def back(self, node: NodeId) -> None:
        """A node that was silent speaks again: what it is given from now on is not given up for the silence before."""
        self.gone.pop(node, None)

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

    async def tick(self) -> None:
        """Look at the jobs whose time has come, and now and then at what is kept for those that wait."""
        self._backlog.tick()
        for number, key in enumerate(self._agenda.due(), 1):
            if number % BREATH == 0:
                await asyncio.sleep(0)
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

    def freed(self, node: NodeId) -> None:
        """A node has more room: what waits for that is looked at."""
        self._backlog.freed({node})

    def nodes_changed(self) -> None:
        """A node came, went or changed: look at the queue and at the jobs that run on every node."""
        self._backlog.changed()
        for key in tuple(self._jobs.everywhere):
            self.attend(key)

    def decide(self, live: Live) -> None:
        """See `Decider.decide`."""
        self._decider.decide(live)

    def forget_gone(self, live: Live) -> None:
        """See `Decider.forget_gone`."""
        self._decider.forget_gone(live)
