"""One fetch that many wait for.

Knows: who waits, and how each is told. Must not know: what is fetched.
"""

import asyncio

from storage.contract import Progress


class Flight:
    """A fetch that is under way, and those who wait for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Future[bool], Progress] = {}
        self._last: tuple[int, int | None] | None = None

    @property
    def deserted(self) -> bool:
        """Whether nobody waits for it while it flies."""
        return not self._waiting and self.task is not None and not self.task.done()

    async def join(self, progress: Progress) -> bool:
        """Wait for it, told of its progress so far and from now on; returns whether nothing had to be fetched."""
        mine: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[mine] = progress
        try:
            if self._last is not None:
                progress(*self._last)
            return await mine
        finally:
            self._waiting.pop(mine, None)

    def told(self, done_bytes: int, total_bytes: int | None) -> None:
        """Tell all; one that raises, because its own limit is reached, waits no more."""
        self._last = (done_bytes, total_bytes)
        for mine, progress in list(self._waiting.items()):
            try:
                progress(done_bytes, total_bytes)
            except Exception as error:  # noqa: BLE001 (it is raised where it belongs)
                if not mine.done():
                    mine.set_exception(error)

    def landed(self, cached: bool) -> None:
        """It is here."""
        for mine in self._waiting:
            if not mine.done():
                mine.set_result(cached)

    def failed(self, error: BaseException) -> None:
        """It will not come."""
        for mine in self._waiting:
            if not mine.done():
                mine.cancel() if isinstance(error, asyncio.CancelledError) else mine.set_exception(error)

    async def end(self) -> None:
        """End it; nothing of it is left afterwards."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])
