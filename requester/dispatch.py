"""Sends commands to nodes, many at once, and hears whether they were taken.

Knows: how a command travels and what a node may answer. Must not know: why anything is ordered. A command that is lost, or
finds too many on their way, is not tried again here: the node's next beat shows what it lacks (`repair`).
"""

import asyncio
from collections.abc import Callable

import structlog

from protocol import failpoints, subjects
from protocol.bus import Bus
from protocol.clock import Clock
from protocol.entries import Reported
from protocol.errors import Failure, Fault
from protocol.ids import ExecutionId, JobKey, NodeId, key_of
from protocol.messages import Cancel, CommandAnswer, FullList, Report, Run, decode, encode
from protocol.states import ExecutionState
from requester.core.commands import run
from requester.live import Input, Jobs, Live

_log = structlog.get_logger(__name__)

Order = Run | Cancel | FullList


class Dispatch:
    """Commands on their way: at most `at_once`, each given `timeout_s` to be answered.

    `put` brings what a refused order comes to back to whoever decides.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        *,
        jobs: Jobs,
        put: Callable[[Live, Input], None],
        at_once: int,
        timeout_s: float,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._jobs = jobs
        self._put = put
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._tasks: asyncio.TaskGroup | None = None
        self._on_their_way = 0
        self.sent = 0
        self.repeated = 0

    async def run(self) -> None:
        """Own the tasks that carry commands, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.Event().wait()

    def tell(self, node: NodeId, order: Order, told: Callable[[], None] | None = None) -> None:
        """Send a command; `told` is called once the node has it."""
        if self._tasks is None or self._on_their_way >= self._at_once:
            return
        if not isinstance(order, FullList) and order.execution in self._jobs.told_at:
            self._jobs.told_at[order.execution] = self._clock.elapsed()
        self._on_their_way += 1
        self.sent += 1
        self._tasks.create_task(self._carry(node, order, told))

    def repeat(self, key: JobKey, execution: ExecutionId) -> None:
        """Order again to run an execution that its node does not name."""
        live = self._jobs.open.get(key)
        record = live.record if live is not None else None
        known = record.executions.get(execution) if record is not None else None
        if record is not None and known is not None and known.open:
            self.repeated += 1
            self.tell(known.node, run(record, known))

    async def _carry(self, node: NodeId, order: Order, told: Callable[[], None] | None) -> None:
        failpoints.reached("requester.command.begun")
        try:
            data = await self._bus.request(subjects.commands(node), encode(order), timeout_s=self._timeout_s)
            answer = decode(data, CommandAnswer)
        except Fault as fault:
            _log.debug("a command did not arrive", node=node, reason=fault.message)
            return
        finally:
            self._on_their_way -= 1
        failpoints.reached("requester.command.answered")
        if not answer.taken:
            self._not_taken(node, order, answer.failure)
        elif told is not None:
            told()

    def _not_taken(self, node: NodeId, order: Order, failure: Failure | None) -> None:
        """A node that can never take an order has refused it; what may pass is ordered again after its next beat."""
        reason = failure.message if failure is not None else "no reason given"
        _log.warning("a node did not take a command", node=node, order=type(order).__name__, reason=reason)
        key = key_of(order.job) if isinstance(order, Run) else None
        live = self._jobs.open.get(key) if key is not None else None
        if live is None or failure is None or failure.retryable or not isinstance(order, Run):
            return
        report = Report(
            node=node,
            incarnation=0,
            seq=order.seq,
            job=order.job,
            version=order.version,
            execution=order.execution,
            state=ExecutionState.REFUSED,
            failure=failure,
        )
        self._put(live, Input(lambda _: Reported(report), lambda _: None))
