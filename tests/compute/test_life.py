"""A node's whole path from an order to an answered report, on the in-memory bus."""

from collections.abc import Callable

from protocol.states import ExecutionState
from tests.compute.twins import FakeRequester, NodeOnTest, noop, order

S = ExecutionState
Nodes = Callable[..., NodeOnTest]


async def test_a_run_ends_with_one_report(nodes: Nodes, requester: FakeRequester) -> None:
    """A small job says one thing: that it is completed, with its output and every stage it passed."""
    node = nodes()
    await node.start()
    run = order(task=noop({"Stdout": "hello\n", "Stderr": "oh\n"}))

    answer = await requester.run(run)
    report = await requester.ended(run)

    assert answer.taken
    assert report.state is S.COMPLETED
    assert report.output is not None
    assert (report.output.stdout, report.output.stderr, report.output.exit_code) == ("hello\n", "oh\n", 0)
    assert [stage.state for stage in report.stages] == [S.ASSIGNED, S.STAGING, S.RUNNING, S.COMPLETED]
    assert [each.state for each in requester.reports] == [S.COMPLETED]
