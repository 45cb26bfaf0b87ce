"""What the IPFS source and publisher have in common: the Kubo node they speak to.

Knows: whose connection it is, and what is said of the node. Must not know: what is fetched or published.
"""

from typing import ClassVar

from protocol.errors import Fault
from protocol.nodes import Offer
from storage.ipfs.kubo import Kubo
from storage.ipfs.params import IpfsSettings


class IpfsDriver:
    """Made from an endpoint, or around a `Kubo` that is shared (and closed by its owner)."""

    type: ClassVar[str] = "ipfs"

    def __init__(self, kubo: str | Kubo, settings: IpfsSettings | None = None) -> None:
        """Raises `Invalid` if the endpoint is neither a multiaddress nor an http URL."""
        self._kubo = Kubo(kubo, settings) if isinstance(kubo, str) else kubo
        self._owned = isinstance(kubo, str)

    async def close(self) -> None:
        """Let go of all connections."""
        if self._owned:
            await self._kubo.close()

    async def probe(self) -> Offer:
        """Available if the node answers and is the one that was meant."""
        try:
            return Offer(self.type, version=f"kubo {await self._kubo.probe()}")
        except Fault as fault:
            return Offer(self.type, available=False, reason=fault.message, hint=fault.hint)
        except TimeoutError:
            return Offer(
                self.type, available=False, reason=f"Kubo at {self._kubo.endpoint.url} does not answer"
            )
