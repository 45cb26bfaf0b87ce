"""Refusals: of one node for its own sake, and of a version that cannot read a job."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.entries import Assigned, Event, Reported
from protocol.errors import Failure
from protocol.ids import NodeId
from protocol.jobs import Input, Spec, Timeouts
from protocol.messages import Stage
from protocol.nodes import Offer
from protocol.states import ExecutionState as S
from protocol.states import JobState
from requester.core.explanation import standings
from requester.core.model import ExecutionRecord
from tests.requester.core.world import World, a_job, a_node

UNREAD = Failure("Invalid", "source s3: unknown field Profile", hint="It has the fields Bucket, Key.")
NOT_HERE = Failure("Denied.Path", "path /data is not allowed here")
TYPES = ("batch", "ops", "service", "daemon")


def a_job_of(type_: str, **more: Any) -> Any:
    return a_job(type_=type_, count=0 if type_ in ("ops", "daemon") else 1, **more)


def refuse(world: World, failure: Failure = UNREAD) -> tuple[NodeId, Sequence[Event]]:
    """The node that has the job refuses it; what comes of that."""
    execution = world.open()[0]
    return execution.node, world.report(execution, S.REFUSED, failure)


def put_aside(world: World, *nodes: str) -> None:
    """Take nodes' connection away."""
    for node in nodes:
        world.fleet.put(replace(world.fleet.nodes[NodeId(node)], connected=False))


def on(executions: Sequence[ExecutionRecord | Assigned]) -> set[str]:
    return {each.node for each in executions}


@pytest.mark.parametrize("type_", ["batch", "service"])
def test_a_node_of_another_version_is_asked(type_: str) -> None:
    """Where a node cannot read a field, one of another version is asked at once, and no other of its own; it goes on."""
    old = [a_node(f"old-{n}", version="0.1") for n in range(5)]
    world = World(*old, a_node("new", version="0.2", cores=1))
    world.submit(a_job(type_=type_, count=3))
    asked = on(world.open())
    for execution in world.open():
        if execution.node != "new":
            world.report(execution, S.REFUSED, UNREAD)

    assert on(world.executions()) == asked | {"new"}
    assert on(world.open()) == {"new"}
    assert world.job.state is JobState.RUNNING


def test_a_node_of_another_version_that_is_full_is_waited_for() -> None:
    """A job that only a full node can read is queued for room like any other."""
    world = World(a_node("old", version="0.1"), a_node("new", version="0.2", cores=1))
    world.submit(a_job(count=2))
    refuse(world) if world.open()[0].node == "old" else world.report(world.open()[1], S.REFUSED, UNREAD)

    assert on(world.open()) == {"new"}
    assert world.job.queued is not None
    assert world.job.queued.code == "Exhausted.NoRoom"


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("timeouts", [Timeouts(), Timeouts(queue_timeout=3600)])
def test_what_nobody_can_read_fails_at_once(type_: str, timeouts: Timeouts) -> None:
    """If all nodes are of one version, its first refusal of a field ends the job, whatever its type and patience."""
    world = World(*(a_node(f"n{n}") for n in range(3)))
    world.submit(a_job_of(type_, timeouts=timeouts))
    asked = len(world.executions())
    refuse(world)

    assert (world.job.state, world.job.failure) == (JobState.FAILED, UNREAD)
    assert len(world.executions()) == asked
    assert not world.open()


@pytest.mark.parametrize("type_", TYPES)
def test_what_no_version_can_read_names_each_node(type_: str) -> None:
    """If nodes of several versions refuse a job, each for its own reason, it fails with the reason of each."""
    world = World(a_node("old", version="0.1"), a_node("new", version="0.2"), a_node("also", version="0.2"))
    world.submit(a_job_of(type_))
    other = replace(UNREAD, message="source s3: field Profile: expected str, got int")
    while world.open():
        node = world.open()[0].node
        refuse(world, UNREAD if node == "old" else other)

    assert world.job.state is JobState.FAILED
    failure = world.job.failure
    assert failure is not None
    assert failure.code == "NoSuitableNode"
    assert failure.details["old"] == f"refused: {UNREAD.message} (fix: {UNREAD.hint})"
    assert other.message in failure.details["new"]
    assert other.message in failure.details["also"]
    assert UNREAD.message in world.job.message


def test_a_node_that_lacks_something_else_is_named_beside_the_refusal() -> None:
    """That the old nodes do not know a field is not the whole truth if the new one lacks an engine."""
    world = World(a_node("old", version="0.1"), a_node("new", version="0.2", engines=["docker"]))
    world.submit(a_job())
    refuse(world)

    failure = world.job.failure
    assert failure is not None
    assert failure.details["new"] == "has no engine noop"
    assert UNREAD.message in failure.details["old"]


def test_a_node_that_is_away_may_be_able_to() -> None:
    """While a node of another version is away, the job waits for it; one of the same version is not waited for."""
    world = World(a_node("n1", version="0.1"), a_node("n2", version="0.1"), a_node("n3", version="0.2"))
    put_aside(world, "n2", "n3")
    world.submit(a_job())
    refuse(world)

    assert world.job.queued is not None
    assert world.job.queued.message.startswith("waiting for a node: 1 of 3")
    world.fleet.put(replace(world.fleet.nodes[NodeId("n3")], expected=False))
    world.look()
    assert world.job.state is JobState.FAILED


def test_an_upgraded_node_is_asked_again() -> None:
    """A node that has been started anew since it refused may be of another version by now, and is asked again; once."""
    world = World(a_node("n1", version="0.1", incarnation=1), a_node("n2", version="0.2"))
    put_aside(world, "n2")
    world.submit(a_job())
    refuse(world)
    assert not world.open()

    world.fleet.put(a_node("n1", version="0.3", incarnation=2))
    world.look()

    assert on(world.open()) == {"n1"}


def test_a_refusal_told_after_an_upgrade_is_that_of_the_version_before() -> None:
    """A node that could not read a job, and is upgraded before it could say so, is asked again: its refusal counts against
    the version that read the job, of which no other node is asked. What the new one refuses counts against that."""
    world = World(a_node("n1", version="0.1", incarnation=1), a_node("n2", version="0.1"))
    put_aside(world, "n2")
    world.submit(a_job())
    first = world.open()[0]
    world.fleet.put(a_node("n1", version="0.2", incarnation=1))
    world.fleet.put(a_node("n2", version="0.1"))
    world.report(first, S.REFUSED, UNREAD, read_by="0.1")

    assert on(world.open()) == {"n1"}
    told = {each.node: each for each in standings(world.job, world.fleet)}
    assert told[NodeId("n2")].standing == "refused"
    assert told[NodeId("n2")].reason == f"{UNREAD.message} (n1 says so, which was of the same version)"

    world.report(world.open()[0], S.REFUSED, UNREAD, read_by="0.2")
    assert world.job.state is JobState.FAILED


def test_what_one_node_refuses_for_its_own_sake_says_nothing_of_others() -> None:
    """A node's own rules are no reason to pass over another of the same version."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job())

    first, _ = refuse(world, NOT_HERE)
    assert on(world.open()) == {"n1", "n2"} - {first}


def test_what_one_node_has_read_is_no_matter_of_its_version() -> None:
    """Where a node of the same version has taken the job, a refusal is its node's own matter: what runs goes on."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job_of("daemon"))
    for execution in world.open():
        if execution.node == "n1":
            world.report(execution, S.RUNNING)
    other = next(each for each in world.open() if each.node == "n2")
    world.report(other, S.REFUSED, UNREAD)

    assert on(world.open()) == {"n1"}
    assert world.job.state is JobState.RUNNING


@pytest.mark.parametrize("refused", [UNREAD, NOT_HERE])
@pytest.mark.parametrize("first", ["old", "new"])
def test_an_ops_job_is_done_where_nobody_refuses_it(refused: Failure, first: str) -> None:
    """An ops job runs on every node that takes it, and completes; its message says which nodes refused it, and why."""
    world = World(a_node("old", version="0.1"), a_node("new", version="0.2"))
    world.submit(a_job_of("ops"))
    for execution in sorted(world.open(), key=lambda each: each.node != first):
        state, failure = (S.REFUSED, refused) if execution.node == "old" else (S.COMPLETED, None)
        world.report(execution, state, failure)

    assert world.job.state is JobState.COMPLETED
    assert world.job.message == f"refused by 1 node, done on all others that fit:\n  old  {refused.message}"
    assert len(world.executions()) == 2


def test_an_ops_job_that_was_done_stays_done() -> None:
    """An ops job completes though the node that did it has left and the only other one cannot read it."""
    world = World(a_node("old", version="0.1"), a_node("new", version="0.2"))
    world.submit(a_job_of("ops"))
    by_node = {each.node: each for each in world.open()}
    world.report(by_node[NodeId("new")], S.COMPLETED)
    world.fleet.drop(NodeId("new"))
    world.report(by_node[NodeId("old")], S.REFUSED, UNREAD)

    assert world.job.state is JobState.COMPLETED


@pytest.mark.parametrize("refused", [UNREAD, NOT_HERE])
def test_an_ops_job_that_all_refuse_fails(refused: Failure) -> None:
    """An ops job that no node takes has been done nowhere: it fails with the refusal."""
    world = World(a_node("n1"), a_node("n2"))
    world.submit(a_job_of("ops"))
    while world.open():
        refuse(world, refused)

    assert (world.job.state, world.job.failure) == (JobState.FAILED, refused)


def test_a_part_that_its_node_refuses_is_missing() -> None:
    """An ops job whose inputs are shared out fails with the refusal if a node does not take its part."""
    nodes = [a_node(name) for name in ("n1", "n2")]
    world = World(*(replace(each, info=replace(each.info, sources=[Offer("s3")])) for each in nodes))
    job = a_job_of("ops")
    source = Input(Spec("s3", {"Bucket": "b", "Partition": {"Type": "object"}}), "/in")
    world.submit(replace(job, tasks=[replace(job.task, input_sources=[source])]))
    refuse(world, NOT_HERE)
    world.report(world.open()[0], S.COMPLETED)

    assert (world.job.state, world.job.failure) == (JobState.FAILED, NOT_HERE)


@pytest.mark.parametrize("type_", ["service", "daemon"])
def test_what_serves_waits_for_who_can_read_it(type_: str) -> None:
    """A service or daemon that has come up is not ended because the only node that can read it is gone for long: it says
    that it waits, and goes on when a node comes that can."""
    world = World(a_node("old", version="0.1"), a_node("new", version="0.2"))
    world.submit(a_job(type_=type_, count=0 if type_ == "daemon" else 2))
    for execution in world.open():
        if execution.node == "old":
            world.report(execution, S.REFUSED, UNREAD)
    for execution in world.open():
        running = world.report_of(execution, S.RUNNING)
        world.look(Reported(replace(running, stages=[Stage(S.RUNNING, world.now)])))
    put_aside(world, "new")
    world.fleet.put(replace(world.fleet.nodes[NodeId("new")], expected=False))
    world.gone = {NodeId("new"): 600.0}
    world.look()
    world.now += 1_000
    world.look()

    assert world.job.state is JobState.QUEUED
    assert world.job.queued is not None
    assert world.job.queued.message.startswith("waiting for a node: none of 2 nodes can run this job")
    assert UNREAD.message in world.job.queued.details["old"]
    world.fleet.put(a_node("newer", version="0.2"))
    world.look()
    assert on(world.open()) == {"newer"}
    assert world.job.queued is None


@pytest.mark.parametrize("type_", ["service", "daemon"])
def test_an_update_that_cannot_be_read_takes_nothing_more_down(type_: str) -> None:
    """A new version that nobody can read leaves the rest of the old one where it runs."""
    world = World(*(a_node(f"n{n}") for n in range(3)))
    spec = a_job(type_=type_, count=0 if type_ == "daemon" else 3)
    world.submit(spec)
    for execution in world.open():
        world.report(execution, S.RUNNING)
    world.now += 10
    world.submit(replace(spec, labels={"v": "2"}))
    new = next(each for each in world.open() if each.version == 2)
    world.report(new, S.REFUSED, UNREAD)
    world.now += 1000
    world.look()

    assert [each.version for each in world.open()] == [1, 1]
    assert not world.job.closed


def test_explain_says_who_refused() -> None:
    """`job explain` names the refusal at the node that spoke, and at those of its version."""
    world = World(a_node("n1", version="0.1"), a_node("n2", version="0.1"), a_node("n3", version="0.2"))
    put_aside(world, "n3")
    world.submit(a_job())
    spoke, _ = refuse(world)

    told = {each.node: each for each in standings(world.job, world.fleet)}
    (silent,) = {"n1", "n2"} - {spoke}
    assert (told[spoke].standing, told[spoke].reason, told[spoke].hint) == (
        "refused",
        UNREAD.message,
        UNREAD.hint,
    )
    assert told[NodeId(silent)].standing == "refused"
    assert told[NodeId(silent)].reason == f"{UNREAD.message} ({spoke} says so, which is of the same version)"
    assert told[NodeId("n3")].standing == "away"
