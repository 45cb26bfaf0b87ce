"""IPFS on a real Kubo node, when something goes wrong: on the way of what is fetched, and of what is published."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from deploy import servers
from deploy.processes import free_ports
from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, NotFound, TimedOut, Unavailable
from protocol.ids import ExecutionId
from storage.contract import Share, silent
from storage.ipfs import IpfsPublisher, IpfsSettings, IpfsSource, Kubo, PublisherParams, SourceParams
from storage.ipfs.publisher import TOP_MAX
from tests.contracts.trees import Link, Tree, plant
from tests.storage.fault_proxy import FaultProxy, Plan, fault_proxy
from tests.storage.s3_world import serving
from tests.storage.test_ipfs import LABEL, LARGE, MIB, added, brought, folder_of, ipfs, node, only_here, pins

__all__ = ["node"]

WIDE: Tree = {f"{number}": b"" for number in range(TOP_MAX)}
"""So much at the top of a result that it is pinned in the way that reads it again."""


# Fetching.


@pytest.fixture
async def proxy(node: servers.Kubo) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(node.api_url) as proxy:
        yield proxy


@pytest.fixture
async def behind(proxy: FaultProxy, request: pytest.FixtureRequest) -> AsyncIterator[Kubo]:
    """The node through the proxy, by ``cat``; with little patience where the fault is a silence, and only there: a Kubo of a
    busy machine is silent for a while too."""
    callspec = getattr(request.node, "callspec", None)
    hasty = callspec is not None and callspec.params.get("kind") is TimedOut
    silence_s, answer_s = (0.5, 2) if hasty else (20, 20)
    settings = IpfsSettings(
        gateway=False, part_bytes=MIB, silence_s=silence_s, answer_s=answer_s, retry_s=0.01
    )
    async with Kubo(proxy.endpoint, settings) as kubo:
        yield kubo


def on(command: str, fault: str, first: int = 0, last: int = 10_000) -> Plan:
    """That fault at calls of a command, by their number."""
    seen = 0

    def plan(request: web.Request, number: int) -> str:
        nonlocal seen
        if not request.path.startswith(command):
            return ""
        seen += 1
        return fault if first < seen <= last else ""

    return plan


async def test_a_walk_takes_few_connections(
    node: servers.Kubo, behind: Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """To look into the folders of one depth takes no more connections than there are requests at once."""
    cid = await added(node, {f"{number}/a": b"a" for number in range(50)}, tmp_path / "added")
    listings = []

    def plan(request: web.Request, number: int) -> str:
        if request.path.endswith("/ls") and request.transport is not None:
            listings.append(request.transport.get_extra_info("peername"))
        return ""

    proxy.plan = plan
    source, params = IpfsSource(behind), SourceParams(cid)
    found = await source.resolve(params, Share())

    assert len(await source.entries(params, found)) == 100
    assert len(listings) == 51
    assert len(set(listings)) <= 1 + behind.settings.small_requests


async def test_files_of_untold_sizes_count_as_they_are_listed(
    node: servers.Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """What holds more than a node takes is refused before the size of any of it is asked for, also where no folder tells the
    sizes; what is not too much has each asked for once."""
    file = await added(node, {"": b"twelve bytes"}, tmp_path / "file", "--cid-version=1")
    folder = await folder_of(node, [("a", file), ("b", file)], weight=0)
    cid = await folder_of(node, [(f"{number}", folder) for number in range(3)])

    async def resolved(entries: int) -> int | None:
        async with Kubo(proxy.endpoint, IpfsSettings(entries=entries)) as kubo:
            return (await IpfsSource(kubo).resolve(SourceParams(cid), Share())).size_bytes

    with pytest.raises(Exhausted, match="more than 8 files"):
        await resolved(8)
    assert sum("files/stat" in path for path in proxy.paths) == 1
    proxy.paths.clear()
    assert await resolved(9) == 6 * len(b"twelve bytes")
    assert sum("files/stat" in path for path in proxy.paths) == 2


@pytest.mark.parametrize("fault", ["cut", "ended"])
async def test_a_transfer_that_breaks_is_gone_on_with(
    fault: str, node: servers.Kubo, behind: Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A body that breaks off, or ends early as if it were whole, costs a try; the bytes are right."""
    cid = await added(node, {"": LARGE}, tmp_path / "added")
    proxy.plan = on("/api/v0/cat", fault, 0, 2)

    assert await brought(IpfsSource(behind), cid, tmp_path / "in") == {"": LARGE}


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("cut", Broken, "broke after"),
        ("ended", Broken, "ended after"),
        ("stall", TimedOut, "no byte for"),
        ("trickle", TimedOut, "no byte for"),
        ("mute", TimedOut, "no byte for"),
        ("500", Unavailable, "InternalError"),
        ("403", Denied, "denies access"),
        ("long", Broken, "asked for"),
    ],
)
async def test_a_transfer_that_stays_broken_ends_and_leaves_nothing(
    fault: str,
    kind: type[Fault],
    said: str,
    node: servers.Kubo,
    behind: Kubo,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """A fault that does not pass is told as what it is, naming the CID, and nothing is left."""
    cid = await added(node, {"": LARGE}, tmp_path / "added")
    (tmp_path / "room").mkdir()
    proxy.plan = on("/api/v0/cat", fault)

    with pytest.raises(kind, match=said) as caught:
        await brought(IpfsSource(behind), cid, tmp_path / "room" / "in")

    assert cid in caught.value.message
    assert list((tmp_path / "room").iterdir()) == []


GONE = "block was not found locally (offline): ipld: could not find QmGone"


@pytest.mark.parametrize("fault", ["trailer", "behind"])
@pytest.mark.parametrize(
    ("words", "kind"), [(GONE, NotFound), ("context deadline exceeded", TimedOut), ("an error", Unavailable)]
)
async def test_what_kubo_tells_behind_a_file_is_told(
    fault: str,
    words: str,
    kind: type[Fault],
    node: servers.Kubo,
    behind: Kubo,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """An error in an HTTP trailer is the fault that it means, in Kubo's words, even if no byte is missing; nothing is
    left."""
    cid = await added(node, {"": LARGE}, tmp_path / "added")
    (tmp_path / "room").mkdir()
    proxy.plan, proxy.words = on("/api/v0/cat", fault), words

    with pytest.raises(kind) as caught:
        await brought(IpfsSource(behind), cid, tmp_path / "room" / "in")

    assert cid in caught.value.message
    assert words in caught.value.message or kind is TimedOut
    assert list((tmp_path / "room").iterdir()) == []


async def test_what_passes_is_gone_on_with_whoever_told_it(
    node: servers.Kubo, behind: Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """An error in a trailer that may pass costs a try; what came is not asked for again."""
    cid = await added(node, {"": LARGE}, tmp_path / "added")
    proxy.plan, proxy.words = on("/api/v0/cat", "trailer", 0, 2), "connection reset by peer"

    assert await brought(IpfsSource(behind), cid, tmp_path / "in") == {"": LARGE}


@pytest.mark.parametrize("fault", ["trailer", "behind"])
async def test_what_kubo_tells_behind_blocks_is_told(
    fault: str, node: servers.Kubo, behind: Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """An error in a trailer behind a CAR that lacks blocks is told in Kubo's words; one that lacks none is whole by its
    CIDs."""
    tree: Tree = {f"{number}": f"{tmp_path} {number}".encode() * 99 for number in range(20)}
    cid = await added(node, tree, tmp_path / "added")
    proxy.plan, proxy.words = on("/api/v0/dag/export", fault), GONE

    if fault == "behind":
        assert await brought(IpfsSource(behind), cid, tmp_path / "in") == tree
    else:
        with pytest.raises(NotFound, match="could not find QmGone"):
            await brought(IpfsSource(behind), cid, tmp_path / "in")


@pytest.mark.parametrize("fault", ["500", "403", "cut", "ended", "whole", "range"])
async def test_a_gateway_that_fails_is_done_without(fault: str, node: servers.Kubo, tmp_path: Path) -> None:
    """What the gateway refuses comes by ``cat``; what it answers wrongly is an error or tried again, never data."""
    cid = await added(node, {"": LARGE}, tmp_path / "added")
    async with (
        fault_proxy(node.gateway_url) as gateway,
        Kubo(node.multiaddr, IpfsSettings(part_bytes=MIB)) as kubo,
    ):
        kubo._gateway = gateway.endpoint
        gateway.plan = on("/ipfs/", fault, 0, 2)
        try:
            tree = await brought(IpfsSource(kubo), cid, tmp_path / "in")
        except Broken:
            assert fault in ("whole", "range")
        else:
            assert tree == {"": LARGE}


async def test_a_gateway_that_went_elsewhere_is_done_without(node: servers.Kubo, tmp_path: Path) -> None:
    """A node that was started again may have its gateway at another port: what it holds comes all the same, and from that
    gateway once the node was looked at again."""
    cid = await added(node, {"": LARGE}, tmp_path / "added")
    (port,) = free_ports(1)
    async with Kubo(node.multiaddr, IpfsSettings(retry_s=0.01)) as kubo:
        kubo._gateway = f"http://127.0.0.1:{port}"

        assert await brought(IpfsSource(kubo), cid, tmp_path / "in") == {"": LARGE}
        await kubo.probe()
        assert await kubo.gateway() == node.gateway_url


async def test_a_gateway_that_serves_other_data_is_not_believed(node: servers.Kubo, tmp_path: Path) -> None:
    """An answer that does not say it is the CID asked for is not taken."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * len(LARGE))

    cid = await added(node, {"": LARGE}, tmp_path / "added")
    async with serving(page) as url, Kubo(node.multiaddr) as kubo:
        kubo._gateway = url
        with pytest.raises(Broken, match="another CID"):
            await brought(IpfsSource(kubo), cid, tmp_path / "in")


# Publishing.


@pytest.mark.parametrize(
    ("command", "fault", "kind"),
    [
        *(("add", fault, Unavailable) for fault in ("500", "lost", "cut", "hangup")),
        *(("add", fault, TimedOut) for fault in ("mute", "deaf", "stall", "trickle", "drip")),
        *(("add", fault, Broken) for fault in ("ended", "short", "garbage", "xml", "204")),
        *((command, "500", Unavailable) for command in ("block/get", "block/put")),
        *((command, "lost", Unavailable) for command in ("block/get", "block/put")),
        ("block/get", "flip", Broken),
        *(("pin/update", fault, Unavailable) for fault in ("500", "lost", "cut")),
        *(("pin/update", fault, TimedOut) for fault in ("held", "stall", "trickle")),
        *(("pin/update", fault, Broken) for fault in ("ended", "short", "garbage")),
        *(("pin/add", fault, Unavailable) for fault in ("500", "lost", "cut")),
        *(("pin/add", fault, TimedOut) for fault in ("held", "stall", "trickle")),
        *(("pin/add", fault, Broken) for fault in ("ended", "short", "garbage")),
    ],
)
async def test_a_publishing_that_fails_leaves_no_pin(
    command: str,
    fault: str,
    kind: type[Fault],
    node: servers.Kubo,
    behind: Kubo,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """Whatever breaks, and wherever, is told in time, and nothing of the result stays pinned: a Kubo that hangs up, takes no
    more, answers before it has all, half, without end, or what nobody understands."""
    before = await pins(node)
    tree: Tree = {f"{command}-{fault}".replace("/", "-"): LARGE, "x": b""}
    folder = plant({**tree, **(WIDE if command == "pin/add" else {})}, tmp_path / "result")
    proxy.plan = on(f"/api/v0/{command}", fault)

    with pytest.raises(kind):
        await IpfsPublisher(behind).publish(folder, PublisherParams(), LABEL, silent)

    assert await pins(node) == before


@pytest.mark.parametrize("fault", ["trailer", "behind"])
@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("write /repo/blocks: no space left on device", Exhausted),
        ("context deadline exceeded", TimedOut),
        ("an error occurred", Unavailable),
    ],
)
async def test_what_kubo_tells_behind_its_answer_while_publishing_is_told(
    fault: str,
    words: str,
    kind: type[Fault],
    node: servers.Kubo,
    behind: Kubo,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """An error in an HTTP trailer is the fault that it means, in Kubo's words, even if every file was answered for."""
    before = await pins(node)
    folder = plant({"a": only_here(tmp_path), "b": b"x"}, tmp_path / "result")
    proxy.plan, proxy.words = on("/api/v0/add", fault), words

    with pytest.raises(kind) as caught:
        await IpfsPublisher(behind).publish(folder, PublisherParams(), LABEL, silent)

    assert words in caught.value.message or kind is TimedOut
    assert await pins(node) == before


@pytest.mark.parametrize("command", ["add", "block/put", "pin/update", "pin/add"])
async def test_a_publishing_that_is_cancelled_leaves_no_pin(
    command: str, node: servers.Kubo, behind: Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Cancelled after the pin was set or moved and before we heard of it, the pin is taken back."""
    before = await pins(node)
    tree: Tree = {f"cancelled-{command}".replace("/", "-"): LARGE}
    folder = plant({**tree, **(WIDE if command == "pin/add" else {})}, tmp_path / "result")
    proxy.plan = on(f"/api/v0/{command}", "held")
    task = asyncio.ensure_future(IpfsPublisher(behind).publish(folder, PublisherParams(), LABEL, silent))
    await proxy.stalled.wait()

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await pins(node) == before


@pytest.mark.parametrize("more", [{}, WIDE], ids=["marked", "wide"])
async def test_a_pin_that_is_not_ours_stays_as_it_is(
    more: Tree, node: servers.Kubo, behind: Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The same result pinned before by somebody else keeps its pin and that one's name, whatever happens to ours."""
    folder = plant({"twice": LARGE, **more}, tmp_path / "result")
    cid = await ipfs(node, "add", "-rQ", "--pin-name=theirs", folder)
    before = await pins(node)
    label = msgspec.structs.replace(LABEL, execution=ExecutionId("e-of-ours"))

    spec = await IpfsPublisher(behind).publish(folder, PublisherParams(), label, silent)
    proxy.plan = on("/api/v0/pin/", "500")
    with pytest.raises(Unavailable):
        await IpfsPublisher(behind).publish(folder, PublisherParams(remote="nobody"), label, silent)

    assert spec.params == {"CID": cid}
    assert f"{cid} recursive theirs" in await ipfs(node, "pin", "ls", "--type=recursive", "--names")
    proxy.plan = on("/api/v0/pin/", "")
    await IpfsPublisher(behind).publish(folder, PublisherParams(), label, silent)
    assert await pins(node) == before


@pytest.mark.parametrize(
    ("last", "kind", "said"),
    [
        ({"Message": "no space left on device", "Code": 0}, Exhausted, "no space left"),
        ({"Name": "result/b", "Hash": "Qm"}, Broken, "did not tell that it added all"),
    ],
)
async def test_an_error_in_the_middle_of_adding_is_an_error(
    last: dict[str, Any], kind: type[Fault], said: str, node: servers.Kubo, tmp_path: Path
) -> None:
    """Kubo tells such errors as one more line under status 200, or ends without the line of the root: then the hint says
    where to look."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        if request.path.endswith("/id"):
            return web.json_response({"ID": node.peer_id})
        lines: list[dict[str, Any]] = [{"Name": "result/a", "Hash": "Qm"}, last]
        return web.Response(text="\n".join(map(json.dumps, lines)))

    folder = plant({"a": b"1", "b": b"2"}, tmp_path / "result")
    async with serving(answer) as url, Kubo(url) as kubo:
        with pytest.raises(kind, match=said) as caught:
            await IpfsPublisher(kubo).publish(folder, PublisherParams(), LABEL, silent)

    assert "disk" in caught.value.hint


async def test_a_link_out_of_the_result_is_refused_before_anything_is_sent(
    behind: Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The link is named, and the node has not been asked anything."""
    folder = plant({"a": b"1", "out": Link("/etc/passwd")}, tmp_path / "result")

    with pytest.raises(Invalid, match="out"):
        await IpfsPublisher(behind).publish(folder, PublisherParams(), LABEL, silent)

    assert proxy.count == 0
