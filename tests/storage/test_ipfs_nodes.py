"""IPFS on several real nodes: a private swarm, and a node that dies under a transfer."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from deploy import servers
from protocol.errors import Broken, NotFound, TimedOut, Unavailable
from storage.contract import silent
from storage.ipfs import (
    GatewaySource,
    IpfsPublisher,
    IpfsSettings,
    IpfsSource,
    Kubo,
    PublisherParams,
    SourceParams,
)
from tests.contracts.trees import Tree, plant, snapshot, with_folders
from tests.storage.test_ipfs import ALL, LABEL, LARGE, added, brought, ipfs, pins

SMALL: Tree = {f"d/{number:03}": bytes([number]) * 500 for number in range(60)}


def new_key() -> str:
    return f"/key/swarm/psk/1.0.0/\n/base16/\n{secrets.token_hex(32)}\n"


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[list[servers.Kubo]]:
    """Three nodes: two of one private swarm that do not know each other yet, and one of another."""
    key = new_key()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(servers.kubo(tmp_path / f"node-{number}", swarm_key=each))
            for number, each in enumerate((key, key, new_key()))
        ]


async def test_data_comes_from_the_only_holder_in_a_private_swarm(
    swarm: list[servers.Kubo], tmp_path: Path
) -> None:
    """A result published on one node is read through another of its swarm, once the two are connected, by both ways of
    reading; not before, and never by a node that has another key."""
    holder, reader, stranger = swarm
    tree: Tree = {**SMALL, "large": LARGE}
    async with (
        Kubo(holder.multiaddr) as at_holder,
        Kubo(reader.multiaddr_with_peer, IpfsSettings(silence_s=2)) as at_reader,
        Kubo(stranger.multiaddr, IpfsSettings(silence_s=1)) as at_stranger,
    ):
        spec = await IpfsPublisher(at_holder).publish(
            plant(tree, tmp_path / "result"), PublisherParams(), LABEL, silent
        )
        cid = str(spec.params["CID"])
        with pytest.raises(TimedOut, match=cid):
            await IpfsSource(at_reader).resolve(SourceParams(cid), ALL)
        address = await holder.swarm_multiaddr()
        await ipfs(reader, "swarm", "connect", address)
        assert await brought(IpfsSource(at_reader), cid, tmp_path / "in") == with_folders(tree)
        gateway = GatewaySource([reader.gateway_url])
        assert await brought(gateway, f"{cid}/d", tmp_path / "by-gateway") == {
            path.removeprefix("d/"): data for path, data in SMALL.items()
        }
        await gateway.close()

        with pytest.raises(AssertionError):
            await ipfs(stranger, "swarm", "connect", address)
        with pytest.raises(TimedOut, match=cid):
            await IpfsSource(at_stranger).resolve(SourceParams(cid), ALL)


async def test_a_path_is_followed_wherever_its_blocks_are(tmp_path: Path) -> None:
    """A gateway that lacks a folder says nothing of what is in it: another is asked, and only one that has it can say that
    there is no such name."""
    async with (
        servers.kubo(tmp_path / "empty", offline=True) as empty,
        servers.kubo(tmp_path / "holder", offline=True) as holder,
    ):
        cid = await added(holder, {"d/a": b"1"}, tmp_path / "added")
        both = GatewaySource([empty.gateway_url, holder.gateway_url])
        one = GatewaySource([empty.gateway_url])

        assert await brought(both, f"{cid}/d/a", tmp_path / "in") == {"": b"1"}
        with pytest.raises(NotFound, match="no 'd/b' below"):
            await both.resolve(SourceParams(f"{cid}/d/b"), ALL)
        with pytest.raises(NotFound, match=f"could not find {cid}"):
            await one.resolve(SourceParams(f"{cid}/d/a"), ALL)
        await both.close()
        await one.close()


@pytest.mark.parametrize("tree", [{"": LARGE * 8}, {**SMALL, "large": LARGE * 3}], ids=["ranges", "blocks"])
async def test_a_node_that_is_restarted_under_a_transfer(tree: Tree, tmp_path: Path) -> None:
    """The transfer goes on when the node is back, or is a clear fault that leaves nothing."""
    async with (
        servers.kubo(tmp_path / "node", offline=True) as node,
        Kubo(node.multiaddr, IpfsSettings(part_bytes=1 << 20, silence_s=10)) as kubo,
    ):
        params = SourceParams(await added(node, tree, tmp_path / "added"))
        source = IpfsSource(kubo)
        resolved = await source.resolve(params, ALL)
        begun = asyncio.Event()
        (tmp_path / "room").mkdir()

        fetching = asyncio.create_task(
            source.fetch(params, resolved, tmp_path / "room" / "in", lambda done, total: begun.set())
        )
        waiting = asyncio.create_task(begun.wait())
        await asyncio.wait([fetching, waiting], return_when=asyncio.FIRST_COMPLETED)
        await node.kill()
        await node.start()
        waiting.cancel()

        try:
            fetched = await fetching
        except (Unavailable, Broken):
            assert list((tmp_path / "room").iterdir()) == []
        else:
            assert snapshot(fetched.path) == with_folders(tree)


async def test_publishing_outlives_a_restart_of_the_node(tmp_path: Path) -> None:
    """A node that is killed in the middle of a result and comes back costs a try: the whole result is there, pinned once."""
    tree: Tree = {**SMALL, "large": LARGE * 4}
    async with (
        servers.kubo(tmp_path / "node", offline=True) as node,
        Kubo(node.multiaddr, IpfsSettings(silence_s=10)) as kubo,
    ):
        restarting: list[asyncio.Task[None]] = []

        async def restart() -> None:
            await node.kill()
            await node.start()

        def moved(done_bytes: int, total_bytes: int | None) -> None:
            if not restarting:
                restarting.append(asyncio.create_task(restart()))

        publishing = IpfsPublisher(kubo).publish(
            plant(tree, tmp_path / "result"), PublisherParams(), LABEL, moved
        )
        cid = str((await publishing).params["CID"])

        await restarting[0]
        assert await brought(IpfsSource(kubo), cid, tmp_path / "in") == with_folders(tree)
        assert cid in await pins(node)
