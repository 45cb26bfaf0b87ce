"""A cluster in one process for tests of the requester's shells: requesters on a memory hub, and nodes that only pretend.

A `PretendNode` keeps a compute node's side of the bus: it takes commands, beats, and reports until it is answered. What its
executions come to is said by the test: at once by its `script`, or one by one with `finish`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from protocol import subjects
from protocol.bus import Messages
from protocol.clock import Clock
from protocol.errors import DONE_WITH, Conflict, Failure, Fault, kind_of
from protocol.ids import ExecutionId, NodeId, RequesterId
from protocol.jobs import Amounts, Job, Resources, Spec, Task, Timeouts
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import (
    Beat,
    Cancel,
    Command,
    CommandAnswer,
    CommandBatch,
    FullList,
    KeptOut,
    Replaced,
    Report,
    Run,
    RunOutput,
    Stage,
    Verdict,
    decode,
    encode,
)
from protocol.nodes import NodeInfo, Offer
from protocol.states import ENDS, ExecutionState
from requester.core.model import JobRecord
from requester.core.policy import Policy
from requester.serve import running
from requester.service import Service
from requester.settings import Settings

S = ExecutionState
WITHIN_S = 60.0
"""So long may take what is promised at once, on a machine that has much else to do."""
Script = Callable[[Run], ExecutionState | Failure]

QUICK = Settings(
    beat_s=0.05,
    silence_s=2.0,
    takeover_s=0.15,
    tick_s=0.01,
    sweep_s=0.3,
    cells_s=0.2,
    repair_after_s=0.05,
    report_wait_s=0.5,
    command_timeout_s=0.5,
    submit_timeout_s=5.0,
    flush_s=0.01,
    policy=Policy(backoff_s=0.02, backoff_max_s=0.1, join_grace_s=0.2),
)
"""Settings with which nothing takes longer than it must."""
BUSY = replace(QUICK, silence_s=30.0)
"""For tests that keep the machine busy: a node that has no turn for a while is not one that is gone."""


def complete(_: Run) -> ExecutionState:
    """Every execution completes at once."""
    return S.COMPLETED


def hold(_: Run) -> ExecutionState:
    """Executions run until the test ends them."""
    return S.RUNNING


def a_job(name: str = "", *, count: int = 1, cpu: str = "1", engine: str = "noop", **more: object) -> Job:
    """A small batch job; `more` are fields of the job, and ``timeouts``."""
    timeouts = more.pop("timeouts", Timeouts())
    assert isinstance(timeouts, Timeouts)
    task = Task(engine=Spec(engine), resources=Resources(cpu=cpu, memory="1Mb"), timeouts=timeouts)
    return replace(Job(name=name, count=count, tasks=[task]), **more)


class PretendNode:
    """A compute node's side of the bus. `runs` are the distinct executions it was told to run, in order."""

    def __init__(
        self,
        bus: Messages,
        name: str,
        *,
        clock: Clock,
        cores: float = 4,
        script: Script = complete,
        labels: dict[str, str] | None = None,
        engines: tuple[str, ...] = ("noop",),
        beat_s: float = 0.05,
    ) -> None:
        self.id = NodeId(name)
        self.bus = bus
        self.clock = clock
        self.script = script
        self.info = NodeInfo(
            id=self.id,
            version="0",
            labels=labels or {},
            engines=[Offer(engine) for engine in engines],
            capacity=Amounts(cores, 1 << 34, 1 << 40, 0),
        )
        self.beat_s = beat_s
        self.held: dict[str, int] | None = None
        self.ports_taken: list[int] = []
        self.incarnation = 1
        self.upto = 0
        self.deaf = False
        """Takes commands and never hears of them, as if they were lost on the way."""
        self.earlier = False
        """Of a version that knows no messages with several commands, and not that it can be replaced or kept out."""
        self.runs: list[Run] = []
        self.done_with: dict[ExecutionId, str] = {}
        """What it remembers only by name, and by which log's."""
        self.repeated: list[ExecutionId] = []
        """Orders of that which came again."""
        self.cancelled: list[ExecutionId] = []
        self.lists: list[FullList] = []
        self.kept_out: list[KeptOut] = []
        self.replaced: list[int] = []
        """The later starts of which it was told that they are the node."""
        self.states: dict[ExecutionId, ExecutionState] = {}
        self.verdicts: dict[ExecutionId, list[str]] = {}
        self.news = asyncio.Condition()
        self._tasks: asyncio.TaskGroup | None = None

    async def work(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._beat())
            async with self.bus.subscribe(subjects.commands(self.id)) as messages:
                async for message in messages:
                    if self.deaf or message.respond is None:
                        continue
                    order: Command | CommandBatch = decode(message.data, Command | CommandBatch)  # type: ignore[arg-type]
                    commands = order.commands if isinstance(order, CommandBatch) else [order]
                    if self.earlier and isinstance(order, CommandBatch | Replaced | KeptOut):
                        unknown = Failure("Broken", "a message cannot be read")
                        await message.respond(encode(CommandAnswer(False, unknown)))
                        continue
                    answers = [await self._answer(command) for command in commands]
                    taken = all(answer.taken for answer in answers)
                    several = CommandAnswer(taken, each=[] if taken else answers)
                    await message.respond(encode(answers[0] if len(answers) == 1 else several))

    async def _beat(self) -> None:
        while True:
            await self.beat()
            await self.clock.sleep(self.beat_s)

    async def beat(self) -> None:
        """Say once that the node is alive."""
        beat = Beat(
            self.info,
            self.incarnation,
            self.clock.now(),
            self.upto,
            executions=dict(self.states),
            held=self.held,
            ports_taken=self.ports_taken,
        )
        await self.bus.publish(subjects.beats(self.id), encode(beat))

    async def _answer(self, command: Command) -> CommandAnswer:
        if isinstance(command, Run) and command.execution in self.done_with:
            log = self.done_with[command.execution]
            self.repeated.append(command.execution)
            done_with = Conflict("done with", kind=kind_of(DONE_WITH), details={"log": log})
            return CommandAnswer(False, done_with.failure())
        await self._take(command)
        return CommandAnswer(True)

    async def _take(self, command: Command) -> None:
        async with self.news:
            if isinstance(command, FullList):
                self.lists.append(command)
            elif isinstance(command, Replaced):
                self.replaced.append(command.incarnation)
            elif isinstance(command, KeptOut):
                self.kept_out.append(command)
            else:
                self.upto = max(self.upto, command.seq)
            if isinstance(command, Cancel):
                self.cancelled.append(command.execution)
                self.states.pop(command.execution, None)
            elif isinstance(command, Run) and not any(
                run.execution == command.execution for run in self.runs
            ):
                self.runs.append(command)
                self._start(command)
            self.news.notify_all()

    def _start(self, run: Run) -> None:
        outcome = self.script(run)
        state = S.FAILED if isinstance(outcome, Failure) else outcome
        self.states[run.execution] = state
        failure = outcome if isinstance(outcome, Failure) else None
        self.say(run, state, failure)

    def say(self, run: Run, state: ExecutionState, failure: Failure | None = None) -> None:
        """Report a state until it is answered."""
        assert self._tasks is not None
        self._tasks.create_task(self._report(run, state, failure))

    def finish(self, execution: ExecutionId, outcome: ExecutionState | Failure = S.COMPLETED) -> None:
        """Let a held execution come to its end."""
        run = next(run for run in self.runs if run.execution == execution)
        state = S.FAILED if isinstance(outcome, Failure) else outcome
        self.states[execution] = state
        self.say(run, state, outcome if isinstance(outcome, Failure) else None)

    async def _report(self, run: Run, state: ExecutionState, failure: Failure | None) -> None:
        now = self.clock.now()
        ran = state not in (S.RUNNING, S.REFUSED)
        stages = [Stage(S.RUNNING, now), Stage(state, now)] if ran else [Stage(state, now)]
        result = Spec("ipfs", {"CID": f"cid-{run.partition}"}) if state is S.COMPLETED else None
        output = RunOutput(stdout="hello\n") if ran and state in ENDS else None
        report = Report(
            node=self.id,
            incarnation=self.incarnation,
            seq=run.seq,
            job=run.job,
            version=run.version,
            execution=run.execution,
            state=state,
            stages=stages,
            failure=failure,
            output=output,
            result=result,
        )
        while self.states.get(run.execution) is state:
            try:
                data = await self.bus.request(
                    subjects.reports(self.id, run.job), encode(report), timeout_s=1.0
                )
            except Fault:
                await self.clock.sleep(0.05)
                continue
            answer = decode(data, Verdict)
            verdict = answer.verdict
            async with self.news:
                self.verdicts.setdefault(run.execution, []).append("replaced" if answer.replaced else verdict)
                if verdict in ("stored", "drop") and state in ENDS:
                    self.states.pop(run.execution, None)
                self.news.notify_all()
            if verdict != "later":
                return
            await self.clock.sleep(0.02)

    async def until(self, true: Callable[["PretendNode"], bool]) -> None:
        """Wait until something is true of this node."""
        async with self.news:
            await self.news.wait_for(lambda: true(self))


class Cluster:
    """Requesters and nodes on one hub; everything ends with the context."""

    def __init__(
        self, tmp: Path, *, seed: int = 0, settings: Settings = QUICK, clock: Clock | None = None
    ) -> None:
        self.tmp = tmp
        self.settings = settings
        self.clock = clock
        self.hub = MemoryHub(seed=seed, clock=clock)
        self.buses: dict[str, MemoryBus] = {}
        self._stack = AsyncExitStack()
        self._requesters: dict[str, asyncio.Task[None]] = {}
        self._nodes: dict[str, asyncio.Task[None]] = {}

    async def requester(
        self, name: str = "r1", settings: Settings | None = None, bus: MemoryBus | None = None
    ) -> Service:
        """Start a requester and wait until it is ready."""
        bus = self.buses[name] = bus or MemoryBus(self.hub)
        ready: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
        settings = replace(settings or self.settings, id=RequesterId(name), data_dir=self.tmp / name)

        async def run() -> None:
            async with running(bus, settings, clock=self.clock) as service:
                ready.set_result(service)
                await asyncio.Event().wait()

        task = self._requesters[name] = asyncio.create_task(run())
        either: list[asyncio.Future[Any]] = [task, ready]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        return ready.result()

    async def kill(self, name: str) -> None:
        """End a requester as ``kill -9`` would: the others hear nothing of it."""
        self.buses[name].cut()
        await _end(self._requesters.pop(name))

    def crashed(self) -> list[str]:
        """The requesters that ended by themselves."""
        return [name for name, task in self._requesters.items() if task.done()]

    async def node(self, name: str = "n1", **more: object) -> PretendNode:
        """Start a node and let it beat once."""
        bus = self.buses[name] = MemoryBus(self.hub)
        node = PretendNode(bus, name, clock=self.hub.clock, **more)  # type: ignore[arg-type]
        self._nodes[name] = asyncio.create_task(node.work())
        await asyncio.sleep(0)
        await node.beat()
        return node

    async def lose(self, node: PretendNode) -> None:
        """Take a node off the bus; it goes on working."""
        self.buses[node.id].cut()

    async def find(self, node: PretendNode) -> None:
        """Bring a lost node back to the bus."""
        self.buses[node.id].mend()

    async def close(self) -> None:
        for task in [*self._nodes.values(), *self._requesters.values()]:
            await _end(task)
        await self.hub.close()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


@asynccontextmanager
async def a_cluster(tmp: Path, **more: object) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp, **more)  # type: ignore[arg-type]
    try:
        yield cluster
        assert not cluster.crashed()
    finally:
        await cluster.close()


async def happens(true: Callable[[], bool]) -> None:
    """Wait until something is true that tells nobody when it becomes so."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if true():
                return
            await asyncio.sleep(0)


async def until(service: Service, ref: str, true: Callable[[JobRecord], bool]) -> JobRecord:
    """The job's record, as soon as something is true of it."""
    async with asyncio.timeout(WITHIN_S):
        async for update in service.watch(ref):
            if update.job is not None and true(update.job):
                return update.job
    raise AssertionError(f"{ref} closed first: {await service.job(ref)}")


async def closed(service: Service, ref: str) -> JobRecord:
    """The job's record when it has its final state."""
    return await until(service, ref, lambda record: record.closed)


async def submit(service: Service, job: Job) -> str:
    """Submit a job; returns its id."""
    return (await service.submit(job, warnings=[], client="test")).job
