"""Backup and restore by the commands, between real servers."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from deploy.servers import NatsServer, nats_server
from protocol.bus import Stale, Stored
from protocol.errors import NotFound
from protocol.states import JobState
from tests.contracts.bus import append_one, entry, fresh_key
from tests.deploy.test_keys import shoal
from tests.protocol_bus.connections import requester
from tests.requester.cluster import a_job, closed, hold, submit
from tests.requester.on_servers import a_node, a_requester


async def everything(server: NatsServer) -> tuple[list[object], bytes, list[str]]:
    """The log, a blob and whose cells there are."""
    async with requester(server) as bus:
        last = (await bus.log_state()).last
        found: list[object] = []
        async with aclosing(bus.read(0)) as batches:
            async for batch in batches:
                found += batch
                if batch[-1].seq >= last:
                    break
        _, blob = await bus.get_blob(await bus.put_blob(b"blob" * 100_000), 0, 400_000)
        return found, blob, [cell.name for cell in await bus.list_cells()]


async def test_what_was_backed_up_is_there_again(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """A backup that is taken while jobs run, restored into a new server with other keys, is the same log with the same
    sequences. A requester that still has the old read model sees another log by its `created`, fills its read model again,
    tells the same of every job, and the job that ran is brought to its end."""
    first, folder = own_nats_server, tmp_path / "backup"
    async with a_requester([first], tmp_path, "r1") as service, a_node([first], "n1") as node:
        done = [
            await submit(service, a_job(f"job-{number}", meta={"x": "y" * 5_000})) for number in range(60)
        ]
        for job in done:
            await closed(service, job)
        node.script = hold
        going_on = await submit(service, a_job("going-on"))
        await node.until(lambda node: node.runs[-1].job == going_on)
        async with requester(first) as bus:
            await bus.put_blob(b"blob" * 100_000)
            while not await bus.list_cells():  # noqa: ASYNC110  no event tells that the node is written down
                await asyncio.sleep(0.05)
        told = [await service.job(job) for job in done]
        created = service.facts()["log"]

        assert (
            await shoal("cluster", "backup", str(folder), "--keys", str(first.keys), "--nats", first.url) == 0
        )
        before = await everything(first)
        # What comes after the backup is not in it.
        await submit(service, a_job("too-late"))
    await first.stop()

    async with nats_server(tmp_path / "second") as second:
        again = ("cluster", "restore", str(folder), "--keys", str(second.keys), "--nats", second.url)
        assert await shoal(*again) == 0
        assert await everything(second) == before
        assert await shoal(*again) == 1
        async with requester(second) as bus:
            # Guards mean what they meant.
            revision = told[0].revision
            assert await append_one(bus, entry(told[0].key, revision - 1)) == Stale(revision)
        async with a_requester([second], tmp_path, "r1") as service, a_node([second], "n1") as node:
            assert service.facts()["log"] != created
            assert [await service.job(job) for job in done] == told
            with pytest.raises(NotFound):
                await service.job("too-late")
            await node.until(lambda node: bool(node.runs) and node.runs[-1].job == going_on)
            node.finish(node.runs[-1].execution)
            assert (await closed(service, going_on)).state is JobState.COMPLETED


async def test_a_damaged_backup_is_not_restored(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """A flipped byte or a missing file is found before anything is made; a folder that is there is not written into."""
    server, folder = own_nats_server, tmp_path / "backup"
    where = ("--keys", str(server.keys), "--nats", server.url)
    async with requester(server) as bus:
        assert isinstance(await append_one(bus, entry(fresh_key())), Stored)
    assert await shoal("cluster", "backup", str(folder), *where) == 0
    assert await shoal("cluster", "backup", str(folder), *where) == 1
    snapshot = folder / "JOBS.snapshot"
    data = bytearray(snapshot.read_bytes())
    data[len(data) // 2] ^= 1
    snapshot.write_bytes(data)
    async with nats_server(tmp_path / "second") as second:
        there = ("--keys", str(second.keys), "--nats", second.url)
        assert await shoal("cluster", "restore", str(folder), *there) == 1
        snapshot.unlink()
        assert await shoal("cluster", "restore", str(folder), *there) == 3
        assert await shoal("cluster", "backup", str(tmp_path / "empty"), *there) == 3
        assert not (tmp_path / "empty").exists()


async def test_what_keeps_a_backup_from_being_restored_is_told(
    own_nats_server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Servers that have a log already, and a single one that is to keep three copies: each is said with what to do, and
    nothing is made.
    """
    server, folder = own_nats_server, tmp_path / "backup"
    where = ("--keys", str(server.keys), "--nats", server.url)
    async with requester(server) as bus:
        assert isinstance(await append_one(bus, entry(fresh_key())), Stored)
    assert await shoal("cluster", "backup", str(folder), *where) == 0
    capsys.readouterr()

    assert await shoal("cluster", "restore", str(folder), *where) == 1
    told = capsys.readouterr().err
    assert "these servers have a stream JOBS already" in told
    assert "start the servers on an empty data folder" in told

    async with nats_server(tmp_path / "second") as second:
        there = ("--keys", str(second.keys), "--nats", second.url)
        assert await shoal("cluster", "restore", str(folder), "--replicas", "3", *there) == 1
        assert "--replicas 1" in capsys.readouterr().err
        assert await shoal("cluster", "restore", str(folder), *there) == 0
