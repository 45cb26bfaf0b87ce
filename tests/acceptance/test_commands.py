"""The commands, typed as a person types them: what they print, where, and how they end."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.programs import ROOT
from requester.version import installed_version
from tests.acceptance.data import Bucket, read_tree
from tests.acceptance.deployment import Api, Deployment, shoal, wait_until_empty
from tests.acceptance.jobs import MODULES, Gate, job, module, publish, shell

Json = dict[str, Any]
ID = r"j-[0-9a-f-]{36}"


@pytest.fixture
def hello(image: str, tmp_path: Path) -> Path:
    """A spec that greets on both streams."""
    return spec_file(tmp_path, job(shell(image, "echo hello; echo aside >&2")))


def spec_file(folder: Path, spec: Json) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


# submit


def test_submit_waits_and_shows_the_stages(deployment: Deployment, hello: Path) -> None:
    """`submit spec.yaml` waits for the job, shows its stages while it waits, and says what to type next."""
    said = deployment.shoal("submit", hello)

    assert said.code == 0
    assert re.fullmatch(rf"Job successfully submitted. Job ID: {ID}\n", said.out)
    stages = ["Assigned", "Preparing", "Running", "Completed"]
    found = [said.err.index(stage) for stage in stages]
    assert found == sorted(found)
    assert "shoal job describe j-" in said.err


def test_submit_reads_standard_input(deployment: Deployment, hello: Path) -> None:
    """`submit -` reads the spec from standard input, in YAML and in JSON."""
    spec = yaml.safe_load(hello.read_text())

    assert deployment.shoal("submit", "-", given=hello.read_text()).code == 0
    assert deployment.shoal("submit", "-", given=json.dumps(spec)).code == 0


def test_submit_id_only(deployment: Deployment, api: Api, hello: Path) -> None:
    """`submit --id-only` prints the job's id and nothing else."""
    said = deployment.shoal("submit", "--id-only", hello)

    assert said.code == 0
    assert re.fullmatch(rf"{ID}\n", said.out)
    assert said.err == ""
    assert api.call("GET", f"{api.jobs}/{said.out.strip()}")["Job"]["State"]["StateType"] == "Completed"


def test_submit_follow(deployment: Deployment, image: str, tmp_path: Path) -> None:
    """`submit --follow` prints what the program prints, each stream to its own, and ends with its exit code."""
    spec = spec_file(tmp_path, job(shell(image, "echo to out; echo to err >&2; exit 3")))

    said = deployment.shoal("submit", "--follow", spec)

    assert said.code == 3
    assert said.out == "to out\n"
    assert "to err\n" in said.err


def test_submit_wait_timeout(
    deployment: Deployment, api: Api, gate: Gate, image: str, tmp_path: Path
) -> None:
    """`submit --wait-timeout-secs` gives up waiting with code 124; the job goes on."""
    spec = spec_file(tmp_path, job(gate.holds(image)))

    said = deployment.shoal("submit", "--id-only", "--wait-timeout-secs", "1", spec)

    assert said.code == 124
    gate.open()
    assert api.ended(said.out.strip())["Job"]["State"]["StateType"] == "Completed"


def test_submit_dry_run(deployment: Deployment, namespace: str, hello: Path, tmp_path: Path) -> None:
    """`submit --dry-run` prints the job as it would be submitted, and submits nothing."""
    spec = spec_file(tmp_path, {**yaml.safe_load(hello.read_text()), "Namespace": namespace, "Name": "dry"})

    said = deployment.shoal("submit", "--dry-run", spec)

    assert said.code == 0
    printed = yaml.safe_load(said.out)
    assert printed["Name"] == "dry"
    assert printed["Tasks"][0]["Engine"]["Type"] == "docker"
    assert json.loads(deployment.shoal("list", "--namespace", namespace, "-o", "json").out) == []
    assert deployment.shoal("submit", "--id-only", "-", given=said.out).code == 0


def test_no_wait(deployment: Deployment, api: Api, gate: Gate, image: str, tmp_path: Path) -> None:
    """`submit --no-wait` ends as soon as the job is taken."""
    said = deployment.shoal("submit", "--no-wait", "--id-only", spec_file(tmp_path, job(gate.holds(image))))

    assert said.code == 0
    api.running(said.out.strip())


def test_exit_codes(deployment: Deployment, api: Api, image: str, gate: Gate, tmp_path: Path) -> None:
    """The exit code is 0 only if the job did what it should: 10 it failed, 11 it was stopped, 12 no node can run it."""
    failing = spec_file(tmp_path, job(shell(image, "exit 7")))
    assert deployment.shoal("submit", failing).code == 10

    nowhere = spec_file(tmp_path, job(shell(image, "true", Resources={"CPU": "1000"})))
    said = deployment.shoal("submit", nowhere)
    assert said.code == 12
    assert "CPU" in said.err

    with deployment.following("submit", spec_file(tmp_path, job(gate.holds(image)))) as submit:
        identifier = submit.line().rpartition(" ")[2]
        api.running(identifier)
        assert deployment.shoal("stop", identifier).code == 0
        assert submit.ended().code == 11


def test_interrupting_a_wait(
    deployment: Deployment, api: Api, image: str, gate: Gate, tmp_path: Path
) -> None:
    """Ctrl+C ends the waiting with code 130 and not the job."""
    with deployment.following("submit", spec_file(tmp_path, job(gate.holds(image)))) as submit:
        identifier = submit.line().rpartition(" ")[2]
        api.running(identifier)
        submit.interrupt()
        said = submit.ended()

    assert said.code == 130
    assert f"shoal job stop {identifier}" in said.err
    assert identifier in api.open_jobs()


# Looking at jobs


@pytest.fixture(scope="module")
def done(deployment: Deployment) -> Json:
    """A job that has completed: its last view. It has a name, a label and a result."""
    task = shell(
        deployment.image,
        "echo its output; echo its error >&2; echo kept > /outputs/file",
        **publish({"Type": "local"}),
    )
    return deployment.api.run(job(task, Name="looked-at", Namespace="looking", Labels={"team": "blue"}))


def test_describe(deployment: Deployment, done: Json) -> None:
    """`describe` tells a job's state, its executions, what happened to each, and what its program printed."""
    (execution,) = done["Executions"]

    said = deployment.shoal("describe", done["Job"]["ID"])

    assert said.code == 0
    assert re.search(r"^State +(= )?Completed$", said.out, re.MULTILINE)
    assert re.search(r"^Name +(= )?looked-at$", said.out, re.MULTILINE)
    for text in (execution["ID"][:10], "Published Result", "its output", "its error", "team=blue"):
        assert text in said.out


def test_describe_by_name_and_by_prefix(deployment: Deployment, done: Json) -> None:
    """A job may be named by its name in its namespace, by its id, and by the beginning of its id."""
    wanted = done["Job"]["ID"]
    for words in (["looked-at", "--namespace", "looking"], [wanted], [wanted[:12]]):
        said = deployment.shoal("describe", *words, "-o", "json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["Job"]["ID"] == wanted


def test_describe_for_programs(deployment: Deployment, done: Json) -> None:
    """`describe -o json` and `-o yaml` print the same document, which the API gives too."""
    identifier = done["Job"]["ID"]
    as_json = json.loads(deployment.shoal("describe", identifier, "-o", "json").out)

    assert yaml.safe_load(deployment.shoal("describe", identifier, "-o", "yaml").out) == as_json
    answer = deployment.api.call("GET", f"{deployment.api.jobs}/{identifier}?include=executions,history")
    assert as_json == answer


def test_list(deployment: Deployment, done: Json) -> None:
    """`list` shows jobs with their states, by namespace, by label, and for programs as JSON, YAML or CSV."""
    table = deployment.shoal("list", "--namespace", "looking")
    assert table.code == 0
    assert table.out.splitlines()[0].split() == ["CREATED", "ID", "NAME", "JOB", "TYPE", "STATE"]
    assert "looked-at" in table.out
    assert "Completed" in table.out

    by_label = deployment.shoal("list", "--labels", "team in (blue,red)", "-o", "json")
    assert [item["ID"] for item in json.loads(by_label.out)] == [done["Job"]["ID"]]
    assert json.loads(deployment.shoal("list", "--labels", "team=red", "-o", "json").out) == []
    rows = list(csv.DictReader(io.StringIO(deployment.shoal("list", "--limit", "1", "-o", "csv").out)))
    assert len(rows) == 1
    in_yaml = yaml.safe_load(deployment.shoal("list", "--namespace", "looking", "-o", "yaml").out)
    assert in_yaml[0]["ID"] == done["Job"]["ID"]


def test_list_pages(deployment: Deployment, api: Api, image: str, namespace: str) -> None:
    """A list that does not end says how to go on, and going on shows the rest, once each, newest first."""
    made = [api.submit(job(shell(image, "true"), Namespace=namespace, Name=f"n{n}")) for n in range(3)]
    for identifier in made:
        api.ended(identifier)

    first = deployment.shoal("list", "--namespace", namespace, "--limit", "2", "--wide")
    token = first.err.strip().rpartition(" ")[2]
    rest = deployment.shoal("list", "--namespace", namespace, "--limit", "2", "--wide", "--next-token", token)

    assert re.findall(ID, first.out + rest.out) == made[::-1]


def test_a_list_is_as_new_as_what_was_seen(api: Api, image: str, namespace: str) -> None:
    """Who was told that a job completed finds it completed in the list."""
    for _ in range(3):
        view = api.run(job(shell(image, "true"), Namespace=namespace))
        items = api.call("GET", f"{api.jobs}?namespace={namespace}")["Items"]
        states = {item["ID"]: item["State"]["StateType"] for item in items}
        assert states[view["Job"]["ID"]] == "Completed"


def test_executions(deployment: Deployment, done: Json) -> None:
    """`executions` lists a job's executions with their nodes and states."""
    (execution,) = done["Executions"]

    said = deployment.shoal("executions", done["Job"]["ID"], "--wide")

    assert said.code == 0
    assert execution["ID"] in said.out
    assert execution["NodeID"] in said.out
    assert "Completed" in said.out
    listed = json.loads(deployment.shoal("executions", done["Job"]["ID"], "-o", "json").out)
    assert [each["ID"] for each in listed] == [execution["ID"]]


def test_history(deployment: Deployment, done: Json) -> None:
    """`history` tells what happened to a job and to each of its executions, in order."""
    (execution,) = done["Executions"]

    said = deployment.shoal("history", done["Job"]["ID"], "-o", "json")

    assert said.code == 0
    items = json.loads(said.out)
    assert [item["Time"] for item in items] == sorted(item["Time"] for item in items)
    assert {item["Type"] for item in items} == {"JobLevel", "ExecutionLevel"}
    assert {item["ExecutionID"] for item in items if "ExecutionID" in item} == {execution["ID"]}
    of_job = deployment.shoal("history", done["Job"]["ID"], "--event-type", "job", "-o", "json")
    assert {item["Type"] for item in json.loads(of_job.out)} == {"JobLevel"}


# Output


def test_logs(deployment: Deployment, done: Json) -> None:
    """`logs` prints what a program wrote, each stream to its own, after it has ended too."""
    said = deployment.shoal("logs", done["Job"]["ID"])

    assert said.code == 0
    assert said.out == "its output\n"
    assert said.err == "its error\n"


def test_following_logs(deployment: Deployment, api: Api, image: str, gate: Gate) -> None:
    """`logs -f` prints what a running program writes when it writes it, and ends with the program."""
    task = shell(image, f"echo early; {gate.wait}; echo late", InputSources=[gate.source])
    identifier = api.submit(job(task))
    with deployment.following("logs", "-f", identifier) as logs:
        assert logs.line() == "early"
        assert identifier in api.open_jobs()
        gate.open()
        said = logs.ended()

    assert said == said.__class__(0, "late\n", "")


def test_following_logs_of_a_module(deployment: Deployment, api: Api) -> None:
    """`logs -f` follows a WebAssembly module in the same way."""
    identifier = api.submit(job(module("sleep", "1000")))
    with deployment.following("logs", "-f", identifier) as logs:
        assert logs.line() == "ready"
        assert deployment.shoal("stop", identifier).code == 0
        assert logs.ended().code == 0


def test_logs_over_a_websocket(api: Api, done: Json, background: Any) -> None:
    """The API gives logs as Bacalhau's clients read them: text frames over a websocket."""
    import aiohttp

    async def frames() -> list[Json]:
        url = f"{api.jobs}/{done['Job']['ID']}/logs"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            return [json.loads(message.data) async for message in socket]

    lines = [(frame["value"]["Type"], frame["value"]["Line"]) for frame in background.run(frames())]

    assert "".join(text for stream, text in lines if stream == 1) == "its output\n"
    assert "".join(text for stream, text in lines if stream == 2) == "its error\n"


# get


def test_get_into_a_folder_of_its_own(deployment: Deployment, done: Json, tmp_path: Path) -> None:
    """`get JOB` without more makes a folder where it is typed and says which."""
    said = deployment.shoal("get", done["Job"]["ID"], cwd=tmp_path)

    assert said.code == 0, said.err
    (made,) = tmp_path.iterdir()
    assert str(made) in said.out
    assert sorted(read_tree(made)) == ["exitCode", "outputs/file", "stderr", "stdout"]


def test_get_raw(deployment: Deployment, api: Api, image: str, bucket: Bucket, tmp_path: Path) -> None:
    """`get --raw` keeps a folder for each execution; without it their files are merged and no one's are lost."""
    script = "echo $BACALHAU_PARTITION_INDEX > /outputs/part-$BACALHAU_PARTITION_INDEX"
    publisher = bucket.publisher("r/{executionID}")
    executions = api.completed(job(shell(image, script, **publish(publisher)), Count=3))
    identifier = executions[0]["JobID"]

    assert deployment.shoal("get", identifier, "--raw", "--output-dir", tmp_path / "raw").code == 0
    assert deployment.shoal("get", identifier, "--output-dir", tmp_path / "merged").code == 0

    folders = sorted((tmp_path / "raw").iterdir())
    assert len(folders) == 3
    assert sorted(path.name for path in (tmp_path / "raw").glob("*/outputs/*")) == [
        "part-0",
        "part-1",
        "part-2",
    ]
    assert {path.name: path.read_text() for path in (tmp_path / "merged" / "outputs").iterdir()} == {
        f"part-{n}": f"{n}\n" for n in range(3)
    }


# stop


@pytest.mark.parametrize("engine", ["docker", "wasm"])
def test_stop(deployment: Deployment, api: Api, image: str, engine: str) -> None:
    """`stop` ends a job and its program: within seconds there is no container and no folder of it."""
    task = shell(image, "sleep 1000") if engine == "docker" else module("spin")
    identifier = api.submit(job(task))
    api.running(identifier)

    said = deployment.shoal("stop", identifier, "--reason", "enough")

    assert said.code == 0
    view = api.ended(identifier)
    assert view["Job"]["State"]["StateType"] == "Stopped"
    assert "enough" in json.dumps(view) + " ".join(api.history(identifier))
    wait_until_empty(lambda: deployment.docker.names(f"shoal.job={identifier}"))
    wait_until_empty(deployment.leftovers)


def test_stop_what_waits(deployment: Deployment, api: Api, image: str, gate: Gate) -> None:
    """A job that waits for a place can be stopped as well."""
    full = api.submit(job(gate.holds(image, Resources={"CPU": "2", "Memory": "64Mb"}), Count=3))
    api.running(full, 3)
    waiting = api.submit(job(shell(image, "true", Resources={"CPU": "2", "Memory": "64Mb"})))
    api.until(waiting, lambda view: view["Job"]["State"]["StateType"] == "Queued")

    assert deployment.shoal("stop", waiting).code == 0

    assert api.ended(waiting)["Job"]["State"]["StateType"] == "Stopped"


# docker run, wasm run


def test_docker_run(deployment: Deployment, image: str) -> None:
    """`docker run IMAGE CMD…` runs a container as a job and waits for it."""
    said = deployment.shoal("docker", "run", image, "echo", "hello there")

    assert said.code == 0
    identifier = re.search(ID, said.out)
    assert identifier
    assert deployment.shoal("logs", identifier[0]).out == "hello there\n"


def test_docker_run_follow(deployment: Deployment, image: str) -> None:
    """`docker run -f` prints what the program prints and ends with its code, as `docker run` of Docker does."""
    said = deployment.shoal(
        "docker", "run", "-f", "-e", "WHO=me", "--entrypoint", "/bin/sh", "-w", "/tmp", image, "-c",
        "echo $WHO in $PWD; exit 5",
    )  # fmt: skip

    assert (said.code, said.out) == (5, "me in /tmp\n")


def test_docker_run_keeps_outputs(deployment: Deployment, image: str, tmp_path: Path) -> None:
    """`docker run -o name:path -p ipfs` publishes a folder, and `get` brings it home."""
    said = deployment.shoal(
        "docker", "run", "--id-only", "-o", "made:/made", "-p", "ipfs", image, "sh", "-c", "echo x > /made/y"
    )
    assert said.code == 0, said.err

    assert deployment.shoal("get", said.out.strip(), "--output-dir", tmp_path / "home").code == 0
    assert (tmp_path / "home" / "made" / "y").read_text() == "x\n"


def test_wasm_run(deployment: Deployment) -> None:
    """`wasm run FILE ARGS…` brings a module along from this machine and runs it."""
    said = deployment.shoal("wasm", "run", "-f", MODULES / "probe.wasm", "print", "to out", "to err")

    assert (said.code, said.out) == (0, "to out")
    assert "to err" in said.err


def test_wasm_run_exit_code(deployment: Deployment) -> None:
    """`wasm run -f` ends with the module's own exit code."""
    assert deployment.shoal("wasm", "run", "-f", MODULES / "probe.wasm", "exit", "9").code == 9


def test_wasm_run_of_a_large_module(deployment: Deployment, tmp_path: Path) -> None:
    """A module of a megabyte, too large for a message of the bus, is brought along all the same."""
    large = tmp_path / "large.wasm"
    large.write_bytes(padded((MODULES / "probe.wasm").read_bytes(), 1 << 20))

    said = deployment.shoal("wasm", "run", "-f", large, "print", "large")

    assert (said.code, said.out) == (0, "large"), said.err


def padded(module: bytes, size_bytes: int) -> bytes:
    """A module with a custom section of so many bytes, which no one reads."""
    name = b"\x03pad"
    length, number = b"", size_bytes + len(name)
    while number >= 0x80:
        length += bytes([number & 0x7F | 0x80])
        number >>= 7
    return module + b"\x00" + length + bytes([number]) + name + bytes(n % 251 for n in range(size_bytes))


def test_wasm_run_from_elsewhere(deployment: Deployment, bucket: Bucket) -> None:
    """`wasm run s3://…` runs a module that the node fetches."""
    bucket.put("modules/probe.wasm", (MODULES / "probe.wasm").read_bytes())
    where = f"src=s3://{bucket.name}/modules/probe.wasm,dst=/module,{bucket.options}"

    said = deployment.shoal("wasm", "run", "-f", where, "print", "fetched")

    assert (said.code, said.out) == (0, "fetched"), said.err


# Nodes and versions


def test_node_list(deployment: Deployment) -> None:
    """`node list` shows every compute node, approved and connected, with what it offers."""
    table = deployment.shoal("node", "list", "--wide", "--show", "labels,features,capacity")
    assert table.code == 0
    for node in deployment.nodes:
        (row,) = [line for line in table.out.splitlines() if line.startswith(node)]
        assert "APPROVED" in row
        assert "CONNECTED" in row
        for what in ("docker wasm", "ipfs", "s3", "urlDownload", "local", "inline"):
            assert what in row
    listed = json.loads(deployment.shoal("node", "list", "-o", "json").out)
    assert sorted(node["Info"]["NodeID"] for node in listed) == sorted(deployment.nodes)


def test_version(deployment: Deployment) -> None:
    """`version` prints this client's version and the server's."""
    said = deployment.shoal("version")

    assert said.code == 0
    assert said.out.split() == ["CLIENT", "SERVER", installed_version(), installed_version()]


def test_nobody_answers() -> None:
    """Without a requester a command says so at once, and how to start one."""
    said = shoal("list", env={"BACALHAU_API_PORT": "1"})

    assert said.code == 1
    assert "no requester answers at http://127.0.0.1:1" in said.err
    assert "shoal serve" in said.err


def test_shoal_is_the_same_program(deployment: Deployment) -> None:
    """The console command `shoal` and `python -m requester` are one program."""
    import subprocess
    import sys

    command = Path(sys.executable).parent / "shoal"
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0
    assert done.stdout == deployment.shoal("--help").out
    for name in ("submit", "describe", "list", "executions", "history", "logs", "get", "stop", "docker", "wasm",
                 "node", "version", "serve", "devstack"):  # fmt: skip
        assert re.search(rf"\b{name}\b", done.stdout), name


def test_examples_are_valid(deployment: Deployment) -> None:
    """Every spec in `examples/` passes `validate`."""
    for spec in sorted((ROOT / "examples").glob("*.yaml")):
        said = deployment.shoal("validate", spec)
        assert said.code == 0, f"{spec}: {said.err}"
