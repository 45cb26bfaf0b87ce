"""Programs, images and outputs that fail: the job fails with the reason, and nothing of it stays on the node."""

from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.data import Bucket
from tests.acceptance.fragile import Fragile, constraint, full_disk, state
from tests.acceptance.jobs import Json, inline, job, module, publish, shell
from tests.conftest import Background


def failed(fragile: Fragile, task: Json, **more: object) -> Json:
    """Run a job that has to fail; the job as REST tells it."""
    view = fragile.api.run(job(task, **more))
    assert state(view) == "Failed", view
    told: Json = view["Job"]
    assert told["State"]["Message"].startswith(told["Failure"]["Message"])
    return told


def test_a_program_that_exits_3(fragile: Fragile, tmp_path: Path) -> None:
    """A program's exit code is told, by the API and by the command, which ends with 10, or with the code if it followed."""
    task = shell(fragile.image, "echo this is why >&2; exit 3")
    path = fragile.spec(tmp_path, job(task, Name="exits"))

    waited = fragile.shoal("submit", path)
    followed = fragile.shoal("submit", "--force", "--follow", path)

    assert waited.code == 10
    assert "exited with code 3" in waited.err
    assert followed.code == 3
    assert "this is why" in followed.err
    (execution,) = fragile.api.call("GET", f"{fragile.api.jobs}/exits/executions")["Items"]
    assert execution["RunOutput"]["ExitCode"] == 3
    assert execution["RunOutput"]["stderr"] == "this is why\n"


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"Image": "{registry}/there-is/none:1"}, ["{registry}/there-is/none:1", "no such image"]),
        ({"Image": "localhost:1/none:1"}, ["localhost:1/none:1", "cannot be reached"]),
        ({"Image": "{image}", "Entrypoint": ["/no/such/program"]}, ["/no/such/program"]),
        ({"Image": "{image}", "Entrypoint": ["/etc/passwd"]}, ["/etc/passwd"]),
        ({"Image": "{image}", "Entrypoint": ["/bin/true"], "WorkingDirectory": "relative"}, ["relative"]),
        ({"Image": "UPPER:1"}, ["UPPER"]),
    ],
    ids=["no-image", "no-registry", "no-entrypoint", "no-program", "working-directory", "image-name"],
)
def test_a_container_that_cannot_begin(
    fragile: Fragile, registry_host: str, engine: Json, words: list[str]
) -> None:
    """An image or an entry point that is not there fails the job, and the message names it."""

    def put(text: str) -> str:
        return text.format(registry=registry_host, image=fragile.image)

    params = {
        key: [put(each) for each in value] if isinstance(value, list) else put(value)
        for key, value in engine.items()
    }
    status, answer = fragile.api.answer(
        "PUT", fragile.api.jobs, {"Job": job({"Engine": {"Type": "docker", "Params": params}})}
    )

    message = answer["Message"] if status == 400 else fragile.failed(answer["JobID"])["State"]["Message"]
    for word in words:
        assert put(word) in message


def test_too_much_memory_in_a_container(fragile: Fragile) -> None:
    """A container that passes its memory is ended, and the job says which limit and how to raise it."""
    task = shell(fragile.image, "exec tail -c 500m /dev/zero", Resources={"CPU": "100m", "Memory": "32Mb"})

    told = failed(fragile, task)

    assert told["Failure"]["Code"] == "Exhausted.Memory"
    assert "Memory" in told["Failure"]["Hint"]


def test_too_much_memory_in_a_module(fragile: Fragile) -> None:
    """A module that asks for more than its memory gets none; the program sees that, and the job fails."""
    told = failed(fragile, module("grow", Resources={"CPU": "100m", "Memory": "16Mb"}))

    assert "emory" in told["State"]["Message"] + told["Failure"]["Hint"]


@pytest.mark.parametrize("kind", ["docker", "wasm"])
def test_too_much_time(fragile: Fragile, kind: str) -> None:
    """A program that passes its ExecutionTimeout is ended; the job says which limit that was."""
    limits = {"Timeouts": {"ExecutionTimeout": 1}}
    task = shell(fragile.image, "sleep 600", **limits) if kind == "docker" else module("spin", **limits)

    told = failed(fragile, task)

    assert told["Failure"]["Code"] == "TimedOut.Execution"
    assert "1 s" in told["State"]["Message"]
    assert "ExecutionTimeout" in told["Failure"]["Hint"]


TRAPS = '(module (memory 1) (func (export "_start") unreachable))'
NO_START = '(module (func (export "other")))'
WANTS = '(module (import "nowhere" "nothing" (func)) (func (export "_start")))'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRAPS, ["unreachable"]),
        (NO_START, ["_start"]),
        (WANTS, ["nowhere", "nothing"]),
        ("", ["/module/it.wasm"]),
        ("not a module", ["/module/it.wasm"]),
    ],
    ids=["trap", "entrypoint", "import", "empty", "invalid"],
)
def test_a_module_that_cannot_run(fragile: Fragile, tmp_path: Path, text: str, words: list[str]) -> None:
    """A module that traps, lacks its entry point, wants an import nobody has, or is none: the message says which."""
    import wasmtime

    path = tmp_path / "it.wasm"
    path.write_bytes(wasmtime.wat2wasm(text) if text.startswith("(") else text.encode())
    task = {
        "Engine": {"Type": "wasm", "Params": {"EntryModule": "/module/it.wasm"}},
        "InputSources": [inline("/module/it.wasm", path)],
    }

    message = failed(fragile, task)["State"]["Message"]

    for word in words:
        assert word in message


def test_the_module_is_not_there(fragile: Fragile, tmp_path: Path) -> None:
    """An EntryModule that no input brings is named."""
    params = {"EntryModule": "/module/other.wasm"}
    status, answer = fragile.api.answer(
        "PUT",
        fragile.api.jobs,
        {"Job": job({**module("nothing"), "Engine": {"Type": "wasm", "Params": params}})},
    )

    message = answer["Message"] if status == 400 else fragile.failed(answer["JobID"])["State"]["Message"]
    assert "/module/other.wasm" in message


def test_the_publishers_bucket_is_not_there(fragile: Fragile) -> None:
    """A result that has nowhere to go fails the job, and the message names the bucket."""
    publisher = {"Type": "s3", "Params": {"Bucket": "there-is-no-such", "Key": "results/{jobID}"}}

    told = failed(fragile, shell(fragile.image, "echo x > /outputs/x", **publish(publisher)))

    assert "s3://there-is-no-such/results/" in told["State"]["Message"]
    assert "no such bucket" in told["State"]["Message"]


@pytest.mark.parametrize("kind", ["ipfs", "s3", "local"])
@pytest.mark.parametrize(
    "make", ["mkfifo /outputs/odd", "ln -s /etc/passwd /outputs/odd"], ids=["fifo", "link"]
)
def test_an_output_that_cannot_be_published(fragile: Fragile, store: Bucket, kind: str, make: str) -> None:
    """A pipe, or a link that leads out, among the outputs is never dropped in silence: the job fails and names it."""
    publisher = store.publisher("results/{jobID}") if kind == "s3" else {"Type": kind}

    told = failed(fragile, shell(fragile.image, f"echo x > /outputs/x; {make}", **publish(publisher)))

    assert "outputs/odd" in told["State"]["Message"]
    assert store.keys() == []


def test_an_output_that_is_not_there(fragile: Fragile) -> None:
    """A program that removes its output folder's content and writes nothing publishes an empty folder, not an error."""
    fragile.api.completed(job(shell(fragile.image, "true", **publish({"Type": "local"}))))


@pytest.mark.parametrize("what", ["input", "output", "result", "journal"])
def test_a_full_disk(
    fragile: Fragile, store: Bucket, background: Background, tmp_path: Path, what: str
) -> None:
    """A node whose disk is full, of whatever it keeps there, fails what needs it, saying so; once there is room it runs
    the next job."""
    with full_disk(tmp_path / "disk", size_bytes=32 << 20) as folder:
        node = fragile.extra_node(f"full-{what}", folder / "node", {}, "--cpu", "1", "--memory", "1Gb")
        with node:
            where = {"Constraints": [constraint("kind", f"full-{what}")]}
            view = fragile.api.run(job(_that_needs_the_disk(what, fragile, store, folder), **where))
            assert state(view) == "Failed", view
            message = view["Job"]["State"]["Message"]
            assert "disk" in message or "space" in message or "room" in message, message
            (folder / "ballast").unlink(missing_ok=True)
            fragile.api.completed(job(module("nothing"), **where))
            assert list((folder / "node" / "published").glob("*.tar.gz")) == []
    assert store.keys("results/") == []


def _that_needs_the_disk(what: str, fragile: Fragile, store: Bucket, folder: Path) -> Json:
    """A task for which there is no room on a disk of 32 MiB, or on one that is being filled here."""
    match what:
        case "input":
            (folder / "ballast").write_bytes(bytes(28 << 20))
            store.put("big", bytes(8 << 20))
            return shell(fragile.image, "true", InputSources=[store.source("big", "/in")])
        case "output":
            script = "dd if=/dev/zero of=/outputs/x bs=1M count=64 || echo full >&2"
            return shell(fragile.image, script, **publish(store.publisher("results/{jobID}")))
        case "result":
            # What nothing makes smaller fits once, and not beside its archive.
            script = "head -c 18000000 /dev/urandom > /outputs/x"
            return shell(fragile.image, script, **publish({"Type": "local"}))
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while ballast.write(bytes(size)):
                    pass
    return shell(fragile.image, "true")
