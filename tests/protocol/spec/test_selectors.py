"""Conditions on labels: grammar and meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid
from protocol.jobs import Constraint
from protocol.spec.selectors import (
    OPERATORS,
    fault_in,
    format_selector,
    matches,
    matches_all,
    parse_selector,
)

WORDS = st.from_regex(r"[a-z0-9]([a-z0-9_.-]{0,8}[a-z0-9])?", fullmatch=True)
NUMBERS = st.integers(-(10**6), 10**6).map(str)


def constraints() -> st.SearchStrategy[Constraint]:
    """Constraints that can be asked."""
    return st.one_of(
        st.builds(
            Constraint,
            key=WORDS,
            operator=st.sampled_from(["=", "==", "!="]),
            values=st.lists(WORDS, min_size=1, max_size=1),
        ),
        st.builds(
            Constraint,
            key=WORDS,
            operator=st.sampled_from(["in", "notin"]),
            values=st.lists(WORDS, min_size=1, max_size=3, unique=True),
        ),
        st.builds(Constraint, key=WORDS, operator=st.sampled_from(["exists", "!"])),
        st.builds(
            Constraint, key=WORDS, operator=st.sampled_from(["gt", "lt"]), values=NUMBERS.map(lambda n: [n])
        ),
    )


LABELS = st.dictionaries(WORDS, st.one_of(WORDS, NUMBERS), max_size=4)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", []),
        ("   ", []),
        ("gpu", [Constraint("gpu", "exists")]),
        ("!spot", [Constraint("spot", "!")]),
        ("a=b", [Constraint("a", "=", ["b"])]),
        ("a==b", [Constraint("a", "==", ["b"])]),
        ("env != prod", [Constraint("env", "!=", ["prod"])]),
        ("region in (eu,us)", [Constraint("region", "in", ["eu", "us"])]),
        ("region notin ( eu )", [Constraint("region", "notin", ["eu"])]),
        ("cores>8", [Constraint("cores", "gt", ["8"])]),
        ("cores gt 8,mem lt 4", [Constraint("cores", "gt", ["8"]), Constraint("mem", "lt", ["4"])]),
        ("cores<8", [Constraint("cores", "lt", ["8"])]),
        ("a=", [Constraint("a", "=", [""])]),
        ("a in (,b)", [Constraint("a", "in", ["", "b"])]),
        ("in in (notin)", [Constraint("in", "in", ["notin"])]),
        ("example.com/a=b", [Constraint("example.com/a", "=", ["b"])]),
        ("favour_disk=ssd", [Constraint("favour_disk", "=", ["ssd"])]),
        (
            "region in (eu,us),env!=prod,gpu",
            [
                Constraint("region", "in", ["eu", "us"]),
                Constraint("env", "!=", ["prod"]),
                Constraint("gpu", "exists"),
            ],
        ),
        ("bacalhau_canary != true", [Constraint("bacalhau_canary", "!=", ["true"])]),
    ],
)
def test_a_selector_is_read_as_kubernetes_reads_it(text: str, read: list[Constraint]) -> None:
    """The grammar of ``--constraints`` is that of Kubernetes' label selectors."""
    assert read == parse_selector(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,", "the end"),
        (",a", "expected a label"),
        ("a b", 'found "b"'),
        ("a in b", 'expected "("'),
        ("a in ()", "expected a value"),
        ("a in (b", 'expected ")"'),
        ("a=b=c", 'expected ","'),
        ("!", "expected a label"),
        ("a~b", "is not a label"),
        ("a>x", "whole numbers"),
        ("a=b/c", "not a label's value"),
        ("_a=b", "is not a label"),
        ("Bad_Prefix/a=b", "domain name"),
        ("a" * 64, "63"),
        ("a=" + "b" * 64, "63"),
        ("a," * 40_000, "longer"),
    ],
)
def test_a_selector_that_cannot_be_read_is_refused_with_its_place(text: str, says: str) -> None:
    """A refusal says where reading stopped, or what is wrong with which word."""
    with pytest.raises(Invalid) as caught:
        parse_selector(text)

    assert says in caught.value.message


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (Constraint("a", "~", ["b"]), "not one of"),
        (Constraint("a", "", ["b"]), "not one of"),
        (Constraint("a", "in", []), "at least one"),
        (Constraint("a", "notin", []), "at least one"),
        (Constraint("a", "exists", ["b"]), "no values"),
        (Constraint("a", "!", ["b"]), "no values"),
        (Constraint("a", "=", []), "exactly one"),
        (Constraint("a", "!=", ["b", "c"]), "exactly one"),
        (Constraint("a", "gt", ["x"]), "whole numbers"),
        (Constraint("a", "lt", ["1.5"]), "whole numbers"),
        (Constraint("a", "gt", ["9" * 30]), "whole numbers"),
        (Constraint("", "exists"), "missing"),
        (Constraint("a b", "exists"), "not a label"),
        (Constraint("a", "=", ["b c"]), "value"),
    ],
)
def test_a_constraint_that_could_never_be_asked_is_found(constraint: Constraint, says: str) -> None:
    """An operator that does not exist, or values it cannot have, are known before any node is asked."""
    assert says in fault_in(constraint)


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("a=b", {"a": "b"}, True),
        ("a=b", {"a": "c"}, False),
        ("a=b", {}, False),
        ("a==b", {"a": "b"}, True),
        ("a!=b", {"a": "c"}, True),
        ("a!=b", {"a": "b"}, False),
        ("a!=b", {}, True),
        ("a in (b,c)", {"a": "c"}, True),
        ("a in (b,c)", {}, False),
        ("a notin (b,c)", {"a": "d"}, True),
        ("a notin (b,c)", {"a": "b"}, False),
        ("a notin (b,c)", {}, True),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!a", {"a": "x"}, False),
        ("a>5", {"a": "6"}, True),
        ("a>5", {"a": "5"}, False),
        ("a>5", {"a": "10"}, True),
        ("a>5", {"a": "many"}, False),
        ("a>5", {}, False),
        ("a<5", {"a": "4"}, True),
        ("a<5", {"a": "5"}, False),
        ("a<5", {}, False),
    ],
)
def test_each_operator_means_what_it_means_in_kubernetes(
    text: str, labels: dict[str, str], holds: bool
) -> None:
    """A missing label meets != and notin, and nothing else but !; numbers are compared as numbers."""
    (constraint,) = parse_selector(text)

    assert holds is matches(constraint, labels)


def test_an_operator_that_does_not_exist_holds_for_nothing() -> None:
    """An unknown operator never selects a node by accident."""
    assert not matches(Constraint("a", "~", ["b"]), {"a": "b"})


@given(st.lists(constraints(), max_size=4))
def test_what_is_written_out_is_read_back(wanted: list[Constraint]) -> None:
    """Every list of constraints has a text that reads as itself."""
    assert all(fault_in(each) == "" for each in wanted)
    assert wanted == parse_selector(format_selector(wanted))


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3), LABELS)
def test_notin_is_the_opposite_of_in(key: str, values: list[str], labels: dict[str, str]) -> None:
    """For all labels exactly one of ``in`` and ``notin`` holds; so with = and !=, exists and !."""
    for yes, no, their in (("in", "notin", values), ("=", "!=", values[:1]), ("exists", "!", [])):
        assert matches(Constraint(key, yes, their), labels) is not matches(Constraint(key, no, their), labels)


@given(WORDS, st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_numbers_are_greater_smaller_or_equal(key: str, bound: int, value: int) -> None:
    """Of gt and lt at most one holds; neither exactly when the numbers are equal."""
    labels = {key: str(value)}
    greater = matches(Constraint(key, "gt", [str(bound)]), labels)
    smaller = matches(Constraint(key, "lt", [str(bound)]), labels)

    assert (greater, smaller) == (value > bound, value < bound)


@given(st.lists(constraints(), max_size=4), LABELS)
def test_more_constraints_never_select_more(wanted: list[Constraint], labels: dict[str, str]) -> None:
    """All constraints hold together exactly when each holds."""
    assert matches_all(wanted, labels) is all(matches(each, labels) for each in wanted)


@given(st.text(max_size=60))
def test_any_text_is_a_selector_or_invalid(text: str) -> None:
    """No text does anything but be read or be refused; what is read can be asked."""
    try:
        read = parse_selector(text)
    except Invalid:
        return
    assert all(fault_in(each) == "" for each in read)


@given(
    st.builds(
        Constraint,
        key=st.text(max_size=5),
        operator=st.sampled_from([*OPERATORS, "~"]),
        values=st.lists(st.text(max_size=5), max_size=3),
    ),
    LABELS,
)
def test_matching_never_fails(constraint: Constraint, labels: dict[str, str]) -> None:
    """Any constraint from anywhere gives an answer."""
    assert matches(constraint, labels) in (True, False)
