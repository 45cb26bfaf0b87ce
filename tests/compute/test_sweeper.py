"""Folders of executions that are done with."""

import asyncio
from pathlib import Path

import pytest

from compute.sweeper import Sweeper


def _folder(at: Path) -> Path:
    (at / "inside").mkdir(parents=True)
    (at / "inside" / "file").write_bytes(b"x")
    return at


async def test_folders_given_up_at_once_and_later_are_all_gone(tmp_path: Path) -> None:
    """However many executions end together, nothing of any of them stays."""
    folders = [_folder(tmp_path / f"e-{number}") for number in range(50)]
    async with asyncio.TaskGroup() as tasks:
        sweeper = Sweeper(tasks)
        await asyncio.gather(*(sweeper.remove(each) for each in folders[:49]))
        await sweeper.remove(folders[49])
    assert list(tmp_path.iterdir()) == []


async def test_one_that_cannot_be_removed_harms_no_other(tmp_path: Path) -> None:
    """The fault is told to whoever gave up that folder, and to no one else."""
    folders = [_folder(tmp_path / f"e-{number}") for number in range(3)]
    async with asyncio.TaskGroup() as tasks:
        sweeper = Sweeper(tasks)
        impossible = asyncio.ensure_future(sweeper.remove(Path("\0")))
        await asyncio.gather(*(sweeper.remove(each) for each in folders))
        with pytest.raises(ValueError, match="null"):
            await impossible
    assert list(tmp_path.iterdir()) == []


async def test_one_who_no_longer_waits_keeps_no_other_waiting(tmp_path: Path) -> None:
    """An execution whose clean-up is interrupted leaves the others' going on."""
    async with asyncio.TaskGroup() as tasks:
        sweeper = Sweeper(tasks)
        impatient = asyncio.ensure_future(sweeper.remove(_folder(tmp_path / "first")))
        patient = asyncio.ensure_future(sweeper.remove(_folder(tmp_path / "second")))
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
    assert list(tmp_path.iterdir()) == []
