"""Names to addresses under a policy: what a connection is made to is what was judged.

Knows: how aiohttp asks for addresses. Must not know: the policy's rules (`storage.addresses`), or what is asked for.

aiohttp connects to exactly the addresses that a resolver answers with, so a name that leads elsewhere a moment later (DNS
rebinding) gains nothing. Hosts that are addresses are not resolved at all: `AddressPolicy.check_host` judges them before
each request, and at each redirect.
"""

import asyncio
import contextlib
import errno
import socket
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from aiohttp.abc import AbstractResolver, ResolveResult

from protocol.errors import Denied
from protocol.threads import Threads
from storage.addresses import AddressPolicy
from storage.multiaddr import DEFAULT_PORTS
from storage.route import origin_of

LOOKUP_S: Final = 10.0
# Of their own: names whose servers do not answer hold threads, and the other work of a node must not wait for those.
_lookups: Final = Threads(64)


class CheckedResolver(AbstractResolver):
    """Resolves names as the system does, and answers with those addresses that the policy allows.

    Raises `Denied` where it allows none of them.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy

    def check_url(self, url: str) -> None:
        """Raise `Denied` for a URL whose host is an address, or a name, that is denied: addresses are not resolved."""
        host, port, _ = origin_of(url)
        self._policy.check_host(host, port)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        fault: Denied | None = None
        allowed = []
        for each in await _look_up(host, port, family):
            try:
                self._policy.check(host, each["host"], port)
                allowed.append(each)
            except Denied as denied:
                fault = fault or denied
        if fault is not None and not allowed:
            raise fault
        return allowed

    async def close(self) -> None:
        """There is nothing of its own to close."""


async def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    """What the system knows of a name. Raises ``OSError``, also for one that nobody answers for in time."""
    ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    try:
        async with asyncio.timeout(LOOKUP_S):
            found = await asyncio.get_running_loop().run_in_executor(_lookups, ask)
    except TimeoutError as error:
        raise OSError(errno.ETIMEDOUT, f"no answer for its name in {LOOKUP_S:g} s") from error
    return [_result(host, number, proto, address) for number, _, proto, _, address in found]


def _result(host: str, family: int, proto: int, address: tuple[Any, ...]) -> ResolveResult:
    # A link-local address of IPv6 means nothing without its zone.
    zone = f"%{address[3]}" if len(address) > 3 and address[3] else ""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return {
        "hostname": host,
        "host": f"{address[0]}{zone}",
        "port": int(address[1]),
        "family": family,
        "proto": proto,
        "flags": flags,
    }


def environment_proxies() -> list[str]:
    """The proxies that this process's environment names, as URLs of host and port: its owner's own endpoints."""
    found = []
    for text in getproxies().values():
        parts = urlsplit(text if "://" in text else f"http://{text}")
        with contextlib.suppress(ValueError):
            if parts.hostname:
                host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
                found.append(f"http://{host}:{parts.port or DEFAULT_PORTS.get(parts.scheme, 80)}")
    return found
