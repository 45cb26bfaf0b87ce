"""The pages that lead through the code name files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "protocol/spec/", "compute/", "requester/core/")


@pytest.mark.parametrize("page", ["walk.md", "architecture.md"])
def test_every_file_named_exists(page: str) -> None:
    """Each path in the page exists, from the top or in a package that one of its tables is about."""
    text = (ROOT / "docs" / page).read_text()
    named = set(re.findall(r"`([\w./-]+(?:\.py|\.yaml|\.toml|\.conf|/))`", text))

    missing = {name for name in named if not any((ROOT / folder / name).exists() for folder in FOLDERS)}

    assert named
    assert not missing
