"""``/metrics``: what one requester knows of the cluster, in the text form that Prometheus reads.

Knows: names of metrics, and which fact is behind each. Must not know: how facts are come by. Every requester knows the whole
cluster: of gauges about jobs and nodes read one requester's, or the maximum; counters are each requester's own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from requester.api.keys import VERBS
from requester.core.model import NodeRecord

routes = web.RouteTableDef()

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_OF_FACTS: Final = (
    ("connected", "gauge", "shoal_log_connected", "Whether a NATS server is connected."),
    ("writable", "gauge", "shoal_log_writable", "Whether the log takes what it is given."),
    ("log_share", "gauge", "shoal_log_used_ratio", "How full the log is; from 0.8 on it takes no new jobs."),
    ("open_jobs", "gauge", "shoal_jobs_open", "Jobs that have not ended."),
    ("queued_jobs", "gauge", "shoal_jobs_queued", "Open jobs of which something waits for a node."),
    ("entries", "counter", "shoal_log_entries_total", "Entries that this requester wrote."),
    ("stale", "counter", "shoal_log_entries_stale_total", "Entries refused because another came first."),
    ("refused", "counter", "shoal_log_entries_refused_total", "Entries that the log refused for good."),
    ("commands", "counter", "shoal_commands_total", "Orders sent to nodes."),
    (
        "repairs",
        "counter",
        "shoal_commands_repeated_total",
        "Orders sent again because a node did not name the work.",
    ),
)


def exposition(facts: Mapping[str, Any], nodes: Iterable[NodeRecord]) -> str:
    """The whole answer, from `Verbs.facts` and all nodes."""
    return "\n".join([*_lines(facts, list(nodes)), ""])


def _lines(facts: Mapping[str, Any], nodes: list[NodeRecord]) -> Iterator[str]:
    for fact, kind, name, about in _OF_FACTS:
        if fact in facts:
            yield from _head(name, kind, about)
            yield f"{name} {_number(facts[fact])}"
    if "requesters" in facts:
        yield from _head("shoal_requesters", "gauge", "Requesters that are there, this one included.")
        yield f"shoal_requesters {len(facts['requesters'])}"
    yield from _head(
        "shoal_nodes", "gauge", "Nodes by how they stand: only those that are ready get new work."
    )
    counts = Counter(map(_standing, nodes))
    for standing in ("ready", "disconnected", "pending", "rejected", "cordoned", "aside"):
        yield f'shoal_nodes{{standing="{standing}"}} {counts[standing]}'
    ready = [each for each in nodes if _standing(each) == "ready"]
    yield from _head("shoal_cpu_cores", "gauge", "Cores of the nodes that are ready.")
    yield f"shoal_cpu_cores {_number(sum(each.info.capacity.cpu for each in ready))}"
    yield from _head("shoal_cpu_cores_free", "gauge", "Cores of those that nothing has been promised of.")
    yield f"shoal_cpu_cores_free {_number(sum(each.free.cpu for each in ready))}"
    yield from _head("shoal_memory_bytes", "gauge", "Memory of the nodes that are ready.")
    yield f"shoal_memory_bytes {sum(each.info.capacity.memory_bytes for each in ready)}"
    yield from _head("shoal_memory_free_bytes", "gauge", "Memory of those that nothing has been promised of.")
    yield f"shoal_memory_free_bytes {sum(each.free.memory_bytes for each in ready)}"


def _head(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"


def _number(value: float) -> str:
    return f"{float(value):.15g}"


def _standing(node: NodeRecord) -> str:
    """The first reason for which a node gets no new work, or ``ready``."""
    if not node.connected:
        return "disconnected"
    if node.membership != "APPROVED":
        return node.membership.lower()
    if node.cordon is not None:
        return "cordoned"
    return "aside" if node.aside is not None else "ready"


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    verbs = request.app[VERBS]
    text = exposition(verbs.facts(), await verbs.nodes())
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})
