"""The drivers, in one table, and how a process opens those it has.

Knows: every driver's opener. Must not know: what a driver does, or who asks for it. A new driver is one file, one line here
and one test class that inherits the suite.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from msgspec.structs import replace

from protocol.nodes import Offer
from storage.contract import Drivers
from storage.inline import BlobReader, open_inline
from storage.ipfs import GatewaySource, IpfsPublisher, IpfsSettings, IpfsSource, Kubo
from storage.local import open_local
from storage.local_publisher import open_local_publisher
from storage.locality import here_only
from storage.s3 import S3Client, S3Publisher, S3Settings, S3Source
from storage.s3.managed import Grants, ManagedPublisher
from storage.settings import StorageSettings
from storage.url import open_url

Opener = Callable[[StorageSettings], AbstractAsyncContextManager[Drivers]]
"""Opens a driver's clients and servers: what it offers (maybe nothing), until the context ends."""


_NO_KUBO: Final = Offer(
    "ipfs",
    available=False,
    reason="this node was told of no Kubo",
    hint="Start it with --ipfs-connect ADDRESS, or set InputSources.Types.IPFS.Endpoint.",
)
_NO_IPFS: Final = replace(
    _NO_KUBO,
    reason="this node was told of no Kubo and of no gateways",
    hint=f"{_NO_KUBO.hint.removesuffix('.')}; or name gateways: InputSources.Types.IPFS.Gateways.",
)


@asynccontextmanager
async def open_s3(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """S3's source and publisher around one client. Credentials are looked for when they are first needed."""
    client = S3Client(
        S3Settings(
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            profile=settings.s3_profile,
            profiles=settings.s3_profiles,
            requester_pays=settings.s3_requester_pays,
            addressing=settings.s3_addressing,
            connect_s=settings.connect_s,
            silence_s=settings.silence_s,
            objects=settings.max_entries,
            max_bytes=settings.max_bytes,
            addresses=settings.addresses,
            etags_are_md5=settings.s3_etags_are_md5,
        )
    )
    try:
        yield Drivers({"s3": S3Source(client=client)}, {"s3": S3Publisher(client=client)})
    finally:
        await client.close()


@asynccontextmanager
async def open_managed(settings: StorageSettings, grants: Grants | None) -> AsyncIterator[Drivers]:
    """The publisher to a requester's own bucket, if leave can be asked for."""
    if grants is None:
        yield Drivers()
        return
    publisher = ManagedPublisher(
        grants, S3Settings(connect_s=settings.connect_s, silence_s=settings.silence_s)
    )
    try:
        yield Drivers(publishers={"s3managed": publisher})
    finally:
        await publisher.close()


@asynccontextmanager
async def open_ipfs(settings: StorageSettings) -> AsyncIterator[Drivers]:
    """IPFS's source and publisher around one Kubo node, or the source alone through gateways; nothing if none is named.

    Raises `Invalid` for an address.
    """
    limits = IpfsSettings(
        connect_s=settings.connect_s,
        silence_s=settings.silence_s,
        entries=settings.max_entries,
        max_bytes=settings.max_bytes,
    )
    if not settings.ipfs_connect:
        async with open_gateways(settings.ipfs_gateways, limits) as drivers:
            yield drivers
        return
    kubo = Kubo(settings.ipfs_connect, limits)
    try:
        yield Drivers({"ipfs": IpfsSource(kubo)}, {"ipfs": IpfsPublisher(kubo)})
    finally:
        await kubo.close()


@asynccontextmanager
async def open_gateways(gateways: Sequence[str], limits: IpfsSettings) -> AsyncIterator[Drivers]:
    """IPFS's source through trustless gateways; nothing if none is named."""
    if not gateways:
        yield Drivers(absent_sources={"ipfs": _NO_IPFS}, absent_publishers={"ipfs": _NO_KUBO})
        return
    source = GatewaySource(gateways, limits)
    try:
        yield Drivers({"ipfs": source}, absent_publishers={"ipfs": _NO_KUBO})
    finally:
        await source.close()


TABLE: Final[tuple[Opener, ...]] = (open_local, open_url, open_local_publisher, open_s3, open_ipfs)


@asynccontextmanager
async def open_drivers(
    settings: StorageSettings, read_blob: BlobReader | None = None, grants: Grants | None = None
) -> AsyncIterator[Drivers]:
    """All drivers that `settings` allow, under their types in lower case; closed in the opposite order.

    `read_blob` brings inline data that travelled beside its job; without it such data is `Unavailable`. `grants` gives leave
    to upload to a requester's bucket; without it there is no `s3managed`. A driver whose server is not there is
    present all the same: its probe says why it does not work just now.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    openers: tuple[Opener, ...] = (
        *TABLE,
        partial(open_inline, read_blob=read_blob),
        partial(open_managed, grants=grants),
    )
    drivers = Drivers()
    async with AsyncExitStack() as stack:
        for opener in openers:
            opened = await stack.enter_async_context(opener(settings))
            drivers.sources.update({source.type.lower(): source for source in opened.sources.values()})
            drivers.publishers.update({each.type.lower(): each for each in opened.publishers.values()})
            drivers.absent_sources.update(opened.absent_sources)
            drivers.absent_publishers.update(opened.absent_publishers)
        yield here_only(drivers) if settings.local_only else drivers
