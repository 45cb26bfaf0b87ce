"""IPFS without a node of one's own: trustless gateways, none of which is believed."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

import storage.ipfs.gateways
from deploy import servers
from deploy.processes import free_ports
from protocol.errors import Broken, Denied, Exhausted, Fault, NotFound, TimedOut, Unavailable
from storage.contract import silent
from storage.ipfs import GatewaySource, IpfsSettings, SourceParams
from storage.ipfs.holders import BLOCK_TYPE
from tests.contracts.trees import Link, Run, Tree, snapshot, with_folders
from tests.storage import test_ipfs
from tests.storage.fault_proxy import FaultProxy, Plan, fault_proxy
from tests.storage.s3_world import serving
from tests.storage.test_ipfs import ALL, LARGE, NOBODY_HAS, added, brought, ipfs, node

__all__ = ["node"]

QUICK = IpfsSettings(silence_s=0.5, connect_s=2, retry_s=0.01)
PATIENT = IpfsSettings(silence_s=20, connect_s=20, retry_s=0.01)
"""Where silence is not what goes wrong: a Kubo of a busy machine is silent for a while too."""
SILENT = ("stall", "trickle", "mute")
MANY: Tree = {
    **{f"folder/{number:03}": bytes([number]) * 3000 for number in range(200)},
    "large": LARGE,
    "same": LARGE,
    "empty": b"",
    "none": None,
    "l": Link("large"),
}


@pytest.fixture
async def source(node: servers.Kubo) -> AsyncIterator[GatewaySource]:
    source = GatewaySource([node.gateway_url], PATIENT)
    yield source
    await source.close()


class Gateways:
    """What differs from the suites on a node."""

    @pytest.fixture
    async def away(self, params: SourceParams) -> AsyncIterator[tuple[GatewaySource, SourceParams]]:
        (port,) = free_ports(1)
        source = GatewaySource([f"/ip4/127.0.0.1/tcp/{port}"], QUICK)
        yield source, params
        await source.close()


class TestFolder(Gateways, test_ipfs.TestFolder):
    """A folder by its CID."""


class TestFile(Gateways, test_ipfs.TestFile):
    """A file by its CID."""


class TestPath(Gateways, test_ipfs.TestPath):
    """What lies at a path below a CID."""


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--cid-version=1", "--max-directory-links=3", "--max-hamt-fanout=8"),
        ("--cid-version=1", "--inline", "--inline-limit=100"),
        ("--trickle", "--chunker=size-65536"),
        ("--hash=blake2b-256",),
    ],
)
async def test_data_comes_however_it_was_added(
    options: tuple[str, ...], node: servers.Kubo, source: GatewaySource, tmp_path: Path
) -> None:
    """CIDs of both versions, sharded folders, data inside its own CID, trickle trees and other hashes are all the same."""
    cid = await added(node, MANY, tmp_path / "added", *options)

    assert await brought(source, cid, tmp_path / "in") == with_folders(MANY)
    assert await brought(source, f"{cid}/folder/007", tmp_path / "one") == {"": MANY["folder/007"]}
    with pytest.raises(NotFound, match="no 'folder/7'"):
        await source.resolve(SourceParams(f"{cid}/folder/7"), ALL)


async def test_executable_files_stay_so(node: servers.Kubo, source: GatewaySource, tmp_path: Path) -> None:
    """A mode that was stored comes back as far as the executable bit goes."""
    tree: Tree = {"tool": Run(b"#!/bin/sh\n"), "data": b"x"}

    cid = await added(node, tree, tmp_path / "1", "--preserve-mode")

    assert await brought(source, cid, tmp_path / "in") == tree


@pytest.fixture
async def proxies(node: servers.Kubo) -> AsyncIterator[list[FaultProxy]]:
    """Two gateways that may go wrong."""
    async with fault_proxy(node.gateway_url) as first, fault_proxy(node.gateway_url) as second:
        yield [first, second]


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> IpfsSettings:
    """How long a source waits."""
    callspec = getattr(request.node, "callspec", None)
    return QUICK if callspec is not None and callspec.params.get("fault") in SILENT else PATIENT


@pytest.fixture
async def behind(proxies: list[FaultProxy], limits: IpfsSettings) -> AsyncIterator[GatewaySource]:
    """A source that knows the first of them alone."""
    source = GatewaySource([proxies[0].endpoint], limits)
    yield source
    await source.close()


@pytest.fixture
async def either(proxies: list[FaultProxy], limits: IpfsSettings) -> AsyncIterator[GatewaySource]:
    """A source that knows both, and bears it when the second takes its time."""
    silence_s = 4 * limits.silence_s if limits is QUICK else limits.silence_s
    source = GatewaySource(
        [proxy.endpoint for proxy in proxies], msgspec.structs.replace(limits, silence_s=silence_s)
    )
    yield source
    await source.close()


def on_cars(fault: str, last: int = 10_000) -> Plan:
    """That fault at the first answers to requests for a CAR."""
    seen = 0

    def plan(request: web.Request, number: int) -> str:
        nonlocal seen
        seen += "car" in request.query_string
        return fault if "car" in request.query_string and seen <= last else ""

    return plan


@pytest.mark.parametrize("fault", ["cut", "ended", "short", "500", "503"])
async def test_a_transfer_that_breaks_is_gone_on_with(
    fault: str, node: servers.Kubo, behind: GatewaySource, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    """A stream that breaks off costs a try; what came is not asked for again, and the bytes are right."""
    cid = await added(node, MANY, tmp_path / "added", "--cid-version=1")
    proxies[0].plan = on_cars(fault, 1)

    assert await brought(behind, cid, tmp_path / "in") == with_folders(MANY)


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("cut", Broken, "broke"),
        ("ended", Broken, "cut short|lacks|holds other bytes|broke"),
        ("flip", Broken, "block baf"),
        ("stall", TimedOut, "nothing came for 0.5 s.*, after [1-9]"),
        ("mute", TimedOut, "nothing came for 0.5 s"),
        ("trickle", TimedOut, "nothing came for 0.5 s"),
        ("500", Unavailable, "status 500"),
        ("403", Denied, "status 403"),
        ("xml", Unavailable, "not application/vnd"),
    ],
)
async def test_a_gateway_that_stays_broken_is_a_fault_and_leaves_nothing(
    fault: str,
    kind: type[Fault],
    said: str,
    node: servers.Kubo,
    behind: GatewaySource,
    proxies: list[FaultProxy],
    tmp_path: Path,
) -> None:
    """A fault that does not pass is told as what it is, naming the CID, and nothing is left."""
    cid = await added(node, {"a": LARGE, "b": b"1"}, tmp_path / "added", "--cid-version=1")
    params = SourceParams(cid)
    resolved = await behind.resolve(params, ALL)
    (tmp_path / "room").mkdir()
    proxies[0].plan = lambda request, number: fault

    with pytest.raises(kind, match=said) as caught:
        await behind.fetch(params, resolved, tmp_path / "room" / "in", silent)

    assert cid in caught.value.message
    assert ("Perhaps no node" in caught.value.hint) == (kind is TimedOut)
    assert list((tmp_path / "room").iterdir()) == []


@pytest.mark.parametrize("fault", ["cut", "ended", "flip", "stall", "trickle", "mute", "500", "403", "xml"])
async def test_another_gateway_goes_on_where_one_failed(
    fault: str, node: servers.Kubo, either: GatewaySource, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    """With a second gateway all of these cost time alone, and what the first brought is kept."""
    cid = await added(node, MANY, tmp_path / "added", "--cid-version=1")
    proxies[0].plan = lambda request, number: fault if number else ""

    assert await brought(either, cid, tmp_path / "in") == with_folders(MANY)


async def test_what_the_first_gateway_brought_is_not_asked_for_again(
    node: servers.Kubo, either: GatewaySource, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    """After a cut half-way the second gateway sends the other half, not the whole."""
    tree: Tree = {f"{number:03}": bytes([number]) * 50_000 for number in range(100)}
    cid = await added(node, tree, tmp_path / "added", "--cid-version=1")
    proxies[0].plan = on_cars("cut")

    assert await brought(either, cid, tmp_path / "in") == tree
    assert proxies[1].sent_bytes < 3_500_000


async def test_a_gateway_that_is_silent_is_waited_for_once(
    node: servers.Kubo, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    """What failed is asked last, also for the next input, until a probe has found it well; one that lacks a CID has not
    failed."""
    cid = await added(node, {"a/b": b"1"}, tmp_path / "added")
    source = GatewaySource([proxy.endpoint for proxy in proxies], QUICK)
    with pytest.raises(NotFound):
        await source.resolve(SourceParams(NOBODY_HAS), ALL)
    proxies[0].plan, asked = (lambda request, number: "mute"), proxies[0].count

    for number in range(2):
        assert await brought(source, cid, tmp_path / f"in-{number}") == {"a/b": b"1", "a": None}
    assert proxies[0].count - asked == 1
    proxies[0].plan = lambda request, number: ""
    assert (await source.probe()).available
    asked = proxies[1].count
    assert await brought(source, cid, tmp_path / "well") == {"a/b": b"1", "a": None}
    assert proxies[1].count == asked
    await source.close()


async def test_a_gateway_that_knows_no_cars_is_asked_for_blocks(node: servers.Kubo, tmp_path: Path) -> None:
    """The least that a trustless gateway can do is enough."""
    cid = await added(node, MANY, tmp_path / "added")
    async with aiohttp.ClientSession() as session:

        async def blocks_only(request: web.Request) -> web.Response:
            if request.query.get("format") != "raw":
                return web.Response(status=406, text="only application/vnd.ipld.raw")
            async with session.get(f"{node.gateway_url}{request.path_qs}") as found:
                return web.Response(status=found.status, body=await found.read(), content_type=BLOCK_TYPE)

        async with serving(blocks_only) as url:
            source = GatewaySource([url], PATIENT)
            assert await brought(source, cid, tmp_path / "in") == with_folders(MANY)
            assert await brought(source, f"{cid}/folder/007", tmp_path / "one") == {"": MANY["folder/007"]}
            await source.close()


async def test_a_large_file_comes_through_several_streams(
    node: servers.Kubo, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    """What weighs more than a stream is worth is split where its blocks are, and is equal."""
    data = LARGE * 11
    cid = await added(node, {"": data}, tmp_path / "added", "--chunker=size-65536")
    source = GatewaySource([proxies[0].endpoint])

    assert await brought(source, cid, tmp_path / "in") == {"": data}
    assert len([path for path in proxies[0].paths if "car" in path]) > 2
    await source.close()


@pytest.mark.parametrize("at", [0.001, 0.01, 0.1, 0.3, 0.6, 0.9, 0.999])
async def test_a_flipped_bit_anywhere_is_an_error_or_harmless(
    at: float, node: servers.Kubo, behind: GatewaySource, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    """Whichever bit of every answer is wrong, a fetch brings the true bytes or a fault, and nothing beside them."""
    tree: Tree = {"a": b"first", "d/b": b"second" * 100, "l": Link("a")}
    params = SourceParams(await added(node, tree, tmp_path / "added"))
    resolved = await behind.resolve(params, ALL)
    room = tmp_path / "room"
    room.mkdir()
    proxies[0].plan, proxies[0].flip_at = (lambda request, number: "flip"), at

    try:
        fetched = await behind.fetch(params, resolved, room / "in", silent)
    except Fault:
        assert list(room.iterdir()) == []
    else:
        assert snapshot(fetched.path) == with_folders(tree)


async def test_what_no_gateway_has_is_not_found(node: servers.Kubo, tmp_path: Path) -> None:
    """`NotFound` names the CID when every gateway said so."""
    source = GatewaySource([node.gateway_url, f"{node.gateway_url}/"], QUICK)
    with pytest.raises(NotFound, match=NOBODY_HAS):
        await source.resolve(SourceParams(NOBODY_HAS), ALL)
    await source.close()


async def test_limits_hold_before_and_while_a_tree_comes(node: servers.Kubo, tmp_path: Path) -> None:
    """An input has a documented number of entries and bytes, and what has more is thrown away."""
    tree: Tree = {f"d/{number}": b"xx" for number in range(5)}
    cid = await added(node, tree, tmp_path / "added")
    for settings, said in ((IpfsSettings(entries=4), "4 files"), (IpfsSettings(max_bytes=9), "10 bytes")):
        source = GatewaySource([node.gateway_url], settings)
        with pytest.raises(Exhausted, match=said):
            await brought(source, cid, tmp_path / "in")
        await source.close()
    assert not (tmp_path / "in").exists()


async def test_a_probe_tells_a_gateway_from_another_server(node: servers.Kubo) -> None:
    """The probe names the gateway that works, or says of each why it does not."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>", content_type="text/html")

    async with serving(page) as url:
        for gateways, works in (([url, node.gateway_url], True), ([url], False)):
            source = GatewaySource(gateways, QUICK)
            offer = await source.probe()
            await source.close()
            assert offer.available == works
            assert (node.gateway_url in offer.version) if works else (url in offer.reason)


async def test_a_name_is_turned_into_a_cid_by_its_owners_word(
    node: servers.Kubo, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    """A gateway brings the record of an IPNS name; only one that the name's owner signed counts, whoever brings it."""
    cid = await added(node, {"in/a": b"named"}, tmp_path / "added")
    await ipfs(node, "name", "publish", "--allow-offline", "-Q", f"/ipfs/{cid}")
    params = SourceParams(f"ipns://{node.peer_id}/in")
    source = GatewaySource([proxy.endpoint for proxy in proxies], QUICK)

    for at in (0.1, 0.5, 0.9):
        proxies[0].plan, proxies[0].flip_at = (lambda request, number: "flip"), at
        assert await brought(source, params.cid, tmp_path / f"in-{at}") == {"a": b"named"}
    proxies[1].plan, proxies[1].flip_at = (lambda request, number: "flip"), 0.5
    with pytest.raises(Broken, match=node.peer_id):
        await source.resolve(params, ALL)
    await source.close()


async def test_a_domain_is_turned_into_a_cid_by_dns(
    node: servers.Kubo, source: GatewaySource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What no key can vouch for is asked of DNS, not of a gateway."""
    cid = await added(node, {"in/a": b"named"}, tmp_path / "added")

    async def lookup(name: str) -> list[str]:
        return [f"dnslink=/ipfs/{cid}"] if name == "_dnslink.example.com" else []

    monkeypatch.setattr(storage.ipfs.gateways, "lookup_txt", lookup)

    assert await brought(source, "/ipns/example.com/in", tmp_path / "in") == {"a": b"named"}
    with pytest.raises(NotFound, match=r"nobody\.example"):
        await source.resolve(SourceParams("/ipns/nobody.example"), ALL)


async def test_a_gateway_leads_nowhere_else(node: servers.Kubo, tmp_path: Path) -> None:
    """Gateways are the owner's choice: one that redirects, for a CID that a job names, is not followed."""
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=404)

    async with serving(elsewhere) as other:

        async def answer(request: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(f"{other}{request.path_qs}")

        async with serving(answer) as url:
            source = GatewaySource([url], QUICK)
            with pytest.raises(Unavailable, match="status 307") as caught:
                await source.resolve(SourceParams(NOBODY_HAS), ALL)
            await source.close()
    assert asked == []
    assert "by the address that it leads to" in caught.value.hint
