"""A beat is read the same whether its node was described before or not."""

import pytest
from msgspec.structs import replace

from protocol.errors import Broken
from protocol.ids import ExecutionId, NodeId
from protocol.messages import Beat, encode
from protocol.nodes import NodeInfo, Offer
from protocol.states import ExecutionState
from requester.beats import Beats, _Closed

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
    assert _Closed.__struct_fields__ == Beat.__struct_fields__
    assert Beats().read("node.n.beat", encode(BEAT)) == BEAT


def test_the_same_description_is_the_same_object() -> None:
    """What has not changed need not be compared; what has, is read, for each node by itself."""
    beats = Beats()
    first = beats.read("node.n.beat", encode(BEAT))
    later = replace(BEAT, at=6.0, executions={})
    changed = replace(BEAT, node=replace(BEAT.node, labels={"zone": "b"}))

    again = beats.read("node.n.beat", encode(later))
    assert again == later
    assert again.node is first.node
    assert beats.read("node.m.beat", encode(changed)) == changed
    assert beats.read("node.n.beat", encode(changed)) == changed


def test_what_is_no_beat_is_said() -> None:
    """With its place, whether the fault is in the description or around it."""
    for data in (b"{", b'{"node": 5, "incarnation": 1, "at": 1.0}', encode(replace(BEAT, at="x"))):
        with pytest.raises(Broken):
            Beats().read("node.n.beat", data)
