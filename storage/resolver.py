"""Names to addresses under a policy: what a connection is made to is what was judged.

Knows: how aiohttp asks for addresses. Must not know: the policy's rules (`storage.addresses`), or what is asked for.

aiohttp connects to exactly the addresses that a resolver answers with, so a name that leads elsewhere a moment later (DNS
rebinding) gains nothing. Hosts that are addresses are not resolved at all: `AddressPolicy.check_host` judges them before
each request, and at each redirect.
"""

import contextlib
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from protocol.errors import Denied
from storage.addresses import AddressPolicy
from storage.multiaddr import DEFAULT_PORTS


class CheckedResolver(AbstractResolver):
    """Resolves names as the system does, and answers with those addresses that the policy allows.

    Raises `Denied` where it allows none of them.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        fault: Denied | None = None
        allowed = []
        for each in await self._system.resolve(host, port, family):
            try:
                self._policy.check(host, each["host"], port)
                allowed.append(each)
            except Denied as denied:
                fault = fault or denied
        if fault is not None and not allowed:
            raise fault
        return allowed

    async def close(self) -> None:
        await self._system.close()


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
