"""The node on the bus: commands in, beats and reports out, logs answered.

Knows: what listens and speaks, and how a new process takes up what the last one left. Must not know: what is ordered or told
(`compute.orders`, `compute.beats`), or how an execution is carried out (`compute.runner`).
"""

import asyncio
import contextlib
from collections.abc import Mapping
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Final
from zlib import crc32

import structlog
from msgspec import Struct, field

from compute.admission import Policy
from compute.alarms import Alarms
from compute.beats import Beats, Listening, nobody_listens
from compute.capacity import Ledger, Ports
from compute.disk import Disk
from compute.engines.contract import Engine
from compute.events import Abandoned, ReportDropped, ReportStored
from compute.facts import Facts
from compute.inputs import Inputs
from compute.journal import INFO, Journal
from compute.limits import Limits
from compute.log_answers import LogAnswers
from compute.logs import Logs, LogSettings
from compute.orders import Orders
from compute.pressure import Program, keep_reserve
from compute.program import START_S
from compute.progress import ProgressBoard
from compute.provenance import Manifests
from compute.reports import Reporter
from compute.result_answers import ResultAnswers
from compute.room import Room
from compute.runner import Runner
from compute.shop import Shop
from compute.sweeper import Sweeper
from protocol import messages, subjects
from protocol.bus import Messages
from protocol.clock import Clock, SystemClock
from protocol.errors import Fault
from protocol.ids import ExecutionId, NodeId
from protocol.messages import APART, Report, Verdict
from protocol.patience import Patience
from protocol.states import ENDS
from storage.arrival import remove_tree
from storage.contract import Drivers
from storage.local_publisher import LocalPublisher
from storage.shelf import Key
from storage.spread import spread
from storage.threads import in_thread

HOUSEKEEPING_S: Final = 30.0

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
    """One compute node. `run` is its whole life.

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
        listening: Listening = nobody_listens,
    ) -> None:
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
        self._orders = Orders(self._node, facts, journal, self._clock, self._remembered)
        self._ports = Ports(*settings.ports, begin=crc32(settings.node.encode()))
        self._beats = Beats(
            bus,
            self._clock,
            facts,
            self._orders,
            self._ports,
            listening,
            incarnation=self.incarnation,
            every_s=settings.beat_s,
        )
        self._forgot = asyncio.Event()
        self._logs = Logs(settings.folder / "logs", settings.logs)
        self._manifests = Manifests(settings.folder / "manifests", settings.logs.keep_s)
        publisher = drivers.publishers.get(LocalPublisher.type)
        self._results = publisher if isinstance(publisher, LocalPublisher) else None
        self._room = Room(Ledger(facts.info.capacity, [gpu.index for gpu in facts.info.gpus]))

    @property
    def incarnation(self) -> int:
        """Grows with each start of a node on the same data folder."""
        return self._remembered.incarnation

    @property
    def ready(self) -> asyncio.Event:
        """Set once it listens and its first beat was sent."""
        return self._beats.ready

    @property
    def runners(self) -> dict[ExecutionId, Runner]:
        """The executions that are here."""
        return self._orders.runners

    @property
    def inputs(self) -> Inputs | None:
        """What is kept of inputs, once the node runs."""
        return self._beats.inputs

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
                beating = tasks.create_task(self._beats.run())
                tasks.create_task(self._facts.watch(self._told_of_news))
                self._note_info()
                tasks.create_task(self._keep_house())
                tasks.create_task(keep_reserve(shop.disk, shop.inputs, self._clock, self._programs))
                tasks.create_task(LogAnswers(self._logs).serve(asked, tasks))
                tasks.create_task(ResultAnswers(self._results, self._manifests).serve(results_asked, tasks))
                async for message in commands:
                    await self._orders.obey(message, shop)
                    if self._orders.replaced_by:
                        beating.cancel()
                        break
            if self._orders.replaced_by:
                await self._stand_aside()

    async def _stand_aside(self) -> None:
        """A process that was started later is the node: end what counts no more, and be silent until somebody ends this one.

        It does not end by itself: whoever keeps it running would start it again, and then it were the later one.
        """
        self._orders.leaving = True
        _log.error(
            "another process that was started later speaks as this node: this one ends what it runs and takes no more",
            node=self._node,
            incarnation=self.incarnation,
            later=self._orders.replaced_by,
            hint=f"End it, or {APART}",
        )
        await self._end_all()

    async def leave(self) -> None:
        """Take no more commands, and say so. Programs that can outlive the process go on; the next one adopts them.

        With `end_work` they are ended instead, and this returns when nothing of them is left.
        """
        self._orders.leaving = True
        await self.say_leaving()
        if self._settings.end_work:
            await self._end_all()

    async def say_leaving(self) -> None:
        """Say so, and once more when all else has ended, from when on its silence counts: the next process may come late."""
        if not self._orders.replaced_by:
            with contextlib.suppress(Fault):
                await self._beats.beat()

    async def _end_all(self) -> None:
        """End everything without a report: there is no time to wait until each end is stored."""
        for runner in list(self.runners.values()):
            runner.tell(Abandoned())
        while self.runners:
            self._forgot.clear()
            await self._forgot.wait()

    def _open_shop(self, tasks: asyncio.TaskGroup) -> Shop:
        folder = self._settings.folder / "executions"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        spread(folder)
        disk = Disk(self._settings.folder, self._settings.reserve_bytes)
        inputs = self._beats.inputs = Inputs(
            self._settings.folder / "cache",
            self._settings.cache_bytes,
            self._room,
            disk,
            tasks,
            self._results,
            spoiled=self._spoiled,
        )
        reporter = Reporter(self._bus, self._clock, self._random, tasks, self._journal.commit, self._answered)
        return Shop(
            node=self._node,
            version=self._facts.info.version,
            incarnation=self.incarnation,
            folder=folder,
            engines=self._engines,
            drivers=self._drivers,
            policy=self._settings.policy,
            limits=self._settings.limits,
            host=self._host,
            room=self._room,
            gpus={gpu.index: gpu for gpu in self._facts.info.gpus},
            ports=self._ports,
            journal=self._journal,
            logs=self._logs,
            reporter=reporter,
            progress=ProgressBoard(self._node, self._bus, self._clock),
            clock=self._clock,
            alarms=Alarms(self._clock, tasks),
            resolving=Patience(self._settings.limits.resolving_s or inf),
            starting=Patience(START_S),
            tasks=tasks,
            inputs=inputs,
            disk=disk,
            manifests=self._manifests,
            sweeper=Sweeper(tasks),
            forgotten=self._forgotten,
        )

    # A new process

    async def _take_up(self, shop: Shop) -> None:
        """Go on with what the journal holds, and remove what nobody knows: folders now, programs beside all else."""
        remembered = self._remembered.executions
        await shop.inputs.open({each.id: each.shared.values() for each in remembered if not each.cleaned})
        known = {execution.id for execution in remembered}
        for path in shop.folder.iterdir():
            if path.name not in known:
                _log.info("removing a folder that belongs to no execution", path=str(path))
                await in_thread(lambda _, path=path: remove_tree(path))  # type: ignore[misc]
        restored = [Runner(shop, execution, restored=True) for execution in remembered]
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

    def _told_of_news(self) -> None:
        self._note_info()
        self._beats.soon()

    def _note_info(self) -> None:
        """For the next process's first beat."""
        self._journal.note(INFO, messages.encode(self._facts.info).decode())

    def _forgotten(self, execution: ExecutionId) -> None:
        self._orders.forgotten(execution)
        self._forgot.set()

    def _spoiled(self, key: Key, why: str) -> None:
        for runner in list(self.runners.values()):
            runner.input_spoiled(key, why)

    # Reports

    def _answered(self, report: Report, verdict: Verdict) -> None:
        runner = self.runners.get(report.execution)
        if runner is None:
            return
        if report.failure is not None and report.failure.code.startswith("Unavailable"):
            # What this execution met may have changed what the node offers: others should not be sent into it.
            self._facts.look()
        if verdict.verdict == messages.DROP:
            runner.tell(Abandoned() if verdict.replaced else ReportDropped())
        elif report.state in ENDS:
            runner.tell(ReportStored())

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
            if self.inputs is not None:
                self.inputs.cache.look()
            if self._results is not None:
                await self._results.prune()
