"""Result folders that become one: moved, and each path as it was."""

from pathlib import Path

from requester.cli.merge import merge
from tests.contracts.trees import plant, snapshot


def test_a_folder_of_one_result_is_moved_as_it_is(tmp_path: Path) -> None:
    """However many files are in it, none of them is touched; what two results have is made of both."""
    one = plant({"stdout": b"1", "outputs/one/a": b"A", "outputs/both/b": b"B"}, tmp_path / "one")
    two = plant({"stdout": b"2", "outputs/two/c": b"C", "outputs/both/d": b"D"}, tmp_path / "two")
    moved = {
        name: (result / name).stat().st_ino for result, name in ((one, "outputs/one"), (two, "outputs/two"))
    }
    whole = tmp_path / "whole"
    whole.mkdir()

    merge([one, two], whole)

    assert {name: (whole / name).stat().st_ino for name in moved} == moved
    found = {path: data for path, data in snapshot(whole).items() if data is not None}
    assert found == {
        "stdout": b"12",
        "outputs/one/a": b"A",
        "outputs/two/c": b"C",
        "outputs/both/b": b"B",
        "outputs/both/d": b"D",
    }
