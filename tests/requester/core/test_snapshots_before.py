"""A version that knows no snapshots reads one as what it is to it: the events of a job."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.programs import ROOT
from protocol.messages import encode
from protocol.states import ExecutionState as S
from tests.acceptance.test_upgrade import OLD
from tests.requester.core.test_snapshots import a_service, again, snapshot
from tests.requester.core.world import a_job

FOLD = """
import json, sys
from protocol.entries import Entry
from protocol.messages import decode
from requester.core.fold import fold
record = None
for seq, text in json.load(sys.stdin):
    record = fold(record, decode(text.encode(), Entry), seq)
print(json.dumps({
    "version": record.version,
    "state": record.state,
    "open": [[each.id, each.version, each.attempt, each.node] for each in record.executions.values() if each.open],
}))
"""


def folded_by(old: Path, entries: list[tuple[int, str]]) -> dict[str, object]:
    """What these entries add up to for the code in this folder."""
    done = subprocess.run(
        [sys.executable, "-c", FOLD],
        cwd=old,
        env={"PYTHONPATH": str(old)},
        input=json.dumps(entries),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_requester_that_is_set_back_goes_on_with_the_job(tmp_path: Path) -> None:
    """Version 0.1.0 has the same open executions, with their numbers, of a log that begins with a snapshot as of one that
    has all entries and the snapshot."""
    packed = subprocess.run(
        ["git", "archive", OLD, "protocol", "requester"], cwd=ROOT, capture_output=True, check=False
    )
    if packed.returncode:
        pytest.xfail(f"this copy of the repository does not go back to {OLD}")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=packed.stdout, check=True)
    world = a_service(count=2, times=4)
    world.submit(a_job(type_="service", count=2, priority=5))
    again(world, 3)
    snapshot(world, attempts=1)
    at = len(world.entries)
    for execution in world.open():
        world.report(execution, S.RUNNING)
    entries = [(seq, encode(entry).decode()) for seq, entry in enumerate(world.entries, 1)]
    left = folded_by(tmp_path, [each for each in entries if each[0] >= at])

    assert left == folded_by(tmp_path, entries)
    assert left["version"] == 2
    assert left["open"] == [[each.id, each.version, each.attempt, each.node] for each in world.open()]
