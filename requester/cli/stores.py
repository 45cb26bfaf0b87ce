"""The drivers that a person's own client reads results with.

Knows: which settings a client has, and how a result's params are read. Must not know: what is done with a result.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from protocol.errors import Invalid
from protocol.jobs import Spec
from requester.cli.swarm import Swarm, Way, reached
from storage.contract import Drivers, Resolved, Share
from storage.tree import Entry, Kind

LINKED: Final = "s3presigned"


class Stored(Struct, frozen=True):
    """A result in a store that was looked at: the driver that reads it, its params, and what `resolve` found."""

    driver: Any
    params: Any
    resolved: Resolved


@asynccontextmanager
async def opened_stores(
    types: Sequence[str], scratch: Path, swarm: Swarm, renew: Any = None
) -> AsyncIterator[Drivers]:
    """The drivers for results of these `types`; a Kubo is sought, or started, only if one needs it. `renew` is whom to ask
    for newer links, if there is anybody (`storage.s3.presigned.Renew`)."""
    from stamina.instrumentation import set_on_retry_hooks

    from storage.addresses import OWN_NETWORKS, read_policy
    from storage.drivers import open_drivers
    from storage.s3 import S3Settings
    from storage.s3.presigned import PreSignedSource
    from storage.settings import StorageSettings

    # What is tried again is for a node's owner; a log that nobody has set up would print it among what a command prints.
    set_on_retry_hooks(())
    async with AsyncExitStack() as stack:
        way = Way()
        if any(each.lower() == "ipfs" for each in types):
            way = await stack.enter_async_context(reached(swarm, scratch / "kubo"))
        settings = StorageSettings(
            scratch / "drivers",
            ipfs_connect=way.kubo,
            ipfs_gateways=way.gateways,
            connect_s=5.0,
            attempts=3,
            addresses=read_policy(OWN_NETWORKS),
            # What nodes keep is of the same network as the requester, which is called directly.
            url_proxies=False,
        )
        drivers = await stack.enter_async_context(open_drivers(settings))
        links = PreSignedSource(S3Settings(addresses=settings.addresses), renew)
        drivers.sources[LINKED] = await stack.enter_async_context(aclosing(links))
        yield drivers


async def looked_at(drivers: Drivers, spec: Spec) -> Stored:
    """What a result consists of now. Raises a driver's faults, `Invalid` for a type that nobody reads."""
    from storage.params import read_params

    driver = drivers.sources.get(spec.type.lower())
    if driver is None:
        known = ", ".join(sorted(drivers.sources))
        raise Invalid(f"there is no way to download the type {spec.type!r}; those that can be are {known}")
    # An account of the nodes' is none of the person's, whatever profile of that name there is here.
    given = {name: value for name, value in spec.params.items() if name.lower() != "profile"}
    params = read_params(given, driver.params, f"result {spec.type}")
    return Stored(driver, params, await driver.resolve(params, Share()))


def entries_of(spec: Spec, scratch: Path, swarm: Swarm) -> list[Entry]:
    """All that is in a result, without the bytes. Raises as `looked_at`."""

    async def look() -> list[Entry]:
        async with opened_stores([spec.type], scratch, swarm) as drivers:
            stored = await looked_at(drivers, spec)
            found: list[Entry] = await stored.driver.entries(stored.params, stored.resolved)
            return found

    return asyncio.run(look())


def shown_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Files, links, and the folders that hold nothing: what people want listed, in the order of a walk."""
    above = {each.path.rpartition("/")[0] for each in entries}
    shown = [each for each in entries if each.kind is not Kind.FOLDER or each.path not in above]
    return sorted(shown, key=lambda each: each.path.split("/"))
