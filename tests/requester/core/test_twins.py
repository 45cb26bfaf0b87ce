"""Two processes that speak as one node: told apart from a late word of one that is gone."""

import pytest

from protocol.ids import NodeId
from protocol.nodes import NodeInfo
from requester.core.model import NodeRecord
from requester.core.twins import TURNS, Twins, outlived

N1, N2 = NodeId("n1"), NodeId("n2")


@pytest.mark.parametrize(
    ("incarnation", "connected", "is_outlived"),
    [(4, True, True), (5, True, False), (6, True, False), (4, False, False)],
)
def test_a_later_start_is_the_node_while_it_is_there(
    incarnation: int, connected: bool, is_outlived: bool
) -> None:
    """The process with the highest start is the node; once that one is silent any other may be, whatever its number: a
    machine whose clock was set back is not shut out."""
    node = NodeRecord(NodeInfo(N1, "1"), connected=connected, incarnation=5)

    assert outlived(node, incarnation) is is_outlived


def test_a_late_word_of_a_process_that_is_gone_says_nothing() -> None:
    """Only what is heard in turn with the newer process counts, not how much or how often."""
    twins = Twins()
    for at in range(10):
        twins.hear_older(N1, float(at))

    assert [twins.hear_newest(N1) for _ in range(10)] == [False] * 10


def test_two_that_are_heard_in_turn_both_live() -> None:
    """It is told after a few turns, and again after as many; of another node it says nothing."""
    twins = Twins()
    told = []
    for at in range(2 * TURNS):
        twins.hear_older(N1, float(at))
        told.append(twins.hear_newest(N1))

    assert told == ([False] * (TURNS - 1) + [True]) * 2
    assert not twins.hear_newest(N2)


def test_one_that_is_silent_is_forgotten() -> None:
    """Who was not heard since is gone, once; and who is replaced anew is counted anew."""
    twins = Twins()
    twins.hear_older(N1, 1.0)
    twins.hear_older(N2, 2.0)

    assert twins.gone(2.0) == [N1]
    assert twins.gone(2.0) == []
    twins.drop(N2)
    assert twins.gone(9.0) == []
