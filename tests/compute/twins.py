"""A node on the in-memory bus, and the requester's half of what it hears and says.

The twins: `FakeRequester` answers reports as a requester does; `NodeOnTest` is a real agent with the noop engine and real
drivers, which can be crashed (everything that was not committed is lost) and started again on the same folder.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from compute.admission import Policy
from compute.agent import Agent, AgentSettings
from compute.beats import Listening, nobody_listens
from compute.engines.noop import NoopEngine, NoopWorld
from compute.execution import Execution
from compute.facts import Facts
from compute.journal import Journal
from compute.limits import Limits
from compute.logs import LogSettings
from protocol import messages, subjects
from protocol.bus import Messages
from protocol.clock import Clock, SystemClock
from protocol.errors import Fault
from protocol.ids import ExecutionId, JobId, NodeId, execution_id, job_id, job_key
from protocol.jobs import Amounts, Spec, Task
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import (
    Beat,
    Cancel,
    Command,
    CommandAnswer,
    CommandBatch,
    FullList,
    KeptOut,
    Progress,
    Replaced,
    Report,
    ReportBatch,
    Run,
    Verdict,
)
from protocol.nodes import NodeInfo
from protocol.questions import LogsAnswer, LogsRequest
from protocol.states import ENDS, ExecutionState
from storage.contract import Drivers
from storage.drivers import open_drivers
from storage.settings import LocalPublishing, StorageSettings

NODE = NodeId("n1")
WITHIN_S = 60.0
CAPACITY = Amounts(cpu=4, memory_bytes=4_000_000_000, disk_bytes=10_000_000_000, gpu=0)

T = TypeVar("T")
Decide = Callable[[Report], str]


def job(number: int) -> JobId:
    """The id of one of a test's jobs."""
    return job_id(job_key("default", f"job-{number}"), number)


def order(number: int = 1, task: Task | None = None, **changed: Any) -> Run:
    """An order to run a task (nothing, by the noop engine) as the one partition of job `number`."""
    fields: dict[str, Any] = {
        "seq": number,
        "node": NODE,
        "job": job(number),
        "job_name": f"job-{number}",
        "namespace": "default",
        "job_type": "batch",
        "version": 1,
        "execution": execution_id(job(number), 1, 0, 1),
        "partition": 0,
        "partitions": 1,
        "attempt": 1,
        "task": task or noop(),
        "amounts": Amounts(cpu=0.1, memory_bytes=1_000_000),
    }
    return Run(**fields | changed)


def noop(params: dict[str, Any] | None = None, **fields: Any) -> Task:
    """A task for the noop engine."""
    return Task(**{"engine": Spec("noop", params or {})} | fields)


class FakeRequester:
    """Answers reports by `decide` (``stored`` for an end, ``noted`` for the rest), and remembers what it heard."""

    def __init__(self, bus: Messages) -> None:
        self.bus = bus
        self.decide: Decide = lambda report: "stored" if report.state in ENDS else "noted"
        self.earlier = False
        """Of a version that knows no messages with several reports."""
        self.heard_messages = 0
        self.reports: list[Report] = []
        self.accepted: dict[ExecutionId, list[Report]] = {}
        self.beats: list[Beat] = []
        self.progress: list[Progress] = []
        self._heard = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["FakeRequester"]:
        """Listen while the context lasts."""
        async with (
            self.bus.subscribe(subjects.ALL_REPORTS) as reports,
            self.bus.subscribe(subjects.ALL_BEATS) as beats,
            self.bus.subscribe(subjects.ALL_PROGRESS) as progress,
        ):
            listeners = [
                asyncio.create_task(self._hear_reports(reports)),
                asyncio.create_task(self._hear(beats, Beat, self.beats)),
                asyncio.create_task(self._hear(progress, Progress, self.progress)),
            ]
            try:
                yield self
            finally:
                for listener in listeners:
                    listener.cancel()
                await asyncio.gather(*listeners, return_exceptions=True)

    async def run(self, run: Run, timeout_s: float = WITHIN_S) -> CommandAnswer:
        """Order a run. Raises `TimedOut` if the node does not answer."""
        return await self._command(run, timeout_s=timeout_s)

    async def cancel(self, run: Run, seq: int | None = None, reason: str = "") -> CommandAnswer:
        """Order that this run shall not be; `seq` is by default later than the run's."""
        return await self._command(Cancel(seq or run.seq + 1000, run.node, run.execution, reason))

    async def full_list(self, upto: int, runs: list[Run], created: str = "log-1") -> CommandAnswer:
        """Send the full list."""
        return await self._command(FullList(upto, created, NODE, [run.execution for run in runs]))

    async def replaced(self, incarnation: int) -> CommandAnswer:
        """Say which start is the node now."""
        return await self._command(Replaced(NODE, incarnation))

    async def kept_out(self, reason: str) -> CommandAnswer:
        """Say why it gets no work."""
        return await self._command(KeptOut(NODE, reason, "ask ann"))

    async def logs(
        self, run: Run, cursor: int = 0, wait_s: float = 0, limit_bytes: int = 131_072
    ) -> LogsAnswer:
        """Ask for output."""
        request = LogsRequest(run.execution, cursor, limit_bytes, wait_s)
        answer = await self.bus.request(subjects.logs(NODE), messages.encode(request), timeout_s=WITHIN_S)
        return messages.decode(answer, LogsAnswer)

    async def ended(self, run: Run) -> Report:
        """Wait for an accepted report of the run's end."""
        await self.until(lambda: run.execution in self.accepted)
        return self.accepted[run.execution][0]

    async def reached(self, run: Run, state: ExecutionState) -> Report:
        """Wait for a report of that state."""

        def found() -> Report | None:
            return next((r for r in self.reports if r.execution == run.execution and r.state is state), None)

        await self.until(lambda: found() is not None)
        report = found()
        assert report is not None
        return report

    async def quiet(self, node: "NodeOnTest") -> None:
        """Wait until the node has forgotten all its executions; its beats are the moments to look."""
        await self.until(lambda: not node.here.runners)

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something that is heard makes this true."""
        async with asyncio.timeout(WITHIN_S), self._heard:
            await self._heard.wait_for(true)

    async def _command(
        self, command: Command | CommandBatch, to: NodeId = NODE, timeout_s: float = WITHIN_S
    ) -> CommandAnswer:
        data = messages.encode(command)
        answer = await self.bus.request(subjects.commands(to), data, timeout_s=timeout_s)
        return messages.decode(answer, CommandAnswer)

    async def _hear_reports(self, incoming: AsyncIterator[Any]) -> None:
        async for message in incoming:
            self.heard_messages += 1
            if message.subject.endswith(subjects.MANY) and self.earlier:
                answer = Verdict("later")
            elif message.subject.endswith(subjects.MANY):
                reports = messages.decode(message.data, ReportBatch).reports
                verdicts = [_verdict(await self._judge(report) or "later") for report in reports]
                answer = Verdict("each", each=verdicts)
            else:
                answer = _verdict(await self._judge(messages.decode(message.data, Report)))
            if answer.verdict and message.respond is not None:
                with contextlib.suppress(Fault):
                    await message.respond(messages.encode(answer))

    async def _judge(self, report: Report) -> str:
        """What this requester says of a report; empty for nothing."""
        verdict = self.decide(report)
        async with self._heard:
            self.reports.append(report)
            if verdict == "stored" and report.state in ENDS:
                self.accepted.setdefault(report.execution, []).append(report)
            self._heard.notify_all()
        return verdict

    async def _hear(self, incoming: AsyncIterator[Any], form: type[T], kept: list[T]) -> None:
        async for message in incoming:
            async with self._heard:
                kept.append(messages.decode(message.data, form))
                self._heard.notify_all()


def _verdict(word: str) -> Verdict:
    """The verdict that a word stands for: ``replaced`` is a drop whose reason is another process."""
    return Verdict("drop", replaced=True) if word == "replaced" else Verdict(word)


class Fuse:
    """Blows at the commit of that number (0 is the first): the process is then as good as dead, and `blown` is set.

    `written` says whether that commit reached the disk; nobody learns of it either way.
    """

    def __init__(self, commit: int, *, written: bool) -> None:
        self.commit = commit
        self.written = written
        self.blown = asyncio.Event()


class TestedJournal(Journal):
    """A journal that tells when something was saved, and dies when its fuse blows."""

    __test__ = False

    def __init__(self, folder: Path, fuse: Fuse | None) -> None:
        super().__init__(folder)
        self.changed = asyncio.Event()
        self.fuse = fuse

    def save(self, execution: Execution) -> None:
        super().save(execution)
        self.changed.set()

    def flush(self) -> None:
        fuse = self.fuse
        if fuse is None or self.commits < fuse.commit or not (self._dirty or self._gone):
            super().flush()
            return
        self._cancel_plan()
        if not fuse.blown.is_set() and fuse.written:
            self._write()
        fuse.blown.set()


class NodeOnTest:
    """A node in `folder`. Its world of programs outlives it; `recoverable` False means they die with it."""

    def __init__(
        self,
        hub: MemoryHub,
        folder: Path,
        *,
        clock: Clock | None = None,
        capacity: Amounts = CAPACITY,
        policy: Policy | None = None,
        limits: Limits | None = None,
        allowed: tuple[str, ...] = (),
        host: dict[str, str] | None = None,
        recoverable: bool = True,
        drivers: Drivers | None = None,
        fuse: Fuse | None = None,
        ports: tuple[int, int] = (20_000, 32_000),
        listening: Listening = nobody_listens,
    ) -> None:
        self.hub = hub
        self.folder = folder
        self.clock = clock or SystemClock()
        self.world = NoopWorld(self.clock)
        self.recoverable = recoverable
        self.info = NodeInfo(NODE, "test", capacity=capacity, largest=capacity)
        self.settings = AgentSettings(
            NODE,
            folder,
            beat_s=0.05,
            policy=policy or Policy(),
            limits=limits or Limits(),
            logs=LogSettings(),
            ports=ports,
        )
        self.storage = StorageSettings(
            folder / "scratch",
            allowed_paths=allowed,
            local_publishing=LocalPublishing(folder / "published", port=0),
        )
        self.host = host or {}
        self.listening = listening
        self.more_drivers = drivers or Drivers()
        self.fuse = fuse
        self.agent: Agent | None = None
        self.journal: TestedJournal | None = None
        self._bus: MemoryBus | None = None
        self._task: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()

    @property
    def here(self) -> Agent:
        """The agent that runs just now."""
        assert self.agent is not None
        return self.agent

    @property
    def bus(self) -> MemoryBus:
        """The node's connection."""
        assert self._bus is not None
        return self._bus

    async def start(self) -> Agent:
        """Start it, and wait until it listens."""
        drivers = await self._stack.enter_async_context(open_drivers(self.storage))
        drivers = Drivers(
            {**drivers.sources, **self.more_drivers.sources},
            {**drivers.publishers, **self.more_drivers.publishers},
        )
        engines = {"noop": NoopEngine(NODE, self.world)}
        facts = Facts(self.info, engines, drivers, self.clock)
        await facts.probe()
        self._bus = MemoryBus(self.hub)
        self.journal = TestedJournal(self.folder, self.fuse)
        self.agent = Agent(
            self.settings,
            self._bus,
            engines,
            drivers,
            facts,
            self.journal,
            clock=self.clock,
            host=self.host,
            listening=self.listening,
            random=Random(1),
        )
        self._task = asyncio.create_task(self.agent.run())
        ready = asyncio.create_task(self.agent.ready.wait())
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait((ready, self._task), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        return self.agent

    async def crash(self) -> None:
        """Die as by ``kill -9``: what the journal had not committed is lost, nothing is tidied."""
        if self.journal is not None:
            self.journal.abandon()
        await self._end()
        if not self.recoverable:
            self.world.programs.clear()

    async def stop(self) -> None:
        """End it in order."""
        await self._end()
        if self.journal is not None:
            await self.journal.close()

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._bus is not None:
            await self._bus.close()
        await self._stack.aclose()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._task is None or self._task.done()

    async def kept(self, execution: ExecutionId, true: Callable[[Execution], bool]) -> None:
        """Wait until this is true of an execution in the journal."""
        async with asyncio.timeout(WITHIN_S):
            while not true(self.here.runners[execution].execution):
                assert self.journal is not None
                self.journal.changed.clear()
                await self.journal.changed.wait()

    def leftovers(self) -> list[str]:
        """Folders and programs of executions that are still there."""
        folder = self.folder / "executions"
        return [*(path.name for path in folder.iterdir()), *self.world.programs] if folder.exists() else []
