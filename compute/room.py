"""The ledger, for those who wait for their turn.

Knows: futures. Must not know: who is next, or why (`compute.capacity` decides).
"""

import asyncio

from compute.capacity import Ledger
from protocol.ids import ExecutionId
from protocol.jobs import Amounts


class Room:
    """Lets executions in as there is room for them; each waits on its own."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._waiting: dict[ExecutionId, asyncio.Future[tuple[int, ...]]] = {}

    async def take(self, execution: ExecutionId, amounts: Amounts, priority: int) -> tuple[int, ...]:
        """Wait until there is room, and hold it; returns the GPU devices given."""
        self.ledger.ask(execution, amounts, priority)
        self.admit()
        held = self.ledger.held.get(execution)
        if held is not None:
            return held.gpus
        turn: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._waiting[execution] = turn
        try:
            return await turn
        finally:
            self._waiting.pop(execution, None)

    def release(self, execution: ExecutionId) -> None:
        """Give back, or stop waiting; others may come in."""
        self.ledger.release(execution)
        self.admit()

    def admit(self) -> None:
        """Let in those who have room now."""
        for execution, gpus in self.ledger.admit():
            turn = self._waiting.get(execution)
            if turn is not None and not turn.done():
                turn.set_result(gpus)
