"""A short run of real faults; ``make faults`` is the long one."""

import asyncio
import os
import signal
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import pytest

from tests.acceptance.deployment import processes_of, wait_until_empty
from tests.conftest import skip
from tests.faults.enclosure import missing, sweep
from tests.faults.plan import STORE, clashes, faults

ROOT = Path(__file__).parents[2]
PARTS = ["nats-0", "nats-1", "nats-2", "requester-0", "requester-1", "node-0", "node-1", STORE]


def test_a_seed_is_a_plan() -> None:
    """The same seed gives the same faults, another one others."""
    one, same, other = (list(islice(faults(seed, PARTS), 50)) for seed in (1, 1, 2))

    assert one == same
    assert one != other
    assert {each.kind for each in one} == {"kill", "pause", "cut"}
    assert {each.target for each in one} == set(PARTS)


def test_a_cluster_keeps_two_servers() -> None:
    """Two of three NATS servers are never broken at once: that is more than a cluster of three survives."""
    nats = [each for each in islice(faults(3, PARTS), 200) if each.target.startswith("nats")]

    assert all(clashes(one, [other]) for one, other in pairwise(nats))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing(how: signal.Signals, docker_host: str, tmp_path: Path) -> None:
    """However a run is ended, no process of it goes on. Its folder goes with it; after `kill -9` the next run removes it."""
    if lacking := missing():
        skip(lacking)
    command = [sys.executable, "-m", "tests.faults", "--faults", "1000", "--nodes", "1", "--requesters", "1"]
    env = {**os.environ, "TMPDIR": str(tmp_path), "DOCKER_HOST": docker_host}
    with subprocess.Popen(
        [*command, "--servers", "1"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert "everything is up" in run.stdout.readline()
        (folder,) = tmp_path.glob("shoal-faults-*")
        assert processes_of(folder)

        run.send_signal(how)

    wait_until_empty(lambda: processes_of(folder))
    assert folder.exists() is (how is signal.SIGKILL)
    asyncio.run(sweep(tmp_path, docker_host))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(300)
def test_jobs_survive_real_faults(docker_host: str, busybox_image: str, tmp_path: Path) -> None:
    """Jobs under kills, pauses and cut cables of a cluster of three servers, two requesters and three nodes: each accepted
    one ends once, with the right bytes, and nothing is left of any."""
    if lacking := missing():
        skip(lacking)
    command = [sys.executable, "-m", "tests.faults", "--jobs", "15", "--faults", "8", "--seed", "5"]

    done = subprocess.run(
        [*command, "--keep", str(tmp_path / "history.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "\n0 promises broken" in done.stdout
