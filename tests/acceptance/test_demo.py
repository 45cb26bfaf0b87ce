"""`make demo`, without its setting up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.docker import SYSTEM_SOCKET
from deploy.programs import ROOT, find
from tests.acceptance.deployment import Containers, processes_of


@pytest.mark.timeout(240)
def test_demo(containers: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo runs the examples over S3, IPFS, Docker and WebAssembly, prints results that are right, and ends clean."""
    monkeypatch.setenv("DOCKER_HOST", containers.host)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for example in (ROOT / "examples").glob("*.yaml"):
        assert f"=== examples/{example.name}" in done.stdout
    assert "Left out" not in done.stdout
    words = sum(len(path.read_text().split()) for path in (ROOT / "examples" / "data" / "texts").iterdir())
    assert len(re.findall(rf"^ +{words} total$", done.stdout, re.MULTILINE)) == 2
    assert re.search(r"hello from execution e-", done.stdout)
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("containers")
def test_the_demo_starts_the_docker_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Docker is installed and does not run, root's demo starts a daemon for itself and ends it: the examples in
    containers are not left out.
    """
    if os.geteuid() != 0 or find("dockerd") is None or SYSTEM_SOCKET.is_socket():
        pytest.skip("a daemon cannot be started here, or runs already")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    # Of a cache of its own, where no server is: Docker alone makes the difference.
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"hello from execution e-", done.stdout)
    assert processes_of(tmp_path) == []
