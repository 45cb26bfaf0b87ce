"""WebAssembly modules as jobs: what they find, what limits them, how they end."""

from tests.acceptance.data import Bucket
from tests.acceptance.deployment import Api, Deployment, state
from tests.acceptance.jobs import MODULES, job, module, publish, stdout, wasm


def test_arguments_and_environment(api: Api) -> None:
    """A module gets its Parameters as arguments and finds the task's variables and the system's."""
    (execution,) = api.completed(job(module("tell", "WHO", Env={"WHO": "me"})))
    assert stdout(execution) == "WHO=me\n"

    (execution,) = api.completed(job(module("tell", "BACALHAU_EXECUTION_ID")))
    assert stdout(execution) == f"BACALHAU_EXECUTION_ID={execution['ID']}\n"


def test_both_streams(api: Api) -> None:
    """What a module writes to its standard output and error is kept apart."""
    (execution,) = api.completed(job(module("print", "to out", "to err")))

    assert execution["RunOutput"]["Stdout"] == "to out"
    assert execution["RunOutput"]["stderr"] == "to err"


def test_exit_code(api: Api) -> None:
    """A module's exit code is the execution's, and one that is not 0 fails the job."""
    view = api.run(job(module("exit", "3")))

    assert state(view) == "Failed"
    assert view["Executions"][0]["RunOutput"]["ExitCode"] == 3


def test_only_its_own_folders(api: Api, bucket: Bucket) -> None:
    """A module sees its inputs, read-only, and nothing else of the node."""
    bucket.put("in/file", b"as it was")
    source = bucket.source("in/*", "/in")
    for words in (("show", "/etc/passwd"), ("show", "/in/../../etc/passwd"), ("write", "/in/file", "x")):
        view = api.run(job(module(*words, InputSources=[source])))
        assert state(view) == "Failed", words
        assert view["Executions"][0]["RunOutput"]["ExitCode"] == 2

    (execution,) = api.completed(job(module("show", "/in/file", InputSources=[source])))
    assert stdout(execution) == "as it was"


def test_memory_limit(api: Api) -> None:
    """A module gets no more memory than its job asked for."""
    view = api.run(job(module("grow", Resources={"CPU": "100m", "Memory": "32Mb"})))

    assert state(view) == "Failed"
    said = view["Executions"][0]["RunOutput"]["stderr"]
    assert "no more after" in said
    assert int(said.split()[3]) <= 32


def test_a_module_from_ipfs_and_s3(deployment: Deployment, api: Api, bucket: Bucket) -> None:
    """The module itself may be an input from anywhere."""
    bucket.put("m/wordcount.wasm", (MODULES / "wordcount.wasm").read_bytes())
    bucket.put_tree("texts/", {"a.txt": b"one two three", "b.txt": b"four"})
    params = {"EntryModule": "/module/wordcount.wasm", "Parameters": ["/texts", "/outputs/report"]}
    task = {
        "Engine": {"Type": "wasm", "Params": params},
        "InputSources": [bucket.source("m/wordcount.wasm", "/module"), bucket.source("texts/*", "/texts")],
        **publish(bucket.publisher("r", Encoding="plain")),
    }

    (execution,) = api.completed(job(task))

    assert stdout(execution) == "4 words\n"
    assert b"4 total" in bucket.get("r/outputs/report")


def test_compiled_once(deployment: Deployment, api: Api) -> None:
    """A node compiles a module once: what it made of it is kept by the module's digest and used again."""
    node = deployment.nodes[0]
    pinned = {"Constraints": [{"Key": "name", "Operator": "=", "Values": [node]}]}
    folder = (
        next(part.folder for part in deployment.cluster.computes if part.name == node) / "engines" / "wasm"
    )

    api.completed(job(wasm("probe.wasm", "nothing"), **pinned))
    kept = {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    api.completed(job(wasm("probe.wasm", "print", "again"), **pinned))

    assert kept
    assert {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == kept
