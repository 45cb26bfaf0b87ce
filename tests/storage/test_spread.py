"""Folders whose sub-folders lie apart on the disk."""

import subprocess
from pathlib import Path

from storage.spread import spread


def test_the_folder_is_used_as_before_and_only_ext4_is_told_something(tmp_path: Path) -> None:
    """A folder that was asked to spread its sub-folders takes them as ever; of its flags only T is new, and only on ext4."""
    before = _flags(tmp_path)
    spread(tmp_path)
    spread(tmp_path)
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "data").write_bytes(b"data")
    assert (tmp_path / "entry" / "data").read_bytes() == b"data"
    after = _flags(tmp_path)
    assert after.replace("T", "-") == before
    assert ("T" in after) == ("e" in before)


def _flags(folder: Path) -> str:
    """As lsattr tells them; empty for a file system that has none."""
    command = ["lsattr", "-d", str(folder)]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.split(" ")[0]
