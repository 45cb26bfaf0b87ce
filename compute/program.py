"""The program of one execution, at its engine: started, found again, followed to its end, removed.

Knows: the engine's contract, and what is watched while a program runs: its output and the disk that it takes. Must not know:
the other steps of an execution (`compute.runner`), or what follows from the program's end.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import structlog

from compute.admission import Plan
from compute.disk_guard import DiskGuard
from compute.engines.contract import Engine, Exit, Running
from compute.engines.contract import Run as EngineRun
from compute.environment import environment
from compute.events import ProgramEnded
from compute.execution import Execution
from compute.following import Following
from compute.shop import Shop
from compute.staging import Ready
from protocol import failpoints
from protocol.clock import Clock
from protocol.errors import Failure, TimedOut, Unavailable
from protocol.messages import Run, RunOutput
from protocol.nodes import Gpu

START_S: Final = 120.0
"""An engine that has not started a prepared program by then is ill."""
REST_S: Final = 10.0
"""How long nothing may come of the rest of the output, once the program has ended."""
REST_AFTER_STOP_S: Final = 1.0
"""How long that rest may take in all, of a program that was stopped."""
AGAIN_S: Final = 1.0
"""The rest before an engine that does not answer is asked again."""

_log = structlog.get_logger(__name__)


class Program:
    """One execution's. `guard` is there while the program runs."""

    def __init__(self, run: Run, shop: Shop, folder: Path) -> None:
        self.guard: DiskGuard | None = None
        self._run = run
        self._shop = shop
        self._folder = folder
        self._running: Running | None = None
        self._following: Following | None = None

    async def start(self, plan: Plan, ready: Ready, gpus: list[int]) -> None:
        """Start it with the inputs and ports that are `ready`. Raises `TimedOut`, and what the engine raises."""
        run = EngineRun(
            execution=self._run.execution,
            job=self._run.job,
            node=self._shop.node,
            params=plan.engine_params,
            folder=self._folder / "engine",
            env=environment(self._run, self._shop.policy, self._shop.host, ready.ports),
            mounts=ready.mounts,
            amounts=self._run.amounts,
            network=self._run.task.network,
            gpus=[self._device(index) for index in gpus],
            ports=ready.ports,
        )
        failpoints.reached("node.start.begun")
        try:
            with self._shop.starting.once():
                self._running = await plan.engine.start(run)
        except TimeoutError as error:
            raise TimedOut(
                f"the engine did not start the program within {START_S:g} s", kind="Start"
            ) from error
        failpoints.reached("node.start.done")

    def _device(self, index: int) -> Gpu:
        gpu = self._shop.gpus.get(index)
        if gpu is None:
            raise Unavailable(
                f"GPU {index} is not on this node any more", hint="Look for it with its tool.", kind="Gpu"
            )
        return gpu

    async def find(self) -> bool:
        """After a restart: whether the engine has the program still. Raises `Unavailable` if it does not say so in time."""
        engine = self._engine()
        if engine is None:
            return False
        clock = self._shop.clock
        until = clock.elapsed() + self._shop.limits.recovering_s
        while True:
            try:
                self._running = await engine.recover(self._run.execution)
            except Unavailable as fault:
                # One try may take an engine that does not answer all of the time.
                if clock.elapsed() >= until:
                    raise
                _log.warning(
                    "the engine does not answer yet", execution=self._run.execution, fault=fault.message
                )
                await clock.sleep(AGAIN_S)
            else:
                return self._running is not None

    async def ended(
        self,
        execution: Execution,
        failed: Callable[[Failure], None],
        *,
        at_once: bool,
        stopping: Callable[[], bool],
    ) -> Exit:
        """Wait for its end. `failed` is told when it takes more of the disk than it may, or its output cannot be kept.

        Its output is read `at_once`, or when somebody wants it. If this wait is cancelled because the program is `stopping`,
        it is read from then on, so that the last words are kept.
        """
        assert self._running is not None, "only what was started is followed"
        shop, running = self._shop, self._running
        log = shop.logs.open(execution.id)
        following = Following(execution.id, shop.node, running, log, shop.tasks, failed)
        self._following = following
        if at_once:
            following.begin()
        limit_bytes = self._run.amounts.disk_bytes
        self.guard = DiskGuard(
            self._folder, limit_bytes, execution.shared.values(), shop.inputs, running, log
        )
        with self._guarded(self.guard, failed), following.when_wanted(shop.alarms):
            try:
                return await running.wait()
            except asyncio.CancelledError:
                if stopping():
                    following.begin()
                raise

    async def keep_rest(self, ending: Exit) -> ProgramEnded:
        """After its end: keep the rest of its output, and look once more at the disk that it took. Raises `StepFailed`."""
        guard, self.guard = self.guard, None
        assert guard is not None, "only what was followed has a rest"
        assert self._following is not None
        await self._following.finish(REST_S)
        self._shop.logs.of(self._run.execution).flush()
        failure = ending.failure
        if failure is None and (excess := await guard.excess(layer=False)) is not None:
            failure = excess.failure()
        failpoints.reached("node.program.ended")
        message = failure.message if failure is not None else ""
        return ProgramEnded(self._following.head.output(ending.code, message), failure)

    async def remove(self, execution: Execution) -> None:
        """Stop it if it has not ended, and leave nothing of it at the engine. Harmless when repeated."""
        if self._running is None and execution.starts:
            engine = self._engine()
            self._running = await engine.recover(execution.id) if engine is not None else None
        self.guard = None
        if self._running is not None:
            if execution.holding:
                await self._running.stop(self._shop.limits.stop_grace_s)
            if self._following is not None:
                await self._following.end(REST_AFTER_STOP_S)
            await self._running.remove()
            self._running = None

    def last_output(self) -> RunOutput | None:
        """The first bytes that it wrote, if it wrote any; asked once, at the very end."""
        # Let go of by hand: the two know each other, and only the collector would free what an execution holds.
        following, self._following = self._following, None
        head = following.head if following is not None else None
        return head.output(0, "") if head is not None and head.anything else None

    def _engine(self) -> Engine[Any] | None:
        return self._shop.engines.get(self._run.task.engine.type.lower())

    @contextlib.contextmanager
    def _guarded(self, guard: DiskGuard, failed: Callable[[Failure], None]) -> Iterator[None]:
        """While in here, `failed` is told when the program takes more disk than its task may."""
        if not self._run.amounts.disk_bytes:
            yield
            return
        watching = self._shop.tasks.create_task(_watch(guard, self._shop.clock, failed))
        try:
            yield
        finally:
            watching.cancel()


async def _watch(guard: DiskGuard, clock: Clock, failed: Callable[[Failure], None]) -> None:
    failed((await guard.watch(clock)).failure())
