"""Reports up: said until they are answered.

Knows: how often, how many at once, and what each answer asks for. Must not know: what is in a report. The newest report of
an execution is kept here until a requester answers ``stored`` or ``drop`` (or ``noted`` for a state that is no end); the
journal keeps what a new process needs to make it again.

A report of a state between order and end is sent only if that state lasts longer than `QUIET_S`: a small job says one thing.

**Together.** Reports go in the rhythm of their answers: what comes while some are on their way travels in the next message,
and is answered in one. An answer that is late (`RHYTHM_S`) holds up nobody. What it does not settle (no requester, one of a
version that does not know that form, a report that is not decided yet) is said alone from there on.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from random import Random
from typing import Final

import structlog

from protocol import failpoints, messages, subjects
from protocol.batches import TOGETHER_MAX, batched
from protocol.bus import Messages
from protocol.clock import Clock
from protocol.errors import Broken, Fault
from protocol.ids import ExecutionId
from protocol.messages import Report, ReportBatch, Verdict
from protocol.states import ENDS

QUIET_S: Final = 0.15
QUIET_LOOK_S: Final = 0.02
"""Between two looks at the states that have lasted: a timer for each of two thousand a second costs more than they do."""
ANSWER_S: Final = 1.0
ANSWER_MAX_S: Final = 10.0
"""How long one answer may take, at first and later: a commit is in it, but whoever has the question may have been killed."""
REPEAT_S: Final = 0.2
REPEAT_MAX_S: Final = 5.0
ASKED_MAX: Final = 128
"""Messages on their way at once; the others wait their turn."""
RHYTHM_S: Final = 0.02

_log = structlog.get_logger(__name__)

Answered = Callable[[Report, Verdict], None]


class Reporter:
    """Sends a node's reports; `answered` is called once for each that was stored, dropped or noted.

    An end is sent only once it is `durable`: after a crash the same end is reported, never another. The tasks belong to
    `tasks` and end with it.
    """

    def __init__(
        self,
        bus: Messages,
        clock: Clock,
        random: Random,
        tasks: asyncio.TaskGroup,
        durable: Callable[[], Awaitable[None]],
        answered: Answered,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._random = random
        self._tasks = tasks
        self._durable = durable
        self._answered = answered
        self._newest: dict[ExecutionId, Report] = {}
        self._fresh: list[Report] = []
        self._current: object | None = None
        self._turn = asyncio.Semaphore(ASKED_MAX)
        self._quiet: deque[tuple[float, Callable[[], Report | None]]] = deque()
        self._quiet_task: asyncio.Task[None] | None = None

    def send(self, report: Report) -> None:
        """Say this until it is answered; an older report of the same execution is not repeated any more."""
        self._newest[report.execution] = report
        self._fresh.append(report)
        if self._current is None:
            self._begin()

    def send_later(self, newest: Callable[[], Report | None]) -> None:
        """Ask for a report after `QUIET_S`, and send it if there is one: the state then has lasted."""
        self._quiet.append((self._clock.elapsed() + QUIET_S, newest))
        if self._quiet_task is None:
            self._quiet_task = self._tasks.create_task(self._break_silence())

    def forget(self, execution: ExecutionId) -> None:
        """Say no more about it."""
        self._newest.pop(execution, None)

    async def _break_silence(self) -> None:
        while self._quiet:
            await self._clock.sleep(max(self._quiet[0][0] - self._clock.elapsed(), QUIET_LOOK_S))
            now = self._clock.elapsed()
            while self._quiet and self._quiet[0][0] <= now:
                report = self._quiet.popleft()[1]()
                if report is not None:
                    self.send(report)
        self._quiet_task = None

    def _begin(self) -> None:
        """Send the next message."""
        self._current = message = object()
        self._tasks.create_task(self._send_fresh(message))

    def _go_on(self, message: object) -> None:
        """That message is answered, or late: the next one need not wait for it."""
        if self._current is message:
            self._current = None
            if self._fresh:
                self._begin()

    async def _send_fresh(self, message: object) -> None:
        """Send what there is, once it is durable."""
        fresh, self._fresh = self._fresh[:TOGETHER_MAX], self._fresh[TOGETHER_MAX:]
        if any(report.state in ENDS for report in fresh):
            try:
                await self._durable()
            except Fault as fault:
                # The disk is full or broken: others should know the end all the same.
                _log.error(
                    "ends could not be written to the journal; they are reported all the same",
                    executions=len(fresh),
                    fault=fault.message,
                )
        late = asyncio.get_running_loop().call_later(RHYTHM_S, self._go_on, message)
        try:
            first, *others = batched(fresh, _encoded)
            for reports, data in others:
                self._tasks.create_task(self._say_together(reports, data))
            await self._say_together(*first)
        finally:
            late.cancel()
        self._go_on(message)

    async def _say_together(self, reports: Sequence[Report], data: bytes) -> None:
        """Say these in one message, then each alone that was not settled by its answer."""
        if len(reports) == 1:
            await self._say(reports[0], data)
            return
        answer = await self._ask(subjects.many_reports(reports[0].node), data, ANSWER_S)
        verdicts = answer.each if answer is not None else []
        for report, verdict in zip_longest(reports, verdicts[: len(reports)]):
            if not self._settled(report, verdict):
                self._tasks.create_task(self._say(report, messages.encode(report)))

    async def _say(self, report: Report, data: bytes) -> None:
        """Say this until it is answered."""
        subject = subjects.reports(report.node, report.job)
        pause_s, answer_s = REPEAT_S, ANSWER_S
        while self._newest.get(report.execution) is report:
            verdict = await self._ask(subject, data, answer_s)
            answer_s = min(answer_s * 2, ANSWER_MAX_S)
            if self._settled(report, verdict):
                return
            await self._clock.sleep(pause_s * (0.5 + self._random.random() / 2))
            pause_s = min(pause_s * 2, REPEAT_MAX_S)

    def _settled(self, report: Report, verdict: Verdict | None) -> bool:
        """Whether there is nothing more to say of this, and then whoever asked is told."""
        if verdict is None or not self._is_answer(report, verdict):
            return False
        if self._newest.get(report.execution) is report:
            del self._newest[report.execution]
            self._answered(report, verdict)
        return True

    async def _ask(self, subject: str, data: bytes, timeout_s: float) -> Verdict | None:
        async with self._turn:
            failpoints.reached("node.report.begun")
            try:
                answer = await self._bus.request(subject, data, timeout_s=timeout_s)
                failpoints.reached("node.report.answered")
                return messages.decode(answer, Verdict)
            except Broken as fault:
                _log.warning("a report's answer cannot be read", subject=subject, fault=fault.message)
            except Fault as fault:
                _log.debug("nobody answers reports", subject=subject, fault=fault.message)
            return None

    @staticmethod
    def _is_answer(report: Report, verdict: Verdict) -> bool:
        """Whether there is nothing more to say. An end is not done with before it is in the log."""
        if verdict.verdict in (messages.STORED, messages.DROP):
            return True
        return verdict.verdict == messages.NOTED and report.state not in ENDS


def _encoded(reports: Sequence[Report]) -> bytes:
    return messages.encode(reports[0] if len(reports) == 1 else ReportBatch(list(reports)))
