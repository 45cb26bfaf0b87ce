"""Whether the node has an account: what the AWS chain says, asked once, and again beside the work.

Knows: that an answer may take seconds where a cloud's metadata service is not there, and that only the first transfer has to
wait for one. Must not know: where the chain looks, or what for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

AGAIN_S: Final = 30.0
"""An account that was not there is not looked for again for so long: it may be given to a machine that runs."""


class Account:
    """The chain's answer. `look` asks the chain; what it raises is what every caller gets until it answers."""

    def __init__(self, look: Callable[[], Awaitable[bool]]) -> None:
        self._look = look
        self._there: bool | None = None
        self._lookup: asyncio.Task[None] | None = None
        self._again_at = 0.0

    async def there(self) -> bool:
        """Whether there is one, by the last answer; only where there was none yet it is waited for."""
        if self._there is None:
            running = self._lookup
            await asyncio.shield(self._begun() if running is None or running.done() else running)
        return bool(self._there)

    def known(self) -> bool | None:
        """The last answer, at once; None before the first. Begins to look where it is time to."""
        last = self._lookup
        if last is not None and not last.done():
            return self._there
        if not self._there and asyncio.get_running_loop().time() >= self._again_at:
            self._lookup = self._begun()
        if last is not None and not last.cancelled():
            last.result()
        return self._there

    async def close(self) -> None:
        """End what is being looked for."""
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait([self._lookup])

    def _begun(self) -> asyncio.Task[None]:
        self._again_at = asyncio.get_running_loop().time() + AGAIN_S
        self._lookup = asyncio.create_task(self._ask())
        # Its fault is told to whoever asks; nobody may.
        self._lookup.add_done_callback(lambda lookup: lookup.cancelled() or lookup.exception())
        return self._lookup

    async def _ask(self) -> None:
        self._there = await self._look()
