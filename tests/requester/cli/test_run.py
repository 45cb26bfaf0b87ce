"""``docker run`` and ``wasm run``: every flag of the peer's (reference 4.3), and where flags end and the program begins."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from requester.cli.app import build
from requester.cli.program import program_last
from tests.requester.cli.conftest import Shoal
from tests.requester.twin import Twin


def _dry(shoal: Shoal, *words: str) -> Any:
    ran = shoal(*words)
    assert ran.code == 0, ran.err
    return yaml.safe_load(ran.out)


def test_the_seed_documents_commands(shoal: Shoal) -> None:
    """The two ``docker run`` commands of the storage page are read as they are written there."""
    job = _dry(
        shoal,
        *("docker", "run", "--dry-run", "-i"),
        "src=s3://bucket/key,dst=/my/input/path,opt=endpoint=http://s3.example.com,opt=region=us-east-1",
        *("ubuntu", "ls", "/my/input/path"),
    )
    (source,) = job["Tasks"][0]["InputSources"]
    params = {"Bucket": "bucket", "Key": "key", "Endpoint": "http://s3.example.com", "Region": "us-east-1"}
    assert source == {
        "Source": {"Type": "s3", "Params": params},
        "Target": "/my/input/path",
        "Alias": "s3://bucket/key",
    }
    job = _dry(
        shoal,
        *("docker", "run", "--dry-run", "-p"),
        "s3://bucket/key,opt=endpoint=http://s3.example.com,opt=region=us-east-1",
        *("ubuntu", "ls"),
    )
    assert job["Tasks"][0]["Publisher"] == {"Type": "s3", "Params": params}


def test_every_flag_has_its_field(shoal: Shoal, monkeypatch: pytest.MonkeyPatch) -> None:
    """All flags about the job, the task and the container end up where the spec has them."""
    monkeypatch.setenv("MINE", "own")
    words = [
        *("--name", "n", "--namespace", "ns", "--priority", "5", "--count", "2"),
        *(
            "-l",
            "a=b",
            "--labels",
            "c=d",
            "--constraints",
            "region in (eu,us)",
            "--constraints",
            "gpu,mem gt 16",
        ),
        *(
            "--task-name",
            "t",
            "-e",
            "A=1=2",
            "--env",
            "MINE",
            "-i",
            "ipfs://bafkqaaa:/x",
            "--input",
            "https://h/f:/y",
        ),
        *("-o", "/outputs:/outputs", "--output", "more:/more", "-p", "ipfs"),
        *(
            "--cpu",
            "2",
            "--memory",
            "1Gi",
            "--disk",
            "3Gb",
            "--gpu",
            "1",
            "--network",
            "HTTP",
            "--domain",
            "a.com",
        ),
        *("--timeout", "60", "--queue-timeout", "10", "-w", "/w", "--entrypoint", "/bin/sh"),
    ]
    job = _dry(shoal, "docker", "run", "--dry-run", *words, "ubuntu:24.04", "-c", "echo $A")
    task = job.pop("Tasks")[0]
    assert job == {
        "Name": "n",
        "Namespace": "ns",
        "Type": "batch",
        "Priority": 5,
        "Count": 2,
        "Labels": {"a": "b", "c": "d"},
        "Constraints": [
            {"Key": "region", "Operator": "in", "Values": ["eu", "us"]},
            {"Key": "gpu", "Operator": "exists"},
            {"Key": "mem", "Operator": "gt", "Values": ["16"]},
        ],
    }
    assert task["Engine"]["Params"] == {
        "Image": "ubuntu:24.04",
        "Entrypoint": ["/bin/sh"],
        "Parameters": ["-c", "echo $A"],
        "WorkingDirectory": "/w",
    }
    assert task["Env"] == {"A": "1=2", "MINE": "own"}
    assert [each["Target"] for each in task["InputSources"]] == ["/x", "/y"]
    assert [each["Name"] for each in task["ResultPaths"]] == ["outputs", "more"]
    assert task["Publisher"] == {"Type": "ipfs"}
    assert task["Resources"] == {"CPU": "2", "Memory": "1Gi", "Disk": "3Gb", "GPU": "1"}
    assert task["Network"] == {"Type": "HTTP", "Domains": ["a.com"]}
    assert task["Timeouts"] == {"TotalTimeout": 60, "QueueTimeout": 10}
    assert task["Name"] == "t"


def test_older_and_special_flags(shoal: Shoal) -> None:
    """``--concurrency`` is the count, ``--selector`` the constraints, ``--target all`` an ops job."""
    job = _dry(shoal, "docker", "run", "--dry-run", "--concurrency", "3", "-s", "a=b", "ubuntu")
    assert (job["Count"], job["Constraints"][0]["Key"]) == (3, "a")
    assert _dry(shoal, "docker", "run", "--dry-run", "--target", "all", "ubuntu")["Type"] == "ops"
    assert shoal("docker", "run", "--dry-run", "--target", "all", "--count", "2", "ubuntu").code == 2


@pytest.mark.parametrize(
    ("words", "split"),
    [
        ("ubuntu ls -l", "-- ubuntu ls -l"),
        ("ubuntu -- sh -c x", "-- ubuntu sh -c x"),
        ("-- ubuntu sh -c x", "-- ubuntu sh -c x"),
        ("-e A=1 -f ubuntu --wait", "-e A=1 -f -- ubuntu --wait"),
        ("--name=x --id-only ubuntu sh -- y", "--name=x --id-only -- ubuntu sh -- y"),
        ("--name x --wait=false ubuntu", "--name x --wait=false -- ubuntu"),
        ("-e", "-e"),
        ("--help", "--help"),
        ("ubuntu -i x:/y --id-only -- sh -c ls", "-i x:/y --id-only -- ubuntu sh -c ls"),
        ("--cpu 1 ubuntu --input=x -- --input", "--input=x --cpu 1 -- ubuntu --input"),
        ("ubuntu git checkout -- file", "-- ubuntu git checkout -- file"),
        ("ubuntu --id-only sh -- x", "-- ubuntu --id-only sh -- x"),
        ("-- ubuntu --id-only -- x", "-- ubuntu --id-only -- x"),
    ],
)
def test_where_the_program_begins(words: str, split: str) -> None:
    """Flags stand before the image, or alone between it and a ``--``; all else behind it is the program's, whatever it looks
    like; one ``--`` is dropped.
    """
    app = build(lambda: "0")
    assert program_last(app, ["docker", "run", *words.split()]) == ["docker", "run", *split.split()]


def test_a_flag_behind_the_image_is_pointed_out(shoal: Shoal) -> None:
    """A flag of ours among the program's words stays the program's, and a hint says so."""
    ran = shoal("docker", "run", "--dry-run", "ubuntu", "echo", "hi", "--id-only")
    assert yaml.safe_load(ran.out)["Tasks"][0]["Engine"]["Params"]["Parameters"] == [
        "echo",
        "hi",
        "--id-only",
    ]
    assert "--id-only" in ran.err
    assert "Hint" not in shoal("docker", "run", "--dry-run", "ubuntu", "--", "echo", "--id-only").err


def test_faults_name_the_flag(shoal: Shoal, twin: Twin) -> None:
    """What is wrong is told under the flag that was typed, all at once, with exit code 2; nothing is submitted."""
    ran = shoal(
        "docker", "run", "--cpu", "2x", "--timeout", "-5", "-e", "a=b", "-o", "o:/o", "-o", "o:/p", "ubuntu"
    )
    assert ran.code == 2
    for text in (
        "4 problems",
        '--cpu: "2x"',
        "--env a is no name",
        'did you mean "A"',
        "--timeout",
        "--output",
    ):
        assert text in ran.err
    assert twin.records == {}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-i", "ipfs:/bafkqaaa"], "-i"),
        (["-p", "ipsf"], 'Did you mean "ipfs"'),
        (["-o", "outputs"], "outputs:/outputs"),
        (["-e", "NOT_THERE"], "NOT_THERE"),
        (["-l", "a"], "owner=me"),
        (["--constraints", "a in ("], "a in ("),
        (["--target", "some"], "any"),
        (["--cpux", "1"], "Did you mean --cpu"),
    ],
)
def test_each_grammar_says_what_to_write(shoal: Shoal, words: list[str], text: str) -> None:
    """A flag that cannot be read is exit code 2, with what it should look like."""
    ran = shoal("docker", "run", *words, "ubuntu")
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err


def test_a_result_that_keeps_nothing_is_pointed_out(shoal: Shoal) -> None:
    """A publisher without any folder to keep is probably a slip: a hint tells how to keep one."""
    assert "-o outputs:/outputs" in shoal("docker", "run", "--dry-run", "-p", "ipfs", "ubuntu").err
    assert shoal("docker", "run", "--dry-run", "-p", "ipfs", "-o", "o:/o", "ubuntu").err == ""


def test_a_module_of_ones_own_travels_along(shoal: Shoal, folder: Path) -> None:
    """A local module becomes inline data under its own name; arguments that look like flags are the program's."""
    (folder / "my.wasm").write_bytes(b"\0asm\1\0\0\0")
    job = _dry(shoal, "wasm", "run", "--dry-run", "--entry-point", "main", "my.wasm", "-x", "--count", "5")
    task = job["Tasks"][0]
    assert task["Engine"] == {
        "Type": "wasm",
        "Params": {
            "EntryModule": "/module/my.wasm",
            "Entrypoint": "main",
            "Parameters": ["-x", "--count", "5"],
        },
    }
    (source,) = task["InputSources"]
    assert source["Target"] == "/module/my.wasm"
    assert base64.b64decode(source["Source"]["Params"]["URL"].partition(",")[2]) == b"\0asm\1\0\0\0"


@pytest.mark.parametrize(
    ("module", "type", "target"),
    [
        ("ipfs://bafkqaaa", "ipfs", "/module/bafkqaaa"),
        ("s3://b/x/y.wasm", "s3", "/module/y.wasm"),
        ("https://h/x/y.wasm?z=1", "urlDownload", "/module/y.wasm"),
        ("ipfs://bafkqaaa:/elsewhere/a.wasm", "ipfs", "/elsewhere/a.wasm"),
    ],
)
def test_a_module_may_be_anywhere(shoal: Shoal, module: str, type: str, target: str) -> None:
    """A module that is a URI becomes an input, and so do the modules linked to it."""
    job = _dry(shoal, "wasm", "run", "--dry-run", "-I", "s3://b/lib.wasm", module)
    task = job["Tasks"][0]
    assert [each["Source"]["Type"] for each in task["InputSources"]] == [type, "s3"]
    assert task["Engine"]["Params"] == {"EntryModule": target, "ImportModules": ["/module/lib.wasm"]}


def test_modules_that_cannot_be_sent(shoal: Shoal, folder: Path) -> None:
    """A module that is not there is 3; a file that is none is 2, and one too large for a request, with the way round."""
    assert shoal("wasm", "run", "nope.wasm").code == 3
    (folder / "text.wasm").write_text("(module)")
    ran = shoal("wasm", "run", "text.wasm")
    assert ran.code == 2
    assert "text.wasm is not a WebAssembly module" in ran.err
    with (folder / "big.wasm").open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    ran = shoal("wasm", "run", "big.wasm")
    assert ran.code == 2
    assert "URI" in ran.err


def test_a_run_is_submitted_and_followed(shoal: Shoal, twin: Twin) -> None:
    """``docker run -f`` prints what the program printed and ends with its code, as ``docker run`` does."""
    twin.then = lambda job: twin.complete(job, stdout="hi\n", exit_code=7)
    ran = shoal("docker", "run", "-f", "ubuntu", "sh", "-c", "echo hi; exit 7")
    assert (ran.code, ran.out) == (7, "hi\n")
