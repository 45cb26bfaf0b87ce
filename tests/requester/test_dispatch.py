"""Orders on their way to nodes, over the memory bus."""

import asyncio

from structlog.testing import capture_logs

from protocol import subjects
from protocol.clock import SystemClock
from protocol.errors import Failure
from protocol.ids import ExecutionId, NodeId
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import Cancel, CommandAnswer, encode
from requester.core.fleet import Fleet
from requester.dispatch import Dispatch
from requester.jobs import Jobs
from tests.requester.cluster import happens

NODE = NodeId("n-1")


async def test_a_refusal_is_told_once() -> None:
    """A node that refuses an order each time it is repeated is one line in the requester's log, not one with every beat."""
    hub = MemoryHub()
    clock = SystemClock()
    jobs = Jobs(Fleet(), clock, closed_max=1, waiting_max=1, size_max_bytes=1 << 20, load=lambda key: None)
    dispatch = Dispatch(
        MemoryBus(hub),
        clock,
        jobs=jobs,
        put=lambda live, item: None,
        log_created=str,
        at_once=9,
        timeout_s=5,
    )
    refusal = encode(CommandAnswer(False, Failure("Conflict.Gone", "was here and is done with")))
    answered: asyncio.Queue[None] = asyncio.Queue(9)

    async def refuse() -> None:
        async with MemoryBus(hub).subscribe(subjects.commands(NODE)) as orders:
            ready.set()
            async for message in orders:
                assert message.respond is not None
                await message.respond(refusal)
                answered.put_nowait(None)

    ready = asyncio.Event()
    running = [asyncio.create_task(refuse()), asyncio.create_task(dispatch.run())]
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await ready.wait()
            for execution in ("e-1", "e-1", "e-2", "e-1"):
                dispatch.tell(NODE, Cancel(1, NODE, ExecutionId(execution)))
                await answered.get()
        await happens(lambda: dispatch._on_their_way == 0)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)

    assert [each["event"] for each in logs] == ["a node did not take a command"] * 2
