"""Reading specs and bodies: what people are told, and what programs may leave out."""

import json
from typing import Any

import pytest

from protocol.errors import Failure, Invalid
from protocol.jobs import Resources, ResultPath, Spec, Timeouts
from protocol.spec import (
    Defaults,
    SpecFault,
    SpecFaults,
    TypeDefaults,
    faults_in,
    read_body,
    read_spec,
)
from protocol.spec.bounds import DEPTH_MAX, FAULTS_FOUND_MAX, FAULTS_MAX, NODES_MAX
from protocol.spec.reading import SERVER_FIELDS
from tests.protocol.spec.writing import SMALLEST, body, faults_of_body, faults_of_text

# The smallest job of the reference, which Bacalhau 1.4 and 1.9 accept.
REFERENCE = """\
Name: count-words
Type: batch
Count: 2
Constraints: [{Key: region, Operator: in, Values: [eu, us]}]
Tasks:
  - Name: main
    Engine:
      Type: docker
      Params: {Image: "ubuntu:24.04", Entrypoint: [/bin/sh], Parameters: [-c, "wc -w /in/* > /outputs/n"]}
    InputSources:
      - Target: /in
        Source: {Type: s3, Params: {Bucket: b, Key: "logs/*", Region: eu-west-1, Partition: {Type: object}}}
    Publisher: {Type: s3, Params: {Bucket: b, Key: "out/{jobID}/{executionID}"}}
    ResultPaths: [{Name: outputs, Path: /outputs}]
    Resources: {CPU: "1", Memory: 1Gb}
    Timeouts: {QueueTimeout: 600, ExecutionTimeout: 300}
"""


def inline(target: str, url: str) -> dict[str, Any]:
    """A task with one inline input."""
    return {"InputSources": [{"Source": {"Type": "inline", "Params": {"URL": url}}, "Target": target}]}


def test_a_spec_is_read_into_its_canonical_job() -> None:
    """A whole YAML spec reads as one canonical job, without warnings."""
    reading = read_spec(REFERENCE, file="job.yaml")

    assert reading.warnings == []
    job = reading.job
    assert (job.name, job.namespace, job.type, job.count) == ("count-words", "default", "batch", 2)
    assert job.task.engine.params["Parameters"] == ["-c", "wc -w /in/* > /outputs/n"]
    assert job.task.input_sources[0].source.params["Partition"] == {"Type": "object"}
    assert job.task.result_paths == [ResultPath("outputs", "/outputs")]
    assert job.task.timeouts == Timeouts(300, 600)


def test_all_faults_of_a_spec_are_told_at_once_each_in_its_place() -> None:
    """A person gets every fault with file, line, column and what was probably meant, in the order of the text."""
    text = "Name: x\nType: bacth\nTasks:\n  - Enigne: {Type: docker}\n    Name: 5\n    InputSources:\n      - Target: in\n"

    with pytest.raises(SpecFaults) as caught:
        read_spec(text, file="job.yaml")

    assert caught.value.message.splitlines() == [
        "5 problems in job.yaml",
        '  job.yaml:2:7   Type "bacth" is not one of batch, ops, service, daemon   did you mean "batch"?',
        '  job.yaml:4:5   unknown key "Enigne" in Tasks[0]   did you mean "Engine"?',
        "  job.yaml:5:11  Tasks[0].Name must be a text, and is a number (put it in quotes)",
        "  job.yaml:7:9   Tasks[0].InputSources[0].Source is missing",
        '  job.yaml:7:17  Tasks[0].InputSources[0].Target must be an absolute path, and is "in"',
    ]


def test_faults_travel_with_their_failure() -> None:
    """The API's error carries each fault on its own, and a client reads them again."""
    with pytest.raises(SpecFaults) as caught:
        read_spec("Type: bacth\n", file="job.yaml")
    failure = caught.value.failure()

    assert failure.code == "Invalid.Spec"
    assert isinstance(caught.value, Invalid)
    assert faults_in(failure) == caught.value.faults
    assert faults_in(failure)[0] == SpecFault(
        "Tasks", "Tasks is missing: a job has one task", file="job.yaml", line=1, column=1
    )
    assert faults_in(Failure("Invalid", "x")) == []


def test_a_body_s_faults_have_paths() -> None:
    """A program gets every fault with its JSON path; a message that names it has it once."""
    with pytest.raises(SpecFaults) as caught:
        read_body({"Type": "batch", "Count": "x", "Tasks": [{"Name": "main", "Engine": {"Type": "docker"}}]})

    assert caught.value.message.splitlines() == [
        "2 problems in the job",
        "  Count must be a whole number, and is a text (write it without quotes)",
        "  Tasks[0].Engine.Params.Image is missing",
    ]


def test_many_faults_are_told_in_part() -> None:
    """A spec that is wrong everywhere names the first faults and counts the rest."""
    with pytest.raises(SpecFaults) as caught:
        read_body(body(task={"Env": {f"a{n}": "x" for n in range(200)}}))

    lines = caught.value.message.splitlines()
    assert (lines[0], lines[-1]) == ("200 problems in the job", f"  … and {200 - FAULTS_MAX} more")
    assert len(caught.value.details) == FAULTS_MAX
    assert len(caught.value.faults) == 200


@pytest.mark.parametrize("file", ["job.yaml", "job.json", "-"])
def test_an_unreadable_text_is_a_fault_like_any_other(file: str) -> None:
    """A text that is no YAML or JSON is told with line and column."""
    (fault,) = faults_of_text('{"Type": "batch",\n "Tasks": [}', file)

    assert (fault.file, fault.line) == (file, 2)


@pytest.mark.parametrize(
    ("text", "line", "column", "says", "near"),
    [
        (SMALLEST + "Lables: {}\n", 5, 1, 'unknown key "Lables"', "Labels"),
        (SMALLEST + "    Enviroment: {}\n", 5, 5, 'unknown key "Enviroment" in Tasks[0]', ""),
        (
            SMALLEST.replace("{Type: noop}", "{Type: noop, Parms: {}}"),
            4,
            26,
            'unknown key "Parms" in Tasks[0].Engine',
            "Params",
        ),
        (
            SMALLEST.replace("{Type: noop}", "{Type: docker, Params: {Image: a, Entrypont: []}}"),
            4,
            47,
            'unknown key "Entrypont" in Tasks[0].Engine.Params',
            "Entrypoint",
        ),
        (
            SMALLEST
            + "    InputSources: [{Source: {Type: s3, Params: {Bucket: b}}, Target: /a, Path: /b}]\n",
            5,
            74,
            'unknown key "Path" in Tasks[0].InputSources[0]',
            "",
        ),
        (SMALLEST + "Count: 1\nCOUNT: 2\n", 6, 1, "Count is given twice", ""),
        (SMALLEST + "Count: 1\nCount: 2\n", 6, 1, "Count is given twice, first in line 5", ""),
        (SMALLEST + "\x1b[31mred: 1\n", 5, 1, "control characters", ""),
    ],
)
def test_a_slip_in_a_key_is_found_at_every_level(
    text: str, line: int, column: int, says: str, near: str
) -> None:
    """A person's unknown or repeated key is a fault, wherever it stands."""
    (fault,) = faults_of_text(text)

    assert (fault.line, fault.column, fault.near) == (line, column, near)
    assert says in fault.message


def test_a_slip_beside_the_right_key_hides_nothing() -> None:
    """An unknown key that resembles one that is there as well takes nothing from the faults below that one."""
    text = SMALLEST.replace("{Type: noop}", "{Type: nope}") + "Taskz: []\n"

    assert [(fault.line, fault.column) for fault in faults_of_text(text)] == [(4, 20), (5, 1)]


@pytest.mark.parametrize("name", SERVER_FIELDS)
def test_a_person_cannot_give_the_servers_own_fields(name: str) -> None:
    """ID, State and the like in a spec are refused, in any case."""
    for key in (name, name.lower()):
        (fault,) = faults_of_text(f"{SMALLEST}{key}: 1\n")
        assert (fault.path, fault.line, fault.column) == (key, 5, 1)
        assert "set by the server" in fault.message


def test_a_program_s_own_fields_of_the_server_are_dropped_with_a_warning() -> None:
    """A job as the API gave it can be submitted again; what only the server sets is dropped and said so."""
    reading = read_body(body(ID="j-1", State={"StateType": "Completed"}, Version=3, createtime=1))

    assert reading.warnings == [
        f"{name} was dropped: it is set by the server" for name in ("ID", "State", "Version", "CreateTime")
    ]
    assert reading.job == read_body(body()).job


def test_empty_fields_of_the_server_are_not_worth_a_word() -> None:
    """Go clients send every field; empty ones give no warning."""
    empty: dict[str, Any] = {
        "ID": "",
        "State": {"StateType": "Undefined", "Message": "", "Details": None},
        "Version": 0,
        "Revision": None,
    }

    assert read_body(body(**empty)).warnings == []


def test_a_program_may_send_unknown_keys() -> None:
    """A newer client's fields do nothing to an older server, at any level."""
    data = body(
        New=1,
        task={"New": 1, "Engine": {"Type": "noop", "New": 1, "Params": {"New": 1}}, "Network": {"New": 1}},
    )

    assert read_body(data).job == read_body(body()).job


def test_a_null_among_texts_is_an_empty_one() -> None:
    """``- `` with nothing behind it is an empty argument, as it is to Bacalhau's specs (their templates leave such)."""
    params = {"Image": "x", "Parameters": ["--start", None, "a"]}
    task = read_body(body(task={"Engine": {"Type": "docker", "Params": params}})).job.task
    assert task.engine.params["Parameters"] == ["--start", "", "a"]


def test_nulls_are_as_good_as_nothing() -> None:
    """Every optional field may be null."""
    nulls = dict.fromkeys(("Name", "Namespace", "Priority", "Count", "Constraints", "Meta", "Labels"))
    task = dict.fromkeys(
        ("Publisher", "Env", "Meta", "InputSources", "ResultPaths", "Resources", "Network", "Timeouts")
    )

    assert read_body(body(task=task, **nulls)).job == read_body(body()).job
    assert read_spec(json.dumps(body(task=task, **nulls)), file="x").job == read_body(body()).job


def test_keys_match_in_any_case() -> None:
    """Keys may be written in any case, in specs and in bodies."""

    def lower(value: object) -> object:
        if isinstance(value, dict):
            return {key.lower(): lower(each) for key, each in value.items()}
        return [lower(each) for each in value] if isinstance(value, list) else value

    job = read_spec(REFERENCE, file="x").job
    data = json.loads(
        json.dumps(body(Count=2, task={"Resources": {"CPU": "1"}, "Timeouts": {"QueueTimeout": 1}}))
    )

    assert read_body(lower(data)).job == read_body(data).job
    assert read_spec(REFERENCE.replace("Tasks:", "tASKS:").replace("Image:", "image:"), file="x").job == job


def test_only_the_first_task_counts() -> None:
    """A job has one task; more are dropped, and the person is told."""
    data = body()
    data["Tasks"] *= 3

    reading = read_body(data)

    assert len(reading.job.tasks) == 1
    assert reading.warnings == ["a job has one task: 2 more were dropped"]


def test_meta_of_the_server_is_dropped() -> None:
    """Meta keys that begin with bacalhau.org/ are the server's own."""
    reading = read_body(body(Meta={"bacalhau.org/requester.id": "x", "mine": "y"}))

    assert reading.job.meta == {"mine": "y"}
    assert "bacalhau.org/requester.id" in reading.warnings[0]


def test_a_spec_without_publisher_is_warned_about() -> None:
    """Only the requester knows its default publisher; a person is warned before submission."""
    text = SMALLEST + "    ResultPaths: [{Name: o, Path: /o}]\n"

    assert "Publisher" in read_spec(text, file="x").warnings[0]
    assert [
        fault.path for fault in faults_of_body(body(task={"ResultPaths": [{"Name": "o", "Path": "/o"}]}))
    ] == ["Tasks[0].Publisher"]


def test_a_requesters_defaults_fill_what_a_job_leaves_open() -> None:
    """Priority, publisher, timeouts and resources of JobDefaults count where the job says nothing."""
    mine = TypeDefaults(7, Spec("ipfs"), Timeouts(60, 0, 600), Resources(cpu="250m", memory="64Mb", gpu="1"))
    defaults = Defaults(batch=mine, service=mine)
    task = {"ResultPaths": [{"Name": "o", "Path": "/o"}]}

    job = read_body(body(task=task), defaults=defaults).job
    assert (job.priority, job.task.publisher, job.task.timeouts) == (7, Spec("ipfs"), Timeouts(60, 0, 600))

    own = read_body(
        body(Priority=1, task={"Publisher": {"Type": "local"}, "Timeouts": {"ExecutionTimeout": 5}}),
        defaults=defaults,
    ).job
    assert (own.priority, own.task.publisher, own.task.timeouts) == (1, Spec("local"), Timeouts(5, 0, 600))

    wants = read_body(body(task={"Resources": {"Memory": "1Gi"}}), defaults=defaults).job
    assert wants.task.resources == Resources(cpu="250m", memory="1Gi", gpu="1")

    service = read_body(body(Type="service"), defaults=defaults).job
    assert (service.priority, service.task.publisher, service.task.timeouts) == (7, Spec(), Timeouts())
    assert service.task.resources == mine.resources


@pytest.mark.parametrize(
    ("own", "default", "together"),
    [
        (Timeouts(), Timeouts(60, 0, 100), Timeouts(60, 0, 100)),
        (Timeouts(500), Timeouts(60, 0, 100), Timeouts(500, 0, 500)),
        (Timeouts(0, 90), Timeouts(60, 0, 100), Timeouts(60, 90, 150)),
        (Timeouts(0, 0, 30), Timeouts(60, 0, 100), Timeouts(30, 0, 30)),
        (Timeouts(0, 20, 30), Timeouts(60, 0, 100), Timeouts(10, 20, 30)),
    ],
)
def test_default_timeouts_never_contradict_the_jobs_own(
    own: Timeouts, default: Timeouts, together: Timeouts
) -> None:
    """After defaults, execution and queue still fit into the total."""
    timeouts = {
        "ExecutionTimeout": own.execution_timeout,
        "QueueTimeout": own.queue_timeout,
        "TotalTimeout": own.total_timeout,
    }

    read = read_body(
        body(task={"Timeouts": timeouts}), defaults=Defaults(batch=TypeDefaults(timeouts=default))
    )

    assert read.job.task.timeouts == together


@pytest.mark.parametrize("data", [None, [], "x", 5, True, b"x", {1, 2}, object()])
def test_what_is_no_object_is_no_job(data: object) -> None:
    """A body of another kind is refused as a whole."""
    (fault,) = faults_of_body(data)

    assert fault.path == ""


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        (float("nan"), "Params.x", "finite"),
        (float("inf"), "Params.x", "finite"),
        (2**64, "Params.x", "64 bits"),
        (-(2**63) - 1, "Params.x", "64 bits"),
        (10**500, "Params.x", "64 bits"),
        ("a\0", "Params.x", "NUL"),
        ("\udfff", "Params.x", "surrogate"),
        ({"a\0": 1}, "Params.x", "NUL"),
        ({"k" * 2000: 1}, "Params.x", "1024"),
        ({5: 1}, "Params.x", "not a text"),
        ((1, 2), "Params.x", "a tuple is not JSON"),
        (b"x", "Params.x", "a bytes is not JSON"),
    ],
)
def test_values_that_json_cannot_carry_are_refused(value: object, path: str, says: str) -> None:
    """What a log, a node or a client could not read back is refused where it stands."""
    (fault,) = faults_of_body(body(task={"Publisher": {"Type": "ipfs", "Params": {"x": value}}}))

    assert fault.path == f"Tasks[0].Publisher.{path}"
    assert says in fault.message


def test_depth_and_number_of_values_in_a_body_are_bounded() -> None:
    """A deep, wide or circular body is refused without a crash and without growing."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    circle: list[object] = []
    circle.append(circle)
    wide = [circle] * 10

    for value in (deep, circle, {"a": wide}):
        (fault,) = faults_of_body(body(Params=value))
        assert f"more than {DEPTH_MAX} deep" in fault.message
    (fault,) = faults_of_body(body(Params=[0] * NODES_MAX))
    assert "50,000 values" in fault.message


FLOOD = 10_000_000


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"Network": {"Type": "HTTP", "Domains": ["x." * (FLOOD // 2)]}}, "not a domain"),
        (
            {"Network": {"Type": "HTTP", "Domains": [f"{'x.' * 100}{n}" for n in range(1000)]}},
            "larger than 192 KiB",
        ),
        ({"Name": "x" * FLOOD}, "longer"),
        ({"Resources": {"CPU": "9" * FLOOD}}, "cannot be read"),
        ({"Timeouts": {"TotalTimeout": "9" * FLOOD}}, "whole number"),
        ({"Env": {f"a{n}": "" for n in range(45_000)}}, "more than 1024"),
        ({"Env": {"A" * 1000: "x" * FLOOD}}, "more than 128 KiB"),
        (inline("/a" * (FLOOD // 2), "data:,"), "longer than 4096"),
        (inline("/a", "data:" + ";" * FLOOD), "not a data URL"),
        (inline("/a", "data:" + "; base64 " * (FLOOD // 9) + ","), "not a data URL"),
        (inline("/a", "data:," + "%41" * (FLOOD // 3)), "base64"),
        (inline("/a", "blob:sha256:" + "a" * 64 + ";size=1" * (FLOOD // 7)), "not a blob URL"),
        (
            {"Engine": {"Type": "docker", "Params": {"Image": "x", "Parameters": [1] * 45_000}}},
            "must be a text",
        ),
        (
            {"Engine": {"Type": "wasm", "Params": {"EntryModule": "/a", "ImportModules": ["/x"] * 45_000}}},
            "more than 256",
        ),
        (
            {
                "Engine": {
                    "Type": "wasm",
                    "Params": {"EntryModule": "/a", "ImportModules": [{"Source": {}}] * 20_000},
                }
            },
            "more than 256",
        ),
        ({"InputSources": [{"Target": "x"}] * 10_000}, "is missing"),
    ],
)
def test_a_flood_in_one_place_is_refused_like_a_drop(task: dict[str, Any], says: str) -> None:
    """However long a text or a list is, reading it ends soon, in a fault."""
    assert says in faults_of_body(body(task=task))[0].message


def test_reading_ends_where_everything_is_wrong() -> None:
    """After a thousand faults there is no use in looking for more."""
    with pytest.raises(SpecFaults) as caught:
        read_spec(json.dumps(dict.fromkeys(map(str, range(40_000)))), file="job.json")

    assert len(caught.value.faults) == FAULTS_FOUND_MAX
    assert caught.value.message.startswith("1000 problems or more in job.json\n")


@pytest.mark.parametrize("text", ["Job: {Type: batch}\nExecutions: {Items: []}\n", '{"job": {"Tasks": []}}'])
def test_an_answer_of_the_api_is_refused_as_such(text: str) -> None:
    """What ``job describe --output yaml`` prints is no spec: one fault says so, and how to get the spec of a job."""
    with pytest.raises(SpecFaults) as caught:
        read_spec(text, file="job.yaml")
    assert ["in its member Job" in fault.message for fault in caught.value.faults] == [True]
    assert "--spec" in caught.value.hint
