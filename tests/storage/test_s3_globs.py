"""Wildcards in keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.s3.globs import is_glob, literal_prefix, pattern_of
from storage.s3.patterns import compiled


def matches(glob: str, key: str) -> bool:
    """Whether a key is meant, as the source finds out: by what it begins with, then by the pattern."""
    prefix = literal_prefix(glob)
    if not key.startswith(prefix):
        return False
    return compiled(pattern_of(glob), "Key").search(key[len(prefix) :].encode()) is not None


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("a/*/x.csv", ["a/1/x.csv", "a/2024/x.csv"], ["a/x.csv", "a/1/2/x.csv", "a/1/x.csv.gz", "b/1/x.csv"]),
        ("a/**/x", ["a/x", "a/1/x", "a/1/2/x"], ["a/1/xx", "ax"]),
        ("**.csv", ["a.csv", "a/b/c.csv"], ["a.csv.gz"]),
        ("log-202?-0[1-3]*", ["log-2024-01", "log-2025-03/x/y"], ["log-2024-04", "log-202/-01"]),
        ("a[!0-9]b", ["axb"], ["a1b", "a/b", "ab"]),
        ("a[]x]b", ["a]b", "axb"], ["ab"]),
        ("a[0-9-x]b", ["a5b", "a-b", "axb"], ["ayb"]),
        ("a[9-0x]b", ["axb"], ["a9b", "a5b", "a-b", "ab"]),
        ("a[9-0]b", [], ["a9b", "a5b", "a-b", "a[9-0]b", "ab"]),
        ("a[!9-0]b", ["a9b", "axb"], ["a/b", "ab"]),
        (r"a\*b?", ["a*bc"], ["axbc"]),
        ("a/*/", ["a/1/x", "a/1/x/y"], ["a/x"]),
        ("a[b", ["a[b"], ["ab"]),
        ("*.(x)+", [".(x)+", "a.(x)+"], ["a.xx"]),
        ("line\n?", ["line\n1"], ["line1"]),
        ("träume*夢", ["träume 夢"], ["träume/夢"]),
    ],
)
def test_what_a_wildcard_stands_for(glob: str, yes: list[str], no: list[str]) -> None:
    """``*`` and ``?`` stay inside a folder, ``**`` and a ``*`` at the end do not; all else means itself."""
    assert is_glob(glob)
    assert [key for key in yes if not matches(glob, key)] == []
    assert [key for key in no if matches(glob, key)] == []


@pytest.mark.parametrize("key", ["", "a", "a/", "a/b/pre*", "*", "a+b(c)"])
def test_what_bacalhau_knows_is_no_glob(key: str) -> None:
    """A key without wildcards, a prefix, and one ``*`` at the end mean what they mean there."""
    assert not is_glob(key)


@given(
    st.text(st.sampled_from("ab*?[]!\\/^-.\n夢"), max_size=12),
    st.text(st.sampled_from("ab/.\n夢*[]"), max_size=10),
)
def test_any_text_is_a_glob_or_a_key(glob: str, key: str) -> None:
    """Whatever is written can be tried, and every key it means begins with its literal part."""
    matches(glob, key)
    assert glob.startswith(literal_prefix(glob))


@given(st.text(st.sampled_from("ab/.\n夢*?[]\\"), min_size=1, max_size=10))
def test_an_escaped_key_means_itself_alone(key: str) -> None:
    """With a backslash before every character, a key is found by itself and by nothing longer."""
    glob = "".join(f"\\{each}" for each in key)
    assert glob.endswith(("/", "*")) or matches(glob, key)
    assert glob.endswith(("/", "*")) or not matches(glob, key + "x")
