"""Specs and bodies that are wrong, too large or hostile: a clear refusal, and the requester is as it was."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.acceptance.fragile import Fragile, state
from tests.acceptance.jobs import Json, job, module, shell

GROWTH_MAX_BYTES = 64 << 20
"""What a requester may have more after a hundred bodies of the greatest size than before: far less than their sum."""

WRONG = """\
Type: bach
Count: -3
Labelz: {}
Tasks:
  - Name: main
    Engine: {Type: docker, Params: {Imag: x}}
    InputSources:
      - {Target: in, Source: {Type: s3, Params: {Bucket: b, Key: k}}}
      - {Target: /two, Source: {Type: ipfz, Params: {}}}
    Resources: {CPU: lots, Memory: 1Zb}
    Network: {Type: wat}
    Timeouts: {ExecutionTimeout: soon}
"""
FAULTS = [
    ("1:7", "Type", "batch"),
    ("2:8", "Count", ""),
    ("3:1", "Labelz", "Labels"),
    ("6:37", "Imag", "Image"),
    ("8:18", "Tasks[0].InputSources[0].Target", ""),
    ("9:39", "ipfz", "ipfs"),
    ("10:22", "lots", ""),
    ("10:36", "1Zb", ""),
    ("11:21", "wat", ""),
    ("12:34", "ExecutionTimeout", ""),
]


@pytest.mark.parametrize("command", ["submit", "validate"])
def test_all_faults_at_once(fragile: Fragile, tmp_path: Path, command: str) -> None:
    """A person gets every fault of a spec at once, each with file, line, column and a near spelling."""
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)

    said = fragile.shoal(command, path)

    assert said.code == 2
    lines = said.err.splitlines()
    for place, word, near in FAULTS:
        (line,) = (line for line in lines if f"{path}:{place} " in line)
        assert word in line
        assert f'did you mean "{near}"' in line or not near
    assert f"{len(FAULTS)} problems" in lines[0]


def test_all_faults_at_once_over_rest(fragile: Fragile) -> None:
    """A program gets status 400 in Bacalhau's envelope, with every fault and its JSON path."""
    task = {"Name": "main", "Engine": {"Type": "docker", "Params": {}}, "Resources": {"CPU": "lots"}}

    status, answer = fragile.api.answer(
        "PUT", fragile.api.jobs, {"Job": {"Type": "bach", "Count": -3, "Tasks": [task]}}
    )

    assert status == 400
    assert (answer["Status"], answer["Code"], answer["Component"]) == (400, "ValidationError", "Requester")
    faults = [json.loads(text)["path"] for key, text in answer["Details"].items() if key.startswith("fault.")]
    assert faults == ["Type", "Count", "Tasks[0].Engine.Params.Image", "Tasks[0].Resources.CPU"]
    for path in faults:
        assert path in answer["Message"]


def _job(**more: object) -> bytes:
    task: Json = {"Name": "main", "Engine": {"Type": "docker", "Params": {"Image": "i"}}}
    task |= {key: value for key, value in more.items() if key in ("Env", "InputSources")}
    rest = {key: value for key, value in more.items() if key not in ("Env", "InputSources")}
    return json.dumps({"Job": {"Type": "batch", "Tasks": [task], **rest}}).encode()


def _inline(size: int) -> list[Json]:
    params = {"URL": "data:;base64," + "A" * size}
    return [{"Target": "/a", "Source": {"Type": "inline", "Params": params}}]


BODIES: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "bytes": (lambda: _job(Meta={"a": "x" * (11 << 20)}), 413, "10 MiB"),
    "inline": (lambda: _job(InputSources=_inline(16 << 20)), 413, "10 MiB"),
    "arrays": (lambda: b'{"Job":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "deep"),
    "objects": (lambda: b'{"Job":{"Meta":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}}", 400, "deep"),
    "depth": (lambda: b'{"Job":{"Meta":' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}}", 400, "64 deep"),
    "labels": (lambda: _job(Labels={f"l{n}": "v" for n in range(100_000)}), 400, "50,000 values"),
    "few labels": (lambda: _job(Labels={f"l{n}": "v" for n in range(2_000)}), 400, "Labels"),
    "environment": (lambda: _job(Env={f"V{n}": "v" for n in range(2_000)}), 400, "Env"),
    "long environment": (lambda: _job(Env={"V": "v" * 1_000_000}), 400, "128 KiB"),
    "inputs": (lambda: _job(InputSources=_inline(4) * 1_000), 400, "256"),
    "count": (lambda: _job(Count=1_000_000_000), 400, "10,000"),
    "huge count": (lambda: _job(Count=10**30), 400, "64 bits"),
    "digits": (lambda: b'{"Job":{"Count":' + b"9" * 1_000_000 + b"}}", 400, ""),
    "not a number": (lambda: b'{"Job":{"Count":NaN}}', 400, "not JSON"),
    "encoding": (lambda: b'{"Job":{"Name":"\xff\xfe"}}', 400, "not JSON"),
    "NUL": (lambda: _job(Name="a\0b"), 400, "NUL"),
    "half a character": (lambda: b'{"Job":{"Name":"\\ud800"}}', 400, ""),
    "a list": (lambda: b"[1]", 400, "object"),
    "nothing": (lambda: b"", 400, "Job"),
    "no job": (lambda: b'{"Job":null}', 400, "Job"),
    "cut off": (lambda: b'{"Job":{"Type":"ba', 400, "not JSON"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_beyond_all_bounds(fragile: Fragile, name: str) -> None:
    """Each bound of a spec is a clear refusal in the API's envelope, which names the bound."""
    make, wanted, word = BODIES[name]

    status, answer = put(fragile, make())

    assert status == wanted, answer
    assert answer["Status"] == wanted
    assert word in answer["Message"]


def test_refusals_cost_no_memory(fragile: Fragile) -> None:
    """A hundred bodies at their greatest size leave the requester as small as it was, and it runs the next job."""
    requester = psutil.Process(fragile.cluster.api.pid)
    body = _job(Labels={f"l{n}": "v" * 50 for n in range(100_000)})
    put(fragile, body)
    before = requester.memory_info().rss

    for _ in range(100):
        status, _answer = put(fragile, body)
        assert status == 400

    assert requester.memory_info().rss - before < GROWTH_MAX_BYTES
    fragile.api.completed(job(module("nothing")))


def put(fragile: Fragile, body: bytes) -> tuple[int, Json]:
    """Send raw bytes as a submission."""
    request = urllib.request.Request(
        fragile.api.jobs, data=body, method="PUT", headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.loads(refused.read())


def _bomb() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join([*levels, "Type: batch"])


TEXTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "alias bomb": (lambda: _bomb().encode(), "50,000 values"),
    "alias in itself": (lambda: b"Type: batch\nMeta: &a {x: *a}\n", "2:14"),
    "depth": (lambda: b"Type: batch\nMeta: " + b"{a: " * 5_000 + b"1" + b"}" * 5_000, "64 deep"),
    "brackets": (lambda: b"[" * 200_000, "64 deep"),
    "bytes": (lambda: b"Type: batch\nMeta: {a: " + b"x" * (11 << 20) + b"}", "larger than"),
    "encoding": (lambda: b"Type: batch\nName: \xff\xfe\n", "not UTF-8"),
    "NUL": (lambda: b'Type: batch\nName: "a\\0b"\n', "2:7"),
    "escape": (lambda: b"Type: batch\nName: a\x1b[31mb\n", "2:"),
    "empty": (lambda: b"", "problem"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_beyond_all_bounds(fragile: Fragile, tmp_path: Path, name: str) -> None:
    """The command line refuses such a spec as quickly and as clearly, with its place where it has one."""
    make, word = TEXTS[name]
    path = tmp_path / "spec.yaml"
    path.write_bytes(make())

    said = fragile.shoal("submit", path)

    assert said.code == 2
    assert word in said.err
    assert "Traceback" not in said.err
    assert harmless(said.err)


HOSTILE = "a\x1b[31mred\x07\x9b2J\nline\u202ebidi\u2028"


def test_hostile_words_cannot_steer_a_terminal(fragile: Fragile, tmp_path: Path) -> None:
    """Control characters in names, labels, paths and output are shown as escapes by every command that prints them."""
    task = shell(fragile.image, "printf 'out\\033[2Jput\\n'; exit 4")
    spec = job(task, Name=HOSTILE, Meta={HOSTILE: HOSTILE})
    spec["Tasks"][0]["InputSources"] = [
        {"Target": f"/{HOSTILE}", "Source": {"Type": "s3", "Params": {"Bucket": HOSTILE, "Key": HOSTILE}}}
    ]
    path = fragile.spec(tmp_path, spec)

    submitted = fragile.shoal("submit", path)
    found = [
        item["ID"] for item in fragile.api.call("GET", fragile.api.jobs)["Items"] if item["Name"] == HOSTILE
    ]
    said = [submitted, *(fragile.shoal(*words) for words in (["list"], ["list", "--wide"]))]
    for name in found:
        said += [fragile.shoal(word, name) for word in ("describe", "executions", "history", "logs", "get")]

    assert submitted.code in (2, 10)
    assert all(harmless(each.out + each.err) for each in said), said


def test_a_programs_output_cannot_steer_describe(fragile: Fragile) -> None:
    """`describe` shows a program's output with its control characters as escapes; `logs` gives the very bytes."""
    (execution,) = fragile.api.completed(job(shell(fragile.image, "printf 'out\\033[2Jput\\n'")))

    assert harmless(fragile.shoal("describe", execution["JobID"]).out)
    assert "out\x1b[2Jput" in fragile.shoal("logs", execution["JobID"]).out


def harmless(text: str) -> bool:
    """Whether a text holds nothing that moves a cursor, rings a bell or turns the line around."""
    return all(char.isprintable() or char in "\n\t" for char in text)


def test_an_unknown_job(fragile: Fragile) -> None:
    """A job that nobody has is a clear 404, and exit code 3, for every command."""
    for word in ("describe", "executions", "history", "logs", "get", "stop"):
        said = fragile.shoal(word, "nobody-has-this")
        assert said.code == 3, (word, said)
        assert "nobody-has-this" in said.err
    status, answer = fragile.api.answer("GET", f"{fragile.api.jobs}/nobody-has-this")
    assert (status, answer["Status"]) == (404, 404)


def test_the_greatest_count_is_taken(fragile: Fragile) -> None:
    """A job with as many partitions as there may be is taken, queues, and is stopped at once as a whole."""
    job_id = fragile.api.submit(job(module("sleep", "600"), Count=10_000))
    fragile.api.running(job_id)

    fragile.api.call("DELETE", f"{fragile.api.jobs}/{job_id}")

    assert state(fragile.api.ended(job_id)) == "Stopped"
