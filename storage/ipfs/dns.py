"""Where an endpoint that stands in DNS leads (https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md).

Knows: how TXT records are asked for. Must not know: what is at the addresses.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from protocol.errors import NotFound, Unavailable
from storage.multiaddr import Endpoint, dnsaddr_endpoints, dnsaddr_name

LOOKUP_S: Final = 5.0
LEVELS_MAX: Final = 4
ADDRESSES_MAX: Final = 16

Lookup = Callable[[str], Awaitable[list[str]]]
"""The texts of a name's TXT records; none if there is no such name. Raises `Unavailable`."""


async def lookup_txt(name: str) -> list[str]:
    """Ask the servers that this machine asks. See `Lookup`."""
    import dns.asyncresolver
    import dns.exception
    import dns.resolver

    try:
        answer = await dns.asyncresolver.resolve(name, "TXT", lifetime=LOOKUP_S)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise Unavailable(f"the name {name} cannot be looked up: {error}") from error
    return [b"".join(record.strings).decode(errors="replace") for record in answer]


async def located(endpoint: Endpoint, lookup: Lookup) -> list[Endpoint]:
    """The endpoint itself, or those that DNS names for it, at most sixteen. Raises `NotFound` if they are none."""
    found: list[Endpoint] = []
    level = [endpoint]
    for _ in range(LEVELS_MAX):
        found += [each for each in level if not each.in_dns]
        below = [each for each in level if each.in_dns][:ADDRESSES_MAX]
        if not below or len(found) >= ADDRESSES_MAX:
            break
        level = [
            address for each in below for address in dnsaddr_endpoints(each, await lookup(dnsaddr_name(each)))
        ]
    if not found:
        raise NotFound(
            f"{endpoint.given}: no record of {dnsaddr_name(endpoint)} names an address of Kubo's RPC API",
            hint='It is a TXT record like "dnsaddr=/ip4/192.0.2.1/tcp/5001".',
        )
    return found[:ADDRESSES_MAX]
