"""What a node says of itself as its parts go and come."""

from typing import Final

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from compute.engines.noop import NoopEngine
from compute.facts import RESTART_S, Facts
from protocol.clock import ManualClock
from protocol.ids import NodeId
from protocol.nodes import NodeInfo, Offer
from tests.compute.doubles import StagedPublisher, StagedSource, drivers

THERE: Final = Offer("test")
GONE: Final = Offer("test", available=False, reason="nobody listens")
LOST: Final = replace(GONE, lost=True)


class Engine(NoopEngine):
    """An engine that is not here."""

    def __init__(self) -> None:
        super().__init__(NodeId("n"))

    async def probe(self) -> Offer:
        return GONE


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
        assert await told() == LOST
        await clock.advance(RESTART_S - 1)
        assert await told() == LOST
        await clock.advance(1)
        assert await told() == GONE


async def test_the_owner_reads_once_what_does_not_work() -> None:
    """A source that does not answer, as with a slip in its address, stands in the node's log with the reason, once; so does
    that it works again."""
    server = Server()
    facts = Facts(
        NodeInfo(NodeId("n"), "1"), {}, drivers(source=server, publisher=StagedPublisher()), ManualClock()
    )
    with capture_logs() as lines:
        for offer in (GONE, GONE, THERE, THERE, GONE):
            server.offer = offer
            await facts.probe()

    about = [(each["log_level"], each["event"], each.get("reason", "")) for each in lines]
    assert about == [
        ("info", "not offered", "nobody listens"),
        ("info", "offered", ""),
        ("warning", "not offered", "nobody listens"),
    ]


@pytest.mark.parametrize("last", [THERE, LOST], ids=["had", "had lost"])
async def test_what_the_last_process_had_is_waited_for(last: Offer) -> None:
    """A store or an engine that comes up after its node, as when a machine is started, is told as lost for half a minute if
    the node's last process had it, and no longer: it may have been taken away meanwhile."""
    clock, server = ManualClock(), Server()
    info = NodeInfo(NodeId("n"), "1")
    before = replace(info, engines=[last], sources=[last])
    engines = {"test": Engine()}
    facts = Facts(info, engines, drivers(source=server, publisher=StagedPublisher()), clock, before=before)

    await facts.probe()
    assert (facts.info.sources, facts.info.engines) == ([LOST], [LOST])
    await clock.advance(RESTART_S)
    await facts.probe()
    assert (facts.info.sources, facts.info.engines) == ([GONE], [GONE])
    again = Facts(info, engines, drivers(source=server), clock, before=facts.info)
    await again.probe()
    assert (again.info.sources, again.info.engines) == ([GONE], [GONE])
