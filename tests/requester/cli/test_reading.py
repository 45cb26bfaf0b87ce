"""What a person is told of a file that cannot be read."""

from pathlib import Path

import pytest

from protocol.errors import Invalid, NotFound
from requester.cli.reading import read_start


def test_no_more_is_read_than_tells_that_it_is_too_much(tmp_path: Path) -> None:
    """Of a file that is too large one byte more than the bound is read, so that the caller sees it."""
    (tmp_path / "large").write_bytes(b"x" * 100)

    assert read_start(str(tmp_path / "large"), "spec", at_most_bytes=10, hint="") == b"x" * 11


def test_a_file_that_is_not_there_is_told_with_what_to_give(tmp_path: Path) -> None:
    """Who names a file that does not exist is told which, and what to give instead."""
    with pytest.raises(NotFound, match=r"there is no module .*nothing") as told:
        read_start(str(tmp_path / "nothing"), "module", at_most_bytes=10, hint="give a file")

    assert told.value.hint == "give a file"


@pytest.mark.parametrize(("name", "reason"), [("", "Is a directory"), ("a\0b", "null byte")])
def test_what_is_no_file_is_told_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    """A folder, or a name that no file can have, is an error in one line and not a traceback."""
    with pytest.raises(Invalid, match=reason):
        read_start(f"{tmp_path}/{name}", "file", at_most_bytes=10, hint="")
