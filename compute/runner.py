"""One execution, carried out: performs the effects of `compute.execution` and tells it what came of them.

Knows: the steps, and how each is done. Must not know: commands, beats, what follows from what, or what is watched while a
program runs (`compute.program`).

An execution is one task that does one piece of work at a time: admit → stage → start → follow → publish → clean up. What
comes from outside (cancel, a deadline, a dropped report) is told at once and may interrupt the work, except starting a
program: whether it was started must be known before it can be removed.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import structlog
from msgspec.structs import replace

from compute import admission
from compute.admission import Plan
from compute.disk_guard import DiskGuard
from compute.events import (
    WORK,
    Admitted,
    Cleaned,
    CleanUpDelayed,
    DeadlinePassed,
    Effect,
    Event,
    Failed,
    Phase,
    PortTaken,
    Recovered,
    Restarted,
    Staged,
    Started,
)
from compute.execution import Execution, advance, must_be_kept
from compute.faults import StepFailed, failure_of, input_failure
from compute.ports import other_ports, static_ports
from compute.program import Program
from compute.publishing import publish
from compute.shop import Shop
from compute.staging import Ready, Staging
from protocol import failpoints
from protocol.errors import Broken, Denied, Failure, Fault, Unavailable
from protocol.messages import Progress, Report
from protocol.states import ExecutionState
from storage.cache_entries import key_of
from storage.contract import Progress as Telling
from storage.shelf import Key

PORT: Final = "Port"
"""The kind of an engine's fault whose cause is that others use a port."""
MOVES_MAX: Final = 8
"""How often a program is given other ports: if all of those are taken too, that is no coincidence."""
AGAIN_S: Final = 1.0
AGAIN_MAX_S: Final = 30.0
"""The rests before what could not be cleaned up is tried again: each twice the one before."""

_DOING: Final = {
    Effect.ADMIT: "finding room",
    Effect.RECOVER: "looking for the program again",
    Effect.STAGE: "preparing inputs",
    Effect.START: "starting the program",
    Effect.FOLLOW: "keeping the program's output",
    Effect.PUBLISH: "publishing the result",
    Effect.CLEAN_UP: "cleaning up",
}
"""What people are told of the step at which something went wrong."""

_log = structlog.get_logger(__name__)


class Runner:
    """One execution being carried out. `tell` is the only way anything happens to it."""

    def __init__(
        self, shop: Shop, execution: Execution, plan: Plan | None = None, *, restored: bool = False
    ) -> None:
        self.execution = execution
        self._shop = shop
        self._run = execution.run
        self._restored = restored
        self._folder = shop.folder / execution.id
        self._todo: deque[Effect] = deque()
        self._working: Effect | None = None
        self._interrupted = False
        self._task: asyncio.Task[None] | None = None
        self._plan = plan
        self._ready: Ready | None = None
        self._program = Program(self._run, shop, self._folder)
        self._moves = 0

    @property
    def guard(self) -> DiskGuard | None:
        """What watches the disk that the program takes, while it runs."""
        return self._program.guard

    def hold(self) -> None:
        """After a restart: have the room and the ports that its program has, whether there is any or not, and keep what it
        reads, before anyone else is let in.
        """
        execution = self.execution
        if execution.holding or execution.phase in (Phase.STARTING, Phase.RUNNING, Phase.PUBLISHING):
            self._shop.inputs.adopt(
                execution.id, self._run.amounts, execution.gpus, execution.shared.values()
            )
            self._shop.ports.hold(execution.id, execution.ports.values(), static_ports(self._run))

    def begin(self) -> None:
        """Go on from where the execution stands: a new one, or one that a former process began."""
        self._shop.journal.save(self.execution)
        self._shop.logs.expect(self.execution.id)
        self.tell(Restarted()) if self._restored else self._do([Effect.ADMIT])

    def tell(self, event: Event) -> None:
        """Something has happened to it; what follows is done or begun."""
        before = self.execution
        self.execution, effects = advance(before, event, self._shop.clock.now())
        if self.execution is not before:
            if must_be_kept(before, self.execution):
                self._shop.journal.save(self.execution)
            if self.execution.state is not before.state and not self.execution.ended:
                self._shop.reporter.send_later(self._lasting(self.execution))
        self._do(effects)

    def report(self) -> Report:
        """What a requester is told of it just now."""
        return self.execution.report(self._shop.node, self._shop.incarnation)

    def input_spoiled(self, key: Key, why: str) -> None:
        """Something in the cache has turned out to be wrong: if the program was given it, its result does not count."""
        execution = self.execution
        if execution.phase not in (Phase.STARTING, Phase.RUNNING, Phase.PUBLISHING):
            return
        for index, read in execution.shared.items():
            if key_of(read.type, read.identity) == key:
                hint = "It is fetched anew for whoever asks for it."
                said = f"it was spoiled in the node's cache while the program had it: {why}"
                fault = Broken(said, hint=hint, kind="Cached")
                wanted = self._run.task.input_sources[index]
                self.tell(Failed(input_failure(fault, index, wanted, self._shop.node).failure))
                return

    def say_again(self) -> None:
        """Tell how it stands to those who go by another log: they may know nothing of it, or mean another execution by its
        name. An end is said until it is answered in any case."""
        if not self.execution.ended:
            self._shop.reporter.send(self.report())

    def _lasting(self, then: Execution) -> Callable[[], Report | None]:
        """A report if the state is still what it was then; it is written down too: when a program was started, for instance,
        from which its time counts."""

        def lasting() -> Report | None:
            if self.execution.state is not then.state:
                return None
            self._shop.journal.save(self.execution)
            return self.report()

        return lasting

    def _do(self, effects: list[Effect]) -> None:
        shop = self._shop
        for effect in effects:
            if effect in WORK:
                self._todo.append(effect)
            elif effect is Effect.INTERRUPT:
                self._todo.clear()
                self._interrupt()
            elif effect is Effect.RELEASE:
                shop.room.release(self.execution.id)
                if self._run.task.network.ports:
                    shop.ports.release(self.execution.id)
            elif effect is Effect.SEND_REPORT:
                shop.reporter.send(self.report())
            elif effect is Effect.FORGET:
                shop.reporter.forget(self.execution.id)
                shop.forgotten(self.execution.id)
        if self._todo and self._task is None:
            self._task = shop.tasks.create_task(self._live())

    def _interrupt(self) -> None:
        if self._working is not None and self._working is not Effect.START and self._task is not None:
            self._interrupted = True
            self._task.cancel()

    def _failed(self, failure: Failure) -> None:
        self.tell(Failed(failure))

    def _only_interrupted(self) -> bool:
        """Whether the work that is cancelled is interrupted, and the node goes on: it is cancelled twice where both end."""
        return self._interrupted and self._task is not None and self._task.cancelling() == 1

    async def _live(self) -> None:
        while self._todo:
            event = await self._attempt(self._todo.popleft())
            if event is not None:
                self.tell(event)
        self._task = None

    async def _attempt(self, work: Effect) -> Event | None:
        """Do one piece of work; None if it was interrupted, for then what comes next is known already."""
        self._working = work
        try:
            event = await self._perform(work)
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            event = None
        except StepFailed as failed:
            event = Failed(failed.failure, failed.refused, self._shop.version)
        except Exception as error:  # noqa: BLE001 (a driver's bug ends its execution, never the node)
            failure = failure_of(error, self._shop.node, _DOING[work])
            if not isinstance(error, Fault | OSError):
                _log.exception(
                    "a step failed in a way it should not", execution=self.execution.id, step=str(work)
                )
            event = Failed(failure, failure.code.startswith("Invalid"), self._shop.version)
        finally:
            self._working = None
        if self._interrupted:
            self._interrupted = False
            if self._task is not None and self._task.uncancel():
                # Cancelled twice at once: the node ends too.
                raise asyncio.CancelledError
            return None
        return event

    # The steps

    async def _perform(self, work: Effect) -> Event:
        match work:
            case Effect.ADMIT:
                return await self._admit()
            case Effect.RECOVER:
                return await self._recover()
            case Effect.STAGE:
                return await self._stage()
            case Effect.START:
                return await self._start()
            case Effect.FOLLOW:
                return await self._follow()
            case Effect.PUBLISH:
                return await self._publish()
            case Effect.CLEAN_UP:
                return await self._clean_up()
        raise AssertionError(f"{work} is no work")

    async def _admit(self) -> Event:
        gpus = await self._shop.room.take(self.execution.id, self._run.amounts, self._run.priority)
        failpoints.reached("node.admitted")
        return Admitted(list(gpus))

    async def _stage(self) -> Event:
        shop = self._shop
        staging = Staging(
            self._run,
            self._planned(),
            self._folder,
            shop.node,
            shop.room,
            shop.ports,
            shop.inputs,
            shop.clock,
            shop.resolving,
        )
        if self._restored:
            await self._wipe()
        if self._run.task.network.ports:
            shop.ports.reserve(self.execution.id, static_ports(self._run))
        limit_s = self._run.staging_timeout_s or shop.limits.staging_s
        with self._deadline(limit_s, lambda: DeadlinePassed(Phase.STAGING, limit_s, staging.outstanding)):
            self._ready = ready = await staging.stage(self._progress)
        failpoints.reached("node.staged")
        return Staged(ready.inputs, ready.host_ports)

    async def _start(self) -> Event:
        await self._shop.journal.commit()
        plan, ready = self._planned(), self._ready
        assert ready is not None, "staging comes before starting"
        try:
            await self._program.start(plan, ready, self.execution.gpus)
        except Unavailable as fault:
            self._moves += 1
            if fault.kind != PORT or self._moves > MOVES_MAX or static_ports(self._run):
                raise
            self._ready = ready = replace(ready, ports=other_ports(self._run, self._shop.ports))
            return PortTaken(ready.host_ports)
        return Started()

    async def _recover(self) -> Event:
        return Recovered(await self._program.find())

    async def _follow(self) -> Event:
        limit_s = self._run.execution_timeout_s
        with self._deadline(self._left_s(), lambda: DeadlinePassed(Phase.RUNNING, limit_s)):
            ending = await self._program.ended(
                self.execution, self._failed, at_once=self._restored, stopping=self._only_interrupted
            )
        return await self._program.keep_rest(ending)

    async def _publish(self) -> Event:
        results = self._folder / "results"
        return await publish(self.execution, self._planned(), results, self._shop, self._progress("result"))

    async def _clean_up(self) -> Event:
        """Leave nothing behind, however long that takes: an engine that is ill just now is asked again.

        Not before the end is in the journal: a new process must not look for what this one has removed.
        """
        with contextlib.suppress(Fault):
            await self._shop.journal.commit()
        # The report of its end waits for that too, and goes first.
        await asyncio.sleep(0)
        pause_s = AGAIN_S
        while True:
            try:
                await self._program.remove(self.execution)
                await self._wipe()
            except (Fault, OSError) as error:
                _log.warning("cannot clean up yet", execution=self.execution.id, fault=str(error))
            except Exception:  # noqa: BLE001 (as above; and nothing may stay behind)
                _log.exception("cannot clean up yet", execution=self.execution.id)
            else:
                break
            self.tell(CleanUpDelayed())
            await self._shop.clock.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_MAX_S)
        self._shop.inputs.release(self.execution.id)
        self._shop.logs.end(self.execution.id, self._shop.clock.now())
        failpoints.reached("node.cleaned")
        return Cleaned(self._program.last_output())

    # Their parts

    def _planned(self) -> Plan:
        """The drivers and their parameters; read again if this process did not take the order."""
        if self._plan is None:
            self._plan = admission.plan(self._run, self._shop.engines, self._shop.drivers)
        return self._plan

    async def _wipe(self) -> None:
        """Remove the folder. What a container's root left there may not be ours to remove: it is told, and left."""
        if not os.path.exists(self._folder):
            return
        try:
            await self._shop.sweeper.remove(self._folder)
        except Denied as fault:
            _log.error(
                "a folder stays behind", execution=self.execution.id, fault=fault.message, hint=fault.hint
            )

    def _left_s(self) -> float:
        """How much of the program's time is left: it counts from its start, also when that was before a restart."""
        limit_s = self._run.execution_timeout_s
        if not limit_s:
            return 0
        started_at = self.execution.reached_at(ExecutionState.RUNNING)
        passed_s = self._shop.clock.now() - (started_at or self._shop.clock.now())
        return max(limit_s - passed_s, 0.001)

    @contextlib.contextmanager
    def _deadline(self, seconds: float, passed: Callable[[], DeadlinePassed]) -> Iterator[None]:
        """Tell that the phase took too long, if it does; 0 is no limit."""
        if not seconds:
            yield
            return
        alarm = self._shop.alarms.set(seconds, lambda: self.tell(passed()))
        try:
            yield
        finally:
            alarm.cancel()

    def _progress(self, what: str) -> Telling:
        def tell(done_bytes: int, total_bytes: int | None) -> None:
            run = self._run
            state = self.execution.state
            self._shop.progress.note(
                Progress(run.job, run.execution, self._shop.node, state, what, done_bytes, total_bytes)
            )

        return tell
