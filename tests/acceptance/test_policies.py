"""Versions, nodes that are taken out of service, and why work is where it is: on the real deployment."""

import time
from typing import Any

from tests.acceptance.data import Bucket
from tests.acceptance.deployment import CLEAN_S, LOOK_S, Api, Deployment
from tests.acceptance.jobs import job, shell

Json = dict[str, Any]

FOR_EVER = "while true; do sleep 0.05; done"
LARGE_BYTES = 8 << 20
SOON = {"MaxParallel": 1, "MinHealthy": 0.2}


def a_service(image: str, word: str, namespace: str, **more: Any) -> Json:
    return job(
        shell(image, f"echo {word}; {FOR_EVER}"),
        Type="service",
        Name="served",
        Namespace=namespace,
        Update=SOON,
        **more,
    )


def serves(view: Json, version: int, count: int) -> bool:
    """Whether all partitions run this version."""
    running = [
        each for each in view["Executions"] if each["State"] == "running" and each["JobVersion"] == version
    ]
    return len(running) == count


def test_update_and_rerun(deployment: Deployment, api: Api, image: str, namespace: str) -> None:
    """A service goes to its next version one partition after the other, and back by running the first one again."""
    identifier = api.submit(a_service(image, "one", namespace, Count=2))
    api.running(identifier, 2)
    api.submit(a_service(image, "two", namespace, Count=2))
    api.until(identifier, lambda view: serves(view, 2, 2))

    said = deployment.shoal("job", "rerun", identifier, "--version", "1", "--reason", "back", "--no-wait")
    assert said.code == 0, said.err
    view = api.until(identifier, lambda view: serves(view, 3, 2))

    assert view["Job"]["State"]["StateType"] == "Running"
    versions = deployment.shoal("job", "versions", identifier, "--hide-header").out.splitlines()
    assert [line.split()[2] for line in versions] == ["1", "2", "3"]
    assert "Job rerun requested (version 1): back" in api.history(identifier)
    # It runs before it has written anything.
    with deployment.following("logs", "-f", identifier) as logs:
        assert logs.line() == "one"


def test_exit_codes_that_are_tried_again(api: Api, image: str) -> None:
    """A program's exit codes that a job names are tried again as often as it says; others are not."""
    retry = {"Attempts": 3, "Backoff": 0.1, "ExitCodes": [75]}

    views = [api.run(job(shell(image, f"exit {code}"), Retry=retry)) for code in (75, 1)]

    assert [len(view["Executions"]) for view in views] == [3, 1]
    assert [view["Job"]["Failure"]["Code"] for view in views] == ["ProgramFailed"] * 2
    assert views[0]["Job"]["State"]["Message"].endswith("(tried 3 times)")


def test_drain(deployment: Deployment, api: Api, image: str, namespace: str) -> None:
    """A drained node loses its service at once and gets nothing new; what waits for it says why; let back, it works."""
    identifier = api.submit(a_service(image, "here", namespace))
    node = api.running(identifier)[0]["NodeID"]
    there = [{"Key": "name", "Operator": "=", "Values": [node]}]
    try:
        assert deployment.shoal("node", "drain", node, "--wait", "-m", "new disk").code == 0
        moved = api.running(identifier)[0]["NodeID"]
        waiting = api.submit(job(shell(image, "true"), Constraints=there))
        api.until(waiting, lambda view: view["Job"]["State"]["StateType"] == "Queued")
        told = deployment.shoal("job", "describe", waiting).out
        listed = deployment.shoal("node", "list").out
    finally:
        assert deployment.shoal("node", "uncordon", node).code == 0

    assert moved != node
    assert "is being drained: new disk (fix: Let it back: node uncordon)" in told
    assert "CONNECTED (drained)" in listed
    assert api.ended(waiting)["Job"]["State"]["StateType"] == "Completed"


def test_work_goes_to_its_data(deployment: Deployment, api: Api, image: str, bucket: Bucket) -> None:
    """A job goes where its input lies since the last one read it, and its explanation says so."""
    bucket.put_tree("", {"large": bytes(LARGE_BYTES)})
    wanted = job(shell(image, "ls /in", InputSources=[bucket.source("large", "/in")]))
    before = _held_bytes(api)
    first = api.completed(wanted)[0]["NodeID"]
    until = time.monotonic() + CLEAN_S
    while _held_bytes(api)[first] < before[first] + LARGE_BYTES:
        assert time.monotonic() < until, "the node does not say that it holds the input"
        time.sleep(LOOK_S)
    # The nodes take their turns: three jobs in a row would not all go there by chance.
    for _ in range(3):
        identifier = api.submit(wanted)
        view = api.ended(identifier)
        assert view["Executions"][0]["NodeID"] == first
        explained = deployment.shoal("job", "explain", identifier).out
        assert f"completed on {first} because most of its inputs are there already" in explained
        assert "8.0 MiB" in explained


def _held_bytes(api: Api) -> dict[str, int]:
    """What each node says that it holds; the jobs of other tests have left inputs too."""
    nodes = api.call("GET", "/api/v1/orchestrator/nodes")["Nodes"]
    return {node["Info"]["NodeID"]: node.get("HeldInputs", {}).get("Size", 0) for node in nodes}
