"""What the S3 source and publisher have in common: the client they make requests with.

Knows: whose client it is, and what is said of it. Must not know: what is fetched or published.
"""

from typing import ClassVar

from protocol.errors import Fault
from protocol.nodes import Offer
from storage.s3.client import S3Client
from storage.s3.params import S3Settings


class S3Driver:
    """Made from settings, or around a client that is shared (and closed by its owner)."""

    type: ClassVar[str] = "s3"

    def __init__(self, settings: S3Settings | None = None, *, client: S3Client | None = None) -> None:
        self._client = client or S3Client(settings)
        self._owned = client is None

    async def close(self) -> None:
        """Let go of all connections."""
        if self._owned:
            await self._client.close()

    async def probe(self) -> Offer:
        """Available, at once, wherever requests can be made, whether or not an account has been found yet."""
        try:
            signed = self._client.has_account()
        except Fault as fault:
            return Offer(self.type, available=False, reason=fault.message, hint=fault.hint)
        return Offer(self.type, version="unsigned" if signed is False else "")
