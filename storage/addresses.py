"""Where a URL may not lead: networks that a node does not let its jobs reach by way of a download.

Knows: addresses in all their spellings. Must not know: what is downloaded. A name is checked by what it resolves to, and the
connection goes to the checked address, so an answer that changes between the two gains nothing.
"""

import ipaddress
import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from protocol.errors import Denied, Invalid

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_networks(texts: Sequence[str]) -> list[Network]:
    """Read ``10.0.0.0/8`` and the like. Raises `Invalid`."""
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise Invalid(
            f"a denied network cannot be read: {error}", hint="Write it like 10.0.0.0/8."
        ) from error


def check_address(host: str, address: str, denied: Sequence[Network]) -> None:
    """Raise `Denied` if `address`, found for `host`, is in a denied network; text that is no address passes."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return
    mapped = getattr(found, "ipv4_mapped", None) or found
    for network in denied:
        if mapped in network:
            message = f"{host} leads to {mapped}, which this node does not let downloads reach"
            raise Denied(message, hint="Ask the node's owner, or use another address.", kind="Address")


class CheckedResolver(AbstractResolver):
    """Resolves names as the system does, and refuses those that lead to a denied network."""

    def __init__(self, denied: Sequence[Network]) -> None:
        self._denied = denied
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        for each in found:
            check_address(host, each["host"], self._denied)
        return found

    async def close(self) -> None:
        await self._system.close()
