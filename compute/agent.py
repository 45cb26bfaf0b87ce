"""The node on the bus: commands in, beats and reports out, logs answered.

Knows: the messages of `protocol.messages`, what was ordered with which sequence, and how a new process takes up what the
last one left. Must not know: how an execution is carried out (`compute.runner`).

A command is a level: it is compared with the sequence known for its execution, the highest wins, and the same one twice is
one. It is answered when it is in the journal. A command without a way to answer, for another node or of another form, is
refused. What was forgotten stays known by name for an hour, so a late copy of an order starts nothing.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog
from msgspec import Struct, field

from compute import admission
from compute.admission import Plan, Policy
from compute.alarms import Alarms
from compute.capacity import Ledger, Ports
from compute.disk import Disk
from compute.engines.contract import Engine
from compute.execution import CancelOrdered, Failed, ReportDropped, ReportStored, ordered
from compute.facts import Facts
from compute.faults import failure_of
from compute.inputs import Inputs
from compute.journal import GONE_MAX, Journal
from compute.log_answers import LogAnswers
from compute.logs import Logs, LogSettings
from compute.pressure import Program, keep_reserve
from compute.progress import ProgressBoard
from compute.provenance import Manifests
from compute.reports import Reporter
from compute.result_answers import ResultAnswers
from compute.room import Room
from compute.runner import Runner
from compute.shop import Limits, Shop
from compute.sweeper import Sweeper
from protocol import failpoints, messages, subjects
from protocol.bus import Message, Messages
from protocol.clock import Clock, SystemClock
from protocol.errors import Conflict, Exhausted, Failure, Fault, Invalid
from protocol.held import HELD_MAX
from protocol.ids import ExecutionId, NodeId, is_token, key_of
from protocol.messages import (
    Beat,
    Cancel,
    Command,
    CommandAnswer,
    CommandBatch,
    FullList,
    Report,
    Run,
    Verdict,
)
from protocol.states import ENDS
from storage.arrival import remove_tree
from storage.contract import Drivers
from storage.local_publisher import LocalPublisher
from storage.spread import spread
from storage.threads import in_thread

EXECUTIONS_MAX: Final = 10_000
"""How many a node takes at once, waiting ones included; a beat names them all and must fit into one message."""
HELD_AGAIN_S: Final = 15.0
"""How often it is said again which inputs are here, for requesters that came meanwhile."""
HOUSEKEEPING_S: Final = 30.0

TAKEN: Final = CommandAnswer(True)
_ORDER: Final[Any] = Command | CommandBatch
_log = structlog.get_logger(__name__)


class AgentSettings(Struct, frozen=True):
    """What a node's agent is told. `folder` is the node's data folder; times in seconds.

    `cache_bytes` is how much inputs may take that are kept for later, `reserve_bytes` what of the disk stays free whatever
    happens. `end_work`: leaving ends what runs here, for a node that does not come back.
    """

    node: NodeId
    folder: Path
    beat_s: float = 0.5
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    logs: LogSettings = field(default_factory=LogSettings)
    ports: tuple[int, int] = (20_000, 32_000)
    end_work: bool = False
    cache_bytes: int = 1 << 30
    reserve_bytes: int = 0


class Agent:
    """One compute node. `run` is its whole life; `ready` is set once it listens and its first beat was sent.

    The journal is opened by whoever makes the agent, and closed by them after `run`.
    """

    def __init__(
        self,
        settings: AgentSettings,
        bus: Messages,
        engines: Mapping[str, Engine[Any]],
        drivers: Drivers,
        facts: Facts,
        journal: Journal,
        *,
        clock: Clock | None = None,
        host: Mapping[str, str] | None = None,
        random: Random | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self.runners: dict[ExecutionId, Runner] = {}
        self._settings = settings
        self._node = settings.node
        self._bus = bus
        self._engines = engines
        self._drivers = drivers
        self._facts = facts
        self._journal = journal
        self._clock: Clock = clock or SystemClock()
        self._host = dict(host or {})
        self._random = random or Random()
        self._remembered = journal.open(self._clock.now())
        self._upto = self._remembered.upto
        self._log_created = self._remembered.log_created
        self._gone = dict(self._remembered.gone)
        self._unanswered: list[tuple[Message, list[CommandAnswer]]] = []
        self._answering: asyncio.Task[None] | None = None
        self._leaving = False
        self._beat_now = asyncio.Event()
        self._forgot = asyncio.Event()
        self.inputs: Inputs | None = None
        self._held: dict[str, int] | None = None
        self._held_at = 0.0
        self._logs = Logs(settings.folder / "logs", settings.logs)
        self._manifests = Manifests(settings.folder / "manifests", settings.logs.keep_s)
        publisher = drivers.publishers.get(LocalPublisher.type)
        self._results = publisher if isinstance(publisher, LocalPublisher) else None
        self._room = Room(Ledger(facts.info.capacity, [gpu.index for gpu in facts.info.gpus]))

    @property
    def incarnation(self) -> int:
        """Grows with each start of a node on the same data folder."""
        return self._remembered.incarnation

    async def run(self) -> None:
        """Take up what the last process left, then serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            shop = self._open_shop(tasks)
            async with (
                self._bus.subscribe(subjects.commands(self._node)) as commands,
                self._bus.subscribe(subjects.logs(self._node)) as asked,
                self._bus.subscribe(subjects.results(self._node)) as results_asked,
            ):
                await self._take_up(shop)
                tasks.create_task(shop.progress.tell())
                tasks.create_task(self._beat_on())
                tasks.create_task(self._facts.watch(self._beat_now.set))
                tasks.create_task(self._keep_house())
                tasks.create_task(keep_reserve(shop.disk, shop.inputs, self._clock, self._programs))
                tasks.create_task(LogAnswers(self._logs).serve(asked, tasks))
                tasks.create_task(ResultAnswers(self._results, self._manifests).serve(results_asked, tasks))
                async for message in commands:
                    await self._obey(message, shop)

    async def leave(self) -> None:
        """Take no more commands, and say so. Programs that can outlive the process go on; the next one adopts them.

        With `end_work` they are ended instead, and this returns when nothing of them is left.
        """
        self._leaving = True
        with contextlib.suppress(Fault):
            await self._beat()
        if self._settings.end_work:
            await self._end_all()

    async def _end_all(self) -> None:
        """End everything as if it counted no more: there is no time to wait until each end is stored."""
        for runner in list(self.runners.values()):
            runner.tell(ReportDropped())
        while self.runners:
            self._forgot.clear()
            await self._forgot.wait()

    def _open_shop(self, tasks: asyncio.TaskGroup) -> Shop:
        folder = self._settings.folder / "executions"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        spread(folder)
        disk = Disk(self._settings.folder, self._settings.reserve_bytes)
        self.inputs = Inputs(
            self._settings.folder / "cache",
            self._settings.cache_bytes,
            self._room,
            disk,
            tasks,
            self._results,
        )
        reporter = Reporter(self._bus, self._clock, self._random, tasks, self._journal.commit, self._answered)
        return Shop(
            node=self._node,
            incarnation=self.incarnation,
            folder=folder,
            engines=self._engines,
            drivers=self._drivers,
            policy=self._settings.policy,
            limits=self._settings.limits,
            host=self._host,
            room=self._room,
            ports=Ports(*self._settings.ports),
            journal=self._journal,
            logs=self._logs,
            reporter=reporter,
            progress=ProgressBoard(self._node, self._bus, self._clock),
            clock=self._clock,
            alarms=Alarms(self._clock, tasks),
            tasks=tasks,
            inputs=self.inputs,
            disk=disk,
            manifests=self._manifests,
            sweeper=Sweeper(tasks),
            forgotten=self._forgotten,
        )

    # A new process

    async def _take_up(self, shop: Shop) -> None:
        """Go on with what the journal holds, and remove what nobody knows: folders now, programs beside all else."""
        await shop.inputs.open()
        known = {execution.id for execution in self._remembered.executions}
        for path in shop.folder.iterdir():
            if path.name not in known:
                _log.info("removing a folder that belongs to no execution", path=str(path))
                await in_thread(lambda _, path=path: remove_tree(path))  # type: ignore[misc]
        restored = [Runner(shop, execution, restored=True) for execution in self._remembered.executions]
        for runner in restored:
            self.runners[runner.execution.id] = runner
            runner.hold()
        for runner in restored:
            runner.begin()
        for engine in self._engines.values():
            shop.tasks.create_task(self._remove_strangers(engine))

    async def _remove_strangers(self, engine: Engine[Any]) -> None:
        """Remove programs of this node that no execution owns. An engine that does not answer is asked again, later:
        the node does not wait for it.
        """
        while True:
            try:
                for execution in await engine.leftovers():
                    if execution not in self.runners:
                        _log.info("removing a program that belongs to no execution", execution=execution)
                        running = await engine.recover(execution)
                        if running is not None:
                            await running.stop(0)
                            await running.remove()
            except Fault as fault:
                _log.info("cannot look for leftovers yet", engine=engine.type, fault=fault.message)
            else:
                return
            await self._clock.sleep(HOUSEKEEPING_S)

    # Commands

    async def _obey(self, message: Message, shop: Shop) -> None:
        failpoints.reached("node.command.received")
        if message.respond is None:
            _log.warning("a command without a way to answer was ignored", subject=message.subject)
            return
        try:
            order: Command | CommandBatch = messages.decode(message.data, _ORDER)
        except Fault as fault:
            await _respond(message, [CommandAnswer(False, fault.failure())])
            return
        commands = order.commands if isinstance(order, CommandBatch) else [order]
        answers = [self._answer_to(command, shop) for command in commands]
        if not any(answer.taken for answer in answers):
            await _respond(message, answers)
            return
        # The answer waits for the journal; the next command does not wait for this answer, so commits gather.
        self._unanswered.append((message, answers))
        if self._answering is None:
            self._answering = shop.tasks.create_task(self._answer_when_kept())

    def _answer_to(self, command: Command, shop: Shop) -> CommandAnswer:
        """Do it, and say what is to be answered; that it is taken only once the journal has it."""
        try:
            self._carry_out(command, shop)
        except Fault as fault:
            return CommandAnswer(False, fault.failure())
        except Exception as error:  # noqa: BLE001 (an order that nobody foresaw must not end the node, again and again)
            _log.exception("an order failed in a way it should not", order=type(command).__name__)
            return CommandAnswer(False, failure_of(error, self._node, "taking an order"))
        return TAKEN

    async def _answer_when_kept(self) -> None:
        """Answer commands once they are in the journal, all that came before a commit together.

        Nobody waits for the answer itself; the commit is that of the first program that starts, if any does at once.
        """
        while self._unanswered:
            group, self._unanswered = self._unanswered, []
            failed = None
            try:
                await self._journal.commit(now=False)
            except Fault as fault:
                # A full disk may have room again: then the order is given anew, here or elsewhere.
                failed = CommandAnswer(False, failure_of(fault, self._node, "taking an order"))
            for message, answers in group:
                failpoints.reached("node.command.kept")
                if failed is not None:
                    answers = [failed if answer.taken else answer for answer in answers]
                await _respond(message, answers)
        self._answering = None

    def _carry_out(self, command: Command, shop: Shop) -> None:
        """Do it, or raise the fault that the answer tells."""
        if command.node != self._node:
            raise Invalid(f"this is node {self._node}, not {command.node}")
        match command:
            case Run():
                self._ordered(command, shop)
            case Cancel():
                self._cancelled(command)
            case FullList():
                self._listed(command)

    def _ordered(self, run: Run, shop: Shop) -> None:
        if run.execution in self.runners:
            return
        if key_of(run.job) is None or not is_token(run.execution):
            raise Invalid(f"{run.execution!r} of {run.job!r} is no execution of a job")
        if run.execution in self._gone:
            raise Conflict(f"execution {run.execution} was here and is done with", kind="Gone")
        if self._leaving:
            raise Exhausted("this node is leaving", hint="Another node will do.", kind="Leaving")
        if len(self.runners) >= EXECUTIONS_MAX:
            raise Exhausted(f"this node has {EXECUTIONS_MAX} executions already", kind="Executions")
        plan, refused = self._considered(run)
        execution, _ = ordered(run, self._clock.now())
        runner = self.runners[run.execution] = Runner(shop, execution, plan)
        runner.begin()
        if refused is not None:
            runner.tell(Failed(refused, refused=True))
        self._note_upto(run.seq)

    def _considered(self, run: Run) -> tuple[Plan | None, Failure | None]:
        """The plan for an execution, or the lasting reason why there is none."""
        refused = admission.refusal(run, self._facts.info, self._settings.policy, self._host)
        if refused is None:
            try:
                return admission.plan(run, self._engines, self._drivers), None
            except Fault as fault:
                refused = fault.failure()
        return None, refused

    def _cancelled(self, cancel: Cancel) -> None:
        runner = self.runners.get(cancel.execution)
        if runner is not None:
            if cancel.seq < runner.execution.run.seq:
                raise Conflict(f"execution {cancel.execution} was ordered later than this", kind="Old")
            runner.tell(CancelOrdered(cancel.reason))
        elif cancel.execution not in self._gone:
            # The order to run it may still be on its way, and is older.
            self._remember_gone(cancel.execution, cancel.seq)
        self._note_upto(cancel.seq)

    def _listed(self, listed: FullList) -> None:
        if listed.created != self._log_created:
            if self._log_created:
                self._change_log(listed)
            self._log_created = listed.created
            self._journal.note("log_created", listed.created)
        if listed.upto < self._upto:
            raise Conflict(f"this list is of {listed.upto}, and {self._upto} is known", kind="Old")
        wanted = set(listed.executions)
        for runner in list(self.runners.values()):
            if runner.execution.id not in wanted and runner.execution.run.seq <= listed.upto:
                runner.tell(ReportDropped())
        self._note_upto(listed.upto)

    def _change_log(self, listed: FullList) -> None:
        """Go over to a log that was made anew, or restored. Raises `Conflict` while anything goes on here that it does not
        know."""
        unknown = [
            runner
            for id_, runner in self.runners.items()
            if id_ not in listed.executions and runner.execution.state not in ENDS
        ]
        if unknown:
            _log.warning("another log lists this node's executions: ending none", created=listed.created)
            raise Conflict("this node holds executions of another log", kind="Log")
        self._upto = 0
        self._journal.note("upto", "0")
        # What has ended here is open in a log that was restored from before: it is run again.
        self._gone.clear()
        self._journal.forget_names()

    def _note_upto(self, seq: int) -> None:
        if seq > self._upto:
            self._upto = seq
            self._journal.note("upto", str(seq))

    def _forgotten(self, execution: ExecutionId) -> None:
        runner = self.runners.pop(execution)
        self._remember_gone(execution, runner.execution.run.seq)
        failpoints.reached("node.forgotten")
        self._forgot.set()

    def _remember_gone(self, execution: ExecutionId, seq: int) -> None:
        self._gone[execution] = seq
        while len(self._gone) > GONE_MAX:
            del self._gone[next(iter(self._gone))]
        self._journal.forget(execution, seq, self._clock.now())

    # Reports

    def _answered(self, report: Report, verdict: Verdict) -> None:
        runner = self.runners.get(report.execution)
        if runner is None:
            return
        if report.failure is not None and report.failure.code.startswith("Unavailable"):
            # What this execution met may have changed what the node offers: others should not be sent into it.
            self._facts.look()
        if verdict.verdict == "drop":
            runner.tell(ReportDropped())
        elif report.state in ENDS:
            runner.tell(ReportStored())

    # Beats

    async def _beat_on(self) -> None:
        while True:
            with contextlib.suppress(Fault):
                await self._beat()
            self.ready.set()
            self._beat_now.clear()
            pause = asyncio.ensure_future(self._clock.sleep(self._settings.beat_s))
            early = asyncio.ensure_future(self._beat_now.wait())
            try:
                await asyncio.wait((pause, early), return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
                early.cancel()

    async def _beat(self) -> None:
        beat = Beat(
            node=self._facts.info,
            incarnation=self.incarnation,
            at=self._clock.now(),
            upto=self._upto,
            leaving=self._leaving,
            executions={name: runner.execution.state for name, runner in self.runners.items()},
            held=self._held_news(),
        )
        await self._bus.publish(subjects.beats(self._node), messages.encode(beat))

    def _held_news(self) -> dict[str, int] | None:
        """Which inputs are here, if that has changed or was not said for a while."""
        held = self.inputs.cache.tokens(HELD_MAX) if self.inputs is not None else {}
        now = self._clock.elapsed()
        if held == self._held and now - self._held_at < HELD_AGAIN_S:
            return None
        self._held, self._held_at = held, now
        return held

    def _programs(self) -> list[Program]:
        """The programs that run just now."""
        return [(runner.guard, runner.tell) for runner in self.runners.values() if runner.guard is not None]

    async def _keep_house(self) -> None:
        while True:
            await self._clock.sleep(HOUSEKEEPING_S)
            now = self._clock.now()
            self._logs.prune(now)
            self._manifests.prune(now)
            self._journal.prune(now)
            if self._results is not None:
                await self._results.prune()


async def _respond(message: Message, answers: list[CommandAnswer]) -> None:
    """Answer, if somebody still waits for it: once for all commands of a message, where all were taken."""
    if all(answer.taken for answer in answers):
        answer = TAKEN
    else:
        answer = answers[0] if len(answers) == 1 else CommandAnswer(False, each=answers)
    if message.respond is not None:
        with contextlib.suppress(Fault):
            await message.respond(messages.encode(answer))
