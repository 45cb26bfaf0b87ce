"""A beat is read the same whether its node was described before or not."""

import json

import pytest
from msgspec.structs import replace

from protocol.errors import Broken
from protocol.ids import ExecutionId, NodeId
from protocol.messages import Beat, decode, encode
from protocol.nodes import NodeInfo, Offer
from protocol.states import ExecutionState
from requester.beats import Beats, _Rest

BEAT = Beat(
    NodeInfo(NodeId("n"), "1", labels={"zone": "a"}, engines=[Offer("wasm")]),
    incarnation=3,
    at=5.0,
    upto=7,
    leaving=True,
    executions={ExecutionId("e"): ExecutionState.RUNNING},
    held={"token": 9},
)


def test_every_field_of_a_beat_is_read() -> None:
    """Also those that are added to it one day."""
    assert ("node", *_Rest.__struct_fields__) == Beat.__struct_fields__
    assert Beats().read("node.n.beat", encode(BEAT)) == BEAT


def test_a_beat_in_another_s_name_is_none() -> None:
    """The server vouches for the subject: whose node the body is, has to fit, also after one that did."""
    beats = Beats()
    beats.read("node.n.beat", encode(BEAT))
    for _ in range(2):
        with pytest.raises(Broken, match="m"):
            beats.read("node.n.beat", encode(replace(BEAT, node=replace(BEAT.node, id=NodeId("m")))))


def test_the_order_of_members_means_nothing() -> None:
    """Whoever writes a beat in another order, or with spaces, is read the same; so is what follows it."""
    plain = decode(encode(BEAT), dict[str, object])
    for turned in (dict(reversed(plain.items())), plain):
        beats = Beats()
        for _ in range(2):
            assert beats.read("node.n.beat", json.dumps(turned, indent=1).encode()) == BEAT
            assert beats.read("node.n.beat", encode(BEAT)) == BEAT


def test_a_longer_description_is_another_one() -> None:
    """What was read is known again by all of its bytes, not by how they begin."""
    beats = Beats()
    beats.read("node.n.beat", encode(BEAT))
    with pytest.raises(Broken):
        beats.read("node.n.beat", encode(BEAT).replace(b',"incarnation"', b'}"incarnation"'))
    assert beats.read("node.n.beat", encode(BEAT)) == BEAT


def test_what_is_forgotten_is_read_anew() -> None:
    """Nothing is left of a node that is not known any more."""
    beats = Beats()
    first = beats.read("node.n.beat", encode(BEAT))
    beats.forget(BEAT.node.id)
    beats.forget(BEAT.node.id)
    assert beats._last == {}
    assert beats.read("node.n.beat", encode(BEAT)).node is not first.node


def test_the_same_description_is_the_same_object() -> None:
    """What has not changed need not be compared; what has, is read, for each node by itself."""
    beats = Beats()
    first = beats.read("node.n.beat", encode(BEAT))
    later = replace(BEAT, at=6.0, executions={})
    changed = replace(BEAT, node=replace(BEAT.node, labels={"zone": "b"}))

    again = beats.read("node.n.beat", encode(later))
    assert again == later
    assert again.node is first.node
    other = replace(BEAT, node=replace(BEAT.node, id=NodeId("m")))
    assert beats.read("node.m.beat", encode(other)) == other
    assert beats.read("node.n.beat", encode(changed)) == changed


def test_only_the_time_of_a_beat_may_differ_from_what_was_read_before() -> None:
    """A beat that says nothing new is the one before, and its time is not read; whatever else is new, is read, wherever in
    the beat it stands.
    """
    beats = Beats()
    news = [
        replace(BEAT, incarnation=33),
        replace(BEAT, upto=8),
        replace(BEAT, leaving=False),
        replace(BEAT, executions={}),
        replace(BEAT, executions={ExecutionId("e"): ExecutionState.PUBLISHING}),
        replace(BEAT, held=None),
        Beat(BEAT.node, 3, 5.0),
        Beat(BEAT.node, 3, 5.0, 5),
        Beat(BEAT.node, 3, 5.0, held={}),
    ]
    for new in news:
        before = beats.read("node.n.beat", encode(BEAT))
        assert beats.read("node.n.beat", encode(replace(BEAT, at=1_764_498_123.25))) is before
        assert beats.read("node.n.beat", encode(new)) == new
        assert beats.read("node.n.beat", encode(replace(new, at=71.5))) == new


@pytest.mark.parametrize("time", [b"", b'"x"', b"1,2", b"1.2.3", b'5.0,"upto":9', b"1}", b"null"])
def test_in_the_place_of_a_time_is_a_time(time: bytes) -> None:
    """A beat is not taken for the one before by how it begins and ends."""
    beats = Beats()
    plain = encode(Beat(BEAT.node, 3, 5.0))
    beats.read("node.n.beat", plain)
    other = plain.replace(b'"at":5.0', b'"at":' + time)
    assert other != plain
    if time.startswith(b"5.0"):
        assert beats.read("node.n.beat", other) == Beat(BEAT.node, 3, 5.0, 9)
    else:
        with pytest.raises(Broken):
            beats.read("node.n.beat", other)


def test_what_is_no_beat_is_said() -> None:
    """With its place, whether the fault is in the description or around it."""
    for data in (b"{", b'{"node": 5, "incarnation": 1, "at": 1.0}', encode(replace(BEAT, at="x"))):
        with pytest.raises(Broken):
            Beats().read("node.n.beat", data)
