"""The command line's small languages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from protocol.errors import Invalid
from protocol.jobs import Input, ResultPath, Spec
from protocol.spec.flags import (
    inputs,
    parse_env,
    parse_input,
    parse_labels,
    parse_publisher,
    parse_result_path,
)

CID = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"
S3 = "src=s3://bucket/key,dst=/my/input/path,opt=endpoint=http://s3.example.com,opt=region=us-east-1"


@pytest.mark.parametrize(
    ("text", "type", "params", "target"),
    [
        # The form of the project's first document.
        (
            S3,
            "s3",
            {"Bucket": "bucket", "Key": "key", "Endpoint": "http://s3.example.com", "Region": "us-east-1"},
            "/my/input/path",
        ),
        ("ipfs://QmHash", "ipfs", {"CID": "QmHash"}, "/inputs"),
        ("ipfs://QmHash:/in", "ipfs", {"CID": "QmHash"}, "/in"),
        ("ipns://example.com/data:/in", "ipfs", {"CID": "/ipns/example.com/data"}, "/in"),
        ("ipfs://QmHash/a/b.txt:/in/b", "ipfs", {"CID": "QmHash/a/b.txt"}, "/in/b"),
        ("src=ipfs://QmHash,dst=/in", "ipfs", {"CID": "QmHash"}, "/in"),
        ("source=ipfs://QmHash,target=/in", "ipfs", {"CID": "QmHash"}, "/in"),
        ("ipfs://QmHash,dst=/in", "ipfs", {"CID": "QmHash"}, "/in"),
        ("https://host/f.csv", "urlDownload", {"URL": "https://host/f.csv"}, "/inputs"),
        ("https://host:8080/f.csv", "urlDownload", {"URL": "https://host:8080/f.csv"}, "/inputs"),
        ("http://host:8080/f.csv:/in", "urlDownload", {"URL": "http://host:8080/f.csv"}, "/in"),
        ("http://host/a:/b:/in", "urlDownload", {"URL": "http://host/a:/b"}, "/in"),
        ("http://host/f?a=b&c=d", "urlDownload", {"URL": "http://host/f?a=b&c=d"}, "/inputs"),
        ("http://host/r?to=http://x/y:/in", "urlDownload", {"URL": "http://host/r?to=http://x/y"}, "/in"),
        ("http://[::1]:80/f:/in", "urlDownload", {"URL": "http://[::1]:80/f"}, "/in"),
        ("s3://bucket/a/b/*", "s3", {"Bucket": "bucket", "Key": "a/b/*"}, "/inputs"),
        ("s3://bucket", "s3", {"Bucket": "bucket", "Key": ""}, "/inputs"),
        ("s3://b/k:1:/in", "s3", {"Bucket": "b", "Key": "k:1"}, "/in"),
        (
            's3://b/k,"opt=filter=a,b",opt=versionID=v1,opt=checksum-256=abc=',
            "s3",
            {"Bucket": "b", "Key": "k", "Filter": "a,b", "VersionID": "v1", "ChecksumSHA256": "abc="},
            "/inputs",
        ),
        ("file:///data/x", "local", {"SourcePath": "/data/x"}, "/inputs"),
        ("file:///data/x:/in,opt=rw=true", "local", {"SourcePath": "/data/x", "ReadWrite": True}, "/in"),
        ("file:///a%20b", "local", {"SourcePath": "/a b"}, "/inputs"),
        ("FILE:///data", "local", {"SourcePath": "/data"}, "/inputs"),
        ("file:///data:/in:rw", "local", {"SourcePath": "/data", "ReadWrite": True}, "/in"),
        ("file:///data:/in:ro", "local", {"SourcePath": "/data", "ReadWrite": False}, "/in"),
        ("/ipfs/QmHash/a.txt:/in", "ipfs", {"CID": "QmHash/a.txt"}, "/in"),
        ("/ipns/example.com/data:/in", "ipfs", {"CID": "/ipns/example.com/data"}, "/in"),
        (
            "s3://b/k/*:/in,opt=profile=lab,opt=allowEmpty=true,opt=addressingStyle=virtual",
            "s3",
            {
                "Bucket": "b",
                "Key": "k/*",
                "Profile": "lab",
                "AllowEmpty": "true",
                "AddressingStyle": "virtual",
            },
            "/in",
        ),
    ],
)
def test_an_input_is_read(text: str, type: str, params: dict[str, object], target: str) -> None:
    """``-i`` takes a URI with or without a target, or src=, dst= and opt= parts."""
    read = parse_input(text)

    assert Spec(type, params) == read.source
    assert target == read.target


@pytest.mark.parametrize(
    "text", ["s3://b/k:/in:rw", "./own:/in:rw", "/ipfs/Qm:/in:rw", "src=https://h/f,dst=/in,opt=rw=true"]
)
def test_an_input_that_may_be_changed_is_asked_for_as_docker_has_it(text: str) -> None:
    """``:rw`` behind the target, or ``opt=rw=true``, gives the program a copy of its own; ``:ro`` is how it is anyway."""
    read = parse_input(text)

    assert (read.target, read.read_write) == ("/in", True)
    plain = parse_input(text.replace(":rw", ":ro").replace("rw=true", "rw=false"))
    assert (plain.target, plain.read_write) == ("/in", UNSET)


def test_an_inputs_alias_is_its_uri() -> None:
    """An input can be found again by the URI it was given as."""
    assert parse_input(S3).alias == "s3://bucket/key"
    assert parse_input("ipfs://Qm/a:/in").alias == "ipfs://Qm/a"


def test_the_same_data_may_be_an_input_twice() -> None:
    """Aliases are unique in a job; two inputs with one URI go without."""
    assert [each.alias for each in inputs(["ipfs://A:/a", "ipfs://A:/b", "ipfs://B:/c"])] == [
        "",
        "",
        "ipfs://B",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (",", "empty"),
        ("QmHash", "known kind"),
        ("ipfs:QmHash", "known kind"),
        ("ipsf://QmHash", "known kind"),
        ("git://host/repo", "not supported"),
        ("ipfs://", "no CID"),
        ("s3://", "no bucket"),
        ("http://", "no host"),
        ("http://[x", "http"),
        ("file://relative/path", "absolute"),
        ("dst=/in", "no source"),
        ("src=ipfs://A,dst=in", "absolute"),
        ("src=ipfs://A,dest=/in", "dest=/in"),
        ("src=ipfs://A,/in", '"/in"'),
        ("src=s3://b/k,opt=regoin=x", "regoin"),
        ("src=s3://b/k,opt=region", "name=value"),
        ("ipfs://A,opt=x=y", '"x"'),
        ("file:///a,opt=rw=maybe", "rw"),
        ("ipfs://A,opt=rw=maybe", "rw"),
        ('src=s3://b/k,"opt=x', "unexpected end"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    """A wrong ``-i`` is told with the part that is wrong, and with a hint."""
    with pytest.raises(Invalid) as caught:
        parse_input(text)

    assert says in caught.value.message
    assert caught.value.message.startswith("-i")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("ipsf://Q", "ipfs://"),
        ("src=s3://b/k,opt=regoin=x", "region"),
        ("src=ipfs://A,dts=/in", "dst="),
        ("data/set:/in", "./data/set"),
        (f"{CID}/a.txt:/in", f"ipfs://{CID}/a.txt"),
        (f"ipfs:{CID}:/in", f"ipfs://{CID}"),
    ],
)
def test_a_slip_in_an_input_is_answered_with_what_was_meant(text: str, near: str) -> None:
    """A near spelling is offered."""
    with pytest.raises(Invalid) as caught:
        parse_input(text)

    assert f'"{near}"' in caught.value.hint


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        # The form of the project's first document.
        (
            "s3://bucket/key,opt=endpoint=http://s3.example.com,opt=region=us-east-1",
            Spec(
                "s3",
                {
                    "Bucket": "bucket",
                    "Key": "key",
                    "Endpoint": "http://s3.example.com",
                    "Region": "us-east-1",
                },
            ),
        ),
        ("s3://b/{jobID}/{executionID}", Spec("s3", {"Bucket": "b", "Key": "{jobID}/{executionID}"})),
        ("s3://b/k,opt=encoding=plain", Spec("s3", {"Bucket": "b", "Key": "k", "Encoding": "plain"})),
        (
            "s3://b/k,opt=overwrite=true,opt=profile=lab",
            Spec("s3", {"Bucket": "b", "Key": "k", "Overwrite": "true", "Profile": "lab"}),
        ),
        ("s3,opt=bucket=b,opt=key=k", Spec("s3", {"Bucket": "b", "Key": "k"})),
        ("ipfs", Spec("ipfs")),
        ("IPFS", Spec("ipfs")),
        ("ipfs,opt=cidversion=1,opt=Name=mine", Spec("ipfs", {"CIDVersion": "1", "Name": "mine"})),
        ("local", Spec("local")),
        ("s3managed", Spec("s3managed")),
        ("noop", Spec()),
    ],
)
def test_a_publisher_is_read(text: str, spec: Spec) -> None:
    """``-p`` takes a publisher's name, or an S3 URL with options."""
    assert spec == parse_publisher(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("ipsf", "no such publisher"),
        ("http://x", "no such publisher"),
        ("s3://bucket", "no Key"),
        ("s3", "no Bucket and no Key"),
        ("s3://b/k,region=x", "region=x"),
        ("s3://b/k,opt=colour=x", "colour"),
        ("ipfs,opt=x=y", '"x"'),
        ("ipfs://x", "no such publisher"),
    ],
)
def test_a_publisher_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    """A wrong ``-p`` is told with the part that is wrong, and with a hint."""
    with pytest.raises(Invalid) as caught:
        parse_publisher(text)

    assert says in caught.value.message
    assert caught.value.hint


def test_a_result_path_is_a_name_and_a_path() -> None:
    """``-o`` takes name:path; the path may hold colons."""
    assert ResultPath("outputs", "/outputs") == parse_result_path("outputs:/outputs")
    assert ResultPath("a", "/b:c") == parse_result_path("a:/b:c")


@pytest.mark.parametrize("text", ["", "outputs", "outputs:", ":/outputs", "outputs:relative"])
def test_a_result_path_that_cannot_be_read_is_refused(text: str) -> None:
    """A wrong ``-o`` is refused with the form."""
    with pytest.raises(Invalid) as caught:
        parse_result_path(text)

    assert "outputs:/outputs" in caught.value.hint


def test_labels_are_pairs() -> None:
    """``-l`` takes key=value, several with commas, and may be repeated."""
    assert parse_labels(["a=1,b=2", "c="]) == {"a": "1", "b": "2", "c": ""}


def test_an_environment_value_is_everything_behind_the_first_equals_sign() -> None:
    """``-e`` takes KEY=value; commas, colons and equals signs belong to the value."""
    assert parse_env(["A=b=c,d:e", "B=env:HOME"]) == {"A": "b=c,d:e", "B": "env:HOME"}


@pytest.mark.parametrize("text", ["", "a", "=b"])
def test_a_pair_that_is_none_is_refused(text: str) -> None:
    """A label or variable without key or equals sign is refused."""
    with pytest.raises(Invalid):
        parse_labels([text])
    with pytest.raises(Invalid):
        parse_env([text])


def test_the_value_of_a_variable_never_appears_in_a_message() -> None:
    """A refused variable shows its name at most: values may be secret."""
    with pytest.raises(Invalid) as caught:
        parse_env(["=secret"])

    assert "secret" not in caught.value.message + caught.value.hint


@given(st.text(max_size=60))
def test_any_text_is_read_or_invalid(text: str) -> None:
    """No text does anything to the command line but be read or be refused."""
    for parse in (parse_input, parse_publisher, parse_result_path):
        try:
            read = parse(text)
        except Invalid:
            continue
        assert isinstance(read, Input | Spec | ResultPath)
