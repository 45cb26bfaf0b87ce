"""A whole cluster in virtual time: carries a scenario out, mends everything, and waits until all is quiet.

Knows: how each action of a `Scenario` is done, and the story of what happened. Must not know: what is right or wrong
(`checker`, `quiet`).
"""

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from protocol import failpoints
from protocol.bus import Append
from protocol.errors import Conflict, Fault, NotFound, TimedOut, Unavailable
from protocol.ids import NodeId
from protocol.jobs import Job
from protocol.messages import Report
from protocol.states import JobState
from requester.core.fleet import Fleet
from requester.core.membership import APPROVED, DELETED
from requester.service import Service
from requester.verbs import HistoryQuery, JobQuery
from tests.simulation.checker import Checker
from tests.simulation.loop import THREAD_S, Loop, Scheduler, finalize
from tests.simulation.network import Link, SimulatedBus, SimulatedHub
from tests.simulation.processes import (
    PATIENCE,
    Machines,
    NodeProcess,
    Process,
    RequesterProcess,
)
from tests.simulation.scenario import Action, Scenario
from tests.simulation.versions import Versions
from tests.simulation.words import ABOUT_MEMBERSHIP, ABOUT_NODES, Word, Words

QUIET_S = 150.0
"""How long after the last fault everything may take to come to its end."""
ASK_AGAIN_S = 1.0
WRONG_MAX = 20
PEOPLE = ("submit", "stop", "watch", "look", "rerun", "delete", *ABOUT_NODES)


class Line(tuple[float, str, str]):
    """One line of the story: when, who, what."""

    __slots__ = ()

    def __str__(self) -> str:
        at, who, what = self
        return f"{at:9.4f}  {who:8} {what}"


class Call:
    """What a person asks for, again and again until somebody answers; `answer` is what came of it."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.answer = ""
        self.asked = 0
        self.job = ""
        self.version = 0


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
        self._calm = not scenario.older and all(action.what in PEOPLE for action in scenario.actions)
        at_nodes = all(action.what in PEOPLE or action.who.startswith("n") for action in scenario.actions)
        punctual = at_nodes and not scenario.older
        self.checker = Checker(self.wrong, self.note, PATIENCE.policy, self._right, punctual=punctual)
        way_s = scenario.latency_s[1]
        self.words = Words(self.wrong, self.checker, self.scheduler, punctual=punctual, way_s=way_s)
        self.hub.stored = self._stored
        self.hub.written, self.hub.removed = self.words.written, self._forgotten
        self.versions = Versions(self.wrong, self.checker)
        self.machines.decided = self._decided
        self.hub.cleared = self.checker.cleared
        self.checker.thinned = self.hub.thinned
        self.story: list[Line] = []
        self.wrongs: list[str] = []
        self.calls: list[Call] = []
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
        failpoints.reached = self._reached
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
            if endless and history.spec.name not in self._being_stopped():
                self._act(Action(self.scheduler.now, "stop", text=history.spec.name))

    def _take_nodes_back(self, left_s: float) -> None:
        """What people took out is in again, once what had to leave it is gone; what they removed is started anew; and what
        was set aside for longer than is left is let back, as a person is told to do who does not want to wait.
        """
        open_calls = {
            call.action.text for call in self.calls if call.action.what in ABOUT_NODES and not call.answer
        }
        for node in self.nodes:
            cell = self.words.cells.get(node.name)
            if node.name not in open_calls and self._aside_for(node.name) > left_s:
                self._act(Action(self.scheduler.now, "uncordon", text=node.name))
                continue
            if cell is not None and cell.membership == DELETED:
                self._start_anew(node, cell.deleted)
            if cell is None or cell.membership == DELETED or node.name in open_calls:
                continue
            if self.words.leaves(node.name) and self.words.work_on(node.name):
                continue
            if cell.membership != APPROVED:
                self._act(Action(self.scheduler.now, "approve", text=node.name))
            elif cell.cordon is not None:
                self._act(Action(self.scheduler.now, "uncordon", text=node.name))

    def _aside_for(self, node: str) -> float:
        """The longest that a requester gives a node no work for its troubles, in seconds from now."""
        found = [0.0]
        for process in self.requesters:
            known = process.service._jobs.fleet.nodes.get(NodeId(node)) if process.service else None
            if known is not None and known.aside is not None:
                found.append(known.aside.until - process.clock.now())
        return max(found)

    def _start_anew(self, node: NodeProcess, removed: int) -> None:
        """A node that was removed in this life is known again in its next."""
        if not node.alive:
            node.start()
        elif node.agent is not None and node.agent.incarnation <= removed and not node.leaves:
            node.leave()

    def _being_stopped(self) -> set[str]:
        return {call.action.text for call in self.calls if call.action.what == "stop" and not call.answer}

    def close(self) -> None:
        """End everything without a word, and forget it."""
        for process in self.processes.values():
            process.machines.note = lambda who, what: None
            if process.alive:
                process._die()

    # What people do

    def _act(self, action: Action) -> None:
        if action.what in PEOPLE:
            call = Call(action)
            self.calls.append(call)
            self._ask(call)
            return
        if self.settling or (action.who and action.who not in self.processes):
            return
        self.note(
            action.who, f"FAULT {action.what} {action.text} {action.number:g} for {action.seconds:.2f} s"
        )
        getattr(self, "_do_" + action.what.replace(" ", "_"))(action)

    def _ask(self, call: Call) -> None:
        """Ask any requester that serves; who gets no answer asks another one, later."""
        if call.answer:
            return
        serving = [each for each in self.requesters if each.alive and each.service is not None]
        if not serving:
            self.scheduler.after(ASK_AGAIN_S, self._ask, call)
            return
        asked = serving[int(self.scheduler.random.random() * len(serving))]
        action = call.action
        work: Callable[[Service, Call, str], Coroutine[Any, Any, str]] = getattr(self, f"_do_{action.what}")
        self.note("people", f"{action.what} {action.job.name if action.job else action.text} at {asked.name}")
        loop, stops = asked.loop, asked.loop.stops
        call.asked += 1
        number = call.asked

        def again(fault: Fault) -> None:
            self.note("people", f"{asked.name} has no answer to {action.what}: {fault.message}")
            if self._calm and isinstance(fault, Unavailable | TimedOut):
                self.wrong(f"I1: {asked.name} has no answer though nothing is wrong: {fault.message}")
            if number == call.asked:
                self.scheduler.after(ASK_AGAIN_S, self._ask, call)

        async def ask(service: Service) -> None:
            try:
                answer = await work(service, call, asked.name)
            except Conflict as fault:
                answer = f"{fault.failure().code}: {fault.message}"
            except NotFound as fault:
                if not self._is_past(action):
                    again(fault)
                    return
                answer = f"{fault.failure().code}: {fault.message}"
            except Fault as fault:
                again(fault)
                return
            if not call.answer:
                call.answer = answer
                self.note("people", f"{asked.name} answers {action.what}: {answer}")

        asked.call(ask)
        self.scheduler.after(
            PATIENCE.submit_timeout_s + 5.0, self._ask_elsewhere, call, number, asked, loop, stops
        )

    def _ask_elsewhere(
        self, call: Call, number: int, asked: RequesterProcess, loop: Loop, stops: int
    ) -> None:
        """The one who was asked has died meanwhile, or says nothing at all."""
        if call.answer or number != call.asked:
            return
        same = asked.alive and asked.loop is loop
        if call.action.what == "watch" and same:
            self.scheduler.after(
                PATIENCE.submit_timeout_s, self._ask_elsewhere, call, number, asked, loop, loop.stops
            )
            return
        if same and loop.stops == stops:
            self.wrong(f"I1: {asked.name} does not answer {call.action.what} at all")
        self._ask(call)

    def _is_past(self, action: Action) -> bool:
        """Whether it is about a node that is gone for good, or a job that has left the log: not all know of these."""
        if action.what in ABOUT_NODES:
            return action.text not in self.processes
        return any(each.spec.name == action.text for past in self.checker.past.values() for each in past)

    async def _do_submit(self, service: Service, call: Call, who: str) -> str:
        job = call.action.job
        assert isinstance(job, Job)
        submission = await service.submit(job, warnings=[], client="people")
        call.job, call.version = submission.job, submission.version
        self._check_accepted(call, job)
        return f"{submission.job} version {submission.version}"

    def _check_accepted(self, call: Call, job: Job) -> None:
        """I2: an answer with an id is given only when the log has the job, and this version of it."""
        found = self.checker.newest(call.job)
        if found is None or found.version < call.version:
            self.wrong(f"I2: {call.job} version {call.version} was accepted and is not in the log")
        elif found.version == call.version and found.spec != job:
            self.wrong(f"I2: {call.job} version {call.version} was accepted with another spec")

    async def _do_stop(self, service: Service, call: Call, who: str) -> str:
        name = call.action.text
        record = await service.stop(name, namespace="default", reason="people", client="people")
        if record.state is not JobState.STOPPED:
            self.wrong(f"stop answered and {record.id} is {record.state}")
        return f"{record.id} {record.state}"

    async def _do_watch(self, service: Service, call: Call, who: str) -> str:
        record = None
        async for update in service.watch(call.action.text, namespace="default"):
            record = update.job or record
        if record is None or not record.closed:
            self.wrong(f"a watch ended before its job: {record and record.state}")
        return f"seen to its end: {record and record.state}"

    async def _do_look(self, service: Service, call: Call, who: str) -> str:
        """Every way of reading answers."""
        record = await service.job(call.action.text, namespace="default")
        await service.jobs(JobQuery())
        await service.history(record.id, HistoryQuery())
        await service.results(record.id)
        await service.nodes()
        await service.explain(record.id)
        return f"{record.id} is {record.state}"

    async def _do_rerun(self, service: Service, call: Call, who: str) -> str:
        submission = await service.rerun(
            call.action.text, namespace="default", version=0, reason="people", client="people"
        )
        call.job, call.version = submission.job, submission.version
        return f"{submission.job} version {submission.version}"

    async def _do_delete(self, service: Service, call: Call, who: str) -> str:
        record = await service.delete(call.action.text, namespace="default", reason="people", client="people")
        return f"{record.id} is deleted"

    async def _said(self, service: Service, call: Call, who: str) -> str:
        """A word about a node."""
        word = self.words.ask(call.action.what, call.action.text, who)
        answered = False
        try:
            answer = await self._say(service, word, call.action.number)
            answered = True
            return answer
        finally:
            self.words.over(word, answered=answered)

    async def _say(self, service: Service, word: Word, drain_s: float) -> str:
        match word.what:
            case "cordon":
                node = await service.cordon(word.node, reason="people")
            case "drain":
                node = await service.cordon(word.node, reason="people", drain_s=drain_s)
            case "uncordon":
                node = await service.uncordon(word.node)
            case _:
                node = await service.set_membership(word.node, ABOUT_MEMBERSHIP[word.what], "people")
        return f"{node.info.id} is {node.membership}, cordon {node.cordon is not None}"

    _do_cordon = _do_drain = _do_uncordon = _do_approve = _do_reject = _do_remove = _said

    # What goes wrong

    def _of(self, action: Action) -> Process:
        return self.processes[action.who]

    def _decided(self, who: str, fleet: Fleet, append: Append) -> None:
        self.words.decided(who, fleet, append)
        self.versions.decided(who, fleet, append)

    def _stored(self, who: str, append: Any, seq: int) -> None:
        self.checker.stored(who, append, seq, self.scheduler.now)

    def _forgotten(self, who: str, node: str) -> None:
        self.note(who, f"forgets {node}")
        self.words.removed(who, node)

    def _reached(self, name: str) -> None:
        """A process has come to a failpoint."""
        loop = asyncio._get_running_loop()
        process = self.processes.get(loop.name) if isinstance(loop, Loop) else None
        if process is None or process.failpoint is None or process.failpoint[0] != name:
            return
        point, visits = process.failpoint
        process.failpoint = (point, visits - 1) if visits > 1 else None
        if visits <= 1 and process.loop.fuse is None:
            self.note(process.name, f"has come to {name}")
            process.kill_after(0)

    def _do_kill(self, action: Action) -> None:
        process = self._of(action)
        process.killed = partial(self.scheduler.after, action.seconds, process.start)
        process.kill_after(int(action.number))

    def _do_kill_at(self, action: Action) -> None:
        process = self._of(action)
        process.killed = partial(self.scheduler.after, action.seconds, process.start)
        process.failpoint = (action.text, int(action.number))

    def _do_lose_power(self, action: Action) -> None:
        node = self._of(action)
        assert isinstance(node, NodeProcess)
        node.lose_power()
        self.scheduler.after(action.seconds, node.start)

    def _do_lose_machine(self, action: Action) -> None:
        node = self._of(action)
        assert isinstance(node, NodeProcess)
        node.lose_machine()
        self.scheduler.after(action.seconds, node.start)

    def _do_pause(self, action: Action) -> None:
        process = self._of(action)
        if process.alive and not process.loop.paused:
            process.loop.pause(action.seconds)

    def _do_slow(self, action: Action) -> None:
        loop = self._of(action).loop
        loop.drag_s = action.number
        self.scheduler.after(action.seconds, setattr, loop, "drag_s", 0.0)

    def _do_cut(self, action: Action) -> None:
        link = self._of(action).link
        link.up = link.up and action.text == "down"
        link.down = link.down and action.text == "up"
        link.noticed = bool(action.number) or link.revoked
        self.scheduler.after(action.seconds, self._heal, link)

    def _heal(self, link: Link) -> None:
        link.mend()
        self.hub.tell_readers()

    def _do_revoke(self, action: Action) -> None:
        """A node's credentials are taken away: servers cut it off, and no answer comes that is on its way, to nobody."""
        link = self._of(action).link
        link.revoked = True
        link.revocations += 1
        link.mend()
        self.hub.accounts += 1
        count = link.revocations
        # Another one, soon after it had got new ones, has a time of its own.
        self.words.revoked(action.who, lambda: link.revoked and link.revocations == count)
        self.scheduler.after(action.seconds, self._enroll, link)

    def _enroll(self, link: Link) -> None:
        """It has others, which its process reads when it connects again."""
        link.revoked = False
        self._heal(link)

    def _do_server_away(self, action: Action) -> None:
        self.hub.there = False
        self.scheduler.after(action.seconds, self._server_back)

    def _server_back(self) -> None:
        self.hub.there = True
        self.hub.tell_readers()

    def _do_lose_leader(self, action: Action) -> None:
        """The log has no leader: what it has taken is not answered, and it takes nothing more. Messages go on."""
        self.hub.log_there = False
        self.scheduler.after(action.seconds, self._leader_found)

    def _leader_found(self) -> None:
        self.hub.log_there = True
        self.hub.tell_readers()

    def _weather(self, name: str, action: Action) -> None:
        setattr(self.hub.weather, name, action.number)
        self.scheduler.after(action.seconds, setattr, self.hub.weather, name, 0.0)

    def _do_lose_answers(self, action: Action) -> None:
        self._weather("lose_answer", action)

    def _do_drop(self, action: Action) -> None:
        self._weather("drop", action)

    def _do_repeat(self, action: Action) -> None:
        self._weather("repeat", action)

    def _do_overtake(self, action: Action) -> None:
        self._weather("overtake", action)

    def _do_stray(self, action: Action) -> None:
        self._weather("stray", action)

    def _do_echo(self, action: Action) -> None:
        self._weather("echo", action)

    def _do_clock(self, action: Action) -> None:
        self._of(action).skew_s += action.number

    def _do_disk_full(self, action: Action) -> None:
        process = self._of(action)
        assert isinstance(process, RequesterProcess | NodeProcess)
        process.fill_disk(True)
        self.scheduler.after(action.seconds, process.fill_disk, False)

    def _do_slow_disk(self, action: Action) -> None:
        loop = self._of(action).loop
        loop.thread_s = action.number
        self.scheduler.after(action.seconds, setattr, loop, "thread_s", THREAD_S)

    def _do_doubt_the_log(self, action: Action) -> None:
        """A requester takes the log for another one, and reads it from its beginning."""
        bus = self._of(action).bus
        if bus is not None:
            bus.doubts = True
            self.hub.tell_readers()

    def _do_relabel(self, action: Action) -> None:
        """Somebody gives a node another label, and starts it again."""
        node = self._of(action)
        assert isinstance(node, NodeProcess)
        node.zone = action.text
        self._do_leave(action)

    def _do_upgrade(self, action: Action) -> None:
        """A process of the version before is replaced by one of this version."""
        self._of(action).older = False
        self._do_leave(action)

    def _do_log_full(self, action: Action) -> None:
        self.hub.limit_bytes = 0
        self.scheduler.after(action.seconds, setattr, self.hub, "limit_bytes", 1 << 40)

    def _do_lag(self, action: Action) -> None:
        link = self._of(action).link
        link.lag_s = action.number
        self.scheduler.after(action.seconds, setattr, link, "lag_s", 0.0)

    def _do_die(self, action: Action) -> None:
        """It never comes back; whatever it held is decided by others."""
        process = self._of(action)
        peers: Any = self.nodes if isinstance(process, NodeProcess) else self.requesters
        if len(peers) > 1:
            process.kill()
            process.gone = True
            peers.remove(process)
            del self.processes[action.who]

    def _do_leave(self, action: Action) -> None:
        process = self._of(action)
        process.leave()
        self.scheduler.after(action.seconds + 3.0, self._come_back, process)

    def _come_back(self, process: Process) -> None:
        """Start again, once it has ended: one that stands still takes its time."""
        process.start()
        if process.leaves and not process.gone:
            self.scheduler.after(1.0, self._come_back, process)

    def _do_forget(self, action: Action) -> None:
        """A requester's disk is lost with it."""
        process = self._of(action)
        assert isinstance(process, RequesterProcess)
        process.kill()
        process.forget_disk()
        self.scheduler.after(action.seconds, process.start)

    def _right(self, spec: Job, report: Report) -> str:
        """I5: the result is the one that this spec's program writes in this execution; "" if it is."""
        params = spec.task.engine.params
        wanted = params.get("Stdout", "") + "".join(
            f"{name}={value}\n" for name, value in self._environment(params, report)
        )
        output = report.output
        if output is None or output.stdout != wanted or output.exit_code != params.get("ExitCode", 0):
            return f"I5: the output is {output and output.stdout!r}, not {wanted!r}"
        if spec.task.publisher.type:
            result = report.result
            if result is None or result.params.get("Execution") != report.execution:
                return f"I5: the result is another one's: {result}"
            if result.params.get("Digest") != self.machines.shelf.results.get(report.execution):
                return f"I5: the result's digest is {result.params.get('Digest')}"
        return ""

    def _environment(self, params: dict[str, Any], report: Report) -> list[tuple[str, str]]:
        attempt = self.checker.jobs_by_id(report.job).attempts[report.execution]
        values = {
            "BACALHAU_JOB_ID": report.job,
            "BACALHAU_PARTITION_INDEX": str(attempt.partition),
            "BACALHAU_EXECUTION_ID": report.execution,
        }
        return [(name, values.get(name, "")) for name in params.get("PrintsEnv", [])]


class QuietInterpreter:
    """What is left of dead processes is collected without a word, and never while a simulation runs."""

    def __enter__(self) -> None:
        self._hooks = sys.get_asyncgen_hooks()
        self._unraisable = sys.unraisablehook
        self._enabled = gc.isenabled()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=finalize)
        sys.unraisablehook = lambda _: None
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self._warnings.__exit__(None, None, None)
        sys.unraisablehook = self._unraisable
        sys.set_asyncgen_hooks(*self._hooks)
        if self._enabled:
            gc.enable()


def forget_connections() -> None:
    """Start counting connections anew, so that a seed's numbers are its own."""
    SimulatedBus._numbers = 0
