"""The walk through the code names files that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "protocol/spec/", "compute/")


def test_every_file_named_exists() -> None:
    """Each path in docs/walk.md exists, from the top or in the package that its table is about."""
    named = set(re.findall(r"`([\w./-]+(?:\.py|\.yaml|\.conf|/))`", (ROOT / "docs" / "walk.md").read_text()))

    missing = {name for name in named if not any((ROOT / folder / name).exists() for folder in FOLDERS)}

    assert named
    assert not missing
