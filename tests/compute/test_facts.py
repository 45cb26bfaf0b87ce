"""What a node says of itself as its parts go and come."""

from typing import Final

from msgspec.structs import replace

from compute.facts import RESTART_S, Facts
from protocol.clock import ManualClock
from protocol.ids import NodeId
from protocol.nodes import NodeInfo, Offer
from tests.compute.doubles import StagedPublisher, StagedSource, drivers

THERE: Final = Offer("test")
GONE: Final = Offer("test", available=False, reason="nobody listens")


class Server(StagedSource):
    """A source whose server goes and comes."""

    offer = GONE

    async def probe(self) -> Offer:
        return self.offer


async def test_a_server_that_is_restarted_is_waited_for() -> None:
    """A store that a node had and has not just now is told as lost for half a minute, so that jobs wait for its restart;
    one that stays away, or was never there, is not."""
    clock, server = ManualClock(), Server()
    info = NodeInfo(NodeId("n"), "1")
    facts = Facts(info, {}, drivers(source=server, publisher=StagedPublisher()), clock)

    async def told() -> Offer:
        await facts.probe()
        assert facts.info.publishers == [THERE]
        (offer,) = facts.info.sources
        return offer

    assert await told() == GONE
    for _ in range(2):
        server.offer = THERE
        assert await told() == THERE
        server.offer = GONE
        assert await told() == replace(GONE, lost=True)
        await clock.advance(RESTART_S - 1)
        assert await told() == replace(GONE, lost=True)
        await clock.advance(1)
        assert await told() == GONE
