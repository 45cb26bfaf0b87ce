"""How a result is added and kept: its shape, its name, and pinning services."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace
from yarl import URL

import storage.ipfs.kubo
from deploy import servers
from protocol.errors import Denied, Fault, Invalid, TimedOut, Unavailable
from protocol.ids import ExecutionId
from storage.contract import silent
from storage.idle_lines import Lines
from storage.ipfs import IpfsPublisher, IpfsSettings, Kubo, PublisherParams
from storage.ipfs.adding import Adding
from storage.ipfs.publisher import NOTE
from storage.lanes import Lane
from storage.params import read_params
from storage.ranged import Limits
from storage.tree import walk
from tests.contracts.trees import Link, Run, Tree, plant
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.pinning_service import KEY, PinningService, pinning_service
from tests.storage.test_ipfs import LABEL, LARGE, ipfs, node, only_here, pins
from tests.storage.test_ipfs_faults import on, proxy

__all__ = ["node", "proxy"]


@pytest.fixture
async def publisher(node: servers.Kubo) -> AsyncIterator[IpfsPublisher]:
    async with Kubo(node.multiaddr, IpfsSettings(silence_s=5, remote_s=3)) as kubo:
        yield IpfsPublisher(kubo)


def read(params: dict[str, Any]) -> PublisherParams:
    return read_params(params, PublisherParams, "publisher ipfs")


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({"CIDVersion": 1}, ["--cid-version=1"]),
        ({"cidversion": "0", "chunker": "size-65536"}, ["--cid-version=0", "--chunker=size-65536"]),
        ({"CIDVersion": 1, "Chunker": "buzhash"}, ["--cid-version=1", "--chunker=buzhash"]),
        ({"RawLeaves": "true"}, ["--raw-leaves"]),
    ],
)
async def test_the_shape_of_a_result_can_be_chosen(
    params: dict[str, Any], options: list[str], node: servers.Kubo, publisher: IpfsPublisher, tmp_path: Path
) -> None:
    """The CID is the one that `ipfs add` gives the same folder with the same options."""
    tree: Tree = {"stdout": b"hello\n", "large": LARGE, "l": Link("stdout"), "none": None}
    folder = plant(tree, tmp_path / "result")

    spec = await publisher.publish(folder, read(params), LABEL, silent)

    assert spec.params == {"CID": await ipfs(node, "add", "-rQ", "--only-hash", *options, folder)}


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"CIDVersion": 2}, "CIDVersion"),
        ({"Chunker": "size-0"}, "Chunker"),
        ({"Chunker": "size-1&pin=true"}, "Chunker"),
        ({"Name": "n" * 256}, "Name"),
        ({"Nmae": "x"}, "Nmae"),
        ({"RemoteService": "a\nb"}, "RemoteService"),
    ],
)
def test_params_that_cannot_work_are_refused_when_they_are_read(params: dict[str, Any], named: str) -> None:
    """The field is named before anything is sent."""
    with pytest.raises(Invalid, match=named):
        read(params)


@pytest.mark.parametrize(("params", "name"), [({}, LABEL.execution), ({"Name": "my result"}, "my result")])
async def test_a_pin_has_a_name(
    params: dict[str, str], name: str, node: servers.Kubo, publisher: IpfsPublisher, tmp_path: Path
) -> None:
    """The execution's id, or what the job says."""
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")

    spec = await publisher.publish(folder, read(params), LABEL, silent)

    assert f"{spec.params['CID']} recursive {name}" in await ipfs(
        node, "pin", "ls", "--type=recursive", "--names"
    )


async def test_a_result_is_pinned_without_being_read_again(
    node: servers.Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Its root alone is pinned, by a name, and no call walks through its blocks once they are added; a thousand files are
    answered for in few words."""
    before = await pins(node)
    tree: Tree = {f"outputs/{number}": bytes(tmp_path) + bytes([number % 256]) for number in range(1000)}
    folder = plant(tree, tmp_path / "result")
    async with Kubo(proxy.endpoint) as kubo:
        spec = await IpfsPublisher(kubo).publish(folder, read({}), LABEL, silent)

    assert await pins(node) - before == {spec.params["CID"]}
    assert "pin/add" not in " ".join(proxy.paths)
    assert proxy.sent_bytes < 3000


@pytest.mark.parametrize("params", [{}, {"CIDVersion": 1}])
@pytest.mark.parametrize("tree", [{}, {"none": None}, {"tool": Run(b"#!/bin/sh\n"), "a": b"1"}])
async def test_any_result_has_the_cid_that_it_has_by_itself(
    tree: Tree,
    params: dict[str, Any],
    node: servers.Kubo,
    publisher: IpfsPublisher,
    tmp_path: Path,
) -> None:
    """Nothing of the way it is pinned is in the CID: not of an empty result, nor of one whose files are executable."""
    folder = plant(tree, tmp_path / "result")
    modes = ["--preserve-mode"] if "tool" in tree else []
    version = ["--cid-version=1"] if params else []

    spec = await publisher.publish(folder, read(params), LABEL, silent)

    assert (await ipfs(node, "ls", spec.params["CID"])).count("\n") == max(len(tree) - 1, 0)
    if not modes:
        assert spec.params["CID"] == await ipfs(node, "add", "-rQ", "--only-hash", *version, folder)
    assert spec.params["CID"] in await pins(node)


async def test_what_a_killed_publishing_left_pinned_goes(
    node: servers.Kubo, publisher: IpfsPublisher, tmp_path: Path
) -> None:
    """The next try of the same execution ends with one pin, that of the root."""
    before = await pins(node)
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")
    mark = folder / f".shoal-{LABEL.execution}"
    mark.touch()
    left = await ipfs(node, "add", "-rQ", "--hidden", f"--pin-name={LABEL.execution}", folder)
    mark.unlink()

    spec = await publisher.publish(folder, read({}), LABEL, silent)

    assert left not in await pins(node)
    assert await pins(node) - before == {spec.params["CID"]}


async def test_what_a_killed_publishing_pins_behind_the_next_ones_back_goes(
    node: servers.Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Where Kubo is still at what a killed process has sent, the next try outlasts it, and ends with one pin as ever."""
    before = await pins(node)
    folder = plant({"x": only_here(tmp_path)[-999:]}, tmp_path / "result")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / NOTE).touch()
    asked = asyncio.Event()

    def plan(request: web.Request, number: int) -> str:
        if request.path.endswith("diag/cmds"):
            asked.set()
        return ""

    proxy.plan = plan
    label = replace(LABEL, notes=notes)
    async with Kubo(proxy.endpoint) as kubo, half_sent(node, folder) as send_rest:
        publishing = asyncio.create_task(IpfsPublisher(kubo).publish(folder, read({}), label, silent))
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait([publishing, waiting], return_when=asyncio.FIRST_COMPLETED)
        await send_rest()
        waiting.cancel()
        spec = await publishing

    assert await pins(node) - before == {spec.params["CID"]}
    assert list(notes.iterdir()) == []


async def test_what_kubo_pins_in_the_end_goes_also_where_it_does_not_tell_what_it_is_at(
    node: servers.Kubo, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A publishing fails while Kubo goes on with what it was sent: what it pins then is let go of, also where Kubo fails to
    say, or may not be asked, that it is still at it."""
    before = await pins(node)
    folder = plant({"x": only_here(tmp_path)[-999:]}, tmp_path / "result")
    looks = 0
    looked_thrice = asyncio.Event()

    def plan(request: web.Request, number: int) -> str:
        nonlocal looks
        looks += request.path.endswith("pin/ls")
        if looks == 3:
            looked_thrice.set()
        return "500" if request.path.endswith(("diag/cmds", "add")) else ""

    proxy.plan = plan
    async with Kubo(proxy.endpoint) as kubo, half_sent(node, folder) as send_rest:
        publishing = asyncio.create_task(IpfsPublisher(kubo).publish(folder, read({}), LABEL, silent))
        waiting = asyncio.create_task(looked_thrice.wait())
        await asyncio.wait([publishing, waiting], return_when=asyncio.FIRST_COMPLETED)
        await send_rest()
        waiting.cancel()
        with pytest.raises(Unavailable):
            await publishing

    assert await pins(node) == before


async def test_what_is_read_whole_to_be_pinned_is_told_of_as_it_goes(
    node: servers.Kubo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result without a mark may take longer than the limit on silence: Kubo says how far it is."""
    monkeypatch.setattr(storage.ipfs.publisher, "TOP_MAX", 1)
    folder = plant({"a": only_here(tmp_path), "b": b""}, tmp_path / "result")
    async with fault_proxy(node.api_url) as proxy, Kubo(proxy.endpoint) as kubo:
        await IpfsPublisher(kubo).publish(folder, PublisherParams(), LABEL, silent)

    (pinning,) = (path for path in proxy.paths if "pin/add" in path)
    assert "progress=true" in pinning


@pytest.mark.parametrize(("count", "silence_s"), [(5, 0.31), (200, 0.7)])
async def test_kubo_may_take_its_time_over_many_files(
    count: int, silence_s: float, node: servers.Kubo, tmp_path: Path
) -> None:
    """When it has all files it makes the folders without a word: the more there are, the longer it may be silent."""
    folder = plant({f"{number}": b"" for number in range(count)}, tmp_path / "result")
    async with fault_proxy(node.api_url) as proxy, Kubo(proxy.endpoint, IpfsSettings(silence_s=0.3)) as kubo:
        proxy.plan = lambda request, number: "held" if request.path.endswith("/add") else ""

        with pytest.raises(TimedOut, match=f"nothing and answered nothing for {silence_s} s"):
            await IpfsPublisher(kubo).publish(folder, PublisherParams(), LABEL, silent)


@asynccontextmanager
async def half_sent(node: servers.Kubo, folder: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """What a process sends to publish a folder, but for the end, and Kubo is at it; the value sends that as well."""
    options = {"pin": "true", "pin-name": LABEL.execution}
    async with Kubo(node.multiaddr) as kubo:
        entries = list(walk(folder))
        size_bytes = sum(each.size_bytes for each in entries)
        mark = f".shoal-{LABEL.execution}"
        adding = Adding(kubo, folder, entries, size_bytes, options, mark).request()
        assert adding.poured is not None
        lane = Lane(await kubo.route(), Lines(), Limits())
        body = b"".join(bytes(piece) for piece in adding.poured(lane) if isinstance(piece, memoryview))
        url = URL(node.api_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        headers = {**adding.headers, "Host": url.host, "Content-Length": len(body), "Connection": "close"}
        head = [f"POST {adding.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*head, "", ""]).encode() + body[:-9])
        while '"add"' not in await active(node):
            pass

        async def send_rest() -> None:
            writer.write(body[-9:])
            assert b"200 OK" in await reader.read()

        yield send_rest
        writer.close()


async def active(node: servers.Kubo) -> str:
    """What Kubo is at."""
    async with aiohttp.ClientSession() as session, session.post(f"{node.api_url}/api/v0/diag/cmds") as told:
        return json.dumps([each["Command"] for each in await told.json() if each["Active"]])


@pytest.mark.parametrize("why", ["old", "sharded", "mark"])
async def test_a_result_that_cannot_be_marked_is_pinned_all_the_same(
    why: str,
    node: servers.Kubo,
    publisher: IpfsPublisher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a Kubo that gives no names to what it adds, one that splits a root of few entries, and beside a file that is
    called as the mark would be: the CID and the name are right, and nothing else is pinned."""
    before = await pins(node)
    # Of an execution of its own: what looks like a mark is taken for one that an earlier try of the same has left.
    label = replace(LABEL, execution=ExecutionId("e-marked"))
    tree: Tree = {f"{number}": only_here(tmp_path) for number in range(5)}
    if why == "mark":
        tree[f".shoal-{label.execution}"] = b"x"
    folder = plant(tree, tmp_path / "result")
    if why == "old":
        monkeypatch.setattr(storage.ipfs.kubo, "NAMES_ADDED", (999, 0))
    if why == "sharded":
        await ipfs(node, "config", "--json", "Import.UnixFSDirectoryMaxLinks", "3")
    try:
        spec = await publisher.publish(folder, read({}), label, silent)
        wanted = await ipfs(node, "add", "-rQ", "--pin=false", "--hidden", folder)
    finally:
        if why == "sharded":
            await ipfs(node, "config", "--json", "Import.UnixFSDirectoryMaxLinks", "null")

    assert spec.params["CID"] == wanted
    assert await pins(node) - before == {wanted}
    assert f"{wanted} recursive {label.execution}" in await ipfs(
        node, "pin", "ls", "--type=recursive", "--names"
    )


@pytest.fixture
async def service(node: servers.Kubo) -> AsyncIterator[PinningService]:
    """A pinning service, and the node knows it as ``keeper``."""
    async with pinning_service() as service:
        await ipfs(node, "pin", "remote", "service", "add", "keeper", service.endpoint, KEY)
        yield service
        await ipfs(node, "pin", "remote", "service", "rm", "keeper")


async def test_a_pinning_service_keeps_the_result_as_well(
    node: servers.Kubo, publisher: IpfsPublisher, service: PinningService, tmp_path: Path
) -> None:
    """Publishing ends when the service says that it has all, under the pin's name; a second time it is not asked again."""
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")
    params = read({"RemoteService": "keeper", "Name": "kept"})

    spec = await publisher.publish(folder, params, LABEL, silent)
    again = await publisher.publish(folder, params, LABEL, silent)

    assert spec == again
    assert service.cids == {spec.params["CID"]: "kept"}
    assert spec.params["CID"] in await pins(node)


@pytest.mark.parametrize(
    ("end", "kind", "said"), [("failed", Unavailable, "failed"), ("pinning", TimedOut, "after 3 s")]
)
async def test_a_service_that_does_not_keep_it_fails_the_publishing(
    end: str,
    kind: type[Fault],
    said: str,
    node: servers.Kubo,
    publisher: IpfsPublisher,
    service: PinningService,
    tmp_path: Path,
) -> None:
    """The fault names the service and the CID, and no pin is left, here or there."""
    before = await pins(node)
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")
    service.end = end

    with pytest.raises(kind, match=f"keeper.*{said}"):
        await publisher.publish(folder, read({"RemoteService": "keeper"}), LABEL, silent)

    assert service.pins == {}
    assert await pins(node) == before


async def test_a_service_that_the_node_does_not_know_or_that_refuses_is_named(
    node: servers.Kubo, publisher: IpfsPublisher, service: PinningService, tmp_path: Path
) -> None:
    """Kubo's own words become the fault, and nothing stays pinned."""
    before = await pins(node)
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")
    await ipfs(node, "pin", "remote", "service", "add", "stranger", service.endpoint, "wrong")

    for name in ("nobody", "stranger"):
        with pytest.raises((Invalid, Unavailable, Denied), match=name):
            await publisher.publish(folder, read({"RemoteService": name}), LABEL, silent)

    assert await pins(node) == before
    await ipfs(node, "pin", "remote", "service", "rm", "stranger")


# A pinning service that goes wrong.


@pytest.fixture
async def faulty(node: servers.Kubo, service: PinningService) -> AsyncIterator[FaultProxy]:
    """The service behind a proxy, which the node knows as ``faulty``."""
    async with fault_proxy(service.endpoint) as proxy:
        await ipfs(node, "pin", "remote", "service", "add", "faulty", proxy.endpoint, KEY)
        yield proxy
        await ipfs(node, "pin", "remote", "service", "rm", "faulty")


@pytest.mark.parametrize("fault", ["500", "503", "cut", "garbage", "lost"])
async def test_a_service_that_is_ill_for_a_moment_keeps_the_result(
    fault: str, publisher: IpfsPublisher, service: PinningService, faulty: FaultProxy, tmp_path: Path
) -> None:
    """While it fetches a result, which may take an hour, a question that it does not answer is asked again."""
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")
    asked = 0

    def plan(request: web.Request, number: int) -> str:
        nonlocal asked
        asked += bool(service.pins) and request.method == "GET"
        return fault if asked in (1, 2) else ""

    faulty.plan = plan

    spec = await publisher.publish(folder, read({"RemoteService": "faulty", "Name": "kept"}), LABEL, silent)

    assert asked > 2
    assert service.cids == {spec.params["CID"]: "kept"}


async def test_half_an_answer_about_a_service_is_none(
    node: servers.Kubo, service: PinningService, proxy: FaultProxy, tmp_path: Path
) -> None:
    """What Kubo says in a trailer behind its list of pins at a service is told, and what the service had is not taken back
    as if it had not been there."""
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")
    params = read({"RemoteService": "keeper", "Name": "kept"})
    async with Kubo(node.multiaddr, IpfsSettings(silence_s=5, remote_s=3)) as kubo:
        spec = await IpfsPublisher(kubo).publish(folder, params, LABEL, silent)
    proxy.plan, proxy.words = on("/api/v0/pin/remote/ls", "trailer"), "the service is on fire"

    async with Kubo(proxy.endpoint, IpfsSettings(silence_s=5, remote_s=3)) as kubo:
        with pytest.raises(Unavailable, match="on fire"):
            await IpfsPublisher(kubo).publish(folder, params, LABEL, silent)

    assert service.cids == {spec.params["CID"]: "kept"}


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        *(("GET", fault) for fault in ("500", "mute", "garbage")),
        ("POST", "500"),
        ("POST", "lost"),
        ("POST", "mute"),
    ],
)
async def test_a_service_that_stays_ill_is_named_and_nothing_is_left(
    method: str,
    fault: str,
    node: servers.Kubo,
    service: PinningService,
    faulty: FaultProxy,
    tmp_path: Path,
) -> None:
    """The fault names the service and the CID; no pin is left, on the node or, as far as it can be told, at the service."""
    before = await pins(node)
    folder = plant({"x": only_here(tmp_path)}, tmp_path / "result")
    faulty.plan = lambda request, number: fault if request.method == method else ""

    async with Kubo(node.multiaddr, IpfsSettings(silence_s=1, remote_s=3)) as kubo:
        with pytest.raises((Unavailable, TimedOut), match="faulty"):
            await IpfsPublisher(kubo).publish(folder, read({"RemoteService": "faulty"}), LABEL, silent)

    assert service.pins == {}
    assert await pins(node) == before
