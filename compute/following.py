"""Follows what one program writes: into its log, and its first bytes for the report.

Knows: when output is read, and what its loss means. Must not know: how the program runs, or what follows from its end.

Output is read as it comes only once `begin` was called: when somebody waits for it, or the program has run for
`FOLLOW_AFTER_S`. What a short program wrote is read at once when it has ended, which costs no task and no connection.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from compute.alarms import Alarms
from compute.engines.contract import Chunk, Running
from compute.faults import StepFailed, failure_of
from compute.logs import OutputLog
from compute.output import Head
from protocol.errors import Failure, Fault
from protocol.ids import ExecutionId, NodeId
from protocol.questions import STDERR

FOLLOW_AFTER_S: Final = 0.5

_log = structlog.get_logger(__name__)


class Following:
    """One program's. The task that reads belongs to `tasks`; `failed` is told if the disk takes no more."""

    def __init__(
        self,
        execution: ExecutionId,
        node: NodeId,
        running: Running,
        log: OutputLog,
        tasks: asyncio.TaskGroup,
        failed: Callable[[Failure], None],
    ) -> None:
        self.head = Head()
        self._execution = execution
        self._node = node
        self._running = running
        self._log = log
        self._tasks = tasks
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._at = 0.0
        self._limit: tuple[asyncio.Timeout, float] | None = None
        """Once the program has ended: when its rest counts as lost, and how long after the last piece that is."""

    def begin(self) -> None:
        """Read from now on. Harmless when repeated."""
        if self._task is None:
            self._task = self._tasks.create_task(self._follow())

    @contextlib.contextmanager
    def when_wanted(self, alarms: Alarms) -> Iterator[None]:
        """While in here, begin when there is a reason to."""
        later = alarms.set(FOLLOW_AFTER_S, self.begin)
        self._log.call_when_wanted(self.begin)
        try:
            yield
        finally:
            later.cancel()
            self._log.call_when_wanted(None)

    async def finish(self, limit_s: float) -> None:
        """After the program's end: read what is left, however long that takes while some of it comes at least every
        `limit_s`. If that stops, the output's last line says so. Raises `StepFailed` when the disk takes no more.
        """
        task, self._task = self._task, None
        try:
            async with asyncio.timeout(limit_s) as limit:
                self._limit = limit, limit_s
                await (self._read() if task is None else task)
        except TimeoutError:
            text = f"\n[nothing came for {limit_s:g} s after the program had ended: the rest of its output is missing]\n"
            with contextlib.suppress(OSError):
                self._take(Chunk(STDERR, self._at, text.encode()))

    async def end(self, limit_s: float) -> None:
        """Read no more, once what is on its way has come or `limit_s` have passed. Harmless when repeated."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            await asyncio.wait([task], timeout=limit_s)
            task.cancel()

    def _take(self, chunk: Chunk) -> None:
        self._log.write(chunk)
        self.head.add(chunk)
        self._at = chunk.at

    async def _follow(self) -> None:
        try:
            await self._read()
        except StepFailed as failed:
            self._failed(failed.failure)

    async def _read(self) -> None:
        """Copy what the program writes; a lost connection costs output, and ends nothing. Raises `StepFailed` when the
        disk takes no more.
        """
        try:
            async for chunk in self._running.output():
                self._take(chunk)
                if self._limit is not None:
                    if self._log.truncated:
                        # Nobody waits any more for its program, and no more is kept.
                        return
                    limit, limit_s = self._limit
                    limit.reschedule(asyncio.get_running_loop().time() + limit_s)
        except OSError as error:
            raise StepFailed(failure_of(error, self._node, "keeping the program's output")) from error
        except Fault as fault:
            _log.warning("output was lost", execution=self._execution, fault=fault.message)
        except Exception:  # noqa: BLE001 (an engine's bug costs its program's output, never the node)
            _log.exception("output was lost in a way it should not", execution=self._execution)
