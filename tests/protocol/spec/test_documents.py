"""Specs as text: values, places, and what is refused before anything is read into a job."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from protocol.spec.bounds import DEPTH_MAX, NODES_MAX, TEXT_MAX_BYTES
from protocol.spec.documents import read_document
from protocol.spec.tree import Unreadable
from protocol.spec.yaml_text import resolve

TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff"),
    max_size=8,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def refused(text: str, file: str = "") -> Unreadable:
    """The refusal of a text."""
    with pytest.raises(Unreadable) as caught:
        read_document(text, file=file)
    return caught.value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        # Seen with Bacalhau 1.9.3.
        ("no", False),
        ("0123", 83),
        ("1:30", "1:30"),
        ("yes", True),
        ("on", True),
        ("1e3", 1000),
        ("0o17", 15),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        # Bacalhau refuses a text field that is written y; here it is that text.
        ("y", "y"),
        ("n", "n"),
        # By the same rules.
        ("Off", False),
        ("TRUE", True),
        ("null", None),
        ("", None),
        ("0x1F", 31),
        ("0b11", 3),
        ("-12", -12),
        ("+12", 12),
        ("1_000", 1000),
        ("089", 89),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2.", 2),
        ("1.0", 1),
        ("v1.0", "v1.0"),
        ("1.2.3", "1.2.3"),
        ("0.5.", "0.5."),
        ("12:30:45", "12:30:45"),
        ("500m", "500m"),
        ("1Gi", "1Gi"),
        ("-", "-"),
        (".", "."),
        ("99999999999999999999999", 1e23),
        ("1e999", "1e999"),
        ("9" * 100, "9" * 100),
        ("nUll", "nUll"),
    ],
)
def test_a_plain_word_has_the_value_that_bacalhau_gives_it(word: str, value: Any) -> None:
    """Words without quotes are booleans, numbers, nothing or texts by Go's rules."""
    assert resolve(word) == value
    assert type(resolve(word)) is type(value)


def test_words_in_quotes_are_texts() -> None:
    """Quotes and block styles make a text of anything."""
    assert read_document("a: 'no'\nb: \"0123\"\nc: |-\n  yes\n").data() == {
        "a": "no",
        "b": "0123",
        "c": "yes",
    }


def test_a_key_is_the_text_that_stands_there() -> None:
    """A key is never a boolean or number: Env may hold NO."""
    assert read_document("{NO: a, 0123: b, 'x': c}  # not JSON").data() == {"NO": "a", "0123": "b", "x": "c"}


def test_tags_say_what_a_value_is() -> None:
    """The standard tags of YAML are honoured."""
    text = "a: !!str 12\nb: !!int 12\nc: !!float 1\nd: !!bool yes\ne: !!null ''\nf: ! 12\n"

    assert read_document(text).data() == {"a": "12", "b": 12, "c": 1.0, "d": True, "e": None, "f": "12"}


def test_anchors_aliases_and_merge_keys_are_followed() -> None:
    """What is written once may be used twice; an object's own members win over merged ones."""
    text = "a: &a {p: 1, q: [1, 2]}\nb: *a\nc: {<<: *a, p: 3}\nd: {<<: [{p: 5}, *a]}\n'<<': 1\n"

    assert read_document(text).data() == {
        "a": {"p": 1, "q": [1, 2]},
        "b": {"p": 1, "q": [1, 2]},
        "c": {"p": 3, "q": [1, 2]},
        "d": {"p": 5, "q": [1, 2]},
        "<<": 1,
    }


@pytest.mark.parametrize(
    ("text", "path", "value", "key"),
    [
        ("a: 1\nb:\n  - c: 2\n", ("b", 0, "c"), (3, 8), (3, 5)),
        ('{"a": 1,\n "b": [\n  {"c": 2}]}', ("b", 0, "c"), (3, 9), (3, 4)),
        ("a: 1\nb:\n  - c: 2\n", ("B", 0, "C"), (3, 8), (3, 5)),
        ("a: 1\nb:\n  - c: 2\n", ("b", 0, "missing"), (3, 5), (3, 5)),
        ("a: 1\nb:\n  - c: 2\n", ("b", 7), (3, 3), (3, 3)),
        ("a: 1\n", (), (1, 1), (1, 1)),
        ("ä: [é, 1]\n", ("ä", 1), (1, 8), (1, 8)),
        ('\n\n  {"a": [1,\n2,\n\n 3]}', ("a", 2), (6, 2), (6, 2)),
    ],
)
def test_a_path_leads_to_a_line_and_a_column(
    text: str, path: tuple[str | int, ...], value: tuple[int, int], key: tuple[int, int]
) -> None:
    """Every value and key has a place, counted in characters from 1; what is not there is where it should be."""
    document = read_document(text)

    assert document.place(path, key=False) == value
    assert document.place(path, key=True) == key


def test_a_key_that_is_given_twice_is_found() -> None:
    """A repeated key is told with both places, in YAML and in JSON."""
    for text in ("a: 1\nb: {c: 1,\n c: 2}\na: 2\n", '{"a": 1,\n"b": {"c": 1,\n "c": 2},\n"a": 2}'):
        found = [(each.path, each.mark[0], each.first[0]) for each in read_document(text).repeated]
        assert [(path, line) for path, line, _ in found] == [(("b", "c"), 3), (("a",), found[1][1])]
        assert found[1][2] == 1


@pytest.mark.parametrize(
    ("text", "mark", "says"),
    [
        ("", (1, 1), "empty"),
        (" \n\n", (1, 1), "empty"),
        ("# nothing\n", (1, 1), "empty"),
        ("a: 1\n---\nb: 2\n", (2, 1), "second document"),
        ("a: [1,\n", (2, 1), "not YAML"),
        ("a: b: c", (1, 5), "not YAML"),
        ("a: 'x", (1, 6), "not YAML"),
        ("\ta: 1", (1, 1), "a tab stands where YAML takes spaces alone"),
        ("a:\n\t- b: 1", (2, 1), "a tab"),
        ("a: b\x07", (1, 5), "control characters"),
        ("a: 1\nb: \0", (2, 4), "NUL"),
        ("a: 1\nb: x\udc00", (2, 5), "surrogate"),
        ("a: *b", (1, 4), "no anchor"),
        ("a: &b [*b]", (1, 8), "inside its own anchor"),
        ("a: !thing b", (1, 4), "tag"),
        ("a: !!binary aGk=", (1, 4), "tag"),
        ("a: !!set {b}", (1, 4), "tag"),
        ("a: !!int no", (1, 4), "no int"),
        ("? [a]\n: b", (1, 3), "key must be a text"),
        ("~: 1", (1, 1), "key is missing"),
        ("a: {<<: 1}", (1, 9), "merged"),
        ("x" * (TEXT_MAX_BYTES + 1), (1, 1), "10 MiB"),
        ("é" * (TEXT_MAX_BYTES // 2 + 1), (1, 1), "10 MiB"),
        ("%TAG !a! x:\n" * 1000 + "---\na: 1", (1, 1), "%"),
        ("a: 1\n...\n" + "%TAG !a! x:\n" * 1000, (1, 1), "%"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_at_its_place(
    text: str, mark: tuple[int, int], says: str
) -> None:
    """What is no YAML, no single document or too large is refused with line, column and reason."""
    refusal = refused(text)

    assert refusal.mark == mark
    assert says in refusal.message


@pytest.mark.parametrize(
    ("text", "mark", "says"),
    [
        ('{"a": 1', (1, 8), 'expected "," or "}"'),
        ('{"a": 1,\n}', (2, 1), "a key in double quotes"),
        ('{"a" 1}', (1, 6), 'expected ":"'),
        ('{"a": nul}', (1, 7), "expected a value"),
        ('{"a": "x', (1, 7), "Unterminated"),
        ('{"a": "x\ty"}', (1, 9), "control character"),
        ('{"a": "\\q"}', (1, 8), "escape"),
        ('{"a": 01}', (1, 8), 'expected "," or "}"'),
        ('{"a": 1} x', (1, 10), "nothing more"),
        ('{"a": [1 2]}', (1, 10), 'expected "," or "]"'),
        ('{"a": ' + "9" * 1000 + "}", (1, 7), "more than 64 characters"),
    ],
)
def test_a_json_file_that_is_none_is_refused_at_its_place(
    text: str, mark: tuple[int, int], says: str
) -> None:
    """A file named .json is held to JSON."""
    refusal = refused(text, "job.json")

    assert refusal.mark == mark
    assert says in refusal.message


def test_what_begins_like_json_may_be_yaml() -> None:
    """An object in braces with plain words, comments or a last comma is YAML."""
    assert read_document("{a: no, b: [x,],}  # so\n").data() == {"a": False, "b": ["x"]}


def test_json_keeps_what_yaml_would_change() -> None:
    """Line separators, escaped pairs and tabs of a JSON text arrive as they are."""
    value = {"a": "x\u2028y\x85z", "b": "😀", "c": "a/b\t", "\x7f": 1}

    assert read_document(json.dumps(value)).data() == value
    assert read_document(json.dumps(value, ensure_ascii=False)).data() == value
    assert read_document("\ufeff" + json.dumps(value, indent="\t")).data() == value


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "a:\n" + "".join(" " * n + "a:\n" for n in range(1, 2000)),
        '{"a":' * 100_000,
        '{"a":' + "[" * 100_000,
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000)),
    ],
)
def test_depth_is_refused_and_never_a_crash(text: str) -> None:
    """However deep a text is nested, in whatever way, the answer is a refusal."""
    assert refused(text).message == f"it is nested more than {DEPTH_MAX} deep"


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * (NODES_MAX + 1) + "]",
        '{"a":[' + "1," * (NODES_MAX + 1) + "1]}",
        "- 1\n" * (NODES_MAX + 1),
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)),
    ],
)
def test_a_flood_of_values_is_refused(text: str) -> None:
    """A list without end, or an alias bomb, is refused before it grows."""
    assert "50,000 values" in refused(text).message


def test_a_text_at_the_limits_is_read() -> None:
    """The limits themselves are allowed: several MB of inline data, and depth up to the bound."""
    data = "x" * (TEXT_MAX_BYTES - 10)
    assert read_document(f'{{"a":"{data}"}}').data() == {"a": data}
    assert read_document(f"a: {data}").data() == {"a": data}

    deep = "[" * (DEPTH_MAX - 1) + "]" * (DEPTH_MAX - 1)
    read_document(f'{{"a":{deep[1:-1]}}}')
    read_document(deep)


@given(OBJECTS)
def test_json_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    """Every JSON object is read as itself, in one line or in many."""
    assert read_document(json.dumps(value)).data() == value
    assert read_document(json.dumps(value, indent=1, ensure_ascii=False)).data() == value


@given(OBJECTS)
def test_yaml_and_json_agree(value: dict[str, Any]) -> None:
    """An object written as YAML is read as its JSON is."""
    written = yaml.safe_dump(value, default_style='"', allow_unicode=True, sort_keys=False)
    assert read_document("---\n" + written).data() == read_document(json.dumps(value)).data()


@given(st.text(max_size=60) | st.text("{}[]:,-&*!|>'\"%@`#?~ \n\t<a1\\", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text does anything but give values or a refusal with a place inside it."""
    try:
        read_document(text)
    except Unreadable as refusal:
        line, column = refusal.mark
        assert 1 <= line <= text.count("\n") + text.count("\r") + 2
        assert column >= 1
