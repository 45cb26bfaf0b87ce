"""The memory bus is a true twin of the real one: any script comes to the same on both."""

from hypothesis import HealthCheck, given, settings

from deploy.servers import NatsServer
from protocol.memory_bus import MemoryBus, MemoryHub
from tests.contracts.bus_script import Step, play, steps
from tests.protocol_bus.connections import requester


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(script=steps)
async def test_any_script_comes_to_the_same(nats_server: NatsServer, script: list[Step]) -> None:
    """Appends under guards, repeated operations, purges, reads, cells and blobs: the twin says what the server says."""
    hub = MemoryHub()
    one, other = MemoryBus(hub), MemoryBus(hub)
    twin = await play((one, other), script)
    await one.close()
    await other.close()

    async with requester(nats_server) as real_one, requester(nats_server) as real_other:
        real = await play((real_one, real_other), script)

    assert twin == real
