"""The memory bus is a true twin of the real one: any script comes to the same on both."""

import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats
from hypothesis import HealthCheck, given, settings

from deploy import backup
from deploy.servers import NatsServer
from protocol.memory_bus import Backup, MemoryBus, MemoryHub
from protocol.nats.streams import StreamSettings
from tests.contracts.bus_script import Scripts, Step, play, play_restored, steps
from tests.protocol_bus.connections import requester

FEW = 2
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]


async def _on_the_twin(script: Sequence[Step], entries_max: int) -> list[Any]:
    hub = MemoryHub()
    hub.entries_max = entries_max
    one, other = MemoryBus(hub), MemoryBus(hub)
    told = await play((one, other), script)
    await one.close()
    await other.close()
    return told


async def _on_a_server(server: NatsServer, script: Sequence[Step], entries_max: int) -> list[Any]:
    streams = StreamSettings(entries_max=entries_max)
    async with AsyncExitStack() as connections:
        one, other = [
            await connections.enter_async_context(requester(server, streams=streams)) for _ in range(2)
        ]
        return await play((one, other), script)


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(script=steps)
async def test_any_script_comes_to_the_same(nats_server: NatsServer, script: list[Step]) -> None:
    """Appends under guards, repeated operations, purges, reads, cells and blobs: the twin says what the server says."""
    many = StreamSettings().entries_max
    assert await _on_the_twin(script, many) == await _on_a_server(nats_server, script, many)


@settings(max_examples=30, deadline=None, suppress_health_check=[*SLOW, HealthCheck.function_scoped_fixture])
@given(script=steps)
async def test_any_script_comes_to_the_same_where_a_job_has_few_entries(
    own_nats_server: NatsServer, script: list[Step]
) -> None:
    """A log that takes two entries of a job refuses the third, and knows a repeated operation, as its twin does."""
    assert await _on_the_twin(script, FEW) == await _on_a_server(own_nats_server, script, FEW)


async def _restored_twin(scripts: Scripts) -> list[Any]:
    hub, kept = MemoryHub(), list[Backup]()
    hub.entries_max = StreamSettings().entries_max
    one, other = MemoryBus(hub), MemoryBus(hub)

    async def save() -> None:
        kept.append(hub.backup())

    async def restore() -> None:
        hub.restore(kept[0])

    told = await play_restored((one, other), scripts, save, restore)
    await one.close()
    await other.close()
    return told


async def _restored_server(server: NatsServer, scripts: Scripts, folder: Path) -> list[Any]:
    admin = server.admin().read_text()

    async def save() -> None:
        await backup.backup(server.url, admin, folder)

    async def restore() -> None:
        person = await nats.connect(server.url, user_credentials=str(server.admin()))
        for stream in backup.STREAMS:
            await person.jetstream().delete_stream(stream)
        await person.close()
        await backup.restore(server.url, admin, folder)

    async with requester(server) as one, requester(server) as other:
        return await play_restored((one, other), scripts, save, restore)


@settings(max_examples=8, deadline=None, suppress_health_check=[*SLOW, HealthCheck.function_scoped_fixture])
@given(before=steps, lost=steps, after=steps)
async def test_any_script_comes_to_the_same_on_a_restored_log(
    own_nats_server: NatsServer, before: list[Step], lost: list[Step], after: list[Step]
) -> None:
    """Servers that were restored from a backup know what was before it, have forgotten what came after, and are another
    log; whoever goes on by what it knew then, or repeats what was lost, is answered as by the twin."""
    scripts = (before, lost, after)
    with tempfile.TemporaryDirectory(prefix="shoal-backup-") as name:
        real = await _restored_server(own_nats_server, scripts, Path(name) / "kept")
    assert await _restored_twin(scripts) == real
