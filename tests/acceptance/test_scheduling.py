"""Where jobs run, how many at a time, how long, and what happens when there is no place or an attempt fails."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest

from tests.acceptance.data import Bucket
from tests.acceptance.deployment import Api, Deployment, state, wait_until_empty
from tests.acceptance.jobs import Gate, job, module, shell, stdout

Json = dict[str, Any]

A_NODE: Final = {"CPU": "2", "Memory": "64Mb"}
"""All cores of a node of the deployment."""


def failure(view: Json) -> str:
    """The code of a job's failure."""
    return str(view["Job"]["Failure"]["Code"])


def test_count(api: Api, image: str) -> None:
    """Count asks for that many partitions, each run once and told which one it is, however few nodes there are."""
    script = "echo $BACALHAU_PARTITION_INDEX of $BACALHAU_PARTITION_COUNT"

    executions = api.completed(job(shell(image, script), Count=7))

    assert sorted(stdout(each) for each in executions) == [f"{n} of 7\n" for n in range(7)]
    assert sorted(each["PartitionIndex"] for each in executions) == list(range(7))


def test_partitions_share_out_the_objects(api: Api, image: str, bucket: Bucket) -> None:
    """With `Partition: {Type: object}` each partition finds its own objects, and together they find all, once."""
    names = [f"part/{n}" for n in range(10)]
    bucket.put_tree("", dict.fromkeys(names, b"x"))
    source = bucket.source("part/*", "/in", Partition={"Type": "object"})

    executions = api.completed(job(shell(image, "cd /in; find . -type f", InputSources=[source]), Count=4))

    found = Counter(line for each in executions for line in stdout(each).split())
    assert found == {f"./{n}": 1 for n in range(10)}


def test_spread(deployment: Deployment, api: Api, image: str, gate: Gate) -> None:
    """Partitions that need a whole node run one on each, at the same time."""
    identifier = api.submit(job(gate.holds(image, Resources=A_NODE), Count=3))

    running = api.running(identifier, 3)

    assert sorted(each["NodeID"] for each in running) == sorted(deployment.nodes)


def test_constraints(deployment: Deployment, api: Api, image: str) -> None:
    """A job runs only on nodes whose labels meet its constraints."""
    for node in deployment.nodes:
        constraint = {"Key": "name", "Operator": "in", "Values": [node]}
        executions = api.completed(
            job(shell(image, "echo $BACALHAU_NODE_ID"), Count=2, Constraints=[constraint])
        )
        assert {each["NodeID"] for each in executions} == {node}
        assert {stdout(each) for each in executions} == {f"{node}\n"}


def test_constraints_that_no_node_meets(api: Api, image: str, deployment: Deployment) -> None:
    """A job that no node can take fails with the reason for each node."""
    constraint = {"Key": "continent", "Operator": "=", "Values": ["atlantis"]}

    view = api.run(job(shell(image, "true"), Constraints=[constraint]))

    assert failure(view).startswith("NoSuitableNode")
    assert "continent" in str(view["Job"]["Failure"])
    assert view["Executions"] == []


def test_every_node(deployment: Deployment, api: Api, image: str) -> None:
    """An ops job runs once on every node."""
    executions = api.completed(job(shell(image, "true"), Type="ops"))

    assert sorted(each["NodeID"] for each in executions) == sorted(deployment.nodes)


def test_resources_are_not_given_twice(deployment: Deployment, api: Api, image: str, gate: Gate) -> None:
    """What runs on a node at one time never needs more than the node gives, and a node's list says what is left."""
    identifier = api.submit(job(gate.holds(image, Resources={"CPU": "1", "Memory": "1Gb"}), Count=8))

    running = api.running(identifier, 6)

    assert Counter(each["NodeID"] for each in running) == dict.fromkeys(deployment.nodes, 2)
    view = api.call("GET", f"{api.jobs}/{identifier}?include=executions")
    assert len([each for each in view["Executions"]["Items"] if each["State"] == "running"]) == 6
    gate.open()
    assert len(api.ended(identifier)["Executions"]) == 8


def test_a_full_cluster_queues(api: Api, image: str, gate: Gate) -> None:
    """A job that finds no place waits, says so, and starts as soon as there is one."""
    full = api.submit(job(gate.holds(image, Resources=A_NODE), Count=3))
    api.running(full, 3)

    waiting = api.submit(job(shell(image, "echo at last", Resources=A_NODE)))
    queued = api.until(waiting, lambda view: state(view) == "Queued")
    assert queued["Job"]["State"]["Message"]
    gate.open()

    view = api.ended(waiting)
    assert state(view) == "Completed"
    assert stdout(view["Executions"][0]) == "at last\n"


def test_priority(api: Api, image: str, gate: Gate) -> None:
    """Of the jobs that wait, the one of higher priority goes first."""
    full = api.submit(job(gate.holds(image, Resources=A_NODE), Count=3))
    api.running(full, 3)
    low, high = (
        api.submit(job(shell(image, "true", Resources=A_NODE), Count=3, Priority=priority))
        for priority in (1, 9)
    )
    for waiting in (low, high):
        api.until(waiting, lambda view: state(view) == "Queued")

    gate.open()

    started = [max(each["CreateTime"] for each in api.ended(it)["Executions"]) for it in (high, low)]
    assert started == sorted(started)


def test_queue_timeout(api: Api, image: str, gate: Gate) -> None:
    """A job that found no place within its queue timeout fails and says so."""
    full = api.submit(job(gate.holds(image, Resources=A_NODE), Count=3))
    api.running(full, 3)

    view = api.run(job(shell(image, "true", Resources=A_NODE, Timeouts={"QueueTimeout": 1})))

    assert state(view) == "Failed"
    assert failure(view).startswith("TimedOut")
    assert view["Executions"] == []


@pytest.mark.parametrize("engine", ["docker", "wasm"])
def test_execution_timeout(deployment: Deployment, api: Api, image: str, engine: str) -> None:
    """A program that runs longer than its execution timeout is ended, and the job fails and says so."""
    task = shell(image, "sleep 1000") if engine == "docker" else module("spin")

    view = api.run(job({**task, "Timeouts": {"ExecutionTimeout": 1}}))

    assert state(view) == "Failed"
    assert failure(view) == "TimedOut.Execution"
    assert len(view["Executions"]) == 1
    wait_until_empty(deployment.leftovers)


def test_total_timeout(deployment: Deployment, api: Api, image: str) -> None:
    """A job that takes longer than its total timeout is ended wherever it stands, and says so."""
    view = api.run(job(shell(image, "sleep 1000", Timeouts={"TotalTimeout": 2})))

    assert state(view) == "Failed"
    assert failure(view).startswith("TimedOut")
    wait_until_empty(deployment.leftovers)


@pytest.fixture
def moody() -> Iterator[tuple[str, threading.Event]]:
    """The address of a web server that is ill until the event is set."""
    well = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"well again\n" if well.is_set() else b""
            self.send_response(200 if well.is_set() else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *about: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/file", well
        server.shutdown()
        thread.join()


def test_retry_on_another_node(api: Api, image: str, moody: tuple[str, threading.Event]) -> None:
    """An attempt that failed for a passing reason is made again, on another node, and the job completes."""
    url, well = moody
    source = {"Target": "/in", "Source": {"Type": "urlDownload", "Params": {"URL": url}}}
    identifier = api.submit(job(shell(image, "cat /in/file", InputSources=[source])))

    failed = api.until(identifier, lambda view: any(each["State"] == "failed" for each in view["Executions"]))
    well.set()
    view = api.ended(identifier)

    assert state(view) == "Completed"
    assert "503" in failed["Executions"][0]["Failure"]["Message"]
    executions = api.call("GET", f"{api.jobs}/{identifier}/executions")["Items"]
    first, second = sorted(executions, key=lambda each: int(each["Attempt"]))[:2]
    assert first["NodeID"] != second["NodeID"]
    assert stdout(view["Executions"][-1]) == "well again\n"


def test_a_new_version(api: Api, image: str, namespace: str) -> None:
    """Submitting a job under a name that is taken makes a new version of that job, and its result is the one that counts."""
    spec = job(shell(image, "echo one"), Name="again", Namespace=namespace)
    first = api.run(spec)["Job"]
    second_view = api.run(job(shell(image, "echo two"), Name="again", Namespace=namespace))

    assert second_view["Job"]["ID"] == first["ID"]
    assert second_view["Job"]["Version"] == first["Version"] + 1
    assert [stdout(each) for each in second_view["Executions"]] == ["two\n"]
