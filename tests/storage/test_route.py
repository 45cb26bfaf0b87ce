"""How an origin is reached."""

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from protocol.errors import Unavailable
from storage.ranged import Limits
from storage.route import find_route


class Mute(AbstractResolver):
    """Name servers that do not answer."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def close(self) -> None:
        return


async def test_a_name_that_nobody_tells_is_not_waited_for() -> None:
    """Name servers that do not answer cost a transfer no more than the time for a connection; the name is told."""
    with pytest.raises(Unavailable, match=r"'store\.example' was not told within 0\.1 s"):
        await find_route("http://store.example/x", Limits(connect_s=0.1), Mute())
