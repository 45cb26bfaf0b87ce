"""Coming to a cluster that is not there."""

import asyncio

import pytest

from protocol.errors import Denied, Fault, Unavailable
from protocol.joining import join


class Server:
    """Answers to tries to connect: a fault is raised, what is left when all were given is "connected"."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = list(faults)

    async def connect(self) -> str:
        if self.faults:
            raise self.faults.pop(0)
        return "connected"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.joining.PAUSE_S", 0)


async def test_one_that_is_known_waits() -> None:
    """A program that was there before comes back whenever the cluster does."""
    server = Server(Unavailable("away"), Unavailable("still away"))

    assert await join(server.connect, asyncio.Event(), known=True) == "connected"


async def test_one_that_is_new_is_told_at_once() -> None:
    """A first start with a wrong address does not hang."""
    with pytest.raises(Unavailable, match="away"):
        await join(Server(Unavailable("away")).connect, asyncio.Event(), known=False)


async def test_nobody_waits_for_what_cannot_be() -> None:
    """Credentials that are refused do not become good by waiting."""
    with pytest.raises(Denied):
        await join(Server(Denied("who?")).connect, asyncio.Event(), known=True)


async def test_one_that_waits_ends_when_asked() -> None:
    """Also while a try goes on, which is broken off."""
    stopped, trying = asyncio.Event(), asyncio.Event()

    async def hangs() -> str:
        trying.set()
        await asyncio.Event().wait()
        return "never"

    joining = asyncio.create_task(join(hangs, stopped, known=True))
    await trying.wait()
    stopped.set()

    assert await joining is None
