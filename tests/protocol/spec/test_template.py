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
        ("{{if .name}}yes{{end}}{{if .empty}}no{{end}}", "yes"),
        ('{{if eq .name "x"}}a{{else if eq .name "words"}}b{{else}}c{{end}}', "b"),
        ('{{if eq .name "x"}}a{{else if eq .name "y"}}b{{else}}c{{end}}', "c"),
        ('{{if and .name (ne .name "x")}}a{{end}}', "a"),
        ("{{if not .empty -}}\n  a\n{{- end}}", "a"),
        ("{{if .name}}{{if .empty}}a{{else}}b{{end}}{{else}}c{{end}}", "b"),
        ("{{if .empty}}{{.missing}}{{end}}kept", "kept"),
        ("{{with .name}}<{{.}}>{{end}}{{with .empty}}a{{else}}b{{end}}", "<words>b"),
        ("{{with $n := .name}}{{$n}} {{$.name}}{{end}}", "words words"),
        ("{{range $k, $v := .}}{{$k}}={{$v}};{{end}}", "empty=;name=words;start-time=today;"),
        ("{{range .}}<{{.}}>{{end}}", "<><words><today>"),
        ("{{range $i := 3}}{{$i}}{{end}}{{range 0}}a{{else}}none{{end}}", "012none"),
        ("{{$x := .name}}{{if true}}{{$x = `set`}}{{end}}{{$x}}", "set"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{printf `%s-%03d|%-4s|%q|%v|%.2f%%` .name 7 `a` `b` true 1.5}}", 'words-007|a   |"b"|true|1.50%'),
        ("{{.name | len}} {{len .}} {{slice .name 1 3}} {{slice .name 3}}", "5 3 or ds"),
        ("{{print 1 2 `a` 3}} {{println .name 1}}", "1 2a3 words 1\n"),
        (
            "{{lt 1 2}} {{le 2 2}} {{gt `a` `b`}} {{ge 1.5 1.0}} {{eq .name `a` `words`}}",
            "true true false true true",
        ),
        ("{{`<a&\"'>` | html}} {{urlquery `a b/c`}}", "&lt;a&amp;&#34;&#39;&gt; a+b%2Fc"),
        (
            "{{or .empty 5}} {{and .name 0}} {{true}} {{.}}",
            "5 0 true map[empty: name:words start-time:today]",
        ),
    ],
)
def test_actions_are_replaced(text: str, expected: str) -> None:
    """Values, defaults, branches, loops, variables, functions, blanks and comments: as Go's templates do it."""
    assert filled(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("Name: {{.nane}}", 1, 7, '"nane"'),
        ("a\nb {{.name}} {{- .other}}", 2, 13, '"other"'),
        ("a {{ .name\n}}\n {{nonsense}}", 3, 2, "no action"),
        ("{{.name | nothing}}", 1, 1, "no action"),
        ("{{.name | .name}}", 1, 1, "no action"),
        ("a {{if .name}} b", 1, 3, "no {{end}} ends it"),
        ("{{if .name}}{{if .name}}{{end}}", 1, 1, "no {{end}} ends it"),
        ("{{end}}", 1, 1, "no action"),
        ("{{if .name}}{{else}}{{else}}{{end}}", 1, 21, "no action"),
        ("{{if .nane}}a{{end}}", 1, 1, '"nane"'),
        ("{{if .name}}\n{{.nane}}{{end}}", 2, 1, '"nane"'),
        ("{{template `x`}}", 1, 1, "no action"),
        ("{{range .name}}{{end}}", 1, 1, "goes through"),
        ("{{.name.first}}", 1, 1, "has no part"),
        ("{{$x}}", 1, 1, "no variable $x"),
        ("{{$x = 1}}", 1, 1, "no variable $x"),
        ("{{if true}}{{$x := 1}}{{end}}{{$x}}", 1, 30, "no variable $x"),
        ("{{eq .name 1}}", 1, 1, "cannot be compared"),
        ("{{eq .name}}", 1, 1, "no action"),
        ("{{lt true false}}", 1, 1, "no order"),
        ("{{len 5}}", 1, 1, "no length"),
        ("{{slice .name 9}}", 1, 1, "has no 9 bytes"),
        ("{{slice .name 2 1}}", 1, 1, "in order"),
        ("{{index .name `a`}}", 1, 1, "index takes"),
        ("{{printf `%d` .name}}", 1, 1, "cannot write"),
        ("{{printf `%s`}}", 1, 1, "no value for"),
        ("{{printf `x` .name}}", 1, 1, "more values"),
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


@pytest.mark.parametrize("text", ["{{range 1000000}}{{end}}", "{{range 999}}{{range 999}}{{end}}{{end}}"])
def test_loops_have_a_bound(text: str) -> None:
    """A loop that goes on for longer than any spec needs is refused."""
    with pytest.raises(Invalid, match="actions to carry out"):
        filled(text)


def test_branches_nest_only_so_deep() -> None:
    """Branches within each other, more than anybody writes, are refused and not a crash."""
    with pytest.raises(SpecFaults):
        filled("{{if .name}}" * 5_000 + "{{end}}" * 5_000)
    assert filled("{{if .name}}" * 40 + "a" + "{{end}}" * 40) == "a"


@given(st.text())
def test_a_text_without_braces_stays(text: str) -> None:
    """What holds no action is the same afterwards."""
    text = text.replace("{{", "{")
    assert fill_in(text, {}, file="job.yaml") == text


PIECES = [
    "{{",
    "}}",
    "(",
    ")",
    ".",
    "-",
    "|",
    "$x",
    ":=",
    "=",
    ",",
    '"',
    "`",
    "\\",
    "/*",
    "*/",
    " ",
    "\n",
    "5",
    "1.5",
    "%s",
]
WORDS = ["or", "if", "else", "end", "range", "with", "index", "eq", "len", "slice", "printf", "name", "true"]


@given(st.lists(st.sampled_from([*PIECES, *WORDS])).map("".join))
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
