"""What a node does when the log was restored and has given a name again, or does not know what has ended here."""

from collections.abc import Callable

import msgspec

from compute.limits import Limits
from compute.orders import OTHER_LOG_S
from protocol.clock import ManualClock
from protocol.states import ENDS, ExecutionState
from tests.compute.twins import FakeRequester, NodeOnTest, noop, order

S = ExecutionState
Nodes = Callable[..., NodeOnTest]
LONG = {"Seconds": 3600}


async def test_a_name_that_was_given_again_is_run_as_it_is_ordered_now(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """What a lost version of a job runs here ends when the same name is ordered for another, which is run then."""
    node = nodes(limits=Limits(stop_grace_s=0.0))
    await node.start()
    lost = order(5, noop(LONG), ordered_at=1_800_000_000.25)
    for again in (
        msgspec.structs.replace(lost, ordered_at=lost.ordered_at + 1, task=noop({"Stdout": "now"})),
        msgspec.structs.replace(lost, seq=4, task=noop({"Stdout": "now"})),
    ):
        requester.accepted.clear()
        await requester.run(lost)
        await requester.until(lambda: lost.execution in node.here.runners)
        refused = await requester.run(again)
        assert refused.failure is not None
        assert (refused.failure.code, refused.failure.retryable) == ("Conflict.Log", True)
        await requester.quiet(node)

        assert (await requester.run(again)).taken
        report = await requester.ended(again)
        assert report.output is not None
        assert (report.seq, report.output.stdout) == (again.seq, "now")
        await requester.quiet(node)
        # The next round is another life of the name.
        node.here._orders._gone.clear()


async def test_an_end_that_no_log_wants_is_forgotten_after_a_while(
    nodes: Nodes, requester: FakeRequester
) -> None:
    """What had ended and was not answered when the log was restored is done with after a minute, as what still runs is."""
    clock = ManualClock()
    node = nodes(clock=clock)
    requester.decide = lambda report: "later" if report.state in ENDS else "noted"
    await node.start()
    assert (await requester.full_list(1, [], created="log-1")).taken
    lost = order(8)
    await requester.run(lost)
    await requester.reached(lost, S.COMPLETED)

    for _ in range(int(OTHER_LOG_S // 5)):
        assert not (await requester.full_list(2, [], created="log-2")).taken
        await clock.advance(5)
    assert lost.execution in node.here.runners
    assert (await requester.full_list(2, [], created="log-2")).taken
    await requester.quiet(node)


async def test_what_goes_on_is_told_to_another_log(nodes: Nodes, requester: FakeRequester) -> None:
    """A node that goes over to another log says how all stands that it has: the log may mean another execution by its name,
    of which the order was lost on its way. Then it ends what it has, and takes the order.
    """
    node = nodes(limits=Limits(stop_grace_s=0.0))
    await node.start()
    assert (await requester.full_list(1, [], created="log-1")).taken
    lost = order(5, noop(LONG), ordered_at=1_800_000_000.25)
    await requester.run(lost)
    await requester.reached(lost, S.RUNNING)
    again = msgspec.structs.replace(lost, ordered_at=lost.ordered_at + 1, task=noop({"Stdout": "now"}))
    said = requester.decide
    requester.decide = lambda report: "replaced" if report.ordered_at == lost.ordered_at else said(report)

    assert (await requester.full_list(5, [again], created="log-2")).taken
    await requester.quiet(node)
    assert (await requester.run(again)).taken
    report = await requester.ended(again)
    assert report.output is not None
    assert report.output.stdout == "now"
