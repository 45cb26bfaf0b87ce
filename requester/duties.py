"""What comes round without being asked: silence, deadlines, a look at every open job, how full the log is.

Knows: the rhythm of each duty, and when this requester has heard too little to judge anyone. Must not know: what is decided.
"""

from typing import Final

from protocol.bus import Bus
from protocol.clock import Clock
from protocol.errors import Fault
from requester.committer import Committer
from requester.core.fleet import Fleet
from requester.forgetting import Forgetting
from requester.jobs import Jobs
from requester.node_cells import NodeCells
from requester.orchestrator import Orchestrator
from requester.presence import Presence
from requester.registry import Registry
from requester.reports import Reports
from requester.settings import Settings

_STALL_S: Final = 1.0
"""A tick that comes so late means that this process stood still, and heard nobody meanwhile."""


class Duties:
    """The clockwork of one requester. `log_share` is how full the log is, from 0 to 1; `writable` is false while it does not
    take what it is given.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        settings: Settings,
        *,
        fleet: Fleet,
        jobs: Jobs,
        orchestrator: Orchestrator,
        registry: Registry,
        cells: NodeCells,
        forgetting: Forgetting,
        reports: Reports,
        committer: Committer,
        presence: Presence,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._jobs = jobs
        self._orchestrator = orchestrator
        self._registry = registry
        self._cells = cells
        self._forgetting = forgetting
        self._reports = reports
        self._committer = committer
        self._presence = presence
        self.writable = True
        self.log_share = 0.0

    def begin(self) -> None:
        """The log has been read to its end: from now on this requester acts, and silence counts."""
        self._fleet.hearing_since = self._clock.now()
        self._orchestrator.acting = True
        self._jobs.end_watches()
        self._orchestrator.attend_mine()

    async def tick(self) -> None:
        """The fast round, until cancelled."""
        last, last_told = self._clock.elapsed(), self._clock.now()
        while True:
            await self._clock.sleep(self._settings.tick_s)
            now, told = self._clock.elapsed(), self._clock.now()
            # The clock that silence is measured by jumps when the machine's is set forward: nobody was silent so long.
            stood_still = max(now - last, told - last_told) > self._settings.tick_s + _STALL_S
            if stood_still or not self._bus.connected or self._presence.deaf:
                self._fleet.hearing_since = told
            last, last_told = now, told
            self._watch_log()
            self._reports.tick()
            if self._orchestrator.acting:
                self._registry.look()
                self._registry.look_at_people()
                self._judge_silence()
                await self._orchestrator.tick()

    def _watch_log(self) -> None:
        """While the log cannot be written nothing can be judged, nor for one limit of silence after."""
        writable = self._committer.writable_since is not None
        if writable and not self.writable:
            self._fleet.hearing_since = self._clock.now()
        self.writable = writable

    def _judge_silence(self) -> None:
        gone = self._registry.gone() if self.writable else {}
        new = [node for node in gone if node not in self._orchestrator.gone]
        self._orchestrator.gone = gone
        for node in new:
            self._orchestrator.attend_node(node)
        settled = self._clock.now() - self._fleet.hearing_since >= self._settings.policy.join_grace_s
        if settled and not self._orchestrator.settled:
            self._orchestrator.settled = True
            for key in self._jobs.open:
                if key in self._jobs.queue or key in self._jobs.everywhere:
                    self._orchestrator.attend(key)
        self._orchestrator.settled = settled

    async def sweep(self) -> None:
        """The slow round, until cancelled: every open job of this requester's own, whatever was missed."""
        while True:
            await self._clock.sleep(self._settings.sweep_s)
            self._orchestrator.attend_mine()
            await self._orchestrator.attend_hopeless()

    async def refresh(self) -> None:
        """Cells and the log's size, until cancelled."""
        while True:
            if await self._cells.refresh():
                await self._forgetting.some()
            try:
                state = await self._bus.log_state()
            except Fault:
                pass
            else:
                self._orchestrator.entries_max = state.entries_max
                self.log_share = state.size_bytes / state.limit_bytes if state.limit_bytes > 0 else 0.0
            await self._clock.sleep(self._settings.cells_s)
