"""The IPFS drivers as a process opens them.

Knows: which of the process's storage settings concern IPFS. Must not know: what the drivers do.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from storage.contract import Drivers
from storage.ipfs.kubo import Kubo
from storage.ipfs.params import IpfsSettings
from storage.ipfs.publisher import IpfsPublisher
from storage.ipfs.source import IpfsSource
from storage.settings import StorageSettings


@asynccontextmanager
async def open_ipfs(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """Source and publisher around one Kubo node, closed at the end; none where the process was told of no node.

    A node that is not running makes no difference here: the drivers' probes say so. Raises `Invalid` for an endpoint that
    cannot be understood.
    """
    if not settings.ipfs_connect:
        yield Drivers()
        return
    limits = IpfsSettings(
        connect_s=settings.connect_s,
        silence_s=settings.silence_s,
        entries=settings.max_entries,
        max_bytes=settings.max_bytes,
    )
    async with Kubo(settings.ipfs_connect, limits) as kubo:
        yield Drivers(sources={"ipfs": IpfsSource(kubo)}, publishers={"ipfs": IpfsPublisher(kubo)})
