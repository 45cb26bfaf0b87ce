"""Compute nodes that are killed, stopped and lost: programs are adopted or run elsewhere, and one result counts."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.devstack import Part
from tests.acceptance.data import Bucket
from tests.acceptance.deployment import wait_until_empty
from tests.acceptance.fragile import BEARS_A_RESTART, Fragile, on, port_of, state, states
from tests.acceptance.jobs import Gate, Json, job, module, publish, shell, stdout


@pytest.fixture
def gate(fragile: Fragile) -> Iterator[Gate]:
    """Where programs of this test stand until they are let through."""
    gate = Gate(fragile.shared / uuid4().hex)
    yield gate
    gate.open()


@pytest.fixture
def node(fragile: Fragile) -> Part:
    """The node that this test kills."""
    return fragile.cluster.computes[0]


def counted(fragile: Fragile, gate: Gate, store: Bucket, **task: object) -> Json:
    """A task that counts its starts in the gate's folder, stands at the gate, and publishes a word under its own name."""
    source: Json = {"Type": "local", "Params": {"SourcePath": str(gate.folder), "ReadWrite": True}}
    inputs = [{"Target": "/gate", "Source": source}]
    script = f"echo $BACALHAU_EXECUTION_ID >> /gate/starts; echo begun; {gate.wait}; echo over; echo it > /outputs/word"
    return shell(
        fragile.image,
        script,
        InputSources=inputs,
        **publish(store.publisher("results/{executionID}")),
        **task,
    )


def test_a_killed_node_adopts_its_container(fragile: Fragile, gate: Gate, store: Bucket, node: Part) -> None:
    """`kill -9` of a node while its container runs, then a new one: same container, started once, one whole result."""
    job_id = fragile.api.submit(job(counted(fragile, gate, store), **on(node.name), **BEARS_A_RESTART))
    fragile.api.running(job_id)
    (before,) = fragile.docker.inspect(f"shoal.node={node.name}")
    fragile.begun(gate)

    fragile.kill(node)
    (meanwhile,) = fragile.docker.inspect(f"shoal.node={node.name}")
    fragile.start(node)
    gate.open()
    view = fragile.api.ended(job_id)

    assert state(view) == "Completed", view
    assert states(view) == ["completed"]
    (execution,) = view["Executions"]
    assert meanwhile["Id"] == before["Id"]
    assert meanwhile["State"]["Running"]
    assert fragile.begun(gate) == [execution["ID"]]
    assert stdout(execution) == "begun\nover\n"
    assert len(store.keys("results/")) == 1


def test_who_follows_a_program_follows_it_to_another_node(
    fragile: Fragile, gate: Gate, tmp_path: Path
) -> None:
    """When the node of a followed program is killed, the command goes on with what it prints on the next, and says so."""
    script = f"echo begun; {gate.wait}; echo over"
    spec = fragile.spec(tmp_path, job(shell(fragile.image, script, InputSources=[gate.source])))
    with fragile.following("submit", "--follow", spec) as followed:
        assert followed.line() == "begun"
        fragile.kill(next(each for each in fragile.cluster.computes if fragile.running_on(each.name)))
        assert followed.line() == "begun"
        gate.open()
        said = followed.ended()

    assert (said.code, said.out) == (0, "over\n")
    assert "The program is tried again: attempt 2, on " in said.err
    assert "Error" not in said.err


def test_a_program_ends_while_its_node_is_away(
    fragile: Fragile, gate: Gate, store: Bucket, node: Part
) -> None:
    """A container that ends while its node is dead is not run again: the next process publishes what it wrote."""
    job_id = fragile.api.submit(job(counted(fragile, gate, store), **on(node.name), **BEARS_A_RESTART))
    fragile.api.running(job_id)
    fragile.begun(gate)

    fragile.kill(node)
    gate.open()
    wait_until_empty(lambda: fragile.running_on(node.name))
    fragile.start(node)
    view = fragile.api.ended(job_id)

    assert state(view) == "Completed", view
    assert states(view) == ["completed"]
    assert fragile.begun(gate) == [view["Executions"][0]["ID"]]
    assert stdout(view["Executions"][0]) == "begun\nover\n"
    assert len(store.keys("results/")) == 1


def test_a_node_killed_while_it_fetches(fragile: Fragile, store: Bucket, node: Part) -> None:
    """A node killed in the middle of an input fetches it anew, whole."""
    store.put("big", bytes(4 << 20))
    with fragile.valve(port_of(fragile.s3.endpoint), down=1 << 20) as valve:
        task = shell(
            fragile.image, "wc -c < /in/big", InputSources=[store.source("big", "/in", Endpoint=valve.url)]
        )
        job_id = fragile.api.submit(job(task, **on(node.name), **BEARS_A_RESTART))
        valve.until_held()

        fragile.kill(node)
        valve.open()
        fragile.start(node)
        view = fragile.api.ended(job_id)

    assert state(view) == "Completed", view
    assert stdout(view["Executions"][-1]).split() == [str(4 << 20)]


def test_a_node_killed_while_it_publishes(fragile: Fragile, gate: Gate, store: Bucket, node: Part) -> None:
    """A node killed in the middle of an upload uploads again; the program is not run again, and one object is there."""
    gate.open()
    with fragile.valve(port_of(fragile.s3.endpoint), up=18 << 20) as valve:
        publisher = store.publisher("results/{executionID}", Endpoint=valve.url, Encoding="gzip")
        task = {**counted(fragile, gate, store), "Publisher": publisher}
        params = task["Engine"]["Params"]
        params["Parameters"] = [params["Parameters"][0] + "; head -c 24000000 /dev/urandom > /outputs/noise"]
        job_id = fragile.api.submit(job(task, **on(node.name), **BEARS_A_RESTART))
        valve.until_held()

        fragile.kill(node)
        valve.open()
        fragile.start(node)
        view = fragile.api.ended(job_id)

    assert state(view) == "Completed", view
    assert fragile.begun(gate) == [view["Executions"][0]["ID"]]
    assert len(store.keys("results/")) == 1


def test_a_module_is_run_once_more(fragile: Fragile, node: Part) -> None:
    """WebAssembly ends with its node; the next process runs it again, as the same execution."""
    job_id = fragile.api.submit(job(module("sleep", "2"), **on(node.name), **BEARS_A_RESTART))
    (execution,) = fragile.api.running(job_id)

    fragile.kill(node)
    fragile.start(node)
    view = fragile.api.ended(job_id)

    assert state(view) == "Completed", view
    assert [each["ID"] for each in view["Executions"]] == [execution["ID"]]
    assert stdout(view["Executions"][0]) == "ready\n"


def test_a_lost_nodes_work_runs_elsewhere(fragile: Fragile, gate: Gate, store: Bucket) -> None:
    """A node that stays away is given up and another runs the work. If it comes back, what it has is removed and dropped."""
    job_id = fragile.api.submit(job(counted(fragile, gate, store)))
    (first,) = fragile.api.running(job_id)
    lost = fragile.node(first["NodeID"])
    fragile.begun(gate)

    fragile.kill(lost)
    fragile.api.until(job_id, lambda view: "lost" in states(view))
    (second,) = (each for each in fragile.api.running(job_id) if each["NodeID"] != lost.name)
    gate.open()
    view = fragile.api.ended(job_id)
    fragile.start(lost)
    wait_until_empty(lambda: fragile.docker.names(f"shoal.node={lost.name}"))
    wait_until_empty(fragile.journals)

    assert state(view) == "Completed", view
    assert states(view) == ["lost", "completed"]
    assert sorted(fragile.begun(gate)) == sorted([first["ID"], second["ID"]])
    assert fragile.executions(job_id) == {first["ID"]: "lost", second["ID"]: "completed"}
    assert store.keys("results/") == [f"results/{second['ID']}.tar.gz"]


def test_a_node_that_stood_still(fragile: Fragile, gate: Gate, store: Bucket) -> None:
    """A node that stands still too long finds its work given away: its container is removed and its late report dropped."""
    job_id = fragile.api.submit(job(counted(fragile, gate, store)))
    (first,) = fragile.api.running(job_id)
    still = fragile.node(first["NodeID"])
    fragile.begun(gate)

    with fragile.standing_still(still):
        fragile.api.until(job_id, lambda view: "lost" in states(view))
        (second,) = (each for each in fragile.api.running(job_id) if each["NodeID"] != still.name)
        gate.open()
        view = fragile.api.ended(job_id)
        # Its own container has ended as well, so its late report is that of a success.
        wait_until_empty(lambda: fragile.running_on(still.name))
    wait_until_empty(fragile.journals)

    assert state(view) == "Completed", view
    assert fragile.executions(job_id) == {first["ID"]: "lost", second["ID"]: "completed"}
    assert fragile.docker.names(f"shoal.node={still.name}") == []


def test_many_jobs_survive_a_dying_node(fragile: Fragile, node: Part) -> None:
    """A node that is killed again and again while jobs run on it loses none of them."""
    jobs = [fragile.api.submit(job(module("sleep", "1"), Count=2)) for _ in range(5)]

    for _ in range(3):
        fragile.kill(node)
        fragile.start(node)
        fragile.api.completed(job(module("nothing")))

    for each in jobs:
        view = fragile.api.ended(each)
        assert state(view) == "Completed", view
        done = [execution for execution in view["Executions"] if execution["State"] == "completed"]
        assert sorted(execution["PartitionIndex"] for execution in done) == [0, 1]
