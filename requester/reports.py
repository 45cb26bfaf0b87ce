"""Takes what nodes report and answers each report once it is settled.

Knows: which reports become entries, which are only noted, which are dropped. Must not know: what follows from them (`step`).
The node's name is taken from the subject, which the server vouches for, never from the body.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace

from protocol import failpoints, messages, subjects
from protocol.bus import Bus, Message, Refused, Stored
from protocol.clock import Clock
from protocol.entries import Reported
from protocol.errors import Broken, Fault
from protocol.ids import key_of
from protocol.jobs import LONG_RUNNING
from protocol.messages import Progress, Report, ReportBatch, RunOutput, Verdict, decode, encode
from protocol.states import ENDS, ExecutionState
from requester.core.model import JobRecord
from requester.core.twins import outlived
from requester.follower import Follower
from requester.jobs import Jobs
from requester.live import Input, Live, Settled
from requester.orchestrator import Orchestrator

_log = structlog.get_logger(__name__)
_REPORT_MAX_BYTES: Final = 131_072
"""A larger report loses the program's output and the lists of inputs and files: the log is not the place for them."""
_WAITING_MAX: Final = 10_000

DROP: Final = Verdict(messages.DROP)
REPLACED: Final = Verdict(messages.DROP, replaced=True)
"""What was reported may be current, but not as it is there."""
LATER: Final = Verdict(messages.LATER)
NOTED: Final = Verdict(messages.NOTED)

Answer = Callable[[Verdict], None]
"""Takes the verdict on one report."""


class _Together:
    """The verdicts on reports that came in one message; they go back in one answer, when the last is known."""

    __slots__ = ("_answer", "_open", "_verdicts")

    def __init__(self, count: int, answer: Answer) -> None:
        self._verdicts = [LATER] * count
        self._open = count
        self._answer = answer

    def take(self, index: int, verdict: Verdict) -> None:
        self._verdicts[index] = verdict
        self._open -= 1
        if not self._open:
            self._answer(Verdict(messages.EACH, each=self._verdicts))


class Reports:
    """Reports and progress of all nodes."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        *,
        jobs: Jobs,
        orchestrator: Orchestrator,
        follower: Follower,
        wait_s: float,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._jobs = jobs
        self._orchestrator = orchestrator
        self._follower = follower
        self._wait_s = wait_s
        self._early: list[tuple[float, Answer, Report]] = []
        self._answers: deque[tuple[Callable[[bytes], Awaitable[None]], bytes]] = deque()
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """Take reports until cancelled; each goes to one requester."""
        async with self._bus.subscribe(subjects.ALL_REPORTS, group=subjects.REQUESTER_GROUP) as reports:
            async for message in reports:
                self._take(message)

    async def listen_to_progress(self) -> None:
        """Hand progress on to whoever watches the job."""
        async with self._bus.subscribe(subjects.ALL_PROGRESS, pending=4_096) as told:
            async for message in told:
                try:
                    progress = decode(message.data, Progress)
                except Broken as fault:
                    _log.warning("progress cannot be read", subject=message.subject, reason=fault.message)
                    continue
                key = key_of(progress.job)
                live = self._jobs.open.get(key) if key is not None else None
                known = live.record.executions.get(progress.execution) if live and live.record else None
                if live is not None and known is not None and known.node == subjects.node_in(message.subject):
                    live.tell(progress)

    async def answer(self) -> None:
        """Send answers, in order, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._answers:
                respond, data = self._answers.popleft()
                try:
                    await respond(data)
                except Fault as fault:
                    _log.debug("an answer was not sent", reason=fault.message)

    def tick(self) -> None:
        """Look again at reports that came before the entry they answer, and let go of those that waited too long."""
        now = self._clock.elapsed()
        early, self._early = self._early, []
        for until, answer, report in early:
            if self._follower.position >= report.seq or now >= until:
                self._judge(answer, report, last_look=now >= until)
            else:
                self._early.append((until, answer, report))

    def folded(self) -> None:
        """The log's reader has come further."""
        if self._early:
            self.tick()

    def _take(self, message: Message) -> None:
        failpoints.reached("requester.report.received")
        answer = partial(self._answer, message)
        try:
            if not message.subject.endswith(subjects.MANY):
                self._read(answer, decode(message.data, Report), message.subject, len(message.data))
                return
            reports = decode(message.data, ReportBatch).reports
        except Broken as fault:
            _log.warning("a report cannot be read", subject=message.subject, reason=fault.message)
            answer(LATER)
            return
        together = _Together(len(reports), answer)
        for index, report in enumerate(reports):
            self._read(partial(together.take, index), report, message.subject, len(message.data))

    def _read(self, answer: Answer, report: Report, subject: str, size_bytes: int) -> None:
        """Take a report from the node that the subject names, in a message of that size."""
        if report.node != subjects.node_in(subject):
            _log.warning("a report names another node", subject=subject, names=report.node)
            answer(DROP)
            return
        if size_bytes > _REPORT_MAX_BYTES and len(encode(report)) > _REPORT_MAX_BYTES:
            output = (
                replace(report.output, stdout="", stderr="") if report.output is not None else RunOutput()
            )
            written = replace(report.written, files=[]) if report.written is not None else None
            report = replace(report, output=output, inputs=[], written=written)
        self._judge(answer, report)

    def _judge(self, answer: Answer, report: Report, *, last_look: bool = False) -> None:
        """Settle a report, or let it wait for the entry that ordered its execution.

        One of a process that a later one has outlived settles nothing; once it is beyond doubt that it lives it is to end
        what it has: the later one has it too.
        """
        node = self._jobs.fleet.nodes.get(report.node)
        if node is not None and outlived(node, report.incarnation):
            answer(REPLACED if node.doubled_since else LATER)
            return
        key = key_of(report.job)
        live = self._jobs.get(key) if key is not None else None
        record = live.record if live is not None else None
        if record is not None and _of_another_log(record, report):
            answer(REPLACED)
            return
        if record is None or record.revision < report.seq:
            if self._follower.position < report.seq:
                if last_look or len(self._early) >= _WAITING_MAX:
                    answer(LATER)
                else:
                    until = self._clock.elapsed() + self._wait_s
                    self._early.append((until, answer, report))
                return
            if record is None or live is None:
                answer(DROP)
                return
        assert live is not None
        verdict = verdict_on(record, report)
        if verdict is NOTED and not _worth_keeping(record, report):
            self._jobs.note(live, report)
        elif verdict is None or verdict is NOTED:
            event = Reported(report)
            self._orchestrator.put(live, Input(lambda _: event, partial(self._settled, answer, live, report)))
            return
        answer(verdict)

    def _settled(self, answer: Answer, live: Live, report: Report, outcome: Settled) -> None:
        failpoints.reached("requester.report.settled")
        if isinstance(outcome, Stored):
            # Of two ends that were written together the first counts: the other is answered by the record.
            known = (
                verdict_on(live.record, report) if live.record is not None and report.state in ENDS else None
            )
            answer(known or Verdict(messages.STORED, outcome.seq))
        elif outcome is None and live.record is not None:
            answer(verdict_on(live.record, report) or LATER)
        else:
            if isinstance(outcome, Fault | Refused):
                reason = outcome.message if isinstance(outcome, Fault) else outcome.reason
                _log.warning("a report could not be stored", execution=report.execution, reason=reason)
            answer(LATER)

    def _answer(self, message: Message, verdict: Verdict) -> None:
        if message.respond is not None:
            self._answers.append((message.respond, encode(verdict)))
            self._news.set()


def verdict_on(record: JobRecord, report: Report) -> Verdict | None:
    """The answer that follows from the record alone, or None for an end that has to be stored first.

    The same end reported again is `stored` again: the first answer was lost on its way.
    """
    execution = record.executions.get(report.execution)
    if execution is None or execution.node != report.node:
        return DROP
    if not execution.open:
        return Verdict(messages.STORED, execution.revision) if execution.state is report.state else DROP
    return None if report.state in ENDS else NOTED


def _of_another_log(record: JobRecord, report: Report) -> bool:
    """Whether another entry ordered this execution: the log was restored since, and has given its name again. Who reports it
    is to end it, and is ordered what the name means now."""
    execution = record.executions.get(report.execution)
    if execution is None or execution.node != report.node:
        return False
    return execution.ordered != report.seq or report.ordered_at not in (0, execution.created_at)


def _worth_keeping(record: JobRecord, report: Report) -> bool:
    """Whether an intermediate state belongs into the log: a published port, or that a long-running program runs."""
    known = record.executions[report.execution]
    if report.ports and report.ports != known.ports:
        return True
    return (
        record.spec.type in LONG_RUNNING
        and report.state is ExecutionState.RUNNING
        and known.state in (ExecutionState.ASSIGNED, ExecutionState.STAGING)
    )
