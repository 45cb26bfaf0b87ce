"""The S3 drivers as a process opens them.

Knows: which of the process's storage settings concern S3. Must not know: what the drivers do.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from storage.contract import Drivers
from storage.s3.client import S3Client
from storage.s3.params import S3Settings
from storage.s3.publisher import S3Publisher
from storage.s3.source import S3Source
from storage.settings import StorageSettings


@asynccontextmanager
async def open_s3(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """Source and publisher around one client, closed at the end. Nothing is connected or imported before it is needed."""
    client = S3Client(
        S3Settings(
            connect_s=settings.connect_s,
            silence_s=settings.silence_s,
            tries=settings.attempts,
            objects=settings.max_entries,
            max_bytes=settings.max_bytes,
            denied_networks=settings.denied_networks,
        )
    )
    async with client:
        yield Drivers(sources={"s3": S3Source(client=client)}, publishers={"s3": S3Publisher(client=client)})
