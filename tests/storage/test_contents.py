"""What a folder holds, by which two trees are told apart."""

import os
from pathlib import Path

import pytest

from protocol.errors import Invalid
from storage.contents import contents_of
from tests.contracts.trees import Link, Tree, plant, with_folders
from tests.storage.test_tree import TREE


def test_equal_trees_have_equal_digests(tmp_path: Path) -> None:
    """A digest depends on the tree alone, not on when or in which order it was made."""
    plant(TREE, tmp_path / "one")
    plant(dict(reversed(TREE.items())), tmp_path / "two")
    os.utime(tmp_path / "two" / "b", (1, 1))

    assert contents_of(tmp_path / "one").sha256 == contents_of(tmp_path / "two").sha256


@pytest.mark.parametrize(
    "change",
    [{"b": b"23"}, {"a/y": b"333"}, {"l": Link("../etc")}, {"empty": b""}, {"new": None}, {"a": None}],
    ids=str,
)
def test_different_trees_have_different_digests(tmp_path: Path, change: Tree) -> None:
    """Another byte, bit, target, kind or name is another digest."""
    other = {path: content for path, content in TREE.items() if path.partition("/")[0] not in change}
    plant(TREE, tmp_path / "one")
    plant(
        with_folders({**TREE, **change} if "a" not in change else {**other, **change}),
        tmp_path / "two",
    )

    assert contents_of(tmp_path / "one").sha256 != contents_of(tmp_path / "two").sha256


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """What is listed goes where names are UTF-8: the file is named, as its bytes are."""
    plant({"a": b"x"}, tmp_path / "one")
    with open(os.path.join(os.fsencode(tmp_path / "one"), b"\xff"), "wb") as file:
        file.write(b"x")

    with pytest.raises(Invalid, match=r"\\xff"):
        contents_of(tmp_path / "one")
