"""Who has been silent is found by the order of hearing, and is the same as by a look at everybody."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import NodeId
from protocol.nodes import NodeInfo
from requester.core.fleet import Fleet
from requester.core.hearing import Hearing
from requester.core.model import NodeRecord

NAMES = ["a", "b", "c", "d"]


def node(name: str, *, connected: bool = True, expected: bool = True, at: float = 0.0) -> NodeRecord:
    return NodeRecord(NodeInfo(NodeId(name), "1"), connected=connected, expected=expected, last_beat_at=at)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.sampled_from(["beats", "leaves", "is known", "is lost"]),
            st.integers(1, 3),
        ),
        max_size=40,
    )
)
def test_the_silent_are_those_that_were_not_heard(story: list[tuple[str, str, int]]) -> None:
    """Whatever nodes do, those found silent at each moment are all that are there and were heard before it."""
    hearing, heard, there = Hearing(), dict[str, float](), set[str]()
    now = 0.0
    for name, deed, seconds in story:
        now += seconds
        if deed == "beats":
            hearing.place(node(name, at=now))
            hearing.hear(NodeId(name), now)
            heard[name] = now
            there.add(name)
        elif deed == "leaves" and name in heard:
            hearing.place(node(name, connected=False))
            hearing.hear(NodeId(name), now)
            heard[name] = now
            there.discard(name)
        elif deed == "is known" and name not in heard:
            hearing.place(node(name, connected=False))
        elif deed == "is lost":
            hearing.drop(NodeId(name))
            heard.pop(name, None)
            there.discard(name)
        assert all(hearing.at(NodeId(each)) == at for each, at in heard.items())
        for before in (now - 4, now, now + 1):
            assert set(hearing.silent(before)) == {each for each in there if heard[each] < before}


def test_the_missed_are_told_once_they_are_given_up() -> None:
    """A node that is silent is missed until it is given up, and again when it has come back and fallen silent anew; one that
    was never heard is missed first.
    """
    hearing, name = Hearing(), NodeId("a")
    hearing.place(node("a", at=10.0))
    assert hearing.missed(100.0) == []
    hearing.place(node("a", connected=False))
    hearing.place(node("never", connected=False))
    assert hearing.missed(5.0) == ["never"]
    assert hearing.missed(11.0) == ["never", name]
    hearing.place(node("a", connected=False, expected=False))
    assert hearing.missed(100.0) == ["never"]

    hearing.place(node("a"))
    hearing.hear(name, 20.0)
    assert hearing.silent(21.0) == [name]
    hearing.place(node("a", connected=False))
    assert hearing.silent(100.0) == []
    assert hearing.missed(21.0) == ["never", name]


def test_a_fleet_forgets_when_it_heard_a_node() -> None:
    """Nothing is left of a node that is dropped."""
    fleet = Fleet()
    fleet.put(node("a", at=10.0))
    fleet.drop(NodeId("a"))
    assert len(fleet.hearing) == fleet.hearing.at(NodeId("a")) == 0
    assert fleet.hearing.silent(100.0) == fleet.hearing.missed(100.0) == []
