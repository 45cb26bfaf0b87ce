"""IPFS on a real Kubo node: the suites, what is IPFS's own, and transfers that go wrong."""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import storage.ipfs.kubo
from deploy import servers
from deploy.processes import free_ports
from deploy.programs import need
from protocol.errors import Broken, Denied, Exhausted, Invalid, NotFound, TimedOut, Unavailable
from protocol.ids import ExecutionId, JobId, NodeId
from storage.contract import Label, Share, Source, silent
from storage.ipfs import (
    GatewaySource,
    IpfsPublisher,
    IpfsSettings,
    IpfsSource,
    Kubo,
    PublisherParams,
    SourceParams,
)
from storage.ipfs.params import split_path
from storage.params import read_params
from tests.contracts.publisher import ServedPublisherContract
from tests.contracts.source import ServedSourceContract
from tests.contracts.trees import Link, Run, Tree, plant, snapshot, with_folders
from tests.storage.fault_proxy import fault_proxy
from tests.storage.s3_world import serving

ALL = Share()
LABEL = Label(JobId("j-1"), ExecutionId("e-1"), NodeId("n-1"), at=1_700_000_000.0)
NOBODY_HAS = "QmVcxzWM39CEgJ3gQdWxxbEBXCTXpuZpGsRmQUbkxj5483"
MIB = 1 << 20
LARGE = hashlib.shake_256(b"ipfs").digest(3 * MIB + 17)
ONE_IN_ALL_BASES = (
    "bafybeieja76vwrfar5b7km36n6spz7aq3b2q2zviw3f24lkk446kdxvyki",
    "f017012208907fd5b44a08f43f5337e6fa4fcfc10d8750d66a8b6cbae2d4ae73ca1deb852",
    "k2jmtxus2a30kpw9fb2crdt5hw1n5bc459ddpnkrvyfwml8gy8kczmfm",
    "zdj7WeeozwSjVpd7n6ogLUg1bPgwmy95eU2PeRkUufykt4exZ",
    "uAXASIIkH_VtEoI9D9TN-b6T8_BDYdQ1mqLbLri1K5zyh3rhS",
    "cafybeieja76vwrfar5b7km36n6spz7aq3b2q2zviw3f24lkk446kdxvyki======",
)
FOLDER_DATA = "CAE"
"""UnixFS for "a folder", in Base64."""


@pytest.fixture
def node(offline_kubo: servers.Kubo) -> servers.Kubo:
    """A node that knows at once what it lacks."""
    return offline_kubo


@pytest.fixture(params=["gateway", "cat"])
async def shared(node: servers.Kubo, request: pytest.FixtureRequest) -> AsyncIterator[Kubo]:
    """The node, read in both ways, in small parts."""
    settings = IpfsSettings(gateway=request.param == "gateway", part_bytes=MIB, silence_s=5)
    async with Kubo(node.multiaddr_with_peer, settings) as kubo:
        yield kubo


@pytest.fixture
def source(shared: Kubo) -> IpfsSource:
    return IpfsSource(shared)


@pytest.fixture
def publisher(shared: Kubo) -> IpfsPublisher:
    return IpfsPublisher(shared)


@pytest.fixture
def nowhere() -> str:
    """An address where no Kubo node is."""
    (port,) = free_ports(1)
    return f"/ip4/127.0.0.1/tcp/{port}"


async def ipfs(node: servers.Kubo, *arguments: str | Path, stdin: bytes = b"") -> str:
    """Run the real `ipfs` against the node."""
    process = await asyncio.create_subprocess_exec(
        need("ipfs"),
        *("--api", node.multiaddr),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(stdin)
    assert process.returncode == 0
    return said.decode().strip()


async def added(node: servers.Kubo, tree: Tree, at: Path, *options: str) -> str:
    """Add a tree with the real `ipfs add`; its CID."""
    return await ipfs(node, "add", "-rQ", *options, plant(tree, at))


async def folder_of(node: servers.Kubo, links: list[tuple[str, str]], weight: int = 3) -> str:
    """A folder with any names and weights at all, which `ipfs add` would not make."""
    listed = [{"Hash": {"/": cid}, "Name": name, "Tsize": weight} for name, cid in links]
    data = json.dumps({"Data": {"/": {"bytes": FOLDER_DATA}}, "Links": listed}).encode()
    return await ipfs(node, "dag", "put", "--store-codec", "dag-pb", "--input-codec", "dag-json", stdin=data)


async def pins(node: servers.Kubo) -> set[str]:
    """The CIDs of all recursive pins."""
    return set((await ipfs(node, "pin", "ls", "--type=recursive", "-q")).split())


def only_here(tmp_path: Path) -> bytes:
    """Bytes that no other test has put into the node."""
    return LARGE + bytes(tmp_path)


async def brought(source: Source[SourceParams], cid: str, into: Path) -> Tree:
    """Resolve and fetch."""
    params = SourceParams(cid)
    fetched = await source.fetch(params, await source.resolve(params, ALL), into, silent)
    return snapshot(fetched.path)


class TestFolder(ServedSourceContract):
    """A folder by its CID."""

    @pytest.fixture
    def content(self, tmp_path: Path) -> Tree:
        return {
            "a": b"1",
            "empty": b"",
            "none": None,
            "sub/with space & signs+%41?#": b"signs",
            "sub/link": Link("../a"),
            "träume – 夢": b"unicode",
            "line\nbreak": b"x",
            "large": only_here(tmp_path),
        }

    @pytest.fixture
    async def params(self, node: servers.Kubo, content: Tree, tmp_path: Path) -> SourceParams:
        return SourceParams(await added(node, content, tmp_path / "added"))

    @pytest.fixture
    async def hostile(self, node: servers.Kubo, tmp_path: Path) -> list[SourceParams]:
        file = await added(node, {"": b"bad"}, tmp_path / "bad")
        inner = await folder_of(node, [("../../sentinel", file)])
        link = await added(node, {"l": Link("/etc/passwd"), "f": b""}, tmp_path / "links")
        up = await added(node, {"a/l": Link("../../x")}, tmp_path / "ups")
        names = ("..", ".", "", "../x", "/etc/x", "a/b", "a\0b", "n" * 300)
        cids = [await folder_of(node, [(name, file)]) for name in names]
        twins = await folder_of(node, [("twin", file), ("twin", inner)])
        return [SourceParams(cid) for cid in (*cids, await folder_of(node, [("in", inner)]), link, up, twins)]

    @pytest.fixture
    def missing(self, params: SourceParams) -> tuple[SourceParams, str]:
        return SourceParams(f"{params.cid.rstrip('/')}/not/here"), "not/here"

    @pytest.fixture
    def change(
        self, node: servers.Kubo, content: Tree, tmp_path: Path
    ) -> Callable[[], Awaitable[SourceParams]]:
        async def change() -> SourceParams:
            return SourceParams(await added(node, {"": b"2"}, tmp_path / "changed"))

        return change

    @pytest.fixture
    def vanish(self, node: servers.Kubo, params: SourceParams) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            await ipfs(node, "pin", "rm", split_path(params.cid)[0])
            await ipfs(node, "repo", "gc", "--silent")

        return vanish

    @pytest.fixture
    async def away(
        self, nowhere: str, params: SourceParams
    ) -> AsyncIterator[tuple[IpfsSource, SourceParams]]:
        async with Kubo(nowhere) as kubo:
            yield IpfsSource(kubo), params


class TestFile(TestFolder):
    """A file by its CID: not a folder, but the file itself."""

    @pytest.fixture
    def content(self, tmp_path: Path) -> Tree:
        return {"": only_here(tmp_path)}


class TestPath(TestFolder):
    """What lies at a path below a CID."""

    @pytest.fixture
    def content(self, tmp_path: Path) -> Tree:
        return {"x": b"1", "y/z": only_here(tmp_path)}

    @pytest.fixture
    async def params(self, node: servers.Kubo, content: Tree, tmp_path: Path) -> SourceParams:
        whole: Tree = {f"in/a b/{path}": data for path, data in content.items()}
        return SourceParams(f"ipfs://{await added(node, whole, tmp_path / 'added')}/in/a b/")


class TestPublisher(ServedPublisherContract):
    """A result as a tree of its own."""

    @pytest.fixture
    def publish_params(self) -> PublisherParams:
        return PublisherParams()

    @pytest.fixture
    def sources(self, source: IpfsSource) -> dict[str, IpfsSource]:
        return {"ipfs": source}

    @pytest.fixture
    async def away(self, nowhere: str) -> AsyncIterator[IpfsPublisher]:
        async with Kubo(nowhere) as kubo:
            yield IpfsPublisher(kubo)


# What a CID may say.


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (NOBODY_HAS, f"/ipfs/{NOBODY_HAS}"),
        (f"ipfs://{NOBODY_HAS}/a/b", f"/ipfs/{NOBODY_HAS}/a/b"),
        (f" /ipfs/{NOBODY_HAS}/ ", f"/ipfs/{NOBODY_HAS}"),
        ("bafkqaaa", "/ipfs/bafkqaaa"),
        *((each, f"/ipfs/{each}") for each in ONE_IN_ALL_BASES),
        (f"{NOBODY_HAS}/a b?#%41", f"/ipfs/{NOBODY_HAS}/a b?#%41"),
    ],
)
def test_a_cid_may_have_a_path(text: str, path: str) -> None:
    """A CID of either version, with a path or without, with the prefixes that people write."""
    assert SourceParams(text).path == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "nonsense",
        NOBODY_HAS[:-1],
        NOBODY_HAS[:-1] + "0",
        f"{NOBODY_HAS}/../x",
        f"{NOBODY_HAS}/a//b",
        f"{NOBODY_HAS}/a\0",
        "ipns://",
        "/ipns/exa mple.com",
        "/ipns/example.com/../x",
        "é" * 46,
        f"{NOBODY_HAS}/{'a' * 5000}",
        "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
        "baf4bcfg4ep767tjp5lxyanx5urpjjgx5q2volvy",
    ],
)
def test_what_is_no_cid_is_refused_when_it_is_read(text: str) -> None:
    """The field is named before anything is asked of the network, for a CID of what is no file (DAG-CBOR, Git) too."""
    with pytest.raises(Invalid, match="CID"):
        read_params({"cid": text}, SourceParams, "source ipfs")


@pytest.mark.parametrize(
    "options",
    [
        ("--cid-version=1",),
        ("--cid-version=1", "--max-directory-links=3", "--max-hamt-fanout=8"),
        ("--inline", "--inline-limit=100"),
        ("--raw-leaves", "--chunker=size-65536"),
        ("--cid-version=1", "--hash=sha2-512"),
        ("--cid-version=1", "--hash=blake3"),
        ("--cid-version=1", "--hash=sha1"),
    ],
)
async def test_data_comes_however_it_was_added(
    options: tuple[str, ...], node: servers.Kubo, source: IpfsSource, tmp_path: Path
) -> None:
    """CIDs of version 1, sharded folders, data inside its own CID, raw blocks and other hashes are all the same to a job."""
    tree: Tree = {f"folder/{number}": str(number).encode() for number in range(50)}
    tree |= {"large": LARGE, "empty": b"", "l": Link("large")}
    cid = await added(node, tree, tmp_path / "added", *options)

    assert await brought(source, cid, tmp_path / "in") == with_folders(tree)


async def test_a_name_is_turned_into_a_cid_first(
    node: servers.Kubo, source: IpfsSource, tmp_path: Path
) -> None:
    """``/ipns/NAME/path`` is pinned down to what it means now; what the name means later changes nothing for a fetch."""
    old = await added(node, {"in/a": b"old"}, tmp_path / "old")
    new = await added(node, {"in/a": b"new"}, tmp_path / "new")
    await ipfs(node, "name", "publish", "--allow-offline", "-Q", f"/ipfs/{old}")
    params = SourceParams(f"ipns://{node.peer_id}/in")

    resolved = await source.resolve(params, ALL)
    await ipfs(node, "name", "publish", "--allow-offline", "-Q", f"/ipfs/{new}")
    fetched = await source.fetch(params, resolved, tmp_path / "in", silent)
    later = await source.resolve(params, ALL)

    assert snapshot(fetched.path) == {"a": b"old"}
    assert resolved.identity.startswith("ipfs://")
    assert later.identity != resolved.identity
    with pytest.raises(NotFound) as caught:
        await source.resolve(SourceParams(f"ipns://{node.peer_id}/im"), ALL)
    assert caught.value.hint == "There is 'in'."


async def test_a_name_that_nobody_published_is_not_found(node: servers.Kubo, source: IpfsSource) -> None:
    """The fault names it; of a node or through gateways."""
    name = "12D3KooWRH9Gi4pWRKbVuJ1ef14ztEE1cTY3HcdFWcBDAKx2enLd"
    gateway = GatewaySource([node.gateway_url])
    for each in (source, gateway):
        with pytest.raises(NotFound, match=name):
            await each.resolve(SourceParams(f"/ipns/{name}"), ALL)
    await gateway.close()


async def test_executable_files_stay_so(node: servers.Kubo, source: IpfsSource, tmp_path: Path) -> None:
    """A mode that was stored comes back as far as the executable bit goes."""
    tree: Tree = {"tool": Run(b"#!/bin/sh\n"), "data": b"x"}

    assert (
        await brought(source, await added(node, tree, tmp_path / "1", "--preserve-mode"), tmp_path / "in")
        == tree
    )
    file = await ipfs(node, "add", "-Q", "--preserve-mode", tmp_path / "1" / "tool")
    await brought(source, file, tmp_path / "in-2")
    assert (tmp_path / "in-2").stat().st_mode & 0o777 == 0o755


async def test_a_link_by_itself_is_refused(node: servers.Kubo, source: IpfsSource, tmp_path: Path) -> None:
    """A CID that is a symbolic link is no data."""
    cid = await added(node, {"l": Link("x"), "x": b""}, tmp_path / "added")

    with pytest.raises(Invalid, match="symbolic link"):
        await source.resolve(SourceParams(f"{cid}/l"), ALL)


async def test_a_node_knows_whether_it_has_all_of_it(
    node: servers.Kubo, kubo: servers.Kubo, source: IpfsSource, tmp_path: Path
) -> None:
    """Every block counts, and no other node is asked: one that would wait without end answers at once. What is pinned is
    there and not read for it."""
    cid = await added(node, {"d/large": bytes(tmp_path) + LARGE}, tmp_path / "added", "--cid-version=1")
    async with fault_proxy(node.api_url) as proxy, Kubo(proxy.endpoint) as behind:
        assert await IpfsSource(behind).is_here(SourceParams(f"{cid}/d"))
        assert not any("with-local" in path for path in proxy.paths)
    leaf = (await ipfs(node, "refs", "-r", cid)).split()[-1]
    await ipfs(node, "pin", "rm", cid)
    assert await source.is_here(SourceParams(f"{cid}/d"))
    await ipfs(node, "block", "rm", leaf)
    assert not await source.is_here(SourceParams(cid))

    async with Kubo(kubo.multiaddr) as lonely:
        assert not await IpfsSource(lonely).is_here(SourceParams(NOBODY_HAS))


async def test_what_kubo_tells_in_the_middle_of_a_file_is_told(
    node: servers.Kubo, source: IpfsSource, tmp_path: Path
) -> None:
    """An error behind the first bytes, which Kubo can only tell in a trailer, becomes the fault that it means; nothing is
    left."""
    # No block of it is in another test's data, whose pin would keep it.
    cid = await added(node, {"": bytes(tmp_path) + LARGE}, tmp_path / "added", "--cid-version=1")
    resolved = await source.resolve(SourceParams(cid), ALL)
    leaf = (await ipfs(node, "refs", cid)).split()[-2]
    await ipfs(node, "pin", "rm", cid)
    await ipfs(node, "block", "rm", leaf)
    (tmp_path / "room").mkdir()

    # Kubo's own words: which of the two depends on how far it has read ahead.
    with pytest.raises((NotFound, Unavailable), match=f"{cid}: .*(not found|could not find|failed to fetch)"):
        await source.fetch(SourceParams(cid), resolved, tmp_path / "room" / "in", silent)

    assert list((tmp_path / "room").iterdir()) == []


async def test_weights_that_are_not_true_bring_no_other_bytes(
    node: servers.Kubo, source: IpfsSource, tmp_path: Path
) -> None:
    """A folder that says nothing of a file's size is read all the same, and so is one file of it by its path; one that says
    another size is an error, with both ways of reading, and so with gateways."""
    file = await added(node, {"": b"twelve bytes"}, tmp_path / "file", "--cid-version=1")
    empty = await added(node, {"": b""}, tmp_path / "empty", "--cid-version=1")
    gateway = GatewaySource([node.gateway_url])
    for each in (source, gateway):
        silent_on_it = await folder_of(node, [("a", file), ("b", empty)], weight=0)
        at = tmp_path / f"in-{type(each).__name__}"
        assert await brought(each, silent_on_it, at) == {"a": b"twelve bytes", "b": b""}
        for name, data in (("a", b"twelve bytes"), ("b", b"")):
            path = f"{silent_on_it}/{name}"
            assert (await each.resolve(SourceParams(path), ALL)).size_bytes == len(data)
            assert await brought(each, path, tmp_path / f"{at.name}-{name}") == {"": data}
        for weight in (5, 50):
            with pytest.raises((Broken, Invalid)):
                await brought(each, await folder_of(node, [("a", file)], weight=weight), tmp_path / "no")
    await gateway.close()


async def test_a_cid_that_is_no_file_is_refused(node: servers.Kubo, source: IpfsSource) -> None:
    """Data of another kind than files and folders is told as such, for good; of a node or through gateways."""
    cbor = await ipfs(node, "dag", "put", stdin=b'{"a": {"b": 1}}')
    bare = await ipfs(node, "dag", "put", "--store-codec=dag-pb", stdin=b'{"Links": []}')
    junk = b'{"Data": {"/": {"bytes": "aGVsbG8"}}, "Links": []}'
    other = await ipfs(node, "dag", "put", "--store-codec=dag-pb", stdin=junk)
    gateway = GatewaySource([node.gateway_url])

    for cid in (f"{cbor}/a", bare, other):
        for each in (source, gateway):
            with pytest.raises(Invalid, match=cid):
                await each.resolve(SourceParams(cid), ALL)
    await gateway.close()


async def test_a_path_leads_through_other_data(
    node: servers.Kubo, source: IpfsSource, tmp_path: Path
) -> None:
    """What lies below DAG-CBOR is found by a Kubo, what does not is told; gateways say that they do not follow it."""
    below = await added(node, {"a": b"1"}, tmp_path / "added")
    cbor = await ipfs(node, "dag", "put", stdin=json.dumps({"data": [{"/": below}]}).encode())
    gateway = GatewaySource([node.gateway_url])

    assert await brought(source, f"{cbor}/data/0/a", tmp_path / "in") == {"": b"1"}
    with pytest.raises(NotFound, match="nope") as caught:
        await source.resolve(SourceParams(f"{cbor}/nope"), ALL)
    assert "''" not in caught.value.hint
    with pytest.raises(Invalid, match=f"{cbor} is dag-cbor") as refused:
        await gateway.resolve(SourceParams(f"{cbor}/data/0/a"), ALL)
    assert "Kubo" in refused.value.hint
    await gateway.close()


async def test_a_cid_that_nobody_has_ends_after_its_limit(kubo: servers.Kubo) -> None:
    """Nothing hangs: after the limit on silence the CID is named, and what to do."""
    async with Kubo(kubo.multiaddr, IpfsSettings(silence_s=0.5)) as lonely:
        with pytest.raises(TimedOut, match=NOBODY_HAS) as caught:
            await IpfsSource(lonely).resolve(SourceParams(NOBODY_HAS), ALL)

    assert caught.value.hint


@pytest.mark.parametrize("where", ["root", "below"])
async def test_an_offline_node_says_at_once_what_it_lacks(
    where: str, node: servers.Kubo, source: IpfsSource
) -> None:
    """A node that seeks nowhere answers `NotFound`, by the CID; the hint names the node and what can be done about it."""
    cid = NOBODY_HAS if where == "root" else await folder_of(node, [("x", NOBODY_HAS)])

    with pytest.raises(NotFound, match=cid) as caught:
        await source.resolve(SourceParams(cid), ALL)

    assert f"could not find {NOBODY_HAS}" in caught.value.message
    assert f"The node at {node.multiaddr}" in caught.value.hint
    assert "--offline" in caught.value.hint
    assert "`ipfs swarm peers`" in caught.value.hint


async def test_too_much_is_refused_before_it_is_fetched(node: servers.Kubo, tmp_path: Path) -> None:
    """A tree has a documented number of entries, and an input a size."""
    cid = await added(node, {f"d/{number}": b"xx" for number in range(5)}, tmp_path / "added")
    for settings, said in ((IpfsSettings(entries=4), "4 files"), (IpfsSettings(max_bytes=9), "10 bytes")):
        async with Kubo(node.multiaddr, settings) as kubo:
            with pytest.raises(Exhausted, match=said):
                await IpfsSource(kubo).resolve(SourceParams(cid), ALL)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("in/dta.csv", "Did you mean 'in/data.csv'?"),
        ("IN/data.csv", "Did you mean 'in'?"),
        ("in/zzz", "In 'in' there is 'data.csv', 'l', 'more', …."),
        ("zzz/yyy/xxx", "There is 'in'."),
        ("in/data.csv/x", "'in/data.csv' is no folder, or there is nothing in it."),
    ],
)
async def test_a_path_to_nothing_says_what_is_there(
    path: str, hint: str, node: servers.Kubo, source: IpfsSource, tmp_path: Path
) -> None:
    """The nearest names in the folder that the path leads to, else some that it holds; of a node or through gateways."""
    tree: Tree = {"in/data.csv": b"1", "in/more/x": b"2", "in/l": Link("more"), "in/nothing": b""}
    cid = await added(node, tree, tmp_path / "added", "--cid-version=1")
    gateway = GatewaySource([node.gateway_url])

    for each in (source, gateway):
        with pytest.raises(NotFound, match=path) as caught:
            await each.resolve(SourceParams(f"{cid}/{path}"), ALL)
        assert caught.value.hint == hint
    await gateway.close()


# The node.


async def test_the_node_that_was_named_is_the_node_that_is_asked(node: servers.Kubo, tmp_path: Path) -> None:
    """With ``/p2p/…`` another node behind the address is refused, both ids named, before anything moves."""
    other = "12D3KooWRH9Gi4pWRKbVuJ1ef14ztEE1cTY3HcdFWcBDAKx2enLd"
    async with Kubo(f"{node.multiaddr}/p2p/{other}") as kubo:
        offer = await IpfsSource(kubo).probe()
        with pytest.raises(Denied):
            await IpfsSource(kubo).resolve(SourceParams(NOBODY_HAS), ALL)
        with pytest.raises(Denied):
            await IpfsPublisher(kubo).publish(
                plant({"a": b""}, tmp_path / "r"), PublisherParams(), LABEL, silent
            )

    assert not offer.available
    assert other in offer.reason
    assert node.peer_id in offer.reason


async def test_a_node_that_is_there_says_its_version(node: servers.Kubo) -> None:
    """The probe tells what runs there, and by which gateway it is read."""
    async with Kubo(node.multiaddr_with_peer) as kubo:
        offer = await IpfsSource(kubo).probe()
        assert offer.available
        assert offer.version.startswith("kubo 0.")
        assert await kubo.gateway() == node.gateway_url


async def test_a_node_behind_a_socket_of_this_machine(node: servers.Kubo, tmp_path: Path) -> None:
    """``/unix/…`` leads to the node: its id is checked, files come and results go; a socket that is not there is told."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = node.api_url.removeprefix("http://").split(":")
        there, back = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as group:
            group.create_task(relay(reader, back))
            group.create_task(relay(there, writer))

    path = tempfile.mktemp(prefix="shoal-", suffix=".sock", dir="/tmp")
    tree: Tree = {**{f"{number}": bytes([number]) for number in range(20)}, "large": LARGE}
    server = await asyncio.start_unix_server(accept, path)
    async with Kubo(f"/unix{path}/p2p/{node.peer_id}") as kubo:
        spec = await IpfsPublisher(kubo).publish(
            plant(tree, tmp_path / "r"), PublisherParams(), LABEL, silent
        )
        assert await brought(IpfsSource(kubo), spec.params["CID"], tmp_path / "in") == tree
    server.close()
    Path(path).unlink()
    async with Kubo(f"/unix{path}") as kubo:
        offer = await IpfsSource(kubo).probe()
    assert path in offer.reason


async def test_a_node_that_stands_in_dns_is_found(
    node: servers.Kubo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``/dnsaddr/…`` leads to the first address there that answers, and the peer id that was written is checked there."""
    (port,) = free_ports(1)

    async def lookup(name: str) -> list[str]:
        return [f"dnsaddr=/ip4/127.0.0.1/tcp/{port}", f"dnsaddr={node.multiaddr}"]

    monkeypatch.setattr(storage.ipfs.kubo, "lookup_txt", lookup)
    async with Kubo(f"/dnsaddr/kubo.test/p2p/{node.peer_id}") as kubo:
        assert (await IpfsSource(kubo).probe()).available
        assert kubo.endpoint.url == node.api_url


async def test_a_node_that_is_away_is_named_with_what_to_do(nowhere: str) -> None:
    """The address as it was written, and how to start a node."""
    async with Kubo(nowhere) as kubo:
        offer = await IpfsSource(kubo).probe()

    assert not offer.available
    assert offer.reason == f"no Kubo node listens at {nowhere}"
    assert "ipfs daemon" in offer.hint
    assert "--ipfs-connect" in offer.hint


async def test_the_address_of_a_swarm_is_told_from_that_of_the_api(kubo: servers.Kubo) -> None:
    """Of the addresses that `ipfs id` prints none is the one that is meant here: who takes one of them is told which is."""
    async with Kubo(await kubo.swarm_multiaddr()) as wrong:
        offer = await IpfsSource(wrong).probe()

    assert not offer.available
    assert "`ipfs config Addresses.API`" in offer.hint
    assert "swarm" in offer.hint


async def test_something_else_at_the_address_is_said_so() -> None:
    """A web server that is no Kubo node is not taken for one."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>")

    async with serving(page) as url, Kubo(url) as kubo:
        offer = await IpfsSource(kubo).probe()
        with pytest.raises(Broken, match="as Kubo does"):
            await IpfsSource(kubo).resolve(SourceParams(NOBODY_HAS), ALL)

    assert not offer.available


# Publishing.


async def test_a_result_is_the_root_and_stays_pinned(
    node: servers.Kubo, publisher: IpfsPublisher, tmp_path: Path
) -> None:
    """The CID is of the result folder itself, the one that `ipfs add` gives it; it is pinned."""
    tree: Tree = {
        "stdout": b"hello\n",
        "outputs/a b": b"x",
        "outputs/l": Link("../stdout"),
        "outputs/e": None,
    }
    folder = plant(tree, tmp_path / "result")

    spec = await publisher.publish(folder, PublisherParams(), LABEL, silent)

    assert spec.params == {"CID": await ipfs(node, "add", "-rQ", "--only-hash", folder)}
    assert spec.params["CID"] in await pins(node)
    await ipfs(node, "repo", "gc", "--silent")
    assert await ipfs(node, "cat", f"{spec.params['CID']}/stdout") == "hello"


async def test_progress_counts_the_bytes_of_the_files(
    node: servers.Kubo, publisher: IpfsPublisher, tmp_path: Path
) -> None:
    """Progress only grows, up to the size of the result."""
    told: list[tuple[int, int | None]] = []
    folder = plant({"large": LARGE, "b": b"1"}, tmp_path / "result")

    await publisher.publish(folder, PublisherParams(), LABEL, lambda done, total: told.append((done, total)))

    assert told == sorted(told)
    assert told[-1] == (len(LARGE) + 1, len(LARGE) + 1)


async def test_a_node_that_is_shared_is_closed_by_its_owner(node: servers.Kubo) -> None:
    """Drivers made from an address close their own connections, and can be used again afterwards."""
    source = IpfsSource(node.multiaddr)
    assert (await source.probe()).available
    await source.close()
    assert (await source.probe()).available
    await source.close()
    async with aiohttp.ClientSession() as session, session.post(f"{node.api_url}/api/v0/id") as response:
        assert response.status == 200
