"""How a result is added and kept: its shape, its name, and pinning services."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from deploy import servers
from protocol.errors import Denied, Fault, Invalid, TimedOut, Unavailable
from storage.contract import silent
from storage.ipfs import IpfsPublisher, IpfsSettings, Kubo, PublisherParams
from storage.params import read_params
from tests.contracts.trees import Link, Tree, plant
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.pinning_service import KEY, PinningService, pinning_service
from tests.storage.test_ipfs import LABEL, LARGE, ipfs, node, only_here, pins

__all__ = ["node"]


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
