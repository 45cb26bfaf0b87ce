"""What a node does with orders: again, out of order, too late, for others, or not to be read."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from compute.admission import Policy
from compute.events import CancelOrdered
from compute.limits import Limits
from compute.orders import OTHER_LOG_S
from protocol import messages, subjects
from protocol.clock import ManualClock
from protocol.errors import Unavailable
from protocol.ids import ExecutionId, JobId, NodeId
from protocol.jobs import Amounts, Input, Network, Port, ResultPath, Spec
from protocol.messages import CommandAnswer, CommandBatch, Report, Run
from protocol.states import ExecutionState
from tests.compute.doubles import StagedPublisher, StagedSource, drivers
from tests.compute.twins import NODE, WITHIN_S, FakeRequester, NodeOnTest, noop, order
from tests.requester.cluster import happens

S = ExecutionState
Nodes = Callable[..., NodeOnTest]
LONG = {"Seconds": 3600}


async def test_the_same_order_twice_is_one_run(nodes: Nodes, requester: FakeRequester) -> None:
    """Repeating an order while it runs or after it has ended starts nothing; the answer then says by which log's names."""
    node = nodes()
    await node.start()
    await requester.full_list(0, [], created="log-1")
    run = order(task=noop(LONG))
    assert (await requester.run(run)).taken
    assert (await requester.run(run)).taken
    await requester.reached(run, S.RUNNING)
    node.world.end(run.execution)
    await requester.ended(run)
    await requester.quiet(node)

    late = await requester.run(run)
    assert not late.taken
    assert late.failure is not None
    assert (late.failure.code, late.failure.details) == ("Conflict.Gone", {"log": "log-1"})
    assert node.world.starts == {run.execution: 1}
    assert len(requester.accepted[run.execution]) == 1


@pytest.mark.parametrize("stage", ["waiting", "preparing", "fetching", "running", "publishing"])
async def test_a_cancel_ends_it_at_every_stage(nodes: Nodes, requester: FakeRequester, stage: str) -> None:
    """Wherever it is when it is cancelled: it ends cancelled, is never published, and nothing stays behind."""
    source, publisher = StagedSource(), StagedPublisher()
    node = nodes(drivers=drivers(source, publisher), limits=Limits(stop_grace_s=0.01))
    await node.start()
    params: dict[str, Any] = {}
    first = order(1, noop(LONG), amounts=Amounts(cpu=4))
    if stage == "waiting":
        await requester.run(first)
    elif stage == "preparing":
        params = {"PrepareSeconds": 3600}
    elif stage == "fetching":
        source.gate.clear()
    elif stage == "running":
        params = LONG | {"Stubborn": True}
    else:
        publisher.gate.clear()
    run = order(2, noop(params, input_sources=[Input(Spec("test"), "/in")], publisher=Spec("test")))
    await requester.run(run)
    if stage == "preparing":
        await requester.until(lambda: any(each.what == "program" for each in requester.progress))
    elif stage == "fetching":
        await source.fetching.wait()
    elif stage == "running":
        await requester.reached(run, S.RUNNING)
    elif stage == "publishing":
        await publisher.publishing.wait()

    answer = await requester.cancel(run, reason="a person said so")
    report = await requester.ended(run)
    publisher.gate.set()

    assert answer.taken
    assert report.state is S.CANCELLED
    assert report.failure is not None
    assert report.failure.message == "a person said so"
    assert report.result is None
    await requester.cancel(first)
    await requester.quiet(node)
    assert node.leftovers() == []
    assert not publisher.seen
    assert node.here._room.ledger.used == Amounts()


async def test_orders_that_come_together_are_each_obeyed_and_answered(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """What can be taken is run; of the rest it is said why, each in its place. Coming again they start nothing."""
    node = nodes()
    await node.start()
    runs = [order(1), order(2, node=NodeId("n2")), order(3)]
    answer = await requester._command(CommandBatch(list(runs)))

    assert [each.taken for each in answer.each] == [True, False, True]
    assert answer.each[1].failure is not None
    assert answer.each[1].failure.message == "this is node n1, not n2"
    for run in (runs[0], runs[2]):
        assert (await requester.ended(run)).state is S.COMPLETED
    await requester.quiet(node)
    again = await requester._command(CommandBatch([runs[0], runs[2]]))
    assert [each.failure and each.failure.code for each in again.each] == ["Conflict.Gone"] * 2
    assert node.world.starts == {runs[0].execution: 1, runs[2].execution: 1}


async def test_a_cancel_that_overtakes_its_order_wins(nodes: Nodes, requester: FakeRequester) -> None:
    """A run whose cancel came first is not started; a later order of another execution is."""
    node = nodes()
    await node.start()
    run = order()
    assert (await requester.cancel(run)).taken
    assert not (await requester.run(run)).taken
    assert node.world.starts == {}


async def test_an_older_cancel_is_refused(nodes: Nodes, requester: FakeRequester) -> None:
    """A cancel decided before the order cannot end it."""
    node = nodes()
    await node.start()
    run = order(5, noop(LONG))
    await requester.run(run)
    answer = await requester.cancel(run, seq=3)
    assert not answer.taken
    await requester.reached(run, S.RUNNING)


async def test_orders_for_another_node_and_unreadable_ones_are_refused(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """The answer says what is wrong; nothing is started; the next order is obeyed."""
    node = nodes()
    await node.start()
    other = await requester._command(order(node=NodeId("n2")), to=NODE)
    assert not other.taken
    assert other.failure is not None
    assert other.failure.message == "this is node n1, not n2"
    for data in (b"", b"{}", b'{"type":"dance"}', b"\xff\xfe", b"[" * 10_000):
        raw = await requester.bus.request(subjects.commands(NODE), data, timeout_s=5)
        answer = messages.decode(raw, CommandAnswer)
        assert not answer.taken
        assert answer.failure is not None
        assert answer.failure.code == "Broken"
    for strange in (order(execution=ExecutionId("../../etc")), order(job=JobId("j-1"))):
        answer = await requester.run(strange)
        assert not answer.taken
        assert answer.failure is not None
        assert "is no execution of a job" in answer.failure.message
    run = order()
    assert (await requester.run(run)).taken


async def test_an_order_that_cannot_be_answered_is_ignored(nodes: Nodes, requester: FakeRequester) -> None:
    """A command without a reply subject comes from no requester of ours."""
    node = nodes()
    await node.start()
    await requester.bus.publish(subjects.commands(NODE), messages.encode(order(1)))
    second = order(2)
    await requester.run(second)
    await requester.ended(second)
    assert list(node.world.starts) == [second.execution]


async def test_a_full_list_ends_what_it_does_not_name(nodes: Nodes, requester: FakeRequester) -> None:
    """Unlisted executions ordered at or before the list end; listed and later ones go on."""
    node = nodes(limits=Limits(stop_grace_s=0.01))
    await node.start()
    listed, unlisted = order(1, noop(LONG)), order(2, noop(LONG))
    await requester.run(listed)
    await requester.run(unlisted)
    assert (await requester.full_list(2, [listed])).taken
    await requester.until(lambda: list(node.here.runners) == [listed.execution])


async def test_an_old_list_ends_nothing(nodes: Nodes, requester: FakeRequester) -> None:
    """A list older than the newest command is ignored: it cannot know of it."""
    node = nodes()
    await node.start()
    run = order(7, noop(LONG))
    await requester.run(run)
    assert not (await requester.full_list(6, [])).taken
    await requester.reached(run, S.RUNNING)
    assert run.execution in node.here.runners


async def test_a_list_from_another_log_ends_nothing(nodes: Nodes, requester: FakeRequester) -> None:
    """A log that was made anew knows nothing of this node's work; once that is done, the new log counts."""
    node = nodes()
    await node.start()
    assert (await requester.full_list(1, [], created="log-1")).taken
    run = order(5, noop(LONG))
    await requester.run(run)
    assert not (await requester.full_list(9, [], created="log-2")).taken
    await requester.reached(run, S.RUNNING)
    node.world.end(run.execution)
    await requester.ended(run)
    await requester.quiet(node)
    assert (await requester.full_list(1, [], created="log-2")).taken


async def test_what_no_log_knows_is_ended_after_a_while(nodes: Nodes, requester: FakeRequester) -> None:
    """Work that a restored log does not know goes on for a minute, which is said once, and longer if that log is not heard
    of meanwhile; then it is ended, and the restored log counts. What was ordered by that log goes on."""
    clock = ManualClock()
    node = nodes(clock=clock, limits=Limits(stop_grace_s=0.0))
    await node.start()
    assert (await requester.full_list(1, [], created="log-1")).taken
    lost, new = order(8, noop(LONG)), order(2, noop(LONG))
    await requester.run(lost)

    async def listed() -> bool:
        return (await requester.full_list(2, [new], created="log-2")).taken

    with capture_logs() as told:
        assert not await listed()
        await clock.advance(OTHER_LOG_S)
        for _ in range(int(OTHER_LOG_S // 5)):
            assert not await listed()
            await clock.advance(5)
        await requester.run(new)
        assert lost.execution in node.here.runners
        assert await listed()
    async with asyncio.timeout(WITHIN_S):
        while list(node.here.runners) != [new.execution]:
            await clock.advance(0.1)

    assert len([line for line in told if "another log" in line["event"]]) == 2
    assert (await requester.full_list(3, [new], created="log-2")).taken
    assert node.world.starts[new.execution] == 1


async def test_a_log_that_knows_less_gets_what_ended_again(nodes: Nodes, requester: FakeRequester) -> None:
    """A log that was restored from before an execution's end has it run again, also after a restart of the node; what the
    log knows and still runs goes on."""
    node = nodes()
    await node.start()
    going_on, first, second = order(1, noop(LONG)), order(2), order(3)
    assert (await requester.full_list(0, [], created="log-1")).taken
    await requester.run(going_on)
    for run in (first, second):
        await requester.run(run)
        await requester.ended(run)
    await requester.until(lambda: len(node.here.runners) == 1)
    assert not (await requester.run(first)).taken

    assert (await requester.full_list(3, [going_on, first, second], created="log-2")).taken
    assert (await requester.run(first)).taken
    await node.stop()
    await node.start()
    assert (await requester.run(second)).taken
    await requester.until(lambda: len(requester.accepted[second.execution]) == 2)
    assert node.world.starts[second.execution] == 2
    assert node.world.starts[going_on.execution] == 1


async def ended_by(word: str, nodes: Nodes, requester: FakeRequester) -> tuple[NodeOnTest, Run]:
    """A node that heard this word when it said that a program runs: nothing is left of that."""
    node = nodes(limits=Limits(stop_grace_s=0.01))
    requester.decide = lambda report: word
    await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    await requester.quiet(node)
    assert node.leftovers() == []
    return node, run


async def test_a_dropped_report_ends_the_execution(nodes: Nodes, requester: FakeRequester) -> None:
    """If the requester no longer counts an execution, its program is stopped, nothing is published or said any more."""
    await ended_by("drop", nodes, requester)
    assert [report.state for report in requester.reports] == [S.RUNNING]


async def test_what_is_dropped_for_another_process_may_be_ordered_again(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """That another process is the node ends the execution as well, but this one may yet be the node."""
    node, run = await ended_by("replaced", nodes, requester)

    requester.decide = lambda report: "noted"
    assert (await requester.run(run)).taken
    await happens(lambda: node.world.starts[run.execution] == 2)


async def test_an_end_is_said_until_it_is_stored(nodes: Nodes, requester: FakeRequester) -> None:
    """Lost, late and "later" answers make the node say its end again; "stored" makes it forget."""
    node = nodes()
    verdicts = iter(["later", "noted", "later", "stored"])
    requester.decide = lambda report: next(verdicts)
    await node.start()
    run = order()
    await requester.run(run)
    await requester.ended(run)
    await requester.quiet(node)
    assert [report.state for report in requester.reports] == [S.COMPLETED] * 4


@pytest.mark.parametrize("earlier", [False, True])
async def test_ends_that_come_together_are_told_together(
    nodes: Nodes, requester: FakeRequester, earlier: bool
) -> None:
    """Each of forty ends is stored once, though one is put off at first; only a requester of an earlier version hears
    each alone.
    """
    node = nodes()
    await node.start()
    runs = [order(number, noop(LONG), amounts=Amounts(cpu=0.01)) for number in range(1, 41)]
    assert (await requester._command(CommandBatch(list(runs)))).taken
    for run in runs:
        await requester.reached(run, S.RUNNING)
    put_off = [runs[7].execution]

    def decide(report: Report) -> str:
        if report.execution in put_off:
            put_off.clear()
            return "later"
        return "stored"

    requester.decide, requester.earlier, requester.heard_messages = decide, earlier, 0
    for run in runs:
        node.world.end(run.execution)
    await requester.quiet(node)

    assert {run.execution: 1 for run in runs} == {
        name: len(each) for name, each in requester.accepted.items()
    }
    assert requester.heard_messages > len(runs) if earlier else requester.heard_messages < len(runs) // 2


async def test_it_goes_on_without_requesters_and_reports_later(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """A node that is cut off runs what it was told, and says how it ended once it is back."""
    node = nodes()
    await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    node.bus.cut()
    node.world.end(run.execution)
    await node.kept(run.execution, lambda execution: execution.ended)
    node.bus.mend()
    assert (await requester.ended(run)).state is S.COMPLETED


@pytest.mark.parametrize(
    ("changed", "code", "text"),
    [
        ({"task": noop(engine=Spec("podman"))}, "Unavailable.Engine", "no engine 'podman'"),
        ({"task": noop(publisher=Spec("gopher"))}, "Unavailable.Publisher", "no publisher 'gopher'"),
        ({"task": noop(input_sources=[Input(Spec("ftp"), "/in")])}, "Unavailable.Source", "input 0 (/in)"),
        (
            {"task": noop(input_sources=[Input(Spec("local", {"SourcePath": "/x"}), "/in")])},
            "Unavailable.Source",
            "local",
        ),
        ({"amounts": Amounts(cpu=-1)}, "Invalid.Amounts", "below zero"),
        ({"amounts": Amounts(cpu=64)}, "Exhausted.Capacity", "64 of 4 cores"),
        ({"task": noop(env={"A": "env:SECRET"})}, "Denied.Env", "SECRET"),
        ({"task": noop({"Stdoot": "x"})}, "Invalid", "Stdoot"),
        ({"task": noop(result_paths=[ResultPath("../up", "/out")])}, "Invalid.Name", "'../up'"),
        ({"task": noop(result_paths=[ResultPath("stdout", "/out")])}, "Invalid.Name", "'stdout'"),
        ({"task": noop(network=Network("Host"))}, "Denied", "network Host"),
    ],
)
async def test_lasting_reasons_are_refusals(
    nodes: Nodes, requester: FakeRequester, changed: dict[str, Any], code: str, text: str
) -> None:
    """What this node will never do is refused at once, with the reason and what to do."""
    node = nodes(policy=Policy(reject_networked=True), host={"SECRET": "x"})
    await node.start()
    run = msgspec.structs.replace(order(), **changed)
    assert (await requester.run(run)).taken
    report = await requester.ended(run)
    await requester.quiet(node)
    assert report.state is S.REFUSED
    assert report.failure is not None
    assert report.failure.code == code
    assert text in report.failure.message
    assert report.failure.hint
    assert node.world.starts == {}


async def test_a_leaving_node_takes_nothing_new(nodes: Nodes, requester: FakeRequester) -> None:
    """It says so in its beat and in its answer."""
    node = nodes()
    agent = await node.start()
    await agent.leave()
    answer = await requester.run(order())
    assert not answer.taken
    await requester.until(lambda: requester.beats[-1].leaving)


async def test_beats_tell_which_ports_are_in_use(nodes: Nodes, requester: FakeRequester) -> None:
    """Whoever places work is told which ports of a node a job cannot have: others' ones, and those given by chance."""
    first, last = 20_100, 20_110
    node = nodes(ports=(first, last), listening=lambda: {8_080, first})
    await node.start()
    run = order(task=noop({"Seconds": 3600}, network=Network("Host", ports=[Port("web")])))
    await requester.run(run)
    given = (await requester.reached(run, S.RUNNING)).ports["web"]
    taken = sorted({8_080, first, given})
    await requester.until(lambda: requester.beats[-1].ports_taken == taken)
    node.world.end(run.execution)
    await requester.ended(run)
    await requester.until(lambda: requester.beats[-1].ports_taken == [8_080, first])
    assert requester.beats[-1].ports_lost == 1


async def test_beats_tell_what_is_here(nodes: Nodes, requester: FakeRequester) -> None:
    """A beat has the node's facts, its incarnation, the newest sequence obeyed, and every execution with its state."""
    node = nodes()
    agent = await node.start()
    run = order(9, noop(LONG))
    await requester.run(run)
    await requester.until(lambda: S.RUNNING in requester.beats[-1].executions.values())
    beat = requester.beats[-1]
    assert (beat.node.id, beat.incarnation, beat.upto) == (NODE, agent.incarnation, 9)
    assert beat.executions == {run.execution: S.RUNNING}
    offer = beat.node.offers("engines", "NOOP")
    assert offer is not None
    assert offer.available


async def test_a_cancel_at_the_moment_of_ending(nodes: Nodes, requester: FakeRequester) -> None:
    """A node that is ended while it takes an order to cancel ends, as it would without one."""
    node = nodes()
    await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    node.here.runners[run.execution].tell(CancelOrdered("not wanted"))
    async with asyncio.timeout(WITHIN_S):
        await node.stop()


async def test_a_replaced_process_stands_aside(nodes: Nodes, requester: FakeRequester) -> None:
    """A process that hears that a later start is the node ends what it runs without a report, says why, and neither beats
    nor takes orders any more; it does not end by itself, so nobody starts it again as the latest."""
    node = nodes()
    agent = await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    reports = len(requester.reports)

    with capture_logs() as logs:
        assert (await requester.replaced(agent.incarnation + 1)).taken
        await happens(lambda: not agent.runners)
    assert node.leftovers() == []
    assert len(requester.reports) == reports
    assert [line["later"] for line in logs if "later" in line] == [agent.incarnation + 1]
    with pytest.raises(Unavailable):
        await requester.run(order(2))
    beats = len(requester.beats)
    await agent.leave()
    assert len(requester.beats) == beats
    assert not node.ended


async def test_a_node_says_why_it_gets_no_work(nodes: Nodes, requester: FakeRequester) -> None:
    """Its own log has the reason and what to do, once however often it is told; and that it gets work again."""
    node = nodes()
    await node.start()
    with capture_logs() as logs:
        for reason in ("a person rejected it", "a person rejected it", "a person removed it"):
            assert (await requester.kept_out(reason)).taken
        await requester.run(order(1))
        await requester.run(order(2))
    told = [(line["event"], line.get("reason"), line.get("hint")) for line in logs if "work" in line["event"]]
    assert told == [
        ("this node gets no work", "a person rejected it", "ask ann"),
        ("this node gets no work", "a person removed it", "ask ann"),
        ("this node gets work again", None, None),
    ]


@pytest.mark.parametrize("killed", [False, True])
async def test_who_stood_aside_may_be_the_node_again(
    nodes: Nodes, requester: FakeRequester, *, killed: bool
) -> None:
    """Started again it takes what it ended when it was replaced, also if it was killed before that was all gone. What was
    done with before stays so."""
    node = nodes(limits=Limits(stop_grace_s=3600.0 if killed else 0.0))
    agent = await node.start()
    done, open_ = order(1, noop(LONG)), order(2, noop({**LONG, "Stubborn": killed}))
    for run in (done, open_):
        await requester.run(run)
        await requester.reached(run, S.RUNNING)
    node.world.end(done.execution)
    await requester.ended(done)
    await happens(lambda: done.execution not in agent.runners)
    await requester.replaced(agent.incarnation + 1)
    if killed:
        await node.kept(open_.execution, lambda execution: execution.settled)
        assert node.journal is not None
        await node.journal.commit()
    else:
        await happens(lambda: not agent.runners)
    await node.crash()
    node.world.programs.clear()

    again = await node.start()
    await happens(lambda: not again.runners)
    assert (await requester.run(open_)).taken
    await happens(lambda: node.world.starts[open_.execution] == 2)
    late = await requester.run(done)
    assert late.failure is not None
    assert late.failure.code == "Conflict.Gone"


async def test_what_was_ended_with_its_node_may_be_run_there_again(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """A node that ends its work when it leaves, and is back before it was missed, takes what it is ordered again."""
    node = nodes()
    node.settings = msgspec.structs.replace(node.settings, end_work=True)
    agent = await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    await requester.reached(run, S.RUNNING)
    await agent.leave()
    await node.stop()

    await node.start()
    assert (await requester.run(run)).taken
    await happens(lambda: node.world.starts[run.execution] == 2)


async def test_the_newest_process_goes_on(nodes: Nodes, requester: FakeRequester) -> None:
    """That it, or an earlier start, is the node changes nothing: what tells an older process reaches it as well."""
    node = nodes()
    agent = await node.start()
    run = order(task=noop(LONG))
    await requester.run(run)
    for incarnation in (agent.incarnation, agent.incarnation - 1):
        assert (await requester.replaced(incarnation)).taken

    await requester.reached(run, S.RUNNING)
    node.world.end(run.execution)
    await requester.ended(run)
