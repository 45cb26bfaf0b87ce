"""``python -m compute cache list`` and ``verify``: what a person sees of a node's inputs."""

from pathlib import Path

import msgspec
import pytest

from compute.__main__ import app
from compute.cache_command import list_entries, verify_entries
from storage.cache_entries import DATA, ENTRY, MANIFEST, Entry, key_of
from storage.manifest import write_manifest
from tests.contracts.trees import plant


def entry(folder: Path, name: str, *, checked: bool) -> Path:
    """An input as the cache keeps it, with its bytes written down or not."""
    kept = Entry("s3", f"s3://b/{name}?etag=1", 5, "this boot")
    path = folder / key_of(kept.type, kept.identity)
    plant({"file": b"right"}, path / DATA)
    (path / ENTRY).write_bytes(msgspec.json.encode(kept))
    if checked:
        write_manifest(path / DATA, path / MANIFEST, lambda: None)
    return path


def test_each_entry_is_in_a_state_that_has_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, SPOILED (bytes other than came; exit code 1) or UNCHECKED (nothing to compare with yet), in both commands."""
    entry(tmp_path, "whole", checked=True)
    entry(tmp_path, "new", checked=False)
    assert verify_entries(tmp_path) == 0
    out = capsys.readouterr().out
    assert "UNCHECKED  s3 s3://b/new?etag=1" in out
    assert "1 inputs are as they came, 0 are not, 1 could not be checked" in out

    (entry(tmp_path, "changed", checked=True) / DATA / "file").write_bytes(b"wrong")
    assert verify_entries(tmp_path) == 1
    out = capsys.readouterr().out
    assert "WRONG  s3 s3://b/changed?etag=1: " in out
    assert "1 inputs are as they came, 1 are not, 1 could not be checked" in out

    assert list_entries(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split("s3://b/")[1].split("?")[0]: line.split("etag=1")[1].strip() for line in lines[:-1]}
    assert states == {"whole": "", "new": "UNCHECKED", "changed": "SPOILED"}


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_folder_that_is_no_nodes_is_told_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in the folder's name does not pass for a cache in which all is well."""
    assert app(["cache", command, "--data-dir", str(tmp_path / "slip")]) == 2

    told = capsys.readouterr()
    assert told.out == ""
    assert f"no inputs of a node in {tmp_path}/slip/cache" in told.err
    assert "--data-dir" in told.err
