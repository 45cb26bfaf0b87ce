"""Which local paths a node lets jobs see."""

import pytest

from protocol.errors import Invalid
from storage.allow_list import is_allowed, read_allow_list


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/data", "/data", True),
        ("/data", "/data/x", False),
        ("/data/", "/data", True),
        ("/data/*", "/data/x", True),
        ("/data/*", "/data/x/y", False),
        ("/data/*", "/data", False),
        ("/data/**", "/data/x/y/z", True),
        ("/data/**", "/data", True),
        ("/data/**", "/database", False),
        ("/data/**/in", "/data/in", True),
        ("/data/**/in", "/data/a/b/in", True),
        ("/data/**/in", "/data/a/begin", False),
        ("/data/*.csv", "/data/a.csv", True),
        ("/data/*.csv", "/data/acsv", False),
        ("/data/?", "/data/x", True),
        ("/data/?", "/data/xy", False),
        ("/data/[a-c]x", "/data/bx", True),
        ("/data/[a-c]x", "/data/dx", False),
        ("/data/[!a-c]x", "/data/dx", True),
        ("/data/[!a]b", "/data//b", False),
        ("/{data,mnt/*}/in", "/mnt/disk/in", True),
        ("/{data,mnt/*}/in", "/opt/in", False),
        ("/data/\\*", "/data/*", True),
        ("/data/\\*", "/data/x", False),
        ("/a.b", "/axb", False),
        ("/**", "/anything/at/all", True),
        ("/data,x", "/data,x", True),
    ],
)
def test_patterns_mean_what_they_mean_in_bacalhau(pattern: str, path: str, matches: bool) -> None:
    """Star and question mark stay within a component, two stars cross them, brackets and braces choose."""
    assert is_allowed(read_allow_list([pattern]), path, write=False) is matches


def test_writing_is_allowed_by_name_only() -> None:
    """Without a mode, or with ``ro``, a path is for reading."""
    allowed = read_allow_list(["/a", "/b:ro", "/c:rw", "/with:colon"])

    assert [is_allowed(allowed, path, write=True) for path in ("/a", "/b", "/c", "/with:colon")] == [
        False,
        False,
        True,
        False,
    ]
    assert all(is_allowed(allowed, path, write=False) for path in ("/a", "/b", "/c", "/with:colon"))


def test_an_empty_list_allows_nothing() -> None:
    """What is not allowed is forbidden."""
    assert not is_allowed(read_allow_list([]), "/", write=False)


@pytest.mark.parametrize("line", ["data/**", "", ":rw", "/a{b", "/[z-a]"])
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    """A relative or broken pattern keeps a node from starting with a hole, or with less than was meant."""
    with pytest.raises(Invalid, match="the allowed path"):
        read_allow_list([line])
