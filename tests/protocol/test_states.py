"""The table of states, and the page that is printed from it."""

import subprocess
import sys
from pathlib import Path

import pytest

from protocol.states import ARROWS, ENDS, JOB_ENDS, ExecutionState, JobState, diagram, may_follow

S = ExecutionState
PAGE = Path(__file__).parents[2] / "docs" / "states.md"


def reachable(state: ExecutionState) -> set[ExecutionState]:
    """All states that may come after a state."""
    seen: set[ExecutionState] = set()
    waiting = [state]
    while waiting:
        for after in ARROWS[waiting.pop()] - seen:
            seen.add(after)
            waiting.append(after)
    return seen


@pytest.mark.parametrize("state", list(S))
def test_every_state_reaches_an_end_and_no_end_is_left(state: ExecutionState) -> None:
    """An execution cannot get stuck, and its end is final."""
    assert state in ARROWS
    assert (state in ENDS) is (not ARROWS[state])
    assert state in ENDS or reachable(state) & ENDS


def test_no_state_comes_back() -> None:
    """Stages may be skipped, never reversed or repeated."""
    assert [state for state in S if state in reachable(state)] == []


def test_every_state_is_reached_from_the_beginning() -> None:
    """There is no state that nothing leads to."""
    assert reachable(S.ASSIGNED) == set(S) - {S.ASSIGNED}


def test_the_ends_are_those_that_people_are_promised() -> None:
    """An execution ends completed, refused, failed, cancelled or lost; a job completed, failed or stopped."""
    assert {S.COMPLETED, S.REFUSED, S.FAILED, S.CANCELLED, S.LOST} == ENDS
    assert {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED} == JOB_ENDS


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (S.ASSIGNED, S.STAGING, True),
        (S.ASSIGNED, S.COMPLETED, True),
        (S.STAGING, S.REFUSED, True),
        (S.RUNNING, S.REFUSED, False),
        (S.RUNNING, S.STAGING, False),
        (S.PUBLISHING, S.COMPLETED, True),
        (S.LOST, S.COMPLETED, False),
        (S.COMPLETED, S.LOST, False),
        (S.RUNNING, S.RUNNING, False),
    ],
)
def test_a_state_follows_another_only_by_an_arrow(
    before: ExecutionState, after: ExecutionState, allowed: bool
) -> None:
    """A node given up stays given up; what ended stays ended; refusal comes before running."""
    assert may_follow(before, after) is allowed


def test_the_diagram_shows_every_arrow_once() -> None:
    """The diagram is the table."""
    lines = [line.strip() for line in diagram().splitlines()[1:]]
    arrows = [f"{before} --> {after}" for before, afters in ARROWS.items() for after in afters]
    edges = [f"[*] --> {S.ASSIGNED}", *(f"{end} --> [*]" for end in ENDS)]

    assert sorted(lines) == sorted(arrows + edges)


def test_the_page_in_the_documentation_is_current() -> None:
    """``docs/states.md`` holds what ``python -m protocol.states`` prints, and names every state."""
    printed = subprocess.run(
        [sys.executable, "-m", "protocol.states"],
        cwd=PAGE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = PAGE.read_text()

    assert f"```mermaid\n{printed}```\n" in page
    assert [state for state in (*S, *JobState) if f"`{state}`" not in page] == []
