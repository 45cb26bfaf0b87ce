"""Sends commands to nodes, many at once, and hears whether they were taken.

Knows: how a command travels and what a node may answer. Must not know: why anything is ordered. A command that is lost, or
finds too many on their way, is not tried again here: the node's next beat shows what it lacks (`repair`).

What is ordered of one node in the same turn of the event loop (all that one commit brought) travels in one message. A node
of a version that does not know that form takes none of it, and gets each alone.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from protocol import failpoints, subjects
from protocol.batches import TOGETHER_MAX, batched
from protocol.bus import Bus
from protocol.clock import Clock
from protocol.entries import Reported
from protocol.errors import DONE_WITH, Failure, Fault
from protocol.ids import ExecutionId, JobKey, NodeId, key_of
from protocol.messages import (
    Cancel,
    Command,
    CommandAnswer,
    CommandBatch,
    FullList,
    KeptOut,
    Replaced,
    Report,
    Run,
    decode,
    encode,
)
from protocol.states import ExecutionState
from requester.core.commands import run
from requester.core.giving_up import done_with
from requester.jobs import Jobs
from requester.live import Input, Live

_log = structlog.get_logger(__name__)

_TOLD_MAX: Final = 1_000
"""Refusals remembered, so that each is told once."""


class _Order(Struct, frozen=True):
    """A command, and who wants to know that its node has it."""

    command: Command
    told: Callable[[], None] | None


class Dispatch:
    """Commands on their way: at most `at_once`, each given `timeout_s` to be answered.

    `put` brings what a refused order comes to back to whoever decides; `log_created` names the log that is followed.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        *,
        jobs: Jobs,
        put: Callable[[Live, Input], None],
        log_created: Callable[[], str],
        at_once: int,
        timeout_s: float,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._jobs = jobs
        self._put = put
        self._log_created = log_created
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._tasks: asyncio.TaskGroup | None = None
        self._refused: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._gathered: dict[NodeId, list[_Order]] = {}
        self._on_their_way = 0
        self.sent = 0
        self.repeated = 0

    async def run(self) -> None:
        """Own the tasks that carry commands, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.Event().wait()

    def tell(self, node: NodeId, command: Command, told: Callable[[], None] | None = None) -> None:
        """Send a command; `told` is called once the node has it."""
        if self._tasks is None or self._on_their_way >= self._at_once:
            return
        if isinstance(command, Run | Cancel) and command.execution in self._jobs.told_at:
            self._jobs.told_at[command.execution] = self._clock.elapsed()
        self._on_their_way += 1
        self.sent += 1
        gathered = self._gathered.get(node)
        if gathered is None or len(gathered) == TOGETHER_MAX:
            gathered = self._gathered[node] = []
            self._tasks.create_task(self._send(node, gathered))
        gathered.append(_Order(command, told))

    def repeat(self, key: JobKey, execution: ExecutionId) -> None:
        """Order again to run an execution that its node does not name."""
        live = self._jobs.open.get(key)
        record = live.record if live is not None else None
        known = record.executions.get(execution) if record is not None else None
        if record is not None and known is not None and known.open:
            self.repeated += 1
            self.tell(known.node, run(record, known))

    async def _send(self, node: NodeId, gathered: list[_Order]) -> None:
        """Send what has gathered for a node since this was begun."""
        if self._gathered.get(node) is gathered:
            del self._gathered[node]
        try:
            batches = batched(gathered, _encoded)
            if len(batches) == 1:
                await self._carry(node, *batches[0])
            else:
                await asyncio.gather(*(self._carry(node, orders, data) for orders, data in batches))
        finally:
            self._on_their_way -= len(gathered)

    async def _carry(self, node: NodeId, orders: Sequence[_Order], data: bytes) -> None:
        """Bring some commands to a node in one message, or each alone where it knows no such form."""
        failpoints.reached("requester.command.begun")
        try:
            answer = decode(
                await self._bus.request(subjects.commands(node), data, timeout_s=self._timeout_s),
                CommandAnswer,
            )
        except Fault as fault:
            _log.debug("a command did not arrive", node=node, reason=fault.message)
            return
        failpoints.reached("requester.command.answered")
        if len(orders) > 1 and not answer.taken and len(answer.each) != len(orders):
            await asyncio.gather(*(self._carry(node, [each], encode(each.command)) for each in orders))
            return
        each = answer.each if len(answer.each) == len(orders) else [answer] * len(orders)
        for order, answered in zip(orders, each, strict=True):
            if not answered.taken:
                self._not_taken(node, order.command, answered.failure)
            elif order.told is not None:
                order.told()

    def _not_taken(self, node: NodeId, order: Command, failure: Failure | None) -> None:
        """A node can never take an order, or is done with it; what may pass is ordered again after the node's next beat.

        That it is done may be news of an end that is not folded here yet: then the log does not take what is put here. And a
        node goes by another log's names until it has been told of this one: then it takes the order later.
        """
        reason = failure.message if failure is not None else "no reason given"
        # A list is sent again with each beat, and its node says once why it does not take it. A process of a version that
        # does not know that it can be replaced, or kept out, cannot be told.
        if not isinstance(order, FullList | Replaced | KeptOut) and self._is_news(
            node, order.execution, reason
        ):
            name = type(order).__name__
            _log.warning("a node did not take a command", node=node, order=name, reason=reason)
        key = key_of(order.job) if isinstance(order, Run) else None
        live = self._jobs.open.get(key) if key is not None else None
        if live is None or failure is None or not isinstance(order, Run):
            return
        if failure.code == DONE_WITH and failure.details.get("log") == self._log_created():
            if not live.undecided:
                lost = done_with(order.execution, node)
                self._put(live, Input(lambda _: lost, lambda _: None))
            return
        if failure.retryable:
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

    def _is_news(self, *refusal: str) -> bool:
        """Whether a refusal was not told lately: a requester that cannot read the log repeats an order with each beat."""
        news = refusal not in self._refused
        self._refused[refusal] = None
        self._refused.move_to_end(refusal)
        if len(self._refused) > _TOLD_MAX:
            self._refused.popitem(last=False)
        return news


def _encoded(orders: Sequence[_Order]) -> bytes:
    return encode(orders[0].command if len(orders) == 1 else CommandBatch([each.command for each in orders]))
