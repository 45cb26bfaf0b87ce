"""Own copies of inputs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.copying import clone_file, copy, make_writable
from tests.contracts.trees import Link, Run, Tree, plant, snapshot, with_folders

TREE: Tree = {
    "a": b"alpha" * 100_000,
    "deep/b": b"",
    "deep/run": Run(b"#!"),
    "deep/link": Link("b"),
    "empty": None,
}


def never() -> None:
    """Nobody ends the work."""


def by_sharing(source: int, into: int) -> bool:
    """What a file system does that shares blocks, as seen by whoever asks it to."""
    os.write(into, os.pread(source, 1 << 30, 0))
    return True


@pytest.mark.parametrize(
    "clone", [clone_file, by_sharing, lambda source, into: False], ids=["here", "shared", "plain"]
)
def test_a_copy_is_equal_and_its_own(tmp_path: Path, clone: Callable[[int, int], bool]) -> None:
    """A copy has the same files, links, rights and bytes, by whichever way; changing it leaves what it was made of alone."""
    plant(TREE, tmp_path / "from")
    copy(tmp_path / "from", tmp_path / "into", never, clone)
    copy(tmp_path / "from" / "deep" / "run", tmp_path / "run", never, clone)
    assert snapshot(tmp_path / "into") == with_folders(TREE)
    assert os.access(tmp_path / "into" / "deep" / "run", os.X_OK)
    assert os.access(tmp_path / "run", os.X_OK)
    assert not (tmp_path / "into" / "a").stat().st_mode & 0o111

    make_writable(tmp_path / "into", never)
    make_writable(tmp_path / "run", never)
    (tmp_path / "into" / "a").write_bytes(b"changed")
    assert snapshot(tmp_path / "from") == with_folders(TREE)
    for path in (tmp_path / "into", tmp_path / "run", *(tmp_path / "into").rglob("*")):
        assert path.is_symlink() or path.stat().st_mode & 0o666 == 0o666
