"""Which bytes a GET is answered with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.http_part import Part, part_of

ETAG = '"v1"'
WHOLE = Part(200, 0, 100)


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({}, WHOLE),
        ({"Range": "bytes=0-9"}, Part(206, 0, 10)),
        ({"Range": "bytes=0-99"}, Part(206, 0, 100)),
        ({"Range": "bytes=90-"}, Part(206, 90, 100)),
        ({"Range": "bytes=90-9999"}, Part(206, 90, 100)),
        ({"Range": "bytes=-7"}, Part(206, 93, 100)),
        ({"Range": "bytes=-9999"}, Part(206, 0, 100)),
        ({"Range": "bytes=-0"}, Part(416)),
        ({"Range": "bytes=100-"}, Part(416)),
        ({"Range": "bytes=999-"}, Part(416)),
        ({"Range": "bytes=9-0"}, WHOLE),
        ({"Range": "bytes=-"}, WHOLE),
        ({"Range": "bytes=0-1,5-6"}, WHOLE),
        ({"Range": "apples=1-2"}, WHOLE),
        ({"Range": "bytes=1-9", "If-Range": ETAG}, Part(206, 1, 10)),
        ({"Range": "bytes=1-9", "If-Range": '"v0"'}, WHOLE),
        ({"Range": "bytes=1-9", "If-Range": "W/" + ETAG}, WHOLE),
        ({"Range": "bytes=1-9", "If-Range": "Tue, 01 Dec 2026 00:00:00 GMT"}, WHOLE),
        ({"If-Match": '"v0", "v1"'}, WHOLE),
        ({"If-Match": "*"}, WHOLE),
        ({"If-Match": '"v0"'}, Part(412)),
        ({"If-Match": "W/" + ETAG}, Part(412)),
        ({"If-None-Match": '"v0"'}, WHOLE),
        ({"If-None-Match": '"v0", W/"v1"'}, Part(304)),
        ({"If-None-Match": "*", "Range": "bytes=0-1"}, Part(304)),
    ],
)
def test_a_part_is_given_of_the_version_that_is_asked_for(headers: dict[str, str], part: Part) -> None:
    """What is asked for and is there comes as a part; of another version, or of words that say nothing, the whole."""
    assert part_of(headers, 100, ETAG) == part


@given(
    asked=st.text(max_size=30) | st.from_regex(r"bytes ?= ?[0-9]{0,25}-[0-9]{0,25}", fullmatch=True),
    size_bytes=st.integers(0, 1 << 40),
)
def test_no_words_lead_out_of_what_is_there(asked: str, size_bytes: int) -> None:
    """Whatever is asked for, the answer is of bytes that there are."""
    part = part_of({"Range": asked}, size_bytes, ETAG)

    assert 0 <= part.start <= part.stop <= size_bytes
    assert part.size_bytes > 0 if part.status == 206 else part.size_bytes in (0, size_bytes)


def test_a_part_says_where_it_lies() -> None:
    """With its place and the size of the whole; where there is nothing, only the size is told."""
    assert Part(206, 5, 10).headers(100, ETAG)["Content-Range"] == "bytes 5-9/100"
    assert Part(416).headers(100, ETAG)["Content-Range"] == "bytes */100"
    assert "Content-Range" not in WHOLE.headers(100, ETAG)
