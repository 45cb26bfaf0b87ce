"""The routes about nodes: reference of the peer's API, sections 2.7, 3.2 and 3.6."""

from typing import Any

import pytest
from aiohttp import test_utils, web

from protocol.ids import NodeId
from tests.requester.twin import NODE, Twin, a_node

Api = test_utils.TestClient[web.Request, web.Application]
NODES = "/api/v1/orchestrator/nodes"


async def _ids(api: Api, **query: Any) -> list[str]:
    async with api.get(NODES, params=query) as answer:
        assert answer.status == 200
        return [node["Info"]["NodeID"] for node in (await answer.json())["Nodes"]]


async def test_nodes_come_under_both_keys(api: Api) -> None:
    """The Go client reads ``Nodes``, the Python SDK ``nodes``: both are there and equal."""
    async with api.get(NODES) as answer:
        body = await answer.json()
    assert body["Nodes"] == body["nodes"]
    assert body["NextToken"] == ""


async def test_a_node_shows_what_it_offers(api: Api) -> None:
    """Drivers that are not available are not listed with the others, but say why; CPU is a number, memory bytes."""
    async with api.get(f"{NODES}/{NODE[:10]}") as answer:
        body = await answer.json()
    node = body["Node"]
    assert body["node"] == node
    info = node["Info"]["ComputeNodeInfo"]
    assert info["ExecutionEngines"] == ["docker"]
    assert info["Unavailable"] == [{"Type": "wasm", "Reason": "no runtime", "Hint": "install it"}]
    assert (info["MaxCapacity"]["CPU"], info["AvailableCapacity"]["Memory"]) == (4.0, 7_000_000_000)
    assert (node["Membership"], node["Connection"]) == ("APPROVED", "CONNECTED")


async def test_nodes_are_chosen_and_ordered(api: Api, twin: Twin) -> None:
    """Labels, approval and connection choose nodes; order, direction and limit arrange them."""
    twin.known[NodeId("n-b")] = a_node(NodeId("n-b"), connected=False, labels={"region": "us"})
    assert await _ids(api) == [NODE, "n-b"]
    assert await _ids(api, labels="region=us") == ["n-b"]
    assert await _ids(api, **{"filter-status": "disconnected"}) == ["n-b"]
    assert await _ids(api, **{"filter-approval": "PENDING"}) == []
    assert await _ids(api, filter_approval="PENDING") == []
    assert await _ids(api, reverse="true", limit=1) == ["n-b"]


@pytest.mark.parametrize(
    "query",
    [
        {"order_by": "age"},
        {"filter-status": "x"},
        {"filter-approval": "x"},
        {"filter_approval": "x"},
        {"labels": "("},
    ],
)
async def test_bad_wishes_are_told(api: Api, query: dict[str, str]) -> None:
    """A filter or order that is not known is 400."""
    async with api.get(NODES, params=query) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    ("action", "membership"), [("approve", "APPROVED"), ("REJECT", "REJECTED"), ("delete", "DELETED")]
)
async def test_membership_is_changed(api: Api, twin: Twin, action: str, membership: str) -> None:
    """Both the Go client's and the SDK's way change a node's membership and answer with both spellings of success."""
    body = {"Action": action, "Message": "why", "NodeID": NODE}
    async with api.put(f"{NODES}/{NODE}", json=body) as answer:
        assert await answer.json() == {"Success": True, "success": True}
    async with api.post(NODES, json=body) as answer:
        assert answer.status == 200
    assert twin.calls == [("set_membership", (NODE, membership, "why"))] * 2


async def test_cordon_drain_and_uncordon(api: Api, twin: Twin) -> None:
    """A node is cordoned, drained within a deadline in seconds, and let back; it shows which of these it is."""
    for body, wanted, state in (
        ({"Action": "cordon", "Message": "disk"}, ("disk", None), "cordoned"),
        ({"Action": "drain"}, ("", 3600.0), "draining"),
        ({"Action": "drain", "Deadline": 90}, ("", 90.0), "draining"),
    ):
        async with api.put(f"{NODES}/{NODE}", json=body) as answer:
            assert await answer.json() == {"Success": True, "success": True}
        assert twin.calls[-1] == ("cordon", (NODE, *wanted))
        async with api.get(f"{NODES}/{NODE}") as answer:
            assert (await answer.json())["Node"]["Scheduling"]["State"] == state
    async with api.put(f"{NODES}/{NODE}", json={"Action": "drain", "Deadline": "soon"}) as answer:
        assert answer.status == 400
    async with api.put(f"{NODES}/{NODE}", json={"Action": "uncordon"}) as answer:
        assert answer.status == 200
    async with api.get(f"{NODES}/{NODE}") as answer:
        assert "Scheduling" not in (await answer.json())["Node"]


async def test_unknown_nodes_and_actions_are_told(api: Api) -> None:
    """404 for a node that is not there, 400 for an action that is none."""
    async with api.get(f"{NODES}/n-nope") as answer:
        assert answer.status == 404
    async with api.put(f"{NODES}/{NODE}", json={"Action": "dance"}) as answer:
        assert answer.status == 400


async def test_a_body_without_a_node_changes_none(api: Api, twin: Twin) -> None:
    """The SDK's call without ``node_id`` in the body names no node: it is 400 and says so."""
    async with api.post(NODES, json={"action": "reject", "message": "why"}) as answer:
        assert (answer.status, "NodeID" in (await answer.json())["Message"]) == (400, True)
    assert twin.calls == []
