"""Reports up: said until they are answered.

Knows: how often, how many at once, and what each answer asks for. Must not know: what is in a report. The newest report of
an execution is kept here until a requester answers ``stored`` or ``drop`` (or ``noted`` for a state that is no end); the
journal keeps what a new process needs to make it again.

A report of a state between order and end is sent only if that state lasts longer than `QUIET_S`: a small job says one thing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

import structlog

from protocol import failpoints, messages, subjects
from protocol.bus import Messages
from protocol.clock import Clock
from protocol.errors import Broken, Fault
from protocol.ids import ExecutionId
from protocol.messages import Report, Verdict
from protocol.states import ENDS

QUIET_S: Final = 0.15
ANSWER_S: Final = 1.0
ANSWER_MAX_S: Final = 10.0
"""How long one answer may take, at first and later: a commit is in it, but whoever has the question may have been killed."""
REPEAT_S: Final = 0.2
REPEAT_MAX_S: Final = 5.0
ASKED_MAX: Final = 128
"""Reports on their way at once; the others wait their turn."""

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
        self._turn = asyncio.Semaphore(ASKED_MAX)
        self._quiet: deque[tuple[float, Callable[[], Report | None]]] = deque()
        self._quiet_task: asyncio.Task[None] | None = None

    def send(self, report: Report) -> None:
        """Say this until it is answered; an older report of the same execution is not repeated any more."""
        self._newest[report.execution] = report
        self._tasks.create_task(self._say(report))

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
            due, newest = self._quiet.popleft()
            wait_s = due - self._clock.elapsed()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            report = newest()
            if report is not None:
                self.send(report)
        self._quiet_task = None

    async def _say(self, report: Report) -> None:
        subject = subjects.reports(report.node, report.job)
        data = messages.encode(report)
        pause_s, answer_s = REPEAT_S, ANSWER_S
        if report.state in ENDS:
            try:
                await self._durable()
            except Fault as fault:
                # The disk is full or broken: others should know the end all the same.
                _log.error("an end could not be kept", execution=report.execution, fault=fault.message)
        while self._newest.get(report.execution) is report:
            failpoints.reached("node.report.begun")
            verdict = await self._ask(subject, data, answer_s)
            answer_s = min(answer_s * 2, ANSWER_MAX_S)
            failpoints.reached("node.report.answered")
            if verdict is not None and self._is_answer(report, verdict):
                if self._newest.get(report.execution) is report:
                    del self._newest[report.execution]
                    self._answered(report, verdict)
                return
            await self._clock.sleep(pause_s * (0.5 + self._random.random() / 2))
            pause_s = min(pause_s * 2, REPEAT_MAX_S)

    async def _ask(self, subject: str, data: bytes, timeout_s: float) -> Verdict | None:
        async with self._turn:
            try:
                answer = await self._bus.request(subject, data, timeout_s=timeout_s)
                return messages.decode(answer, Verdict)
            except Broken as fault:
                _log.warning("a report's answer cannot be read", subject=subject, fault=fault.message)
            except Fault as fault:
                _log.debug("nobody answers reports", subject=subject, fault=fault.message)
            return None

    @staticmethod
    def _is_answer(report: Report, verdict: Verdict) -> bool:
        """Whether there is nothing more to say. An end is not done with before it is in the log."""
        if verdict.verdict in ("stored", "drop"):
            return True
        return verdict.verdict == "noted" and report.state not in ENDS
