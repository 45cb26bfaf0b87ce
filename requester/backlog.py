"""Room goes to the jobs that wait for it: first to what can be nowhere else, then in the order of the queue, then to new
jobs whose entry is held back.

Knows: when the queue is worth a look, and who acts on whose turn. Must not know: whose turn it is (`requester.core.turns`),
or how a job is decided (that is handed in).
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from protocol.clock import Clock
from protocol.ids import ExecutionId, JobKey, NodeId
from requester.agenda import Agenda
from requester.core.blocked import Blocked
from requester.core.standing import Demand
from requester.core.turns import Turn, Turns
from requester.jobs import Jobs
from requester.live import Live
from requester.presence import Presence

AGAIN_S: Final = 1.0
"""Between two looks at the queue that nothing called for: waiting alone may get a job a node of its own."""


class Backlog:
    """One requester's. `decide` writes what follows about a job in memory, `look` does so by its key; until `acting`, nobody
    is given anything."""

    def __init__(
        self,
        clock: Clock,
        turns: Turns,
        *,
        jobs: Jobs,
        agenda: Agenda,
        presence: Presence,
        decide: Callable[[Live], None],
        look: Callable[[JobKey], None],
        acting: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._turns = turns
        self._jobs = jobs
        self._agenda = agenda
        self._presence = presence
        self._decide = decide
        self._look = look
        self._full_for: dict[JobKey, Collection[NodeId]] = {}
        self._wanted = False
        self._seen_at = 0.0
        self._acting = acting
        self._blocked = Blocked()

    def clear(self) -> None:
        """All jobs have been forgotten."""
        self._full_for.clear()
        self._blocked.clear()
        self._turns.everything()

    def lacked(self, key: JobKey, full: Collection[NodeId]) -> None:
        """A job that runs on every node was looked at, and these nodes had no room for it."""
        if full:
            self._full_for[key] = full
        else:
            self._full_for.pop(key, None)

    def hold_back(self, key: JobKey, demand: Demand, now: float) -> bool:
        """Whether a new job for which there is no room is to be decided anew when there is some, or its moment is over."""
        return self._acting() and self._blocked.hold(key, demand, now)

    def let_go(self, key: JobKey) -> None:
        """A job is held back no longer, if it was."""
        self._blocked.let_go(key)

    def left(self, key: JobKey) -> None:
        """A job is over, or was deleted: it lacks nothing any more."""
        self._full_for.pop(key, None)

    def joined(self, key: JobKey) -> None:
        """A job may have come to the queue."""
        waiting = self._jobs.queue.get(key)
        if waiting is not None:
            self._turns.joined(waiting.demand)
            self._want()

    def freed(self, nodes: set[NodeId]) -> None:
        """There is more room on these nodes: what can be nowhere else is looked at first, then the queue."""
        if not nodes:
            return
        for key in [key for key, full in self._full_for.items() if not nodes.isdisjoint(full)]:
            del self._full_for[key]
            if self._acting() and not self._presence.rank(key):
                asyncio.get_running_loop().call_soon(self._look, key)
        self._turns.freed(nodes)
        self._want()

    def changed(self) -> None:
        """Nodes came, went or changed, or room was given back: every waiting job may have a place."""
        self._turns.everything()
        self._want()

    def tick(self) -> None:
        """Look again now and then, and at new jobs that have been held back for long enough."""
        for key in self._blocked.over(self._clock.now()):
            self._decide_new(key)
        if self._clock.now() - self._seen_at >= AGAIN_S:
            self._want()

    def _want(self) -> None:
        if not self._wanted and self._acting() and (len(self._jobs.queue) or len(self._blocked)):
            self._wanted = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """Give room to waiting jobs in their order. Another's job gets its share of the room, and its owner acts."""
        self._wanted = False
        self._seen_at = self._clock.now()
        seen: list[Turn] = []
        lent: list[tuple[NodeId, ExecutionId]] = []
        fleet = self._jobs.fleet
        for turn in self._turns.due(self._seen_at):
            seen.append(turn)
            live = self._jobs.open.get(turn.key)
            if live is not None and live.inflight:
                continue
            if self._presence.rank(turn.key):
                self._agenda.attend(turn.key)
                promise = ExecutionId(f"lent-{turn.key}")
                waiting = turn.waiting
                fleet.hold(turn.node, promise, waiting.demand.amounts, (), waiting.namespace)
                lent.append((turn.node, promise))
                continue
            live = live or self._jobs.recall(turn.key)
            if live is None:
                # It is passed over.
                seen.pop()
                continue
            self._decide(live)
        self._serve_new()
        for node, promise in lent:
            fleet.release(node, promise)
        for turn in seen:
            live = self._jobs.open.get(turn.key)
            if live is not None and live.inflight and live.placed:
                # It holds its room, and nobody waits behind it. If its entry does not come to be, it is put back then.
                continue
            if live is not None:
                # Also one whose entry is on its way, for that says something else than where it runs.
                self._jobs.requeue(live)
            else:
                self._jobs.queue.restore(turn.key, turn.waiting)

    def _serve_new(self) -> None:
        """Give what room is left to new jobs that were held back. Of those with equal demands, once one finds none, the next
        would not either."""
        for line in self._blocked.lines():
            for key in line:
                self._decide_new(key)
                if key in self._blocked:
                    break

    def _decide_new(self, key: JobKey) -> None:
        # Another requester may have taken the job meanwhile, and it may be over: who submitted it here is told so.
        live = self._jobs.get(key)
        if live is not None:
            self._decide(live)
        else:
            self._blocked.let_go(key)
