"""Commands in: what a node was ordered, with which sequence, and what it answers.

Knows: the commands of `protocol.messages`, and which executions are here or were. Must not know: how an execution is carried
out (`compute.runner`), or how commands arrive.

A command is a level: it is compared with the sequence known for its execution, the highest wins, and the same one twice is
one. It is answered when it is in the journal. A command without a way to answer, for another node or of another form, is
refused. What was forgotten stays known by name for an hour, so a late copy of an order starts nothing; not so what a process
ended for its own sake (it was replaced, or left), for that is ordered again.
"""

import asyncio
import contextlib
from typing import Any, Final

import structlog
from msgspec import Struct

from compute import admission
from compute.admission import Plan
from compute.events import Abandoned, CancelOrdered, Failed, ReportDropped
from compute.execution import ordered
from compute.facts import Facts
from compute.faults import failure_of
from compute.journal import GONE_MAX, Journal, Remembered
from compute.runner import Runner
from compute.shop import Shop
from protocol import failpoints, messages
from protocol.bus import Message
from protocol.clock import Clock
from protocol.errors import DONE_WITH, Conflict, Exhausted, Failure, Fault, Invalid, kind_of
from protocol.ids import ExecutionId, NodeId, is_token, key_of
from protocol.messages import Cancel, Command, CommandAnswer, CommandBatch, FullList, KeptOut, Replaced, Run

EXECUTIONS_MAX: Final = 10_000
"""How many a node takes at once, waiting ones included; a beat names them all and must fit into one message."""

OTHER_LOG_S: Final = 60.0
"""How long work goes on that another log does not know: that log may be the wrong one."""
OTHER_LOG_GAP_S: Final = 10.0
"""Requesters send a list with each beat; after a longer gap the minute begins anew."""

_TAKEN: Final = CommandAnswer(True)
_ORDER: Final[Any] = Command | CommandBatch
_log = structlog.get_logger(__name__)


class _OtherLog(Struct, frozen=True):
    """Another log than the one that was gone by: when it was created, when it was last heard of, and what goes on here that
    it has not known since when. Times in elapsed seconds.
    """

    created: str
    heard_at: float
    unknown: dict[ExecutionId, float]

    def goes_on(self, listed: FullList, now: float) -> bool:
        """Whether a list is of this log, and follows the one before it."""
        return listed.created == self.created and now - self.heard_at < OTHER_LOG_GAP_S


class Orders:
    """One node's. `runners` are the executions that are here; once `leaving` is set, no more are taken.

    `upto` is the newest sequence that was obeyed. `replaced_by` is the later start that is the node now, 0 while this is it.
    """

    def __init__(
        self, node: NodeId, facts: Facts, journal: Journal, clock: Clock, remembered: Remembered
    ) -> None:
        self.runners: dict[ExecutionId, Runner] = {}
        self.leaving = False
        self.replaced_by = 0
        self.upto = remembered.upto
        self._incarnation = remembered.incarnation
        self._node = node
        self._facts = facts
        self._journal = journal
        self._clock = clock
        self._log_created = remembered.log_created
        self._gone = dict(remembered.gone)
        self._other_log: _OtherLog | None = None
        self._kept_out = ""
        self._unanswered: list[tuple[Message, list[CommandAnswer]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def obey(self, message: Message, shop: Shop) -> None:
        """Carry out what a message orders, and have it answered."""
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
        return _TAKEN

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
            case Replaced():
                if command.incarnation > self._incarnation:
                    self.replaced_by = command.incarnation
            case KeptOut():
                self._told_why(command)

    def _told_why(self, kept_out: KeptOut) -> None:
        """Say in this node's log why it gets no work, once."""
        if kept_out.reason != self._kept_out:
            self._kept_out = kept_out.reason
            _log.warning(
                "this node gets no work", node=self._node, reason=kept_out.reason, hint=kept_out.hint
            )

    def _ordered(self, run: Run, shop: Shop) -> None:
        if (runner := self.runners.get(run.execution)) is not None:
            self._repeated(run, runner)
            return
        if key_of(run.job) is None or not is_token(run.execution):
            raise Invalid(f"{run.execution!r} of {run.job!r} is no execution of a job")
        if run.execution in self._gone:
            message = f"execution {run.execution} was here and is done with"
            raise Conflict(message, kind=kind_of(DONE_WITH), details={"log": self._log_created})
        if self.leaving:
            raise Exhausted("this node is leaving", hint="Another node will do.", kind="Leaving")
        if len(self.runners) >= EXECUTIONS_MAX:
            raise Exhausted(f"this node has {EXECUTIONS_MAX} executions already", kind="Executions")
        plan, refused = self._considered(run, shop)
        if self._kept_out:
            self._kept_out = ""
            _log.info("this node gets work again", node=self._node)
        execution, _ = ordered(run, self._clock.now())
        runner = self.runners[run.execution] = Runner(shop, execution, plan)
        runner.begin()
        if refused is not None:
            runner.tell(Failed(refused, refused=True, read_by=shop.version))
        self._note_upto(run.seq)

    def _repeated(self, run: Run, runner: Runner) -> None:
        """An order for what is here already changes nothing, unless it is another one: a log that was restored has given the
        name again. Then what is here ends, and the order is taken once that is gone."""
        known = runner.execution.run
        if (run.seq, run.ordered_at or known.ordered_at) != (known.seq, known.ordered_at or run.ordered_at):
            runner.tell(Abandoned())
            raise Conflict(f"execution {run.execution} of another log is still here", kind="Log")

    def _considered(self, run: Run, shop: Shop) -> tuple[Plan | None, Failure | None]:
        """The plan for an execution, or the lasting reason why there is none."""
        refused = admission.refusal(run, self._facts.info, shop.policy, shop.host)
        if refused is None:
            try:
                return admission.plan(run, shop.engines, shop.drivers), None
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
        self._other_log = None
        if listed.upto < self.upto:
            raise Conflict(f"this list is of {listed.upto}, and {self.upto} is known", kind="Old")
        wanted = set(listed.executions)
        for runner in list(self.runners.values()):
            if runner.execution.id not in wanted and runner.execution.run.seq <= listed.upto:
                runner.tell(ReportDropped())
        self._note_upto(listed.upto)

    def _change_log(self, listed: FullList) -> None:
        """Go over to a log that was made anew, or restored. What goes on here and has been unknown there for long is ended;
        before that, raises `Conflict`."""
        now, before = self._clock.elapsed(), self._other_log
        if before is not None and not before.goes_on(listed, now):
            before = None
        unknown = {
            id_: before.unknown.get(id_, now) if before is not None else now
            for id_ in self.runners
            if id_ not in listed.executions
        }
        if any(now - since < OTHER_LOG_S for since in unknown.values()):
            if before is None:
                _log.warning(
                    "another log does not know what goes on here: it is ended unless its own log is back in time",
                    created=listed.created,
                    executions=len(unknown),
                    within_s=OTHER_LOG_S,
                )
            self._other_log = _OtherLog(listed.created, now, unknown)
            raise Conflict("this node holds executions of another log", kind="Log")
        for id_ in unknown:
            self.runners[id_].tell(ReportDropped())
        for id_ in self.runners.keys() - unknown.keys():
            self.runners[id_].say_again()
        self.upto = 0
        self._journal.note("upto", "0")
        # What has ended here is open in a log that was restored from before: it is run again.
        self._gone.clear()
        self._journal.forget_names()

    def _note_upto(self, seq: int) -> None:
        if seq > self.upto:
            self.upto = seq
            self._journal.note("upto", str(seq))

    def forgotten(self, execution: ExecutionId) -> None:
        """An execution is done with: it stays known by name, unless it may be ordered again."""
        runner = self.runners.pop(execution)
        if runner.execution.abandoned:
            self._journal.drop(execution)
        else:
            self._remember_gone(execution, runner.execution.run.seq)
        failpoints.reached("node.forgotten")

    def _remember_gone(self, execution: ExecutionId, seq: int) -> None:
        self._gone[execution] = seq
        while len(self._gone) > GONE_MAX:
            del self._gone[next(iter(self._gone))]
        self._journal.forget(execution, seq, self._clock.now())


async def _respond(message: Message, answers: list[CommandAnswer]) -> None:
    """Answer, if somebody still waits for it: once for all commands of a message, where all were taken."""
    if all(answer.taken for answer in answers):
        answer = _TAKEN
    else:
        answer = answers[0] if len(answers) == 1 else CommandAnswer(False, each=answers)
    if message.respond is not None:
        with contextlib.suppress(Fault):
            await message.respond(messages.encode(answer))
