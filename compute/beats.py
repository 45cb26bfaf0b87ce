"""Beats out: that the node is alive, what it offers and holds, and the states of what runs here.

Knows: what a beat says, and how often. Must not know: who hears it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Final

from compute.capacity import Ports
from compute.facts import Facts
from compute.inputs import Inputs
from compute.orders import Orders
from protocol import messages, subjects
from protocol.bus import Messages
from protocol.clock import Clock
from protocol.errors import Fault
from protocol.held import HELD_MAX
from protocol.messages import Beat

HELD_AGAIN_S: Final = 15.0
"""How often it is said again which inputs are here, for requesters that came meanwhile."""
PORTS_EVERY_S: Final = 1.0
"""Between two looks at who listens, at least: whoever waits for a port is looked at each time one is let go of."""

Listening = Callable[[], Collection[int]]
"""The ports of this machine on which programs listen."""


def nobody_listens() -> Collection[int]:
    """Of a node that does not look."""
    return ()


class Beats:
    """One node's. `ready` is set once the first was sent; `inputs` are there when the node has opened its cache."""

    def __init__(
        self,
        bus: Messages,
        clock: Clock,
        facts: Facts,
        orders: Orders,
        ports: Ports,
        listening: Listening,
        *,
        incarnation: int,
        every_s: float,
    ) -> None:
        self._ports = ports
        self._listening = listening
        self._in_use: tuple[list[int], int] = ([], 0)
        self._looked_at = -PORTS_EVERY_S
        self.ready = asyncio.Event()
        self.inputs: Inputs | None = None
        self._bus = bus
        self._clock = clock
        self._facts = facts
        self._orders = orders
        self._incarnation = incarnation
        self._every_s = every_s
        self._now = asyncio.Event()
        self._held: dict[str, int] | None = None
        self._held_at = 0.0

    def soon(self) -> None:
        """Something has changed that should be known at once."""
        self._now.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            with contextlib.suppress(Fault):
                await self.beat()
            self.ready.set()
            self._now.clear()
            pause = asyncio.ensure_future(self._clock.sleep(self._every_s))
            early = asyncio.ensure_future(self._now.wait())
            try:
                await asyncio.wait((pause, early), return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
                early.cancel()

    async def beat(self) -> None:
        """Send one. Raises the bus's fault."""
        taken, lost = self._ports_in_use()
        beat = Beat(
            node=self._facts.info,
            incarnation=self._incarnation,
            at=self._clock.now(),
            upto=self._orders.upto,
            leaving=self._orders.leaving,
            executions={name: runner.execution.state for name, runner in self._orders.runners.items()},
            held=self._held_news(),
            ports_taken=taken,
            ports_lost=lost,
        )
        await self._bus.publish(subjects.beats(self._facts.info.id), messages.encode(beat))

    def _ports_in_use(self) -> tuple[list[int], int]:
        now = self._clock.elapsed()
        if now - self._looked_at >= PORTS_EVERY_S:
            self._looked_at = now
            self._in_use = self._ports.in_use(self._listening())
        return self._in_use

    def _held_news(self) -> dict[str, int] | None:
        """Which inputs are here, if that has changed or was not said for a while."""
        held = self.inputs.cache.tokens(HELD_MAX) if self.inputs is not None else {}
        now = self._clock.elapsed()
        if held == self._held and now - self._held_at < HELD_AGAIN_S:
            return None
        self._held, self._held_at = held, now
        return held
