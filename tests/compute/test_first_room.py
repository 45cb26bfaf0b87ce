"""A node whose disk was filled while it was away."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from compute.engines.noop import NoopEngine
from compute.execution import ordered
from compute.first_room import make_first_room
from compute.journal import Journal, inputs_read
from compute.node import running
from protocol.errors import Broken, Conflict
from protocol.memory_bus import MemoryBus, MemoryHub
from protocol.messages import InputRead
from storage.cache_entries import DATA, ENTRY, Entry, boot_id, key_of
from tests.acceptance.fragile import full_disk
from tests.compute.test_inputs import READING
from tests.compute.test_node import settings
from tests.compute.twins import NODE, FakeRequester, order

MIB = 1 << 20
ALL = str(1 << 60)
"""A reserve that no disk has."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    with full_disk(tmp_path / "disk", 16 * MIB) as folder:
        yield folder


def keep(folder: Path, identity: str, used_at: float, size_bytes: int = 9) -> Path:
    """An entry of the cache of a node in that folder."""
    path = folder / "cache" / key_of("test", identity)
    path.mkdir(parents=True)
    (path / DATA).write_bytes(bytes(size_bytes))
    (path / ENTRY).write_bytes(msgspec.json.encode(Entry("test", identity, size_bytes, boot_id())))
    os.utime(path / ENTRY, (used_at, used_at))
    return path


def fill(folder: Path) -> None:
    """Leave not a byte."""
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
        for size in (MIB, 1):
            with suppress(OSError):
                while ballast.write(bytes(size)):
                    pass


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
async def test_inputs_that_nobody_reads_make_room_for_a_start(
    killed: bool, small: Path, hub: MemoryHub, requester: FakeRequester
) -> None:
    """A node on a disk without a free byte starts all the same if it keeps inputs that can go: as many as the reserve takes,
    the least recently used first, and none that a program reads which went on without the node.
    """
    made = settings(small / "node", disk_reserve=str(6 * MIB), cache=str(16 * MIB))
    journal = Journal(made.data_dir)
    journal.open(0.0)
    journal.save(replace(ordered(order(1, READING), 1.0)[0], inputs=[InputRead("/in", "test", "read")]))
    await journal.commit()
    read = keep(made.data_dir, "read", 100.0, MIB)
    oldest, old, new = (
        keep(made.data_dir, name, at, 4 * MIB) for name, at in (("1", 200.0), ("2", 300.0), ("3", 400.0))
    )
    left = made.data_dir / "cache" / ".arriving-1"
    left.write_bytes(bytes(9))
    if not killed:
        await journal.close()
    fill(small)
    if killed:
        journal.abandon()

    async with running(MemoryBus(hub), made, engines={"noop": NoopEngine(NODE)}, host={}):
        assert [path.exists() for path in (read, oldest, old, new, left)] == [True, False, False, True, False]


def test_what_a_node_reads_is_not_looked_for_while_there_is_room(tmp_path: Path) -> None:
    """Where the reserve is free nothing goes, and nothing is made but the folder itself."""
    kept = keep(tmp_path / "node", "1", 100.0)
    make_first_room(tmp_path / "node", "1")
    assert kept.exists()
    make_first_room(tmp_path / "node", ALL)
    assert not kept.exists()


async def test_what_cannot_be_told_apart_stays(tmp_path: Path) -> None:
    """With a journal that cannot be read nobody knows what is read; with one in use, another node does."""
    kept = keep(tmp_path / "node", "1", 100.0)
    journal = Journal(tmp_path / "node")
    with pytest.raises(Conflict, match="in use"):
        make_first_room(tmp_path / "node", ALL)
    await journal.close()
    (tmp_path / "node" / "journal.db").write_bytes(b"no database" * 100)
    with pytest.raises(Broken, match=r"journal\.db"):
        inputs_read(tmp_path / "node")
    make_first_room(tmp_path / "node", ALL)
    assert kept.exists()
