"""docs/settings.md has every setting there is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from compute.settings import KEYS
from requester.cli import configuration, endpoint

PAGE: Final = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
OLDER: Final = re.compile(r"Node\.(?!Type|IPFS)")
"""How keys of Bacalhau 1.4 begin, which mean the same as newer ones."""
PROGRAMS: Final = (
    *(key for keys in KEYS.values() for key in keys),
    *configuration.OWN,
    *configuration.SIGNING,
)


def shown() -> Iterator[str]:
    """The keys in the page's tables; ``.Name`` stands behind the key before it, in the place of its last part."""
    for row in re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE):
        before = ""
        for key in re.findall(r"`([A-Za-z0-9.]+)", row):
            before = before.rpartition(".")[0] + key if key.startswith(".") else key
            yield before


@pytest.mark.parametrize("key", sorted({key for key in (*PROGRAMS, *endpoint.KEYS) if not OLDER.match(key)}))
def test_every_setting_is_on_the_page(key: str) -> None:
    """A key that a node, a requester or the command line reads is in docs/settings.md, or said to mean what another does."""
    below_s3 = key.replace("Publishers.Types.S3.", "InputSources.Types.S3.")
    assert any(each in (key, below_s3) or each.startswith(f"{key}.") for each in shown())
