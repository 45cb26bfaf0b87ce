"""Specs with places to be filled in: reference of the peer, section 4.2 (``job run``), and the specs it has published."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid
from protocol.spec import SpecFault, SpecFaults
from protocol.spec.bounds import ACTION_MAX_CHARACTERS, TEXT_MAX_BYTES
from protocol.spec.template import fill_in, values_of

VALUES = {"name": "words", "empty": "", "start-time": "today"}


def filled(text: str) -> str:
    return fill_in(text, VALUES, file="job.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Name: {{.name}}", "Name: words"),
        ("{{ .name }}-{{.name}}", "words-words"),
        ("a {{- .name -}} b", "awordsb"),
        ("a\n\n  {{- .name }} b", "awords b"),
        ("a{{/* not told */}}b", "ab"),
        ('{{index . "start-time"}}', "today"),
        ('{{index . "end-time"}}', ""),
        ('{{or (index . "end-time") ".*"}}', ".*"),
        ('{{or (index . "start-time") ".*"}}', "today"),
        ("{{or .empty `a\\b`}}", "a\\b"),
        ("{{or .name .missing}}", "words"),
        ('{{or (or .empty .empty) (index . "start-time") "x"}}', "today"),
        ('{{"say \\"hi\\""}}', 'say "hi"'),
        ("awk '{print $1}' }} {", "awk '{print $1}' }} {"),
    ],
)
def test_actions_are_replaced(text: str, expected: str) -> None:
    """Values, ``index`` with ``or`` and a default, blanks and comments: as Go's templates do it."""
    assert filled(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("Name: {{.nane}}", 1, 7, '"nane"'),
        ("a\nb {{.name}} {{- .other}}", 2, 13, '"other"'),
        ("a {{ .name\n}}\n {{nonsense}}", 3, 2, "no action"),
        ("{{.name | printf}}", 1, 1, "no action"),
        ("{{if .name}}", 1, 1, "no action"),
        ("{{or}}", 1, 1, "no action"),
        ("{{}}", 1, 1, "no action"),
        ("{{(.name}}", 1, 1, "no action"),
        ("{{" + "(" * 1_000 + "}}", 1, 1, "no action"),
        ("{{" + " .name" * ACTION_MAX_CHARACTERS + "}}", 1, 1, "no action"),
        ('{{"\\q"}}', 1, 1, "no action"),
        ("{{.name}} {{ {{", 1, 11, "ends it"),
    ],
)
def test_what_cannot_be_filled_in_is_told_with_its_place(
    text: str, line: int, column: int, message: str
) -> None:
    """A value that was not given, an unknown action, an open brace: line, column and what to do."""
    with pytest.raises(SpecFaults) as caught:
        filled(text)
    (fault,) = caught.value.faults
    assert (fault.line, fault.column) == (line, column)
    assert message in fault.message
    assert "-V" in caught.value.hint


def test_all_that_is_missing_is_told_at_once() -> None:
    """Every value that was not given is named, with a spelling that was probably meant."""
    with pytest.raises(SpecFaults) as caught:
        filled("{{.nam}} {{.other}}")
    assert [fault.near for fault in caught.value.faults] == ["name", ""]


def test_filling_in_has_a_bound() -> None:
    """A spec that grows beyond what a spec may hold is refused."""
    with pytest.raises(Invalid, match="larger than"):
        fill_in("{{.a}}" * 100, {"a": "x" * (TEXT_MAX_BYTES // 50)}, file="job.yaml")


@given(st.text())
def test_a_text_without_braces_stays(text: str) -> None:
    """What holds no action is the same afterwards."""
    text = text.replace("{{", "{")
    assert fill_in(text, {}, file="job.yaml") == text


@given(st.text(st.sampled_from('{}().-or index"`\\/* \n')))
def test_any_text_is_filled_in_or_refused(text: str) -> None:
    """No text is an error that nobody foresaw, and each fault has its place inside the text."""
    found: list[SpecFault] = []
    try:
        filled(text)
    except SpecFaults as refused:
        found = refused.faults
    lines = text.split("\n")
    assert all(lines[fault.line - 1].startswith("{{", fault.column - 1) for fault in found)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("a=1", {"a": "1"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        ("query=SELECT a, b FROM t WHERE c=1", {"query": "SELECT a, b FROM t WHERE c=1"}),
        ("code=aGk=", {"code": "aGk="}),
        ("a=", {"a": ""}),
    ],
)
def test_values_are_given_by_flags(flag: str, expected: dict[str, str]) -> None:
    """``name=value``, or several with commas between; a comma or an equals sign may be in a value."""
    assert values_of([flag], "", {}) == expected


def test_values_come_from_the_environment_when_asked_for() -> None:
    """Only variables whose names the pattern finds are values, and a flag wins over them."""
    environ = {"JOB_NAME": "env", "JOB_SIZE": "9", "SECRET": "s"}
    assert values_of(["JOB_NAME=flag"], "^JOB_", environ) == {"JOB_NAME": "flag", "JOB_SIZE": "9"}
    assert values_of([], "*", environ) == environ
    assert values_of([], "", environ) == {}


@pytest.mark.parametrize(("flags", "pattern"), [(["a"], ""), (["=1"], ""), ([], "(")])
def test_bad_values_are_told(flags: list[str], pattern: str) -> None:
    """A flag that is no pair, and a pattern that is none."""
    with pytest.raises(Invalid, match=r"-V|-E"):
        values_of(flags, pattern, {})
