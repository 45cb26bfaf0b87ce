"""The routes about nodes: list, describe, approve, reject, delete, cordon, drain, uncordon.

Knows: bodies and parameters of Bacalhau's paths. Must not know: how membership is kept.
"""

from functools import partial
from typing import Any, Final

from aiohttp import web

from protocol.errors import Invalid
from protocol.spec.selectors import matches, parse_selector
from requester.api import node_views, queries
from requester.api.envelope import answer, listed
from requester.api.jobs import body_of, member
from requester.api.keys import BUILD, VERBS
from requester.core.model import NodeRecord

routes = web.RouteTableDef()
BASE: Final = "/api/v1/orchestrator/nodes"

_MEMBERSHIPS: Final = {"approve": "APPROVED", "reject": "REJECTED", "delete": "DELETED"}
_ACTIONS: Final = (*_MEMBERSHIPS, "cordon", "drain", "uncordon")
DRAIN_S: Final = 3600.0
"""How long work may stay on a node that is drained, if nobody says otherwise."""
_ORDERS: Final = {
    "id": lambda node: node.info.id,
    "type": lambda node: "Compute",
    "available_cpu": lambda node: node.free.cpu,
    "available_memory": lambda node: node.free.memory_bytes,
    "available_disk": lambda node: node.free.disk_bytes,
    "available_gpu": lambda node: node.free.gpu,
    "approval": lambda node: node.membership,
    "status": lambda node: not node.connected,
}


@routes.get(BASE)
async def list_nodes(request: web.Request) -> web.Response:
    query = request.query
    nodes = _chosen(await request.app[VERBS].nodes(), request)
    order_by = queries.text(query, "order_by", "id")
    if order_by not in _ORDERS:
        raise Invalid(f"order_by {order_by!r} is not one of {', '.join(_ORDERS)}")
    nodes.sort(key=_ORDERS[order_by], reverse=queries.flag(query, "reverse"))
    if limit := queries.number(query, "limit"):
        nodes = nodes[:limit]
    items = await listed(nodes, partial(node_views.node, build=request.app[BUILD]))
    # The Python SDK reads the lower-case key.
    return answer({"NextToken": "", "Nodes": items, "nodes": items})


@routes.get(BASE + "/{ref}")
async def describe(request: web.Request) -> web.Response:
    node = await request.app[VERBS].node(request.match_info["ref"])
    view = node_views.node(node, request.app[BUILD])
    return answer({"Node": view, "node": view})


@routes.put(BASE + "/{ref}")
async def update(request: web.Request) -> web.Response:
    return await _update(request, request.match_info["ref"], await body_of(request))


@routes.post(BASE)
async def update_by_body(request: web.Request) -> web.Response:
    """The Python SDK's way: the node's id in the body."""
    body = await body_of(request)
    ref = member(body, "nodeid")
    if not isinstance(ref, str) or not ref:
        # The SDK takes the id as an argument as well, and sends that one nowhere.
        raise Invalid('the body needs a member "NodeID"', hint="Set node_id in the request's body too.")
    return await _update(request, ref, body)


async def _update(request: web.Request, ref: str, body: dict[str, Any]) -> web.Response:
    action = str(member(body, "action") or "")
    message = str(member(body, "message") or "")
    verbs = request.app[VERBS]
    match action.lower():
        case "approve" | "reject" | "delete" as decision:
            await verbs.set_membership(ref, _MEMBERSHIPS[decision], message)
        case "cordon":
            await verbs.cordon(ref, reason=message)
        case "drain":
            await verbs.cordon(ref, reason=message, drain_s=_deadline(body))
        case "uncordon":
            await verbs.uncordon(ref)
        case _:
            raise Invalid(f"action {action!r} is not one of {', '.join(_ACTIONS)}")
    return answer({"Success": True, "success": True})


def _deadline(body: dict[str, Any]) -> float:
    """The member ``Deadline``, in seconds."""
    deadline = member(body, "deadline")
    if deadline is None:
        return DRAIN_S
    if not isinstance(deadline, int | float) or isinstance(deadline, bool):
        raise Invalid(f"Deadline {deadline!r} is not a number of seconds")
    return float(deadline)


def _chosen(nodes: list[NodeRecord], request: web.Request) -> list[NodeRecord]:
    query = request.query
    # The Python SDK spells this one, and only this one, with an underscore.
    approval = queries.text(query, "filter-approval", queries.text(query, "filter_approval")).upper()
    status = queries.text(query, "filter-status").upper()
    if approval and approval not in {"APPROVED", "PENDING", "REJECTED"}:
        raise Invalid(f"filter-approval {approval!r} is not one of APPROVED, PENDING, REJECTED")
    if status and status not in {"CONNECTED", "DISCONNECTED"}:
        raise Invalid(f"filter-status {status!r} is not one of CONNECTED, DISCONNECTED")
    wanted = [
        constraint for text in query.getall("labels", []) if text for constraint in parse_selector(text)
    ]
    return [
        node
        for node in nodes
        if (not approval or node.membership == approval)
        and (not status or node.connected is (status == "CONNECTED"))
        and all(matches(constraint, node.info.labels) for constraint in wanted)
    ]
