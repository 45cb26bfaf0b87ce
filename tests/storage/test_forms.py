"""What is wrong with a driver's parameters is told when a job is read, before any node sees it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields

from protocol.errors import Invalid
from protocol.jobs import Spec
from protocol.spec import read_body, read_spec
from protocol.spec.drivers import OLDER_NAMES
from storage.drivers import open_drivers
from storage.forms import FORMS, look, words_of
from storage.s3.patterns import compiled
from storage.settings import StorageSettings
from tests.protocol.spec.writing import SMALLEST, body, faults_of_body, faults_of_text

HEAD = f"""\
{SMALLEST}    InputSources:
      - Target: /in
        Source: """
CID = "bafkqaaa"


def told(source: str) -> list[str]:
    """What a person is told of a source that they wrote: place and message."""
    faults = faults_of_text(HEAD + source + "\n", look=look)
    return [f"{each.line}:{each.column} {each}" for each in faults]


def column(source: str, part: str) -> int:
    """Where that part of the source stands in its line."""
    return len(HEAD.splitlines()[-1]) + source.rindex(part) + 1


def one_input(source: dict[str, Any]) -> dict[str, Any]:
    """What a task says that has this input."""
    return {"InputSources": [{"Target": "/in", "Source": source}]}


SLIPS = [
    ("{Type: s3, Params: {Bucket: b, Partition: {Type: dat}}}", "dat}", "Partition.Type 'dat' is unknown"),
    ("{Type: s3, Params: {Bucket: b, Partition: {Type: regex, Pattern: '('}}}", "'('}", "Pattern '('"),
    ("{Type: s3, Params: {Bucket: b, Partition: {Type: regex}}}", "{Type: regex}", "Type regex needs one"),
    (
        "{Type: s3, Params: {Bucket: b, partition: {Type: date, DateFormat: y=59}}}",
        "y=59",
        "cannot read what it writes",
    ),
    ("{Type: s3, Params: {Bucket: b, Partition: {Type: substring, EndIndex: x}}}", "x}", "expected int"),
    ("{Type: s3, Params: {Bucket: b, Filter: '['}}", "'['", "Params.Filter '[' is not a regular expression"),
    ("{Type: s3, Params: {Bucket: b, Filter: 7}}", "7}", "Params.Filter: expected str, got int"),
    ("{Type: s3, Params: {Bucket: b, Regoin: x}}", "Regoin", 'unknown key "Regoin"'),
    ("{Type: s3, Params: {Bucket: b, AllowEmpty: maybe}}", "maybe", "AllowEmpty"),
    ("{Type: s3, Params: {Bucket: b, Endpoint: nowhere}}", "nowhere", "not an http URL"),
    ("{Type: s3, Params: {Bucket: b, Key: a/, VersionID: v}}", "v}", "VersionID names a version of one"),
    ("{Type: ipfs, Params: {CID: QmNo}}", "QmNo", "'QmNo' is not a content identifier"),
    ("{Type: local, Params: {SourcePath: /a, CreateAs: folder}}", "folder", "CreateAs 'folder' is none of"),
    ("{Type: local, Params: {SourcePath: /a, CreateAs: dir}}", "dir}", "needs ReadWrite: true"),
    ("{Type: local, Params: {SourcePath: /a, ReadWrite: 7}}", "7}", "expected bool, got int"),
    ("{Type: urlDownload, Params: {URL: 'http://a/b', SHA256: short}}", "short", "64 hexadecimal digits"),
    ("{Type: urlDownload, Params: {URL: 'http://a/b', Size: -1}}", "-1", "less than 0 bytes"),
]


@pytest.mark.parametrize(("source", "slip", "says"), SLIPS)
def test_a_slip_in_a_sources_parameters_is_told_with_its_place(source: str, slip: str, says: str) -> None:
    """A parameter that no node could read is told when the spec is read, with line and column, as any other fault."""
    (fault,) = told(source)

    assert fault.startswith(f"7:{column(source, slip)} ")
    assert says in fault


def test_all_slips_of_one_source_are_told_at_once() -> None:
    """A person gets every fault of a source in one go, with the spelling that was meant."""
    source = "{Type: s3, Params: {Bucket: b, Keey: k, Filter: '(', Partition: {Type: x}, Regoin: y}}"

    faults = told(source)

    places = [column(source, part) for part in ("Keey", "'('", "x}", "Regoin")]
    assert [each.split()[0] for each in faults] == [f"7:{place}" for place in places]
    assert 'did you mean "Region"?' in faults[3]


@pytest.mark.parametrize(
    ("publisher", "path", "says"),
    [
        (
            {"Type": "s3", "Params": {"Bucket": "b", "Key": "k", "Encoding": "zip"}},
            "Encoding",
            "gzip or plain",
        ),
        ({"Type": "s3", "Params": {"Bucket": "b", "Key": "{jobid}"}}, "Key", "Did you mean {jobID}?"),
        ({"Type": "ipfs", "Params": {"Chunker": "small"}}, "Chunker", "is not understood"),
        ({"Type": "ipfs", "Params": {"CIDVersion": 2}}, "CIDVersion", ""),
    ],
)
def test_a_slip_in_a_publishers_parameters_is_told_to_a_program(
    publisher: dict[str, Any], path: str, says: str
) -> None:
    """A program hears of a result that could never be put anywhere when it submits the job, with the JSON path."""
    (fault,) = faults_of_body(body(task={"Publisher": publisher}), look=look)

    assert fault.path == f"Tasks[0].Publisher.Params.{path}"
    assert says in fault.message


def test_a_programs_unknown_parameter_is_left_to_the_nodes() -> None:
    """While a cluster is upgraded, a requester passes on a parameter that only newer nodes know."""
    source = {"Type": "s3", "Params": {"Bucket": "b", "Newer": 1}}

    assert (
        read_body(body(task=one_input(source)), look=look).job.task.input_sources[0].source.params["Newer"]
        == 1
    )


def test_with_an_unknown_parameter_the_others_are_looked_at() -> None:
    """What nobody knows yet does not hide what is wrong beside it."""
    source = {"Type": "s3", "Params": {"Bucket": "b", "Newer": 1, "Filter": "("}}

    faults = faults_of_body(body(task=one_input(source)), look=look)
    assert [each.path for each in faults] == ["Tasks[0].InputSources[0].Source.Params.Filter"]


@pytest.mark.parametrize("way", ["text", "body"])
def test_what_is_right_is_taken(way: str) -> None:
    """Parameters in any case, text for numbers, nulls: whatever a node reads is no fault."""
    params = {
        "bucket": "b",
        "Key": "a/*",
        "partition": {"type": "date", "dateformat": "2006"},
        "Filter": None,
    }
    params["AllowEmpty"] = "true"
    job = body(task=one_input({"Type": "S3", "Params": params}) | {"Publisher": {"Type": "ipfs"}})
    if way == "body":
        assert read_body(job, look=look).job.task.input_sources[0].source.type == "s3"
    else:
        assert read_spec(json.dumps(job), file="x", look=look).job.task.input_sources[0].source.type == "s3"


def test_a_required_parameter_that_is_missing_hides_nothing() -> None:
    """A person who forgot the bucket hears in the same go what else is wrong with that source, at every depth."""
    source = "{Type: s3, Params: {Filter: '(', Partition: {Type: x, StartIndex: y}, Regoin: z}}"

    faults = told(source)

    places = [column(source, part) for part in ("{Filter", "'('", "x, Start", "y}", "Regoin")]
    assert [each.split()[0] for each in faults] == [f"7:{place}" for place in places]
    assert "Params.Bucket is missing" in faults[0]


def test_a_required_parameter_that_is_wrong_hides_nothing() -> None:
    """A program that gives a required parameter wrongly hears of that once, and of all others."""
    publisher = {"Type": "s3", "Params": {"bucket": 7, "Encoding": "zip", "Region": "a b"}}

    faults = faults_of_body(body(task={"Publisher": publisher}), look=look)

    names = ["Bucket", "Encoding", "Key", "Region"]
    assert sorted(each.path.rpartition(".")[2] for each in faults) == names


@pytest.mark.parametrize(("what", "type"), [(what, name) for what, known in FORMS.items() for name in known])
def test_what_a_driver_cannot_do_without_is_known(what: str, type: str) -> None:
    """Whatever parameters are missing of a source or publisher, all of them are told, and no others."""
    words = words_of(what, type)
    assert words is not None
    needed = [each.encode_name for each in fields(words.form) if each.required]

    assert sorted(str(fault.at[0]) for fault in look(what, Spec(type))) == sorted(needed)
    assert not list(look(what, Spec(type, dict(words.stand_ins))))


@pytest.mark.parametrize(
    "pattern", ["pattern too large(", "a|" * 5_000 + "(", r"\p{L}" * 500 + "(", r"\p{Grek}" * 500]
)
def test_a_long_pattern_that_is_none_is_told_when_the_job_is_read(pattern: str) -> None:
    """A slip in a pattern of thousands of characters, or in one that speaks of RE2's own errors, is no node's to find."""
    source = {"Type": "s3", "Params": {"Bucket": "b", "Filter": pattern}}

    (fault,) = faults_of_body(body(task=one_input(source)), look=look)
    assert fault.path == "Tasks[0].InputSources[0].Source.Params.Filter"


@pytest.mark.parametrize("pattern", [r"\p{L}" * 500, r"\pL{1000}" * 8, "(" * 20_000])
def test_a_pattern_that_takes_long_to_make_ready_is_left_to_the_nodes(pattern: str) -> None:
    """What would keep a requester from other work is not done there: it may be a pattern that RE2 has room for or not."""
    source = {"Type": "s3", "Params": {"Bucket": "b", "Filter": pattern}}

    assert (
        read_body(body(task=one_input(source)), look=look).job.task.input_sources[0].source.params["Filter"]
        == pattern
    )


PIECES = ["a", r"\pL", r"\p{Greek}", r"\p{Grek}", r"\PN", r"\d", r"\Q", r"\E", r"\C", "(?i)", "{2}", "{1001}"]


@given(st.lists(st.sampled_from([*PIECES, *"[]^-()|*+?\\{."]), max_size=9).map("".join), st.integers(0, 40))
def test_a_pattern_is_taken_exactly_if_nodes_can_read_it(pattern: str, classes: int) -> None:
    """Reading a pattern the quick way, as it is done for those with many classes, says what making it ready says."""
    pattern += r"\pL" * classes
    quick = not list(look("source", Spec("s3", {"Bucket": "b", "Filter": pattern})))
    try:
        compiled(pattern, "Filter")
    except Invalid:
        assert not quick
    else:
        assert quick


async def test_every_driver_says_what_it_reads(tmp_path: Any) -> None:
    """What is looked at when a job is read is what the driver of that type reads on a node."""
    settings = StorageSettings(folder=tmp_path, ipfs_connect="/ip4/127.0.0.1/tcp/9")
    async with open_drivers(settings) as drivers:
        for what, known in (("source", drivers.sources), ("publisher", drivers.publishers)):
            assert known
            for name, driver in known.items():
                if name in OLDER_NAMES:
                    continue
                words = words_of(what, name)
                assert words is not None
                assert words.form is driver.params


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(CID)
NAMES = st.sampled_from(["bucket", "Key", "Filter", "Partition", "CID", "URL", "SourcePath", "Listing"])
PARAMS = st.dictionaries(
    NAMES | st.text(max_size=9),
    VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(NAMES, VALUES),
    max_size=4,
)


@given(st.sampled_from(["s3", "ipfs", "local", "urlDownload", "inline", "s3managed", "noop"]), PARAMS)
def test_any_parameters_are_taken_or_refused(type: str, params: dict[str, Any]) -> None:
    """Whatever stands in the parameters, looking ends, and every fault says something."""
    for what in ("source", "publisher"):
        assert all(fault.said for fault in look(what, Spec(type, params)))
