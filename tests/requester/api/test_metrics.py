"""What a monitoring system reads of a requester."""

import re

from aiohttp import test_utils, web
from msgspec.structs import replace

from protocol.ids import NodeId
from requester.api.metrics import exposition
from requester.core.model import Aside, Cordon
from tests.requester.twin import a_node

Api = test_utils.TestClient[web.Request, web.Application]
FACTS = {"connected": True, "writable": False, "log_share": 0.25, "open_jobs": 7, "requesters": ["r1", "r2"]}


def test_what_is_told() -> None:
    """A fact is a metric with help and type; a node is counted once, under the first reason why it gets no work."""
    ready, lost = a_node(NodeId("n-1")), a_node(NodeId("n-2"), connected=False)
    nodes = [
        ready,
        replace(lost, membership="REJECTED"),
        replace(a_node(NodeId("n-3")), membership="PENDING"),
        replace(a_node(NodeId("n-4")), cordon=Cordon(1.0), aside=Aside(2.0, "ill")),
        replace(a_node(NodeId("n-5")), aside=Aside(2.0, "ill")),
    ]
    text = exposition(FACTS, nodes)
    for line in (
        "shoal_log_connected 1",
        "shoal_log_writable 0",
        "shoal_log_used_ratio 0.25",
        "shoal_jobs_open 7",
        "shoal_requesters 2",
        'shoal_nodes{standing="ready"} 1',
        'shoal_nodes{standing="disconnected"} 1',
        'shoal_nodes{standing="pending"} 1',
        'shoal_nodes{standing="rejected"} 0',
        'shoal_nodes{standing="cordoned"} 1',
        'shoal_nodes{standing="aside"} 1',
        "shoal_cpu_cores 4",
        "shoal_cpu_cores_free 3.5",
        "shoal_memory_free_bytes 7000000000",
    ):
        assert f"\n{line}\n" in f"\n{text}"
    names = [line.split(maxsplit=3)[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len({*names})


async def test_metrics_are_text_that_prometheus_reads(api: Api) -> None:
    """``/metrics`` is the text form 0.0.4: a name, labels and one number a line."""
    async with api.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await answer.text()
    assert text.endswith("\n")
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="\w+"\})? -?[0-9.e+-]+', line), line
