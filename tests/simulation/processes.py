"""The simulated processes: real requesters and real nodes, each on a loop, a clock, a link and a disk of its own.

Knows: how a process is put together, killed and started again, and what it keeps. Must not know: when any of that happens.

A process that is killed leaves its files as its last commits left them. A node's programs live on its machine: they go on
when its process is killed, and end when the machine loses power.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from compute.agent import Agent, AgentSettings
from compute.engines.contract import Run
from compute.engines.noop import NoopEngine, NoopWorld, Program
from compute.facts import Facts
from compute.journal import Journal
from compute.limits import Limits
from protocol import subjects
from protocol.bus import Append, Message
from protocol.clock import SystemClock
from protocol.errors import Fault
from protocol.ids import ExecutionId, NodeId, RequesterId
from protocol.jobs import Amounts
from protocol.listener import Listener
from protocol.messages import Command, CommandBatch, FullList, Report, RequesterBeat, Verdict, decode, encode
from protocol.nodes import NodeInfo
from protocol.spec.engines import NoopParams
from requester.committer import Done
from requester.core.policy import Policy
from requester.serve import running
from requester.service import Service
from requester.settings import Settings
from tests.simulation import versions
from tests.simulation.drivers import Disk, Shelf, simulated_drivers
from tests.simulation.loop import Loop, Scheduler
from tests.simulation.network import Link, SimulatedBus, SimulatedHub

if TYPE_CHECKING:
    from requester.core.fleet import Fleet
    from storage.contract import Drivers

EPOCH = 1_800_000_000.0
PATIENCE = Settings(
    beat_s=1.0,
    silence_s=4.0,
    takeover_s=1.0,
    tick_s=0.25,
    sweep_s=5.0,
    cells_s=3.0,
    repair_after_s=0.5,
    report_wait_s=1.0,
    command_timeout_s=2.0,
    submit_timeout_s=6.0,
    flush_s=0.3,
    away_s=60.0,
    keep_closed=2,
    keep_waiting=1,
    retention_s=3.0,
    snapshot_attempts=1,
    snapshot_s=0.7,
    policy=Policy(
        backoff_s=0.5, backoff_max_s=4.0, restart_backoff_max_s=6.0, join_grace_s=3.0, execution_grace_s=4.0
    ),
)
"""A requester's settings: shorter than in earnest, so that a minute of virtual time holds a long story."""
FORGETFUL_S = 4.5
"""Where nodes are forgotten soon, they are waited for that long."""
NODE_BEAT_S = 1.0
CAPACITY = Amounts(cpu=4, memory_bytes=4_000_000_000, disk_bytes=10_000_000_000, gpu=0, dynamic_ports=12_000)


class Machines:
    """What the simulated processes share: time, the server, chance, and whoever is told of what happens."""

    def __init__(self, scheduler: Scheduler, hub: SimulatedHub, seed: str, folder: Path) -> None:
        self.scheduler = scheduler
        self.hub = hub
        self.seed = seed
        self.folder = folder
        self.shelf = Shelf()
        self.keep_s = 0.0
        self.manual = False
        """Whether people approve each node."""
        self.forget_s = 0.0
        """How long nodes are remembered that are away, 0 for longer than the story."""
        self.snapshot_after = 0
        """After how many more entries a snapshot of a job is written."""
        self.note: Callable[[str, str], None] = lambda who, what: None
        self.wrong: Callable[[str], None] = lambda what: None
        self.ordered: Callable[[ExecutionId], bool] = lambda execution: True
        """Whether the log has an execution; what only a lost one had may be run again once this one has it."""
        self.decided: Callable[[str, Fleet, Append], None] = lambda who, fleet, append: None
        self.answered: Callable[[Report, Verdict], None] = lambda report, verdict: None


class Process:
    """One process, which may live several times. `name` is also that of its folder."""

    def __init__(self, machines: Machines, name: str, link: Link) -> None:
        self.name = name
        self.machines = machines
        self.link = link
        self.random = Random(f"{machines.seed} {name}")
        self.skew_s = 0.0
        self.clock = self._new_clock()
        self.folder = machines.folder / name
        self.loop = Loop(machines.scheduler, name)  # type: ignore[abstract]
        self.loop.dead = True
        self.bus: SimulatedBus | None = None
        self.lives = 0
        self.gone = False
        self.older = False
        """Of the version before this one."""
        self.failpoint: tuple[str, int] | None = None
        """A failpoint at which this process is killed, and at which visit."""
        self.killed: Callable[[], None] = lambda: None
        self.leaves = False
        """It was asked to end."""
        self._leaving: asyncio.Event | None = None
        self._kept: list[Any] = []

    @property
    def alive(self) -> bool:
        return not self.loop.dead

    def start(self) -> None:
        """Begin a life. Harmless if it lives, or is gone for good."""
        if self.alive or self.gone:
            return
        self.lives += 1
        self.leaves = False
        self._kept += [self.loop, self.bus]
        self.loop = Loop(self.machines.scheduler, self.name)  # type: ignore[abstract]
        make = OlderBus if self.older else SimulatedBus
        self.bus = make(self.machines.hub, self.name, self.link)
        # A machine that comes up asks for the time before it starts anything.
        self.skew_s = max(self.skew_s, 0.0)
        self.clock = self._new_clock()
        self.machines.note(self.name, f"starts, life {self.lives}")
        self._leaving = asyncio.Event()
        task = self.loop.create_task(self._main(self.bus, self._leaving))
        task.add_done_callback(self._ended)

    def _new_clock(self) -> SystemClock:
        """The real clock, on a machine whose own may be wrong and may jump."""
        scheduler = self.machines.scheduler
        return SystemClock(lambda: EPOCH + scheduler.now + self.skew_s, lambda: scheduler.now)

    def kill(self) -> None:
        """Die as by ``kill -9``."""
        if not self.alive:
            return
        self.machines.note(self.name, "is killed")
        self._die()

    def kill_after(self, steps: int) -> None:
        """Die after so many more callbacks."""
        if self.alive and self.loop.fuse is None:
            self.loop.fuse, self.loop.blown = steps, self._blown

    def _blown(self) -> None:
        self.kill()
        self.killed()

    def leave(self) -> None:
        """Be asked to end in order."""
        if self.alive and self._leaving is not None:
            self.machines.note(self.name, "is asked to end")
            self.leaves = True
            leaving = self._leaving
            self.loop.call_soon(leaving.set)

    def _die(self) -> None:
        self.loop.kill()
        self.failpoint = None
        if self.bus is not None:
            self.bus.die()
        self._let_go()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self.alive:
            return
        if task.cancelled() or task.exception() is not None:
            self.machines.wrong(f"{self.name} ended by itself: {_root(task)!r}")
        self.machines.note(self.name, "has ended")
        self._die()

    def _let_go(self) -> None:
        """What the system takes back from a process that is gone."""

    async def _main(self, bus: SimulatedBus, leaving: asyncio.Event) -> None:
        raise NotImplementedError


def _root(task: asyncio.Task[None]) -> BaseException:
    error: BaseException | None = None if task.cancelled() else task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error or asyncio.CancelledError()


class OlderBus(SimulatedBus):
    """The connection of a process of the version before this one, which knows no message with several things in it, and says
    less of itself.
    """

    def _hear(self, listener: Listener, message: Message) -> None:
        if message.subject.endswith(subjects.MANY) or _has_several(message):
            message = replace(message, data=b"{}")
        super()._hear(listener, message)

    def _send(self, subject: str, data: bytes, answer: "asyncio.Future[bytes] | None") -> int:
        if subject == subjects.requester_beats(RequesterId(self.name)):
            data = encode(replace(decode(data, RequesterBeat), recorded=0, decided=0, snapshots=False))
        return super()._send(subject, data, answer)


def _has_several(message: Message) -> bool:
    """Whether it is a message with several commands."""
    if not message.subject.endswith(".do"):
        return False
    order: Any = decode(message.data, Command | CommandBatch)  # type: ignore[arg-type]
    return isinstance(order, CommandBatch)


class RequesterProcess(Process):
    """A requester. `service` is there while it has read the log to its end and serves."""

    service: Service | None = None

    def __init__(self, machines: Machines, name: str, link: Link) -> None:
        super().__init__(machines, name, link)
        self._calls: list[asyncio.Task[None]] = []

    async def _main(self, bus: SimulatedBus, leaving: asyncio.Event) -> None:
        settings = replace(
            PATIENCE,
            id=RequesterId(self.name),
            data_dir=self.folder,
            keep_s=self.machines.keep_s,
            manual_approval=self.machines.manual,
            snapshot_after=0 if self.older else self.machines.snapshot_after,
        )
        if self.machines.forget_s:
            settings = replace(settings, away_s=FORGETFUL_S, forget_s=self.machines.forget_s)
        async with running(bus, settings, clock=self.clock, randbits=self.random.getrandbits) as service:
            self._listen_to(service)
            self.service = service
            self.machines.note(self.name, "is ready")
            await leaving.wait()
            self.service = None

    def _let_go(self) -> None:
        self._kept.append(self.service)
        self.service = None

    def _listen_to(self, service: Service) -> None:
        """Have each entry looked at when it is decided upon, together with what this requester knows then."""
        committer, fleet = service._orchestrator._committer, service._jobs.fleet
        put = committer.put

        def looked_at(append: Append, done: Done, *, must: bool = False) -> None:
            self.machines.decided(self.name, fleet, append)
            put(append, done, must=must)

        committer.put = looked_at  # type: ignore[method-assign]

    def call(self, work: Callable[[Service], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Have it serve a call, which it does just now."""
        assert self.service is not None
        task = self.loop.create_task(work(self.service))
        self._calls.append(task)
        return task

    def fill_disk(self, full: bool) -> None:
        """The disk takes no more of the read model, or does again."""
        service = self.service
        if service is not None and service._recorder._store is not None:
            _fill(service._recorder._store._db, full)

    def forget_disk(self) -> None:
        """The read model is lost."""
        if not self.alive:
            self._kept.append(self.folder)
            self.folder = self.folder.with_name(f"{self.name}-{self.lives}")


class SimulatedWorld(NoopWorld):
    """A node's machine: its programs, and what may not happen to them."""

    def __init__(self, node: "NodeProcess") -> None:
        super().__init__(node.clock)
        self._node = node
        self.may_start_again: set[str] = set()
        """Executions whose program, or the memory of its end, was lost with the machine's power; and those that a process
        had not done with when it was replaced."""

    def start(self, run: Run[NoopParams]) -> Program:
        wrong, name = self._node.machines.wrong, self._node.name
        if self.starts.get(run.execution, 0) and run.execution not in self.may_start_again:
            wrong(f"I3: {name} starts the program of {run.execution} a second time")
        self.may_start_again.discard(run.execution)
        if not self._node.machines.ordered(run.execution):
            self.may_start_again.add(run.execution)
        used = run.amounts
        for program in self.programs.values():
            if not program.ended:
                used = used + program.run.amounts
        if not used.fits(self._node.capacity):
            wrong(f"I7: {name} starts more than it has room for: {used}")
        self._node.machines.note(name, f"program {run.execution} starts")
        return super().start(run)

    def process_gone(self) -> None:
        """The engine's process is another one from now on: nobody waits for these programs any more."""
        for program in self.programs.values():
            program._changed = asyncio.Event()

    def power_cut(self) -> None:
        self.may_start_again |= set(self.starts)
        self.programs.clear()


class NodeProcess(Process):
    """A compute node with the noop engine, and its machine."""

    agent: Agent | None = None
    journal: Journal | None = None

    def __init__(self, machines: Machines, name: str, link: Link, node: str = "") -> None:
        super().__init__(machines, name, link)
        self.node = NodeId(node or name)
        """Whom it speaks as: of twins each has a name of its own here, and they have this in common."""
        self.capacity = CAPACITY
        self.world = SimulatedWorld(self)
        self.disk = Disk()
        self.zone = "a"

    async def _main(self, bus: SimulatedBus, leaving: asyncio.Event) -> None:
        node = self.node
        drivers: Drivers = simulated_drivers(self.machines.shelf, self.disk, self.clock, older=self.older)
        engines = {"noop": NoopEngine(node, self.world)}
        info = NodeInfo(
            node,
            versions.BEFORE if self.older else versions.PRESENT,
            labels=self.labels,
            capacity=self.capacity,
            largest=self.capacity,
        )
        facts = Facts(info, engines, drivers, self.clock)
        await facts.first_probe()
        self.journal = journal = Journal(self.folder)
        if self.disk.full:
            _fill(journal._db, True)
        settings = AgentSettings(
            node,
            self.folder,
            beat_s=NODE_BEAT_S,
            limits=Limits(staging_s=30.0, publishing_s=30.0, stop_grace_s=2.0),
        )
        self.agent = agent = Agent(
            settings, bus, engines, drivers, facts, journal, clock=self.clock, random=self.random
        )
        self._notice(agent)
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(agent.run())
            await leaving.wait()
            await agent.leave()
            life.cancel()
        with contextlib.suppress(Fault):
            await journal.close()
        self.journal = None

    def _notice(self, agent: Agent) -> None:
        """What is told of the agent's own doings: what it takes for an answer, which lists it obeys, and that it stands
        aside: once it is the node again, what it had not done with is run again.
        """
        stand_aside, answered = agent._stand_aside, agent._answered

        def notice(executions: set[ExecutionId]) -> None:
            self.world.may_start_again |= executions & set(self.world.starts)

        async def noticed() -> None:
            notice({name for name, runner in agent.runners.items() if not runner.execution.settled})
            await stand_aside()

        def was_answered(report: Report, verdict: Verdict) -> None:
            if verdict.replaced:
                notice({report.execution})
            self.machines.answered(report, verdict)
            answered(report, verdict)

        orders = agent._orders
        obey_list = orders._listed

        def was_listed(listed: FullList) -> None:
            known = orders.upto if listed.created == orders._log_created else 0
            obey_list(listed)
            if listed.upto < known:
                self.machines.wrong(f"I3: {self.name} obeys a list of {listed.upto} though it knows {known}")

        orders._listed = was_listed  # type: ignore[method-assign]
        agent._stand_aside = noticed  # type: ignore[method-assign]
        agent._answered = was_answered  # type: ignore[method-assign]

    @property
    def labels(self) -> dict[str, str]:
        return {"name": self.node, "zone": self.zone}

    @property
    def stands_aside(self) -> bool:
        """Whether it was told that another process is the node."""
        return self.agent is not None and bool(self.agent._orders.replaced_by)

    def twin(self, *, copied: bool) -> "NodeProcess":
        """Another machine as the same node: with a copy of this one's folder as it is now, or with none."""
        link = Link(self.link.fastest_s, self.link.slowest_s)
        twin = NodeProcess(self.machines, f"{self.name}-twin", link, self.node)
        twin.older = self.older
        if copied and self.folder.exists():
            shutil.copytree(self.folder, twin.folder)
        else:
            twin.zone = "b"
        return twin

    def _let_go(self) -> None:
        if self.journal is not None:
            self.journal.abandon()
        self._kept += [self.agent, self.journal]
        self.agent = self.journal = None
        self.world.process_gone()

    def fill_disk(self, full: bool) -> None:
        """The disk takes no more, or does again."""
        self.disk.full = full
        if self.journal is not None:
            _fill(self.journal._db, full)

    def lose_power(self) -> None:
        """The machine stops: programs are gone, and the journal's last commits may be."""
        self.machines.note(self.name, "loses power")
        self._keep_part_of_the_journal()
        self.kill()
        self.world.power_cut()

    def _keep_part_of_the_journal(self) -> None:
        """The disk has some prefix of what was written: the file of writes, cut off at a random place."""
        if self.journal is None:
            return
        after = self.folder.with_name(f"{self.name}-{self.lives}")
        shutil.copytree(self.folder, after)
        writes = after / "journal.db-wal"
        if writes.exists():
            size = writes.stat().st_size
            with writes.open("r+b") as file:
                file.truncate(int(size * min(1.0, 1.3 * self.random.random())))
        self.folder = after

    def lose_machine(self) -> None:
        """Another machine takes its name, with an empty disk."""
        self.machines.note(self.name, "loses its machine")
        self.kill()
        self.world.power_cut()
        self.folder = self.folder.with_name(f"{self.name}-new-{self.lives}")


def _fill(database: Any, full: bool) -> None:
    """Let SQLite find the disk full, truly: its file may not grow."""
    with contextlib.suppress(Exception):
        pages = database.execute("PRAGMA page_count").fetchone()[0] if full else 1_000_000
        database.execute(f"PRAGMA max_page_count = {pages}")
