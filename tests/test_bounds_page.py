"""The page of bounds says what the code does."""

from pathlib import Path

import pytest

from protocol.spec import bounds

PAGE = (Path(__file__).parents[1] / "docs" / "bounds.md").read_text()
CONSTANTS = {name: value for name, value in vars(bounds).items() if name.isupper() and isinstance(value, int)}


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_bound_is_documented(name: str) -> None:
    """Each limit of a job spec stands in docs/bounds.md with its present value."""
    assert f"| `{name}` | {CONSTANTS[name]:,} |" in PAGE
