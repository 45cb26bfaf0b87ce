"""A job that is stopped, in every stage of its life: its container goes, the job is Stopped, and nothing stays anywhere."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.data import Bucket
from tests.acceptance.deployment import wait_until_empty
from tests.acceptance.fragile import Fragile, Valve, on, port_of, state, states
from tests.acceptance.jobs import Gate, job, module, publish, shell
from tests.conftest import Background


@pytest.fixture
def gate(fragile: Fragile) -> Iterator[Gate]:
    """Where programs of this test stand until they are let through."""
    gate = Gate(fragile.shared / uuid4().hex)
    yield gate
    gate.open()


def stopped(fragile: Fragile, job_id: str, valve: Valve | None = None) -> None:
    """Stop a job as a person would; it ends as Stopped, its containers and folders go, then what was held may come."""
    said = fragile.shoal("stop", job_id, "--reason", "enough")
    assert said.code == 0, said.err
    view = fragile.api.ended(job_id)
    assert state(view) == "Stopped", view
    assert "completed" not in states(view)
    if valve is not None:
        valve.open()
    wait_until_empty(fragile.leftovers)
    wait_until_empty(fragile.journals)


def test_while_it_is_queued(fragile: Fragile, gate: Gate) -> None:
    """A job that waits for room is stopped and never begins."""
    whole = {"CPU": "2", "Memory": "64Mb"}
    filling = fragile.api.submit(job(gate.holds(fragile.image, Resources=whole), Count=len(fragile.nodes)))
    fragile.api.running(filling, len(fragile.nodes))
    waiting = fragile.api.submit(job(module("nothing", Resources=whole)))
    fragile.api.until(waiting, lambda view: state(view) == "Queued")

    said = fragile.shoal("stop", waiting)

    assert said.code == 0, said.err
    view = fragile.api.ended(waiting)
    assert state(view) == "Stopped"
    assert view["Executions"] == []
    stopped(fragile, filling)


def test_while_its_image_is_pulled(
    fragile: Fragile, background: Background, registry_host: str, busybox_image: str
) -> None:
    """A job is stopped while its registry is slow to answer; no container is made when it does."""
    from deploy import images

    pushed = background.run(images.push(fragile.docker.host, busybox_image, registry_host))
    with fragile.valve(port_of(registry_host), down=0) as valve:
        image = pushed.replace(registry_host, f"localhost:{valve.port}")
        job_id = fragile.api.submit(job(shell(image, "sleep 600")))
        valve.until_held()
        stopped(fragile, job_id, valve)


def test_while_it_fetches(fragile: Fragile, store: Bucket) -> None:
    """A job is stopped while an input comes slowly; what has come is removed."""
    store.put("big", bytes(4 << 20))
    with fragile.valve(port_of(fragile.s3.endpoint), down=1 << 20) as valve:
        source = store.source("big", "/in", Endpoint=valve.url)
        job_id = fragile.api.submit(job(shell(fragile.image, "true", InputSources=[source])))
        valve.until_held()
        stopped(fragile, job_id, valve)


@pytest.mark.parametrize("kind", ["docker", "wasm"])
def test_while_it_runs(fragile: Fragile, kind: str) -> None:
    """A running program is ended, also one that heeds no signal."""
    task = (
        shell(fragile.image, "trap '' TERM; while :; do sleep 1; done")
        if kind == "docker"
        else module("spin")
    )
    job_id = fragile.api.submit(job(task))
    fragile.api.running(job_id)

    stopped(fragile, job_id)


def test_while_it_publishes(fragile: Fragile, store: Bucket) -> None:
    """A job is stopped in the middle of an upload; no object and no part of one stays in the bucket."""
    with fragile.valve(port_of(fragile.s3.endpoint), up=1 << 20) as valve:
        script = "head -c 24000000 /dev/urandom > /outputs/noise"
        publisher = store.publisher("results/{jobID}", Endpoint=valve.url)
        job_id = fragile.api.submit(job(shell(fragile.image, script, **publish(publisher))))
        valve.until_held()
        stopped(fragile, job_id, valve)

    assert store.keys() == []


def test_while_its_node_is_away(fragile: Fragile, gate: Gate, tmp_path: Path) -> None:
    """A job that is stopped while its node is dead is Stopped at once; the node removes its container when it is back."""
    node = fragile.cluster.computes[0]
    job_id = fragile.api.submit(job(gate.holds(fragile.image), **on(node.name)))
    fragile.api.running(job_id)
    fragile.kill(node)

    fragile.api.call("DELETE", f"{fragile.api.jobs}/{job_id}")

    assert state(fragile.api.ended(job_id)) == "Stopped"
    fragile.start(node)
    wait_until_empty(lambda: fragile.docker.names(f"shoal.node={node.name}"))
    wait_until_empty(fragile.journals)
