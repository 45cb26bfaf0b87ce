"""Sharing out objects among partitions: the same as Bacalhau, by tables made with Go's own hash and time packages."""

from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid, TimedOut
from storage.long_lists import Packed
from storage.params import read_params
from storage.s3.dates import same_date
from storage.s3.params import Partition, SourceParams
from storage.s3.partitions import behind_prefix, fnv1a, index_of, shares_out
from storage.s3.patterns import finder, sift

BY_GO_HASH = [
    ("", 7, 2),
    ("", 3, 1),
    ("a", 7, 5),
    ("a", 3, 1),
    ("logs/2024/01/x.csv", 7, 6),
    ("logs/2024/01/x.csv", 3, 2),
    ("données/été.txt", 7, 4),
    ("données/été.txt", 3, 1),
    ("file1.txt", 7, 3),
    ("file1.txt", 3, 1),
    ("123\x1f456", 7, 5),
    ("123\x1f456", 3, 2),
]

BY_GO_DATE = [
    ("2006-01-02", "2024-03-05.csv", "2024-03-05"),
    ("2006-01-02", "2024-02-30.csv", None),
    ("2006-01-02", "2024-1-02x", None),
    ("2006/01/02", "2024/12/31/a", "2024/12/31"),
    ("20060102", "20240305T1", "20240305"),
    ("2006-1-2", "2024-3-5", "2024-3-5"),
    ("2006-1-2", "2024-12-5", None),
    ("Jan_2", "JAN 5x", "Jan 5"),
    ("Jan 02 2006", "feb 29 2024 x", "Feb 29 2024"),
    ("Jan 02 2006", "Feb 29 2023 x", None),
    ("January", "Januaryx", "January"),
    ("January", "marchXXX", None),
    ("January", "March", "March"),
    ("06", "69", "69"),
    ("06", "68", "68"),
    ("15h04", "7h04x", None),
    ("15h04", "07h04", "07h04"),
    ("03PM", "11PM", "11PM"),
    ("03PM", "13PM", None),
    ("3pm", "1pm", "1pm"),
    ("3pm", "1PM", None),
    ("2006-002", "2024-366", "2024-366"),
    ("2006-002", "2023-366", None),
    ("Mon 02", "tue 05", "Wed 05"),
    ("2006-01-02T15:04:05Z07:00", "2024-03-05T01:02:03+02:00", "2024-03-05T01:02:03+02:00"),
    ("2006-01-02T15:04:05Z07:00", "2024-03-05T01:02:03Z", "2024-03-05T01:02:03Z"),
    ("2006-01-02T15:04:05-0700", "2024-03-05T01:02:03+0000", "2024-03-05T01:02:03+0000"),
    ("year=2006", "year=2024/x", "year=2024"),
    ("year=2006", "yeat=2024/x", None),
    ("2006", "202", None),
    ("2006-01", "2024-13", None),
    ("15:04:05", "01:02:60", None),
    ("15:04:05", "24:02:03", None),
    ("15:04:05.000", "01:02:03.123", "01:02:03.123"),
    ("02", "5", None),
    ("2", "5", "5"),
    ("2006 01", "2024  03", None),
    ("2006__2", "2024  5", "2024  5"),
    ("data", "data", "data"),
    ("Monday", "Sunday", "Saturday"),
    ("04", "5", None),
    ("4", "5", "5"),
]


BY_BACALHAU = [
    (".000x", ",480x", ".480x"),
    (",999", ".120", ",12"),
    (".00", ".1", None),
    (".00", ".+7", ".07"),
    ("06", "-5", "95"),
    ("2006 ", "2024", "2024 "),
    ("2006 x", "2024x", None),
    ("January 2 15:4:5", "May 2 3:4:5.123", "May 2 03:4:5"),
    ("15:4:05.9", "3:4:05.25", "03:4:05.2"),
    ("02 2", "45 3", "03 3"),
    ("2006 Jané", "2024 mayé", "2024 Mayé"),
    ("-07:00", "+24:60", "+25:00"),
    ("-07:00", "+25:00", None),
    ("-0700", "-0061", None),
    ("-0700", "-0000", "+0000"),
    ("Z07:00", "-00:00", "Z"),
    ("Z07x-07", "Zx-11", "Zx+00"),
    ("-07:00:00", "-00:00:30", "+00:00:-30"),
    ("15 MST", "03 CET", "03 CET"),
    ("15 MST", "03 UTC", "03 UTC"),
    ("15 MST", "03 utc", None),
    ("2006-01-02 15 MST", "2023-12-31 23 GMT+3", "2024-01-01 02 GMT+3"),
    ("MST", "GMT+24", None),
    ("MST", "ABCDE", None),
    ("MST", "WITA", "WITA"),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "count", "index"), BY_GO_HASH)
def test_a_text_has_the_index_that_go_gives_it(text: str, count: int, index: int) -> None:
    """The hash is FNV-1a of 32 bits over the UTF-8 bytes, modulo the count."""
    assert fnv1a(text) % count == index


@pytest.mark.parametrize(("layout", "text", "date"), BY_GO_DATE)
def test_a_date_is_read_and_written_as_go_does(layout: str, text: str, date: str | None) -> None:
    """A date format means what it means to Go: ranges, leap years, names in any case, weekdays of the date."""
    assert same_date(layout, text[: len(layout)]) == date


@pytest.mark.parametrize(("layout", "text", "date"), BY_BACALHAU)
def test_a_date_is_hashed_as_bacalhau_hashes_it(layout: str, text: str, date: str | None) -> None:
    """What Go's reader lets pass beyond its documentation is let pass, and written again as Go writes it."""
    assert same_date(layout, text) == date


@pytest.mark.parametrize("layout", ["y=59A", "-.123.1233", ".999x3-52Jan."])
def test_a_layout_that_cannot_read_what_it_writes_is_refused(layout: str) -> None:
    """A date format that Bacalhau refuses is refused, by the field."""
    with pytest.raises(Invalid, match=r"Partition\.DateFormat .* cannot read what it writes"):
        read_params(
            {"Bucket": "b", "Partition": {"Type": "date", "DateFormat": layout}}, SourceParams, "source s3"
        )


@pytest.mark.parametrize("layout", ["YYYY-MM-DD", "%Y-%m-%d", "yyyy/MM"])
def test_a_layout_in_another_languages_words_is_refused(layout: str) -> None:
    """A date format that names no part of a date would give all objects to one partition: a person hears of it, and of how
    it is written."""
    with pytest.raises(Invalid, match=r"Partition\.DateFormat .* has no part of a date") as caught:
        read_params(
            {"Bucket": "b", "Partition": {"Type": "date", "DateFormat": layout}}, SourceParams, "source s3"
        )
    assert "2006-01-02" in caught.value.hint


@pytest.mark.parametrize(
    "layout", ["2006", "Jan", "_2", "002", "Mon", "3PM", "PM", ".000", "MST", "Z07:00", "-07"]
)
def test_any_part_of_a_date_makes_a_layout(layout: str) -> None:
    """Objects may be shared out by any part of a date, as in Bacalhau."""
    read_params(
        {"Bucket": "b", "Partition": {"Type": "date", "DateFormat": layout}}, SourceParams, "source s3"
    )


LAYOUTS = st.lists(
    st.sampled_from(
        ["2006", "01", "_2", "2", "002", "Jan", "Monday", "15", "3", "PM", ".000", "Z07:00", " ", "-"]
    )
).map("".join)


@given(layout=st.text(max_size=30) | LAYOUTS, text=st.text(max_size=40) | st.from_regex(r"[0-9 :.+-]*"))
def test_no_layout_and_no_text_does_any_harm(layout: str, text: str) -> None:
    """Whatever the format and the key, the answer is a date or none."""
    date = same_date(layout, text)

    assert date is None or isinstance(date, str)


@pytest.mark.parametrize(
    ("partition", "groups", "text"),
    [
        (Partition(type="object"), [], "logs/2024/user7-a.csv"),
        (Partition(type="Object"), [], "logs/2024/user7-a.csv"),
        (Partition(type="regex", pattern="x"), ["user7", "7"], "7"),
        (Partition(type="regex", pattern="x"), ["user7-a", "7", "", "a"], "7\x1fa"),
        (Partition(type="regex", pattern="x"), ["user7"], "user7"),
        (Partition(type="substring", start_index=5, end_index=10), [], "user7"),
        (Partition(type="date", date_format="2006"), [], "2024"),
    ],
)
def test_what_is_hashed(partition: Partition, groups: list[str], text: str) -> None:
    """Each type hashes its own text of the key: all of it, the groups that matched, a slice, a date."""
    assert index_of("logs/2024/user7-a.csv", "logs/", partition, 1000, groups) == fnv1a(text) % 1000


@pytest.mark.parametrize(
    ("partition", "groups"),
    [
        (Partition(type="regex", pattern="x"), []),
        (Partition(type="regex", pattern="x"), ["", ""]),
        (Partition(type="substring", start_index=0, end_index=99), []),
        (Partition(type="date", date_format="02-01-2006"), []),
    ],
)
def test_what_does_not_match_is_in_partition_0(partition: Partition, groups: list[str]) -> None:
    """An object without the text in question is read by the first partition, never by none."""
    assert index_of("logs/2024/user7-a.csv", "logs/", partition, 1000, groups) == 0


@given(key=st.text(), count=st.integers(1, 50))
def test_every_object_is_in_one_partition(key: str, count: int) -> None:
    """The index is always one of the partitions."""
    assert 0 <= index_of(key, "", Partition(type="object"), count) < count


@pytest.mark.parametrize(("kind", "count"), [("", 5), ("none", 5), ("None", 5), ("object", 1)])
def test_without_a_type_or_company_everything_is_read(kind: str, count: int) -> None:
    """No type, ``none`` and a count of one mean all objects for every execution."""
    assert not shares_out(Partition(type=kind), count)


def test_patterns_see_what_follows_the_prefix() -> None:
    """The prefix and one slash behind it are left away."""
    assert behind_prefix("a/b/c", "a/b") == "c"
    assert behind_prefix("a/b/c", "x") == "a/b/c"


@pytest.mark.parametrize(
    ("partition", "named"),
    [
        ({"Type": "size"}, "size"),
        ({"Type": "regex"}, "Pattern"),
        ({"Type": "substring", "StartIndex": 3, "EndIndex": 3}, "EndIndex"),
        ({"Type": "substring", "StartIndex": -1, "EndIndex": 3}, "StartIndex"),
        ({"Type": "date"}, "DateFormat"),
        ({"Typ": "date"}, "Typ"),
    ],
)
def test_a_partition_that_cannot_work_is_refused(partition: dict[str, object], named: str) -> None:
    """A wrong partition is refused when the spec is read, by the field."""
    with pytest.raises(Invalid, match=named):
        read_params({"Bucket": "bucket", "Key": "a/", "Partition": partition}, SourceParams, "source s3")


@pytest.mark.parametrize(
    ("pattern", "text", "match"),
    [
        (r"user(\d+)", "x/user12", ["user12", "12"]),
        (r"^b", "abc", []),
        (r"(a)|(b)", "b", ["b", "", "b"]),
        (r"\.csv$", "a.csv\n", []),
        (r"\.csv\z", "a.csv", [".csv"]),
        (r"[[:digit:]]+", "ab12", ["12"]),
        (r"[[:^digit:]]+", "12ab", ["ab"]),
        (r"[^[:^digit:]x]+", "ab12", ["12"]),
        (r"(?<year>\d{4})", "y2024", ["2024", "2024"]),
        (r"[:dig:]+", "a:d", [":d"]),
        (r"a{,2}", "aa{,2}", ["a{,2}"]),
        (r"[]$]", "a$", ["$"]),
        (r"\Qa.b\E$", "a.b", ["a.b"]),
        (r"\d", "٣", []),
        (r"(?P<year>\d{4})", "y2024", ["2024", "2024"]),
        (r"(?i)straße", "STRASSE STRAẞE", ["STRAẞE"]),
        (r"(?i)ÄRGER-σ", "ärger-ς", ["ärger-ς"]),
        (r"(?i)k", "\u212a", ["\u212a"]),
        (r"(?i:[à-ö])", "É", ["É"]),
        (r"(?i)i", "İ", []),
        (r"\p{Greek}+", "abc αβγ", ["αβγ"]),
        (r"\pN+", "x٣4", ["٣4"]),
        (r"(?U)a+", "aaa", ["a"]),
        (r"(a|ab)(c|bcd)", "abcd", ["abcd", "a", "bcd"]),
        (r"^b(?m:$)", "b\nc", ["b"]),
        (r"\bé", "aé", ["é"]),
        (r"夢$", "夢", ["夢"]),
        ("x" * 1500, "x" * 1600, ["x" * 1500]),
    ],
)
def test_patterns_mean_what_they_mean_to_bacalhau(pattern: str, text: str, match: list[str]) -> None:
    """Classes, cases (by Unicode's simple folding), flags, names, quoting, and what is found first are as RE2 has them."""
    assert finder(pattern, "Filter")(text) == match


@pytest.mark.parametrize(
    "pattern",
    [
        *("[unclosed", "(", "*a", "a++", "(" * 500, "[[:digits:]]", r"\Z", "(?=a)", r"(a)\1"),
        *("a{1001}", "((a{100}){100}){100}", r"\p{Klingon}", r"a\C"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """The field is named with RE2's reason, and nothing runs."""
    with pytest.raises(Invalid, match=r"Filter .* is not a regular expression: .+"):
        finder(pattern, "Filter")


def test_what_only_looks_like_any_byte_is_a_pattern() -> None:
    """A backslash before a C that means itself, and one in a quotation, are no request for half a character."""
    assert finder(r"\\C", "Filter")("a\\C") == ["\\C"]
    assert finder(r"\Q\C\E", "Filter")("\\C") == ["\\C"]


async def test_patterns_have_an_end() -> None:
    """However many keys and whatever the pattern, trying it ends in time, and says so by the field."""
    with pytest.raises(TimedOut, match="Filter 'a' took longer than 0 s"):
        await sift(Packed(str, repeat("a", 1_000_000)), "a", "Filter", str, lambda *_: True, limit_s=0)
