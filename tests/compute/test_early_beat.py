"""What a process says before it can do anything."""

from pathlib import Path

from compute import early_beat
from compute.early_beat import last_words
from compute.journal import Journal
from compute.node import running
from compute.settings import Settings
from protocol.clock import SystemClock
from protocol.ids import NodeId
from protocol.memory_bus import MemoryBus, MemoryHub
from tests.compute.twins import NODE, FakeRequester, noop, order

NOW = 2_000_000_000.0


def settings(folder: Path) -> Settings:
    return Settings(data_dir=folder, name=NODE, engines=("noop",), publish_port=0)


async def test_a_new_process_speaks_as_the_last_one(
    hub: MemoryHub, requester: FakeRequester, tmp_path: Path
) -> None:
    """It says what the node offers and holds as it last was, that it takes no orders, and takes no number of its own."""
    async with running(MemoryBus(hub), settings(tmp_path), host={}):
        run = order(task=noop({"Seconds": 3600}))
        assert (await requester.run(run)).taken
        await requester.until(lambda: run.execution in requester.beats[-1].executions)
        before = requester.beats[-1]
    requester.beats.clear()

    await early_beat.tell(MemoryBus(hub), tmp_path, NODE, SystemClock())

    await requester.until(lambda: bool(requester.beats))
    told = requester.beats[-1]
    assert told.leaving
    assert (told.node, told.incarnation, told.upto) == (before.node, before.incarnation, run.seq)
    assert list(told.executions) == [run.execution]


async def test_nothing_is_said_that_is_not_known(hub: MemoryHub, tmp_path: Path) -> None:
    """Of a new folder, of one that never told of itself or told of another node, and of one in use, nothing is said."""
    assert last_words(tmp_path / "new", NODE, NOW) is None
    assert not (tmp_path / "new").exists()
    journal = Journal(tmp_path / "old")
    journal.open(NOW)
    await early_beat.tell(MemoryBus(hub), tmp_path / "old", NODE, SystemClock())
    await journal.close()
    assert last_words(tmp_path / "old", NODE, NOW) is None
    async with running(MemoryBus(hub), settings(tmp_path / "ours"), host={}):
        pass
    assert last_words(tmp_path / "ours", NodeId("another"), NOW) is None
    assert last_words(tmp_path / "ours", NODE, NOW) is not None
