"""A node that dies, at any moment, and the next one on its folder."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from compute.engines.contract import Run as EngineRun
from compute.limits import Limits
from deploy.processes import free_ports
from protocol.errors import Fault, Unavailable
from protocol.ids import ExecutionId
from protocol.jobs import Amounts, Input, Network, Port, ResultPath, Spec
from protocol.messages import Run
from protocol.nodes import Gpu
from protocol.spec.engines import NoopParams
from protocol.states import ExecutionState
from tests.compute.doubles import StagedPublisher, StagedSource, drivers, inline
from tests.compute.twins import CAPACITY, NODE, FakeRequester, Fuse, NodeOnTest, job, noop, order

S = ExecutionState
Nodes = Callable[..., NodeOnTest]
LONG = {"Seconds": 3600}
FULL = noop(
    {"Stdout": "out", "Reads": ["/in"], "Writes": {"/out/f": "x"}},
    input_sources=[Input(inline("in"), "/in")],
    result_paths=[ResultPath("out", "/out")],
    publisher=Spec("test"),
)
COMMITS = 6
"""More than one execution needs, so that the last ones show that the fuse is not needed."""


@pytest.mark.parametrize("recoverable", [True, False], ids=["outlives", "dies with the node"])
@pytest.mark.parametrize("written", [True, False], ids=["written", "lost"])
@pytest.mark.parametrize("commit", range(COMMITS))
async def test_a_crash_at_any_commit_ends_well(
    nodes: Nodes, requester: FakeRequester, commit: int, written: bool, recoverable: bool
) -> None:
    """Killed before or after any commit, a node goes on: one outcome, started once, or twice if programs die with it."""
    fuse = Fuse(commit, written=written)
    node = nodes(drivers=drivers(publisher=StagedPublisher()), recoverable=recoverable, fuse=fuse)
    await node.start()
    run = order(task=FULL)
    ordering = asyncio.create_task(insist(requester, run))
    blown = asyncio.create_task(fuse.blown.wait())
    done = asyncio.create_task(requester.ended(run))
    await asyncio.wait((blown, done), return_when=asyncio.FIRST_COMPLETED)
    await node.crash()
    node.fuse = None
    await node.start()

    report = await done
    await requester.quiet(node)
    for task in (ordering, blown):
        task.cancel()
    assert report.output is not None
    assert report.output.stdout == "outin"
    assert report.result == Spec("test", {"at": run.execution})
    assert {each.state for each in requester.accepted[run.execution]} == {S.COMPLETED}
    assert node.world.starts[run.execution] <= (1 if recoverable else 2)
    assert node.leftovers() == []


async def insist(requester: FakeRequester, run: Run) -> None:
    """Order again and again, as a requester does whose beats do not show the execution."""
    while True:
        with contextlib.suppress(Fault):
            answer = await requester.run(run, timeout_s=0.2)
            if answer.taken or (answer.failure and answer.failure.code == "Conflict.Gone"):
                return
        await asyncio.sleep(0.02)


async def test_an_upgraded_node_tells_which_version_refused(nodes: Nodes, requester: FakeRequester) -> None:
    """A refusal that is told only by the next process, of another version, names the version that refused."""
    node = nodes()
    await node.start()
    version = node.info.version
    requester.decide = lambda report: "later"
    run = order(task=noop({"NewField": 1}))
    assert (await requester.run(run)).taken
    await requester.reached(run, S.REFUSED)
    await node.crash()
    node.info = replace(node.info, version="newer")
    requester.decide = lambda report: "stored"
    await node.start()

    report = await requester.ended(run)
    assert report.incarnation == node.here.incarnation
    assert report.read_by == version


async def test_a_program_that_cannot_be_looked_for_is_given_up(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """A node that is restarted and whose engine does not answer gives the work up after a while; its room is free, and
    nothing is left, once the engine is back.
    """
    node = nodes(limits=Limits(recovering_s=0.01))
    await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    await node.crash()
    node.world.away = Unavailable("the engine does not answer", kind="Docker")
    agent = await node.start()

    report = await requester.ended(run)
    assert report.failure is not None
    assert (report.failure.code, report.failure.retryable) == ("Unavailable.Docker", True)
    assert agent._room.ledger.held
    node.world.away = None
    await requester.quiet(node)
    assert not agent._room.ledger.held
    assert node.leftovers() == []
    assert node.world.starts == {run.execution: 1}


async def test_a_running_program_is_adopted(nodes: Nodes, requester: FakeRequester) -> None:
    """A program that outlived the node is found, its output kept from its beginning, and its end told once."""
    node = nodes()
    first = await node.start()
    run = order(task=noop(LONG | {"Stdout": "before"}), execution_timeout_s=3600)
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    await node.crash()
    agent = await node.start()
    assert agent.incarnation > first.incarnation
    assert (await requester.logs(run)).chunks[0].data == b"before"
    node.world.end(run.execution)
    report = await requester.ended(run)
    assert report.incarnation == agent.incarnation
    assert node.world.starts == {run.execution: 1}
    assert report.output is not None
    assert report.output.stdout == "before"


async def test_an_adopted_program_keeps_its_ports(nodes: Nodes, requester: FakeRequester) -> None:
    """A port that a program was given is its own after a restart of the node too, though it does not listen there yet."""
    node = nodes()
    await node.start()
    run = order(task=noop(LONG, network=Network("Host", ports=[Port("web")])))
    await requester.run(run)
    port = (await requester.reached(run, S.RUNNING)).ports["web"]
    await node.crash()
    await node.start()

    other = order(2, task=noop(LONG, network=Network("Host", ports=[Port("web", static=port)])))
    await requester.run(other)

    failure = (await requester.ended(other)).failure
    assert failure is not None
    assert (failure.code, str(port) in failure.message) == ("Conflict.Port", True)
    node.world.end(run.execution)
    await requester.ended(run)


async def test_ports_that_are_all_taken_are_waited_for(nodes: Nodes, requester: FakeRequester) -> None:
    """A program that two requesters at once sent to a node's last port waits there until it is free, and does not fail."""
    [port] = free_ports(1)
    node = nodes(capacity=CAPACITY + Amounts(dynamic_ports=1), ports=(port, port))
    await node.start()
    task = noop(LONG, network=Network("Host", ports=[Port("web")]))
    runs = [order(each, task=task, amounts=Amounts(cpu=0.1, dynamic_ports=1)) for each in (1, 2)]
    for run in runs:
        await requester.run(run)
    await requester.reached(runs[0], S.RUNNING)
    assert node.here.runners[runs[1].execution].execution.state is S.ASSIGNED
    node.world.end(runs[0].execution)

    assert (await requester.reached(runs[1], S.RUNNING)).ports == {"web": port}
    node.world.end(runs[1].execution)
    await requester.ended(runs[1])


async def test_two_programs_never_have_one_gpu(nodes: Nodes, requester: FakeRequester) -> None:
    """Each program has GPUs of its own, also when a node that was killed finds one that runs; who finds none free waits."""
    devices = [Gpu(0, "A100", "NVIDIA"), Gpu(3, "Instinct MI210", "AMD/ATI", 65_520, "0000:e7:00.0")]
    node = nodes(capacity=CAPACITY + Amounts(gpu=2))
    node.info = replace(node.info, gpus=devices)
    await node.start()
    runs = [order(each, task=noop(LONG), amounts=Amounts(cpu=0.1, gpu=1)) for each in (1, 2, 3)]
    await requester.run(runs[0])
    await requester.reached(runs[0], S.RUNNING)
    await node.crash()
    await node.start()
    await requester.run(runs[1])
    await requester.reached(runs[1], S.RUNNING)
    await requester.run(runs[2])

    given = [node.world.programs[run.execution].run.gpus for run in runs[:2]]
    assert given == [[devices[0]], [devices[1]]]
    assert runs[2].execution not in node.world.programs
    node.world.end(runs[1].execution)
    await requester.reached(runs[2], S.RUNNING)
    assert node.world.programs[runs[2].execution].run.gpus == [devices[1]]
    for run in (runs[0], runs[2]):
        node.world.end(run.execution)
        await requester.ended(run)


async def test_a_program_that_ended_meanwhile_is_told(nodes: Nodes, requester: FakeRequester) -> None:
    """What ended while the node was away is found with its exit code."""
    node = nodes()
    await node.start()
    run = order(task=noop(LONG | {"ExitCode": 7}))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    await node.crash()
    program = node.world.programs[run.execution]
    program.end(program._exit)
    await node.start()
    report = await requester.ended(run)
    assert report.failure is not None
    assert report.failure.message == "program exited with code 7"


async def test_a_program_that_dies_with_the_node_runs_twice_at_most(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """The second time the node dies under it, the execution fails, worth another node."""
    node = nodes(recoverable=False)
    await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    for _ in range(2):
        await node.kept(
            run.execution, lambda execution: execution.state is S.RUNNING and execution.phase == "running"
        )
        assert node.journal is not None
        await node.journal.commit()
        await node.crash()
        await node.start()
    report = await requester.ended(run)
    assert report.failure is not None
    assert (report.failure.code, report.failure.retryable) == ("Unavailable.Node", True)
    assert node.world.starts == {run.execution: 2}


async def test_its_time_goes_on_while_the_node_is_away(nodes: Nodes, requester: FakeRequester) -> None:
    """An execution's timeout counts from the program's start, across restarts of the node."""
    node = nodes(limits=Limits(stop_grace_s=0.01))
    await node.start()
    run = order(task=noop(LONG), execution_timeout_s=0.3)
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    assert node.journal is not None
    await node.journal.commit()
    await node.crash()
    await node.start()
    report = await requester.ended(run)
    assert report.failure is not None
    assert report.failure.code == "TimedOut.Execution"


async def test_an_unanswered_end_is_told_by_the_next_process(nodes: Nodes, requester: FakeRequester) -> None:
    """An end that no requester had stored is reported after the restart, and is the same."""
    node = nodes()
    requester.decide = lambda report: "later"
    await node.start()
    run = order(task=noop({"Stdout": "x"}))
    await requester.run(run)
    first = await requester.reached(run, S.COMPLETED)
    await node.crash()
    requester.decide = lambda report: "stored"
    await node.start()
    again = await requester.ended(run)
    assert (again.state, again.stages, again.output) == (first.state, first.stages, first.output)
    assert node.world.starts == {run.execution: 1}


async def test_publishing_goes_on_after_a_restart(nodes: Nodes, requester: FakeRequester) -> None:
    """A program that has ended is not run again when the node dies while publishing; its output is published."""
    publisher = StagedPublisher()
    publisher.gate.clear()
    node = nodes(drivers=drivers(publisher=publisher), recoverable=False)
    await node.start()
    run = order(task=FULL)
    await requester.run(run)
    await requester.reached(run, S.PUBLISHING)
    assert node.journal is not None
    await node.journal.commit()
    await node.crash()
    publisher.gate.set()
    await node.start()
    report = await requester.ended(run)
    assert report.state is S.COMPLETED
    assert publisher.seen["out/f"] == "x"
    assert publisher.seen["stdout"] == "outin"
    assert node.world.starts == {run.execution: 1}


async def test_strangers_are_removed(nodes: Nodes, requester: FakeRequester) -> None:
    """Programs and folders that no execution in the journal owns are removed when the node starts."""
    node = nodes()
    stranger = ExecutionId("e-stranger")
    folder = node.folder / "executions" / "e-other" / "deep"
    folder.mkdir(parents=True)
    node.world.start(EngineRun(stranger, job(1), NODE, NoopParams(seconds=3600), node.folder))
    await node.start()
    await requester.until(lambda: node.leftovers() == [])


async def test_what_waited_keeps_waiting(nodes: Nodes, requester: FakeRequester) -> None:
    """An execution that had no room before the restart gets it afterwards; adopted programs keep theirs."""
    node = nodes()
    await node.start()
    first, second = order(1, noop(LONG), amounts=Amounts(cpu=4)), order(2, amounts=Amounts(cpu=4))
    await requester.run(first)
    await requester.reached(first, S.RUNNING)
    await requester.run(second)
    await node.crash()
    await node.start()
    assert node.here._room.ledger.used.cpu == 4
    node.world.end(first.execution)
    await requester.ended(first)
    assert (await requester.ended(second)).state is S.COMPLETED


async def test_staging_begins_again(nodes: Nodes, requester: FakeRequester) -> None:
    """Half-fetched inputs are thrown away and fetched anew."""
    source = StagedSource()
    source.gate.clear()
    node = nodes(drivers=drivers(source))
    await node.start()
    run = order(task=noop({"Reads": ["/in"]}, input_sources=[Input(Spec("test"), "/in")]))
    await requester.run(run)
    await source.fetching.wait()
    await node.crash()
    source.gate.set()
    await node.start()
    report = await requester.ended(run)
    assert report.output is not None
    assert report.output.stdout == "data"


async def test_room_is_taken_until_a_program_is_gone_after_a_restart(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """A cancelled program that a new process still has to end keeps its room: what waits starts after it is gone."""
    node = nodes(limits=Limits(stop_grace_s=3600))
    await node.start()
    first = order(1, noop(LONG | {"Stubborn": True}), amounts=Amounts(cpu=4))
    second = order(2, amounts=Amounts(cpu=4))
    await requester.run(first)
    await requester.reached(first, S.RUNNING)
    await requester.run(second)
    await requester.cancel(first)
    await node.crash()
    agent = await node.start()
    assert agent._room.ledger.held.keys() == {first.execution}
    assert node.world.starts == {first.execution: 1}

    node.world.end(first.execution)
    await requester.ended(second)
    assert node.world.starts == {first.execution: 1, second.execution: 1}


async def test_a_late_copy_of_an_order_starts_nothing_after_a_restart(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """What was done with is still known by name to the next process."""
    node = nodes()
    await node.start()
    run = order()
    await requester.run(run)
    await requester.ended(run)
    await requester.quiet(node)
    await node.stop()
    await node.start()
    assert not (await requester.run(run)).taken
    assert node.world.starts == {run.execution: 1}


async def test_two_nodes_cannot_share_a_folder(nodes: Nodes, requester: FakeRequester) -> None:
    """The second one is told which folder is in use and what to do."""
    await nodes().start()
    with pytest.raises(Fault, match="in use by another node"):
        await nodes().start()
