"""Requesters and NATS servers that are killed: nothing that was answered is lost, and each job ends once."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from tests.acceptance.deployment import wait_until_empty
from tests.acceptance.fragile import BEARS_A_RESTART, Fragile, state, states
from tests.acceptance.jobs import Gate, Json, job, module, shell, stdout


@pytest.fixture
def gate(fragile: Fragile) -> Iterator[Gate]:
    """Where programs of this test stand until they are let through."""
    gate = Gate(fragile.shared / uuid4().hex)
    yield gate
    gate.open()


def once(fragile: Fragile, gate: Gate) -> Json:
    """A task that counts its starts, then stands at the gate."""
    source: Json = {"Type": "local", "Params": {"SourcePath": str(gate.folder), "ReadWrite": True}}
    script = f"echo $BACALHAU_EXECUTION_ID >> /gate/starts; {gate.wait}; echo over"
    return shell(fragile.image, script, InputSources=[{"Target": "/gate", "Source": source}])


def ended_once(fragile: Fragile, gate: Gate, job_id: str, view: Json) -> None:
    """The job completed with one execution, whose program was started once."""
    assert state(view) == "Completed", view
    assert states(view) == ["completed"]
    (execution,) = view["Executions"]
    assert fragile.begun(gate) == [execution["ID"]]
    assert stdout(execution) == "over\n"


def test_requesters_killed_after_their_answer(fragile: Fragile) -> None:
    """A job whose submission was answered is there when its requester, killed at once, comes back, and ends."""
    jobs = []
    for _ in range(3):
        jobs.append(fragile.api.submit(job(module("print", "kept"))))
        fragile.kill(*fragile.cluster.requesters)
        fragile.start(*fragile.cluster.requesters)

    for job_id in jobs:
        view = fragile.api.ended(job_id)
        assert state(view) == "Completed", view
        assert states(view) == ["completed"]


def test_requesters_killed_while_it_runs(fragile: Fragile, gate: Gate) -> None:
    """Killing every requester interrupts no container; restarted, they take its end and count it once."""
    job_id = fragile.api.submit(job(once(fragile, gate)))
    fragile.api.running(job_id)
    fragile.begun(gate)
    (before,) = fragile.containers()

    fragile.kill(*fragile.cluster.requesters)
    (meanwhile,) = fragile.containers()
    fragile.start(*fragile.cluster.requesters)
    gate.open()

    ended_once(fragile, gate, job_id, fragile.api.ended(job_id))
    assert (meanwhile["Id"], meanwhile["State"]["Running"]) == (before["Id"], True)


def test_requesters_killed_while_a_report_is_on_its_way(fragile: Fragile, gate: Gate) -> None:
    """A report that no requester answered is sent again to the next, and counts once."""
    job_id = fragile.api.submit(job(once(fragile, gate)))
    (execution,) = fragile.api.running(job_id)
    fragile.begun(gate)
    first, second = fragile.cluster.requesters

    with fragile.standing_still(first), fragile.standing_still(second):
        gate.open()
        wait_until_empty(lambda: fragile.running_on(execution["NodeID"]))
        fragile.kill(first, second)
    fragile.start(first, second)

    ended_once(fragile, gate, job_id, fragile.api.ended(job_id))


def test_the_other_requester_takes_over(fragile: Fragile, gate: Gate) -> None:
    """With two requesters one may die for good: the other answers for all jobs, and ends them."""
    jobs = [fragile.apis[0].submit(job(module("sleep", "1"))) for _ in range(6)]
    held = fragile.apis[0].submit(job(once(fragile, gate)))

    fragile.kill(fragile.cluster.requesters[0])
    fragile.apis[1].running(held)
    gate.open()

    ended_once(fragile, gate, held, fragile.apis[1].ended(held))
    for job_id in jobs:
        view = fragile.apis[1].ended(job_id)
        assert state(view) == "Completed", view
        assert states(view) == ["completed"]


def test_a_read_model_can_be_deleted(fragile: Fragile) -> None:
    """A requester whose read model was deleted answers as before."""
    jobs = [
        fragile.api.submit(job(module(*words))) for words in (("print", "a"), ("exit", "3"), ("print", "b"))
    ]
    for job_id in jobs:
        fragile.api.ended(job_id)
    before = answers(fragile, jobs)
    requester = fragile.cluster.api

    fragile.kill(requester)
    for path in requester.folder.glob("read-model.sqlite*"):
        path.unlink()
    fragile.start(requester)

    assert answers(fragile, jobs) == before


def answers(fragile: Fragile, jobs: list[str]) -> list[object]:
    """All that the first requester says of these jobs."""
    base = fragile.api.jobs
    told: list[object] = [
        fragile.api.call("GET", f"{base}/{each}?include=executions,history") for each in jobs
    ]
    listed = fragile.api.call("GET", f"{base}?limit=1000")["Items"]
    return [*told, [item for item in listed if item["ID"] in jobs]]


def kill_nats(fragile: Fragile) -> None:
    """End the NATS server at once, and start it again."""
    fragile.kill(fragile.cluster.nats)
    fragile.start(fragile.cluster.nats)


def kill_all(fragile: Fragile) -> None:
    """End everything of ours at once, and start it again: a power cut, but for the containers."""
    ours = fragile.cluster
    fragile.kill(*ours.requesters, *ours.computes, ours.nats)
    fragile.start(ours.nats, *ours.requesters, *ours.computes)


@pytest.mark.parametrize("crash", [kill_nats, kill_all])
def test_nats_killed_while_jobs_run(fragile: Fragile, gate: Gate, crash: Callable[[Fragile], None]) -> None:
    """`kill -9` of the NATS server, alone or with everything else, loses no job: each that was answered ends."""
    held = fragile.api.submit(job(once(fragile, gate), **BEARS_A_RESTART))
    fragile.api.running(held)
    fragile.begun(gate)
    jobs = [fragile.api.submit(job(module("sleep", "1"))) for _ in range(6)]

    crash(fragile)
    gate.open()

    for job_id in jobs:
        view = fragile.api.ended(job_id)
        assert state(view) == "Completed", view
        assert states(view).count("completed") == 1
    ended_once(fragile, gate, held, fragile.api.ended(held))
