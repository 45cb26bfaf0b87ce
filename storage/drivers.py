"""The drivers, in one table, and how a process opens those it has.

Knows: every driver's opener. Must not know: what a driver does, or who asks for it. A new driver is one file, one line here
and one test class that inherits the suite.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from storage.contract import Drivers
from storage.inline import BlobReader, open_inline
from storage.local import open_local
from storage.local_publisher import open_local_publisher
from storage.settings import StorageSettings
from storage.url import open_url

Opener = Callable[[StorageSettings], AbstractAsyncContextManager[Drivers]]
"""Opens a driver's clients and servers: what it offers (maybe nothing), until the context ends."""

TABLE: Final[tuple[Opener, ...]] = (open_local, open_url, open_local_publisher)


@asynccontextmanager
async def open_drivers(
    settings: StorageSettings, read_blob: BlobReader | None = None
) -> AsyncIterator[Drivers]:
    """All drivers that `settings` allow, under their types in lower case; closed in the opposite order.

    `read_blob` brings inline data that travelled beside its job; without it such data is `Unavailable`. A driver whose
    server is not there is present all the same: its probe says why it does not work just now.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    openers: tuple[Opener, ...] = (*TABLE, partial(open_inline, read_blob=read_blob))
    drivers = Drivers()
    async with AsyncExitStack() as stack:
        for opener in openers:
            opened = await stack.enter_async_context(opener(settings))
            drivers.sources.update({source.type.lower(): source for source in opened.sources.values()})
            drivers.publishers.update({each.type.lower(): each for each in opened.publishers.values()})
        yield drivers
