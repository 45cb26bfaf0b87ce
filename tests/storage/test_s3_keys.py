"""From keys to names on the disk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid
from storage.params import read_params
from storage.s3.keys import Object, landing
from storage.s3.params import PublisherParams, SourceParams
from storage.tree import safe_parts


def names(prefix: str, *keys: str) -> dict[str, str]:
    """Where keys of one byte each land, by key."""
    return {each.key: name for name, each in landing([Object(key, 1) for key in keys], prefix).files}


@pytest.mark.parametrize(
    ("prefix", "key", "name"),
    [
        ("a/b/", "a/b/2024/x", "2024/x"),
        ("a/b/pre", "a/b/pre1", "pre1"),
        ("a/b/pre", "a/b/pre/x", "pre/x"),
        ("a/b/file.csv", "a/b/file.csv", "file.csv"),
        ("", "a/b/c", "a/b/c"),
        ("file", "file", "file"),
        ("a/", "a//b", "b"),
        ("", "/a/./b", "a/b"),
        ("a/", "a/line\nbreak", "line\nbreak"),
        ("a/", "a/träume 夢", "träume 夢"),
    ],
)
def test_a_key_lands_behind_the_prefix_last_slash(prefix: str, key: str, name: str) -> None:
    """Names are what Bacalhau's users expect; slashes that say nothing are dropped."""
    assert names(prefix, key) == {key: name}


@pytest.mark.parametrize("key", ["a/..", "a/../b", "../../etc/passwd", "a/x\0y", "a/" + "n" * 256])
def test_a_key_that_cannot_be_a_file_is_refused_by_name(key: str) -> None:
    """A key that leads out, or that no disk takes, is an error that names it and says how to leave it out."""
    with pytest.raises(Invalid) as caught:
        names("", key)

    assert repr(key) in caught.value.message
    assert "Filter" in caught.value.hint


@pytest.mark.parametrize(
    "keys", [("a/b", "a//b"), ("a", "/a"), ("a", "a/b"), ("a/b", "a/b/c/d"), ("a/b/c/d", "a/b")]
)
def test_two_keys_at_one_place_are_refused(keys: tuple[str, str]) -> None:
    """No object replaces another in silence: both keys are named."""
    with pytest.raises(Invalid) as caught:
        names("", *keys)

    assert all(repr(key) in caught.value.message for key in keys)


def test_markers_become_folders() -> None:
    """An empty object whose key ends with a slash says that a folder is there; the prefix itself is the target."""
    found = landing([Object("p/", 0), Object("p/e/", 0), Object("p/f/", 0), Object("p/f/x", 3)], "p/")

    assert list(found.folders) == ["e", "f"]
    assert [name for name, _ in found.files] == ["f/x"]


def test_a_marker_with_bytes_is_refused() -> None:
    """Bytes under a folder's name are not dropped in silence."""
    with pytest.raises(Invalid, match="folder"):
        landing([Object("p/e/", 4)], "p/")


def test_a_file_where_a_marked_folder_is_is_refused() -> None:
    """A marker and an object of the same name cannot both land."""
    with pytest.raises(Invalid, match="would both lie"):
        landing([Object("p/e/", 0), Object("p/e", 4)], "p/")


KEYS = st.text(st.sampled_from("ab./\\ \0\né"), max_size=12)


@given(st.lists(KEYS.filter(lambda key: not key.endswith("/")), min_size=1, max_size=8, unique=True))
def test_every_object_has_a_safe_place_of_its_own_or_there_is_an_error(keys: list[str]) -> None:
    """Whatever the keys, each object lands once, inside, apart from all others; or all of it is refused."""
    try:
        found = landing([Object(key, 1) for key in keys], "")
    except Invalid:
        return

    places = [name for name, _ in found.files]
    assert sorted(each.key for _, each in found.files) == sorted(keys)
    assert len(set(places)) == len(keys)
    for place in places:
        assert "/".join(safe_parts(place)) == place
        assert not any(other.startswith(place + "/") for other in places)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "Bucket"),
        ({"Bucket": ""}, "Bucket"),
        ({"Bucket": "a b"}, "Bucket"),
        ({"Bucket": "s3://bucket"}, "Bucket"),
        ({"Bucket": "bucket/prefix"}, "Bucket"),
        ({"Bucket": "bucket", "Key": "s3://bucket/a"}, "is a URL"),
        ({"Bucket": "bucket", "Key": "k" * 1025}, "Key"),
        ({"Bucket": "bucket", "Key": "a/", "VersionID": "1"}, "VersionID"),
        ({"Bucket": "bucket", "Key": "a/", "ChecksumSHA256": "A" * 43 + "="}, "ChecksumSHA256"),
        ({"Bucket": "bucket", "Key": "a", "ChecksumSHA256": "abc"}, "ChecksumSHA256"),
        ({"Bucket": "bucket", "Key": "a", "Endpoint": "s3.example.com"}, "endpoint"),
        ({"Bucket": "bucket", "Key": "a", "Endpoint": "http://user:secret@host"}, "user"),
        ({"Bucket": "bucket", "Key": "a", "Region": "../x"}, "Region"),
        ({"Bucket": "bucket", "Prefix": "a"}, "Prefix"),
    ],
)
def test_source_params_that_cannot_work_are_refused(params: dict[str, object], named: str) -> None:
    """What can never work is refused when the spec is read, by the field, and no secret is repeated."""
    with pytest.raises(Invalid, match=named) as caught:
        read_params(params, SourceParams, "source s3")

    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"Bucket": "b"}, "Key"),
        ({"Bucket": "b", "Key": ""}, "Key"),
        ({"Bucket": "b", "Key": "k", "Encoding": "zip"}, "zip"),
        ({"Bucket": "b", "Key": "k", "StorageClass": "COLD\r\nx: y"}, "StorageClass"),
        ({"Bucket": "b", "Key": "k", "ACL": "a b"}, "ACL"),
        ({"Bucket": "b", "Key": "k", "ServerSideEncryption": "rot13"}, "rot13"),
        ({"Bucket": "b", "Key": "k", "SSEKMSKeyID": "k-1"}, "SSEKMSKeyID"),
        ({"Bucket": "b", "Key": "k", "SSEKMSKeyID": "k 1"}, "SSEKMSKeyID"),
        ({"Bucket": "b", "Key": "out/{jobId}"}, "jobId"),
        ({"Bucket": "b", "Key": "out/{execution_id}"}, "execution_id"),
    ],
)
def test_publisher_params_that_cannot_work_are_refused(params: dict[str, object], named: str) -> None:
    """What can never work is refused when the spec is read, by the field."""
    with pytest.raises(Invalid, match=named):
        read_params(params, PublisherParams, "publisher s3")


def test_params_are_read_in_any_case() -> None:
    """``opt=endpoint=…,opt=region=…,opt=versionID=…`` of the command line are the spec's fields."""
    found = read_params(
        {"bucket": "b", "key": "k", "endpoint": "http://h:1", "region": "r", "versionID": "v"},
        SourceParams,
        "source s3",
    )

    assert found == SourceParams("b", "k", endpoint="http://h:1", region="r", version_id="v")
