"""The judge finds each broken promise, and nothing where all were kept."""

from collections.abc import Callable

import pytest

from tests.faults.check import CUT, violations
from tests.faults.history import History, Logged, Seen, Submission

JOB = "j-1"


def logged(seq: int, event: str, execution: str = "", *, state: str = "", partition: int = 0) -> Logged:
    """An event of the one job."""
    return Logged(seq, float(seq), "r", JOB, event, execution, state=state, partition=partition)


def sound() -> History:
    """One job whose first execution was lost and whose second completed and published, as two requesters show it."""
    executions = {"e-1": ("lost", 0, ""), "e-2": ("completed", 0, "hello")}
    return History(
        seed=1,
        submissions=[
            Submission("one", "box", "requester-0", outcome="accepted", job=JOB, says="hello", result="word")
        ],
        log=[
            logged(1, "submitted"),
            logged(1, "assigned", "e-1"),
            logged(2, "lost", "e-1"),
            logged(2, "assigned", "e-2"),
            logged(3, "reported", "e-2", state="running"),
            logged(4, "reported", "e-2", state="completed"),
            logged(4, "closed", state="completed"),
        ],
        views={name: {JOB: Seen("Completed", dict(executions))} for name in ("requester-0", "requester-1")},
        starts={"one": ["e-1", "e-2"]},
        published={"e-2": "word"},
    )


def test_a_sound_history_is_judged_so() -> None:
    """A loss, a second attempt and one accepted result break no promise."""
    assert violations(sound()) == []


def test_output_that_is_said_to_be_cut_is_a_beginning() -> None:
    """What Docker lost of a program's output is no broken promise where that is said, and what there is is right."""
    history = sound()
    for said in ("hel", "hal"):
        for view in history.views.values():
            view[JOB].executions["e-2"] = ("completed", 0, said + CUT)
        assert bool(violations(history)) == (said == "hal")


def a_late_report(history: History) -> None:
    history.log.insert(5, logged(3, "reported", "e-1", state="completed"))


def two_results(history: History) -> None:
    history.log[2:3] = [logged(2, "reported", "e-1", state="completed")]


def two_at_once(history: History) -> None:
    history.log.insert(2, logged(1, "assigned", "e-3"))


def never_closed(history: History) -> None:
    history.log.pop()


def changed_after_its_end(history: History) -> None:
    history.log.append(logged(5, "closed", state="failed"))


def not_in_the_log(history: History) -> None:
    history.submissions.append(Submission("two", "print", "requester-1", outcome="accepted", job="j-2"))


def refused_and_taken(history: History) -> None:
    history.submissions.append(Submission("two", "print", "requester-1", outcome="refused"))
    history.log.append(Logged(9, 9.0, "r", "j-2", "submitted", name="two"))


def requesters_differ(history: History) -> None:
    history.views["requester-1"][JOB].executions["e-1"] = ("cancelled", 0, "")


def a_job_unknown(history: History) -> None:
    history.views["requester-1"] = {}


def failed(history: History) -> None:
    history.log[-1].state = "failed"
    for view in history.views.values():
        view[JOB].state = "Failed"


def other_bytes(history: History) -> None:
    history.published["e-2"] = "wor"


def other_output(history: History) -> None:
    history.submissions[0].says = "hallo"


def started_twice(history: History) -> None:
    history.starts["one"].append("e-2")


def something_left(history: History) -> None:
    history.left.append("container 4f")


def ended_by_itself(history: History) -> None:
    history.ended.append("requester-0, code 1: Error: no answer")


BROKEN: list[tuple[Callable[[History], None], str]] = [
    (a_late_report, "after it was lost"),
    (two_results, "after it had completed"),
    (two_at_once, "while e-1 was open"),
    (never_closed, "never closed"),
    (changed_after_its_end, "after it was closed"),
    (not_in_the_log, "is not in the log"),
    (refused_and_taken, "and is in the log"),
    (requesters_differ, "differently"),
    (a_job_unknown, "does not know"),
    (failed, "ended Failed"),
    (other_bytes, "published"),
    (other_output, "printed"),
    (started_twice, "started 2 times"),
    (something_left, "left behind"),
    (ended_by_itself, "code 1"),
]


@pytest.mark.parametrize(("breaking", "words"), BROKEN)
def test_each_broken_promise_is_found(breaking: Callable[[History], None], words: str) -> None:
    """The judge is no ornament: whatever is wrong in a history is told."""
    history = sound()

    breaking(history)

    assert any(words in each for each in violations(history)), violations(history)
