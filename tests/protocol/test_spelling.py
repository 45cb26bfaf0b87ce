"""What is suggested for a name that is not there."""

import pytest

from protocol.spelling import NAMES_MAX, did_you_mean, near, nearest, nearest_few


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("bacth", "batch"),
        ("DAEMON", "daemon"),
        ("serv", "service"),
        ("op", "ops"),
        ("something else", ""),
        ("", ""),
        ("b" * 65, ""),
    ],
)
def test_one_word_is_suggested_or_none(word: str, meant: str) -> None:
    """A slip, another case or a beginning leads to the known word; what is like none, or is no word, leads nowhere."""
    assert near(word, ("batch", "ops", "service", "daemon")) == meant


def test_a_beginning_of_several_is_no_answer_by_itself() -> None:
    """Where several begin so, the one that is nearest as a whole is meant."""
    assert near("exec", ("executionTimeout", "execs", "executions")) == "execs"


def test_the_nearest_comes_first() -> None:
    """Several may be meant, and each keeps the case that it is written in."""
    assert nearest_few("acess.csv", ["README", "Access.csv", "excess.csv"]) == ["Access.csv", "excess.csv"]
    assert did_you_mean(["Access.csv", "excess.csv"]) == "Did you mean 'Access.csv' or 'excess.csv'?"
    assert did_you_mean([]) == ""


def test_comparing_is_bounded() -> None:
    """Of very many names only the first are compared, and neither a very long name nor against one."""
    many = [f"{number:06}" for number in range(NAMES_MAX)]

    assert nearest("wanted", [*many, "wanted"]) == []
    assert nearest("wanted", ["w" * 256, "wanted"]) == ["wanted"]
    assert nearest("w" * 256, ["w" * 256]) == []
