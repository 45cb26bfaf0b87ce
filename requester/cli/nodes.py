"""``shoal node …``: list, describe, approve, reject, delete, cordon, drain, uncordon.

Knows: the columns of the list, and how a decision is sent. Must not know: how answers come (`requester.client`).
"""

import time
from typing import Annotated, Any, Final

from cyclopts import Parameter

from protocol.ids import short
from protocol.spec.quantities import parse_duration_s
from requester.cli.endpoint import Api
from requester.cli.exits import Exit, tell
from requester.cli.output import Column, ListFormat, ObjectFormat, WholeList, print_list, print_object, size
from requester.client import NODES, node_path

Json = dict[str, Any]
DRAIN_POLL_S: Final = 1.0
Message = Annotated[str, Parameter(alias="-m", help="Why.")]
Ref = Annotated[str, Parameter(name="NODE", help="The node's id or the beginning of it.")]


def list_nodes(
    *,
    labels: Annotated[str, Parameter(help="A label selector.")] = "",
    show: Annotated[
        str, Parameter(help="Groups of columns: labels, version, features, capacity.")
    ] = "labels,capacity",
    filter_approval: Annotated[str, Parameter(help="approved, pending or rejected.")] = "",
    filter_status: Annotated[str, Parameter(help="connected or disconnected.")] = "",
    part: WholeList = WholeList(),
    order_by: Annotated[
        str, Parameter(help="id, type, approval, status or available_ with cpu, memory, disk or gpu.")
    ] = "id",
    order_reversed: Annotated[bool, Parameter(help="Reverse the order.")] = False,
    how: ListFormat = ListFormat(),
    api: Api = Api(),
) -> int:
    """List compute nodes with what they offer."""
    with api.client() as client:
        page = client.call(
            "GET",
            NODES,
            labels=labels,
            limit=part.limit or "",
            order_by=order_by,
            reverse="true" if order_reversed else "",
            **{"filter-approval": filter_approval, "filter-status": filter_status},
        )
    columns: list[Column] = [
        ("ID", lambda node: node["Info"]["NodeID"] if how.wide else short(node["Info"]["NodeID"])),
        ("TYPE", lambda node: node["Info"]["NodeType"]),
        ("APPROVAL", lambda node: node["Membership"]),
        ("STATUS", _status),
    ]
    for group in show.split(","):
        columns += _GROUPS.get(group.strip().lower(), [])
    print_list(page["Nodes"] or [], columns, how)
    return Exit.OK


def describe(node: Ref, /, *, how: ObjectFormat = ObjectFormat(output="yaml"), api: Api = Api()) -> int:
    """Describe a node."""
    with api.client() as client:
        view = client.call("GET", node_path(node))
    print_object(view["Node"], how.output or "yaml", how.pretty)
    return Exit.OK


def approve(node: Ref, /, *, message: Message = "", api: Api = Api()) -> int:
    """Let a node take work."""
    return _update(node, "approve", message, api)


def reject(node: Ref, /, *, message: Message = "", api: Api = Api()) -> int:
    """Give a node no more work, and move what it has elsewhere at once."""
    return _update(node, "reject", message, api)


def delete(node: Ref, /, *, message: Message = "", api: Api = Api()) -> int:
    """Forget a node and end what it has; it joins again at its next start."""
    return _update(node, "delete", message, api)


def cordon(node: Ref, /, *, message: Message = "", api: Api = Api()) -> int:
    """Give a node no new work; what runs there goes on."""
    return _update(node, "cordon", message, api)


def uncordon(node: Ref, /, *, api: Api = Api()) -> int:
    """Give a node work again, also one that was set aside because its work kept failing."""
    return _update(node, "uncordon", "", api)


def drain(
    node: Ref,
    /,
    *,
    deadline: Annotated[
        str,
        Parameter(
            help="What has not ended by then is moved: 90, 5m, 1h30m (default 1h); 0 moves all at once."
        ),
    ] = "1h",
    wait: Annotated[bool, Parameter(help="Wait until nothing is left on the node.")] = False,
    message: Message = "",
    api: Api = Api(),
) -> int:
    """Give a node no new work, and take from it what it has: services at once, the rest when it ends or at the deadline."""
    more = {"Deadline": parse_duration_s(deadline)}
    code = _update(node, "drain", message, api, more)
    if wait:
        with api.client() as client:
            told = 0
            while left := _left_on(client.call("GET", node_path(node))["Node"]):
                if left != told:
                    tell(f"{left} execution{'' if left == 1 else 's'} left")
                told = left
                time.sleep(DRAIN_POLL_S)
    return code


def _left_on(node: Json) -> int:
    found = _compute(node)
    return int(found["RunningExecutions"] + found["EnqueuedExecutions"])


def _update(node: str, action: str, message: str, api: Api, more: Json | None = None) -> int:
    body = {"Action": action, "Message": message, "NodeID": node, **(more or {})}
    with api.client() as client:
        client.call("PUT", node_path(node), body=body)
    print("Ok")
    return Exit.OK


def _status(node: Json) -> str:
    """The connection, why a node that is there gets no new work, and whether two processes speak as it."""
    kept = node.get("Scheduling")
    words = [kept["State"]] if kept else []
    if "Doubled" in node:
        words.append("two processes")
    return str(node["Connection"]) + (f" ({', '.join(words)})" if words else "")


def _compute(node: Json) -> Json:
    found: Json = node["Info"]["ComputeNodeInfo"]
    return found


def _of_max(node: Json, name: str, show: Any) -> str:
    info = _compute(node)
    return f"{show(info['AvailableCapacity'][name])} / {show(info['MaxCapacity'][name])}"


_GROUPS: Final[dict[str, list[Column]]] = {
    "labels": [
        (
            "LABELS",
            lambda node: " ".join(f"{key}={value}" for key, value in sorted(node["Info"]["Labels"].items())),
        )
    ],
    "version": [("VERSION", lambda node: str(node["Info"]["BacalhauVersion"].get("Shoal", "")))],
    "features": [
        ("ENGINES", lambda node: " ".join(_compute(node)["ExecutionEngines"])),
        ("INPUTS FROM", lambda node: " ".join(_compute(node)["StorageSources"])),
        ("OUTPUTS", lambda node: " ".join(_compute(node)["Publishers"])),
    ],
    "capacity": [
        ("CPU", lambda node: _of_max(node, "CPU", lambda cores: f"{cores:g}")),
        ("MEMORY", lambda node: _of_max(node, "Memory", size)),
        ("DISK", lambda node: _of_max(node, "Disk", size)),
        ("GPU", lambda node: _of_max(node, "GPU", str)),
    ],
}
