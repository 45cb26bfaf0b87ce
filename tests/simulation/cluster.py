"""A whole cluster in virtual time: carries a scenario out, mends everything, and waits until all is quiet.

Knows: who is there, the order of things, and the story of what happened. Must not know: how people ask (`people`), how
things go wrong (`faults`), or what is right or wrong (`checker`, `quiet`).
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from protocol import failpoints
from protocol.bus import Append
from protocol.ids import JobKey, NodeId
from requester.core.fleet import Fleet
from requester.core.membership import APPROVED, DELETED
from requester.notes import NodeCell
from tests.simulation.checker import Checker
from tests.simulation.faults import Faults
from tests.simulation.loop import THREAD_S, Scheduler
from tests.simulation.network import Link, SimulatedHub
from tests.simulation.people import PEOPLE, People
from tests.simulation.processes import (
    PATIENCE,
    Machines,
    NodeProcess,
    Process,
    RequesterProcess,
)
from tests.simulation.restoring import Restoring
from tests.simulation.results import wrong_result
from tests.simulation.scenario import Action, Scenario
from tests.simulation.snapshots import Snapshots
from tests.simulation.versions import Versions
from tests.simulation.words import ABOUT_NODES, Words

QUIET_S = 150.0
"""How long after the last fault everything may take to come to its end."""
WRONG_MAX = 20


class Line(tuple[float, str, str]):
    """One line of the story: when, who, what."""

    __slots__ = ()

    def __str__(self) -> str:
        at, who, what = self
        return f"{at:9.4f}  {who:8} {what}"


class Cluster:
    """The processes, the people, and all that is known of what happened. `wrongs` is empty if all was right."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        seed = f"seed {scenario.seed}"
        self.scenario = scenario
        self.scheduler = Scheduler(seed)
        self.hub = SimulatedHub(self.scheduler, seed)
        self.machines = Machines(self.scheduler, self.hub, seed, folder)
        self.machines.note, self.machines.wrong = self.note, self.wrong
        self.machines.keep_s, self.machines.manual = scenario.keep_s, scenario.manual
        self.machines.forget_s = scenario.forget_s
        self.machines.snapshot_after = scenario.snapshot_after
        calm = not scenario.older and all(action.what in PEOPLE for action in scenario.actions)
        at_nodes = all(action.what in PEOPLE or action.who.startswith("n") for action in scenario.actions)
        punctual = at_nodes and not scenario.older
        right = partial(wrong_result, shelf=self.machines.shelf)
        self.checker = Checker(self.wrong, self.note, PATIENCE.policy, right, punctual=punctual)
        way_s = scenario.latency_s[1]
        self.words = Words(self.wrong, self.checker, self.scheduler, punctual=punctual, way_s=way_s)
        self.hub.stored = self._stored
        self.hub.written, self.hub.removed = self.words.written, self._forgotten
        self.versions = Versions(self.wrong, self.checker)
        self.machines.decided, self.machines.answered = self._decided, self.checker.answered
        self.hub.entries_max = scenario.entries_max
        self.hub.full_of_one = self._full_of_one
        self.hub.cleared = self.checker.cleared
        self.snapshots = Snapshots(self.wrong, self.checker)
        self.hub.says_all = self.snapshots.says_all
        self.checker.thinned = self.hub.thinned
        self.story: list[Line] = []
        self.wrongs: list[str] = []
        self.settling = False
        self.requesters = [
            RequesterProcess(self.machines, f"r{number}", self._link())
            for number in range(1, scenario.requesters + 1)
        ]
        self.nodes = [
            NodeProcess(self.machines, f"n{number}", self._link()) for number in range(1, scenario.nodes + 1)
        ]
        self.processes: dict[str, Process] = {each.name: each for each in [*self.requesters, *self.nodes]}
        for name in scenario.older:
            self.processes[name].older = True
        self.people = People(
            self.scheduler,
            self.requesters,
            self.words,
            note=self.note,
            wrong=self.wrong,
            there=self.processes.__contains__,
            calm=calm,
        )
        self.faults = Faults(
            self.scheduler,
            self.hub,
            processes=self.processes,
            requesters=self.requesters,
            nodes=self.nodes,
            words=self.words,
            restoring=Restoring(
                self.hub,
                checker=self.checker,
                snapshots=self.snapshots,
                words=self.words,
                people=self.people,
                machines=self.machines,
                nodes=self.nodes,
            ),
            note=self.note,
        )

    def _link(self) -> Link:
        return Link(*self.scenario.latency_s)

    def note(self, who: str, what: str) -> None:
        """Add a line to the story."""
        self.story.append(Line((self.scheduler.now, who, what)))

    def wrong(self, what: str) -> None:
        """Something that may not be."""
        self.note("", f"WRONG: {what}")
        if len(self.wrongs) < WRONG_MAX:
            self.wrongs.append(what)

    def digest(self) -> str:
        """A hash over the whole story, and over how many steps it took."""
        told = sha256(f"{self.scheduler.steps} {self.scheduler.now!r}".encode())
        for line in self.story:
            told.update(repr(tuple(line)).encode())
        return told.hexdigest()

    # The run

    def run(self, quiet: Callable[["Cluster"], list[str]]) -> None:
        """The chaos, the mending, and the wait until `quiet` finds nothing that is still going on."""
        failpoints_before = failpoints.reached
        failpoints.reached = self.faults.reached
        try:
            self._chaos()
            self._mend()
            self._settle(quiet)
        finally:
            failpoints.reached = failpoints_before
        self.wrongs += self.scheduler.problems[:WRONG_MAX]

    def _chaos(self) -> None:
        start = self.scheduler.random
        for process in self.processes.values():
            self.scheduler.at(start.random() * 0.5, process.start)
        for action in self.scenario.actions:
            self.scheduler.at(action.at, self._act, action)
        self.scheduler.run(self.scenario.chaos_s)

    def _mend(self) -> None:
        """From here on nothing goes wrong any more; what is going wrong still ends within its own time."""
        self.note("", "no more faults from here on")
        self.settling = True
        self.hub.weather.__init__()  # type: ignore[misc]
        self.hub.there = self.hub.log_there = True
        self.hub.limit_bytes = 1 << 40
        for process in self.processes.values():
            process.failpoint = process.loop.fuse = None
            process.loop.drag_s, process.loop.thread_s = 0.0, THREAD_S
            process.link.revoked = False
            process.link.mend()
            process.link.lag_s = 0.0
            assert isinstance(process, RequesterProcess | NodeProcess)
            process.fill_disk(False)
            process.start()
        self.hub.tell_readers()

    def _settle(self, quiet: Callable[["Cluster"], list[str]]) -> None:
        """Go on until everything has ended. Work that has no end of its own is stopped by people first."""
        end = self.scheduler.now + QUIET_S
        self.scheduler.run(self.scheduler.now + 6.0)
        going_on = ["nothing was looked at"]
        while self.scheduler.now < end and not self.wrongs:
            self._stop_what_runs_for_ever()
            self._take_nodes_back(end - self.scheduler.now)
            self._begin_again()
            self.scheduler.run(self.scheduler.now + 1.0)
            going_on = quiet(self)
            if not going_on:
                self.note("", "all is quiet")
                return
        if not self.wrongs:
            for each in going_on[:5]:
                self.wrong(f"I1, I6: not quiet {QUIET_S:g} s after the last fault: {each}")

    def _stop_what_runs_for_ever(self) -> None:
        for history in list(self.checker.jobs.values()):
            endless = history.state is None and history.spec.type in ("service", "daemon")
            if endless and history.spec.name not in self.people.waiting_for("stop"):
                self.people.ask(Action(self.scheduler.now, "stop", text=history.spec.name))

    def _take_nodes_back(self, left_s: float) -> None:
        """What people took out is in again, once what had to leave it is gone; what they removed is started anew; and what
        was set aside for longer than is left is let back, as a person is told to do who does not want to wait.
        """
        open_calls = self.people.waiting_for(*ABOUT_NODES)
        for node in self.nodes:
            cell = self.words.cells.get(node.node)
            if node.stands_aside:
                continue
            if node.node not in open_calls and self._aside_for(node.node) > left_s:
                self.people.ask(Action(self.scheduler.now, "uncordon", text=node.node))
                continue
            if cell is not None and cell.membership == DELETED:
                self._start_anew(node, cell)
            if cell is None or cell.membership == DELETED or node.node in open_calls:
                continue
            if self.words.leaves(node.node) and self.words.work_on(node.node):
                continue
            if cell.membership != APPROVED:
                self.people.ask(Action(self.scheduler.now, "approve", text=node.node))
            elif cell.cordon is not None:
                self.people.ask(Action(self.scheduler.now, "uncordon", text=node.node))

    def _begin_again(self) -> None:
        """Whatever has ended is started again; and what stands aside though the process that took its place is gone for good
        is ended, as people are told to do.
        """
        for node in self.nodes:
            twins = [each for each in self.nodes if each.node == node.node and each is not node]
            if node.stands_aside and not node.leaves and all(each.stands_aside for each in twins):
                node.leave()
        for process in self.processes.values():
            process.start()

    def speaker(self, node: NodeId) -> NodeProcess | None:
        """The process that was started last of those that are this node, if any is there."""
        there = [each for each in self.nodes if each.node == node and each.agent is not None]
        return max(there, key=lambda each: each.agent.incarnation if each.agent else 0, default=None)

    def _aside_for(self, node: str) -> float:
        """The longest that a requester gives a node no work for its troubles, in seconds from now."""
        found = [0.0]
        for process in self.requesters:
            known = process.service._jobs.fleet.nodes.get(NodeId(node)) if process.service else None
            if known is not None and known.aside is not None:
                found.append(known.aside.until - process.clock.now())
        return max(found)

    def _start_anew(self, node: NodeProcess, cell: NodeCell) -> None:
        """A node that was removed in this life is known again in its next. Of several machines that are it one at a time:
        which is the later one of two that start in the same millisecond nobody can say.
        """
        if any(each.leaves for each in self.nodes if each.node == node.node):
            return
        if not node.alive:
            node.start()
        elif node.agent is not None and cell.bars(node.agent.incarnation) and not node.leaves:
            node.leave()

    def _act(self, action: Action) -> None:
        if action.what in PEOPLE:
            self.people.ask(action)
        elif not self.settling:
            self.faults.strike(action)

    # What is told of what happens

    def _decided(self, who: str, fleet: Fleet, append: Append) -> None:
        self.words.decided(who, fleet, append)
        self.versions.decided(who, fleet, append)

    def _stored(self, who: str, append: Any, seq: int) -> None:
        self.checker.stored(who, append, seq, self.scheduler.now)
        self.snapshots.stored(append, seq, self.hub.by_key[append.key])

    def _full_of_one(self, who: str, key: JobKey) -> None:
        # What a deleted job has left takes room from another one of its name, until it is cleared away (`quiet`).
        history = self.checker.jobs.get(key)
        if history is not None and self.hub.by_key[key][0] >= history.first:
            self.wrong(f"I13: the log takes no more entries of {key}, and {who} has one")

    def _forgotten(self, who: str, node: str) -> None:
        self.note(who, f"forgets {node}")
        self.words.removed(who, node)

    def close(self) -> None:
        """End everything without a word, and forget it."""
        for process in self.processes.values():
            process.machines.note = lambda who, what: None
            if process.alive:
                process._die()
