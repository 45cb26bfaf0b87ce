"""Inline data: data URLs, and the references that stand for large ones."""

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid
from protocol.jobs import Input, Job, Spec, Task
from protocol.spec import read_body
from protocol.spec.blobs import (
    BlobUrl,
    is_blob_url,
    large_inline,
    parse_blob_url,
    parse_data_url,
    with_blob,
)

DIGEST = "ab" * 32


def data_url(data: bytes, media_type: str = "application/octet-stream") -> str:
    """A data URL in base64."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def job_with(*urls: str) -> Job:
    """A job whose inputs are these inline URLs."""
    inputs = [Input(Spec("inline", {"URL": url}), f"/in/{index}") for index, url in enumerate(urls)]
    return Job(tasks=[Task(engine=Spec("noop"), input_sources=inputs)])


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("data:,hello%20there", ("text/plain;charset=US-ASCII", b"hello there")),
        ("data:,", ("text/plain;charset=US-ASCII", b"")),
        ("data:;base64,aGk=", ("text/plain;charset=US-ASCII", b"hi")),
        ("data:text/csv,a,b", ("text/csv", b"a,b")),
        ("data:;charset=utf-8,x", ("text/plain;charset=utf-8", b"x")),
        ("data:application/gzip;base64,aGk=", ("application/gzip", b"hi")),
        ("data:application/gzip;base64,aGk", ("application/gzip", b"hi")),
        ("data:application/gzip;base64,aG\n k=", ("application/gzip", b"hi")),
        ("data:text/plain;charset=utf-8;base64,aGk%3D", ("text/plain;charset=utf-8", b"hi")),
        ("DATA:text/plain;BASE64,aGk=", ("text/plain", b"hi")),
    ],
)
def test_a_data_url_is_read_as_rfc_2397_has_it(url: str, read: tuple[str, bytes]) -> None:
    """Media type, parameters, base64 and percent-encoding of a data URL are honoured."""
    assert read == parse_data_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:text/plain",
        "http://x",
        "data:;base64,a",
        "data:;base64,a*b=",
        "data:no type,x",
        "data:,\ud800",
    ],
)
def test_what_is_no_data_url_is_refused_without_repeating_it(url: str) -> None:
    """A wrong data URL is refused; its data, which may be large or secret, is not repeated."""
    with pytest.raises(Invalid) as caught:
        parse_data_url(url)

    assert len(caught.value.message) < 100


@given(st.binary(max_size=200))
def test_every_byte_survives_a_data_url(data: bytes) -> None:
    """What was put into a data URL comes out of it."""
    assert ("application/x", data) == parse_data_url(data_url(data, "application/x"))


def test_a_blob_url_is_written_and_read_as_documented() -> None:
    """The form is ``blob:sha256:<hex>;<media type>;size=<n>``."""
    url = f"blob:sha256:{DIGEST};text/plain;charset=utf-8;size=12"

    assert BlobUrl(DIGEST, "text/plain;charset=utf-8", 12) == parse_blob_url(url)
    assert url == str(parse_blob_url(url))
    assert is_blob_url(url)
    assert not is_blob_url("data:,x")


@pytest.mark.parametrize(
    "url",
    [
        "blob:",
        f"blob:sha256:{DIGEST}",
        f"blob:sha256:{DIGEST};text/plain",
        f"blob:sha256:{DIGEST};text/plain;size=-1",
        f"blob:sha256:{DIGEST};text/plain;size=01",
        f"blob:sha256:{DIGEST};;size=1",
        f"blob:sha256:{DIGEST.upper()};text/plain;size=1",
        f"blob:sha256:{DIGEST[1:]};text/plain;size=1",
        f"blob:sha256:{DIGEST};text/plain;size=1\n",
        f"blob:sha256:{DIGEST};text;size=1",
        f"blob:md5:{DIGEST};text/plain;size=1",
    ],
)
def test_what_is_no_blob_url_is_refused(url: str) -> None:
    """Only the documented form is a blob URL."""
    with pytest.raises(Invalid):
        parse_blob_url(url)


def test_small_inline_data_stays_in_the_job() -> None:
    """As long as all inline data together is small, nothing is moved."""
    job = job_with(data_url(b"x" * 100), data_url(b"y" * 100))

    assert large_inline(job, 1000) == []


def test_the_largest_inline_data_is_moved_first_until_the_rest_is_small() -> None:
    """The fewest inputs are moved, the largest first, each with its media type and bytes."""
    job = job_with(data_url(b"a" * 300), data_url(b"b" * 3000, "application/gzip"), data_url(b"c" * 500))

    assert large_inline(job, 2000) == [(1, "application/gzip", b"b" * 3000)]
    assert [each.input for each in large_inline(job, 1000)] == [1, 2]
    assert [each.input for each in large_inline(job, 0)] == [0, 1, 2]


def test_other_sources_and_blobs_are_not_moved() -> None:
    """Only data inside the job counts."""
    job = job_with(str(BlobUrl(DIGEST, "text/plain", 10**9)))
    task = Task(
        engine=Spec("noop"),
        input_sources=[Input(Spec("urlDownload", {"URL": "https://x/" + "y" * 500}), "/in")],
    )

    assert large_inline(job, 0) == []
    assert large_inline(Job(tasks=[task]), 0) == []


def test_a_job_with_blobs_is_the_same_job_but_for_the_data() -> None:
    """Moving data changes one input's URL; the job before is unchanged, and the new one is valid and moved for good."""
    data = b"z" * 5000
    job = job_with("data:,small", data_url(data, "application/gzip"))
    (large,) = large_inline(job, 100)
    digest = sha256(large.data).hexdigest()

    moved = with_blob(job, large.input, digest, len(large.data), large.media_type)

    assert moved.task.input_sources[0] == job.task.input_sources[0]
    assert moved.task.input_sources[1].target == job.task.input_sources[1].target
    url = moved.task.input_sources[1].source.params["URL"]
    assert BlobUrl(digest, "application/gzip", 5000) == parse_blob_url(url)
    assert large_inline(moved, 100) == []
    assert job.task.input_sources[1].source.params["URL"].startswith("data:")


def test_a_digest_that_is_none_makes_no_blob() -> None:
    """A job cannot be given a reference that nobody could read."""
    with pytest.raises(Invalid):
        with_blob(job_with("data:,x"), 0, "abc", 1, "text/plain")


def test_a_job_with_a_blob_can_be_submitted_again() -> None:
    """What the API shows of a job with large data is taken by the API again."""
    source = {"Type": "inline", "Params": {"url": str(BlobUrl(DIGEST, "text/plain", 10))}}
    task = {"Name": "main", "Engine": {"Type": "noop"}, "InputSources": [{"Source": source, "Target": "/in"}]}

    read = read_body({"Type": "batch", "Tasks": [task]})

    assert {"URL": str(BlobUrl(DIGEST, "text/plain", 10))} == read.job.task.input_sources[0].source.params
