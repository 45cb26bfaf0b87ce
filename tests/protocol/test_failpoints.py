"""Failpoints: named places in the shells at which a process can be killed or stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import Invalid
from protocol.failpoints import POINTS, VARIABLE, read

ROOT = Path(__file__).parents[2]
THREE_VISITS = """
from protocol.failpoints import reached
for visit in (1, 2, 3):
    reached("node.staged")
    print(visit, flush=True)
"""


def visited(armed: str) -> "subprocess.CompletedProcess[str]":
    """A process that comes to one place three times."""
    return subprocess.run(
        [sys.executable, "-c", THREE_VISITS],
        cwd=ROOT,
        env={**os.environ, VARIABLE: armed},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_place_is_passed_where_nothing_is_asked() -> None:
    """A process without the variable, or with another place in it, passes."""
    for armed in ("", "node.start.done=kill"):
        assert visited(armed).stdout.split() == ["1", "2", "3"]


def test_a_process_ends_at_the_visit_that_was_named() -> None:
    """``kill@2`` ends the process at the second visit, as ``kill -9`` does."""
    done = visited("node.staged=kill@2")

    assert done.stdout.split() == ["1"]
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "text", ["no.such.place=kill", "node.staged", "node.staged=burn", "node.staged=kill@0"]
)
def test_what_is_no_failpoint_is_refused(text: str) -> None:
    """A slip in the variable is told, not passed over: a test that arms nothing proves nothing."""
    with pytest.raises(Invalid, match=VARIABLE):
        read(text)


def test_every_place_is_in_the_code_once() -> None:
    """The table of places is what the code has, each at one place."""
    code = "\n".join(
        path.read_text() for package in ("requester", "compute") for path in (ROOT / package).rglob("*.py")
    )
    assert {name: code.count(f'failpoints.reached("{name}")') for name in POINTS} == dict.fromkeys(POINTS, 1)
    assert code.count("failpoints.reached(") == len(POINTS)
