"""Inputs that are fetched once, and what jobs may take of a disk: on real servers, with real programs."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest

from storage.cache_entries import DATA, entries_in
from tests.acceptance.data import Bucket
from tests.acceptance.deployment import Api, Deployment, state
from tests.acceptance.fragile import Fragile, constraint, port_of
from tests.acceptance.jobs import Json, job, module, publish, shell, stdout

LARGE_BYTES = 200 << 20
TOGETHER = 20


def large(seed: int) -> bytes:
    """Two hundred mebibytes that nothing can make smaller."""
    return random.Random(seed).randbytes(1 << 20) * (LARGE_BYTES >> 20)


def verify(node: Path) -> subprocess.CompletedProcess[str]:
    """Run the command that compares a node's inputs with what came."""
    command = [sys.executable, "-m", "compute", "cache", "verify", "--data-dir", str(node)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.timeout(240)
def test_a_large_input_is_fetched_once_and_survives_the_node(
    fragile: Fragile, store: Bucket, tmp_path: Path
) -> None:
    """Twenty executions that start together over one input of 200 MiB fetch it once; a repeated job fetches nothing; a node
    that is killed while it fetches has right bytes in the end, and says so when they are verified.
    """
    store.put("in/large", large(1))
    store.put("in/mark", b"first")
    store.put("next/large", large(2))
    store.put("next/mark", b"second")
    folder = tmp_path / "node"
    where = {"Constraints": [constraint("kind", "keeper")]}
    with (
        fragile.extra_node("keeper", folder, {}, "--cpu", "4", "--memory", "4Gb") as node,
        fragile.valve(port_of(store.endpoint)) as counted,
    ):

        def reads(prefix: str, endpoint: str, count: int = 1) -> Json:
            source = store.source(f"{prefix}/*", "/in", Endpoint=endpoint)
            return job(module("show", "/in/mark", InputSources=[source]), Count=count, **where)

        executions = fragile.api.completed(reads("in", counted.url, TOGETHER))
        assert [stdout(each) for each in executions] == ["first"] * TOGETHER
        assert {each["NodeID"] for each in executions} == {"keeper"}
        assert LARGE_BYTES <= counted.passed < LARGE_BYTES * 1.1

        before = counted.passed
        (again,) = fragile.api.completed(reads("in", counted.url))
        assert counted.passed - before < 100_000
        assert [each["Cached"] for each in again["Inputs"] if each["Type"] == "s3"] == [True]

        with fragile.valve(port_of(store.endpoint), down=LARGE_BYTES // 3) as held:
            broken = fragile.api.submit(reads("next", held.url))
            held.until_held()
            fragile.kill(node)
            held.open()
            fragile.start(node)
            view = fragile.api.ended(broken)
        assert state(view) == "Completed", view
        assert stdout(view["Executions"][-1]) == "second"
        found = verify(folder)
        assert (found.returncode, found.stderr) == (0, "")
        # The two that were fetched, and the module, which came inline again and again.
        assert "3 inputs are as they came, 0 are not" in found.stdout
        larges = [path / DATA / "large" for path, _ in entries_in(folder / "cache")]
        kept = {digest_of(path) for path in larges if path.exists()}
        assert kept == {hashlib.sha256(large(seed)).hexdigest() for seed in (1, 2)}
        assert [path.name for path in (folder / "cache").iterdir() if path.name.startswith(".")] == []


def digest_of(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


DISK = {"CPU": "100m", "Memory": "64Mb", "Disk": "20Mb"}


@pytest.mark.parametrize("engine", ["docker layer", "docker output", "wasm output"])
def test_a_program_has_the_disk_it_asked_for(api: Api, image: str, bucket: Bucket, engine: str) -> None:
    """Inputs, what is written anywhere, and outputs count together against Disk: who takes more fails, told both sizes."""
    bucket.put("in/data", bytes(12_000_000))
    source = bucket.source("in/*", "/in")
    kept = publish(bucket.publisher("results/{executionID}"))
    if engine == "wasm output":
        task = module("copy", "/in/data", "/outputs/copy", InputSources=[source], Resources=DISK, **kept)
    else:
        target = "/copy" if engine == "docker layer" else "/outputs/copy"
        stays = "; sleep 600" if engine == "docker layer" else ""
        task = shell(image, f"cp /in/data {target}{stays}", InputSources=[source], Resources=DISK, **kept)

    view = api.run(job(task))

    assert state(view) == "Failed", view
    failure = view["Job"]["Failure"]
    assert failure["Code"] == "Exhausted.DiskLimit"
    assert "the task's Disk is 19.1 MiB" in failure["Message"]
    assert len(view["Executions"]) == 1


def test_a_result_is_recorded_file_by_file(
    deployment: Deployment, api: Api, image: str, bucket: Bucket
) -> None:
    """The execution's view and ``job describe`` name what was read and every file that was written, with its digest."""
    bucket.put("in/data", b"some data")
    script = "cp /in/data /outputs/copy; mkdir /outputs/many; for i in $(seq 40); do echo $i > /outputs/many/$i; done"
    source = bucket.source("in/data", "/in")
    task = shell(image, script, InputSources=[source], **publish(bucket.publisher("r", Encoding="plain")))

    (execution,) = api.completed(job(task))

    written = execution["Written"]
    assert written["Count"] == 44
    listed = {each["Path"]: each["SHA256"] for each in written["Files"]}
    assert len(listed) == 20
    assert all(
        hashlib.sha256(bucket.get(f"r/{path}")).hexdigest() == digest for path, digest in listed.items()
    )
    keys = [key.removeprefix("r/") for key in bucket.keys("r/")]
    lines = [
        f"{hashlib.sha256(bucket.get(f'r/{key}')).hexdigest()}  {key}\n" for key in sorted(keys, key=walked)
    ]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == written["SHA256"]
    (read,) = execution["Inputs"]
    assert read["Identity"].startswith(f"s3://{bucket.name}/in/data?")
    described = deployment.shoal("job", "describe", execution["JobID"]).out
    assert f"Input /in: {read['Identity']} (9 B)" in described
    assert f"Written: 44 files, {written['Size']} B; their list has SHA-256 {written['SHA256']}" in described


def walked(path: str) -> list[bytes]:
    """Sorts as a folder is walked: each folder's names in the order of their bytes."""
    return [part.encode() for part in path.split("/")]
