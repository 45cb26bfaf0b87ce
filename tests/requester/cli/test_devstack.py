"""What a cluster to try things on names as an example."""

from pathlib import Path

import pytest

from requester.cli.devstack import CONTAINER, MODULE, example, settings_of


def test_settings_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``devstack -c`` takes keys and files as Bacalhau's does; a file is found from where the person is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("Labels: {a: b}\n")
    key = "JobDefaults.Batch.Task.Resources.CPU=250m"
    assert settings_of([key, "mine.yaml"]) == ["-c", key, "-c", str(tmp_path / "mine.yaml")]


def test_the_example_is_one_that_can_run() -> None:
    """With a Docker on some node it is a container; else it is said that none can run, and a module is named that can."""
    assert example({"docker": "", "wasm": ""}) == f"Try: {CONTAINER}."
    assert example({}) == f"Try: {CONTAINER}."
    missing = "No node here can run containers: Docker does not answer."
    assert example({"docker": "Docker does not answer", "wasm": ""}) == f"{missing} Try: {MODULE}."
    assert example({"docker": "Docker does not answer", "wasm": "no runtime"}) == missing
