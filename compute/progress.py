"""What executions are busy with, told to whoever watches, a few times a second.

Knows: the newest progress of each execution and how often it is told. Must not know: what is being done. Nothing is stored:
progress that nobody hears is lost.
"""

import asyncio
from typing import Final

from protocol import messages, subjects
from protocol.bus import Messages
from protocol.clock import Clock
from protocol.errors import Fault
from protocol.ids import ExecutionId, NodeId
from protocol.messages import Progress

TELL_EVERY_S: Final = 0.2


class ProgressBoard:
    """The newest progress of each execution's parts; `note` is cheap to call often."""

    def __init__(self, node: NodeId, bus: Messages, clock: Clock) -> None:
        self._subject = subjects.progress(node)
        self._bus = bus
        self._clock = clock
        self._newest: dict[tuple[ExecutionId, str], Progress] = {}
        self._news = asyncio.Event()

    def note(self, progress: Progress) -> None:
        """Replace what was known about this part of the execution; it is told within `TELL_EVERY_S`."""
        self._newest[progress.execution, progress.what] = progress
        self._news.set()

    async def tell(self) -> None:
        """Publish what is noted, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            newest, self._newest = self._newest, {}
            for progress in newest.values():
                try:
                    await self._bus.publish(self._subject, messages.encode(progress))
                except Fault:
                    break
            await self._clock.sleep(TELL_EVERY_S)
