"""A node that only takes data that it has already (Bacalhau's ``Locality: local``).

Knows: how a source is asked whether it must fetch. Must not know: any driver. Bacalhau (`HasStorageLocally`) asks Kubo for
the root alone, and calls S3 and URLs never local; here all blocks count, or the job would fetch all the same.
"""

from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from msgspec.structs import replace

from protocol.errors import Denied
from protocol.nodes import Offer
from storage.contract import Drivers, Fetched, Form, Progress, Resolved, Share, Source

KIND: Final = "Locality"


@runtime_checkable
class Holding(Protocol):
    """A source that may have what it brings on this machine already."""

    async def is_here(self, params: Any) -> bool:
        """Whether all of it is here, without asking the network. Raises as `Source.resolve`, not for what is missing."""


class HereOnly:
    """A source that refuses what would have to be fetched; else as the one that it is made of."""

    type: ClassVar[str]
    params: ClassVar[Form]

    def __init__(self, source: Source[Any]) -> None:
        self._source = source
        self.type = source.type  # type: ignore[misc]
        self.params = source.params  # type: ignore[misc]

    async def probe(self) -> Offer:
        """As the source says."""
        return await self._source.probe()

    async def resolve(self, params: Any, share: Share) -> Resolved:
        """As the source, but `Denied` of kind ``Locality`` for what is not here."""
        if not (isinstance(self._source, Holding) and await self._source.is_here(params)):
            hint = "Its owner has set JobAdmissionControl.Locality to local; use a node that has the data."
            raise Denied("this node takes only data that it has already", hint=hint, kind=KIND)
        return await self._source.resolve(params, share)

    async def fetch(self, params: Any, resolved: Resolved, into: Path, progress: Progress) -> Fetched:
        """As the source."""
        return await self._source.fetch(params, resolved, into, progress)


def here_only(drivers: Drivers) -> Drivers:
    """The same drivers, whose sources bring nothing from elsewhere."""
    return replace(drivers, sources={name: HereOnly(source) for name, source in drivers.sources.items()})
