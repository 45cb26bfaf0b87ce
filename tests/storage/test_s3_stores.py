"""What stores have in common with S3, and what only some of them have: a proxy before real servers answers as others do."""

import hashlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from msgspec.structs import replace

from deploy.servers import S3Server
from protocol.errors import Denied, Invalid
from protocol.ids import ExecutionId
from storage.contract import Share, silent
from storage.params import read_params
from storage.s3 import PublisherParams, S3Client, S3Publisher, S3Source, SourceParams
from tests.contracts.trees import Tree, plant
from tests.storage.fault_proxy import FaultProxy, Plan
from tests.storage.s3_world import LABEL, Bucket, brought, settings_of


@pytest.fixture
async def client(server: S3Server) -> AsyncIterator[S3Client]:
    async with S3Client(settings_of(server, part_bytes=1 << 20)) as client:
        yield client


def wants_md5(request: web.Request, number: int) -> str:
    """As MinIO did, and OneFS does."""
    vouched = "delete" not in request.query or "Content-MD5" in request.headers
    return "" if vouched else "unvouched"


def knows_one_at_a_time(request: web.Request, number: int) -> str:
    """As Google's store has it."""
    return "unknown" if "delete" in request.query else ""


@pytest.mark.parametrize("plan", [wants_md5, knows_one_at_a_time])
async def test_what_gives_way_is_removed_from_any_store(
    plan: Plan, bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """A later attempt's tree takes the place of an earlier one's also at a store that takes no request to remove many
    objects, or only by its MD5."""
    proxy.plan = plan
    publisher, source = S3Publisher(client=client), S3Source(client=client)
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint, encoding="plain")
    first: Tree = {f"{number}": b"first" for number in range(20)}
    second: Tree = {"0": b"second"}
    await publisher.publish(plant(first, tmp_path / "first"), params, LABEL, silent)
    later = replace(LABEL, execution=ExecutionId("e-2"), attempt=2)

    spec = await publisher.publish(plant(second, tmp_path / "second"), params, later, silent)

    assert [key for key in await bucket.keys() if not key.endswith("/")] == ["out/0"]
    assert await brought(source, read_params(spec.params, SourceParams, "s3"), tmp_path / "in") == second


async def test_an_object_in_an_archive_is_told(
    bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """An object that has to be restored first is no question of leave: the error says what to do."""
    await bucket.put("k", b"cold")
    proxy.plan = lambda request, number: "archived" if request.method == "GET" else ""
    source, params = S3Source(client=client), SourceParams(bucket.name, "k", endpoint=proxy.endpoint)

    with pytest.raises(Invalid, match="InvalidObjectState") as caught:
        await brought(source, params, tmp_path / "in")

    assert "restore" in caught.value.hint


def readers_pay(request: web.Request, number: int) -> str:
    """As AWS has it where a bucket's owner says so."""
    return "" if request.headers.get("x-amz-request-payer") == "requester" else "403"


@pytest.mark.parametrize("key", ["in/a", "in/", "in/*"])
async def test_who_reads_may_pay(
    key: str, bucket: Bucket, server: S3Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A bucket that is read at its readers' cost is read where the job says so and the node's owner lets jobs have it pay;
    else the node asks for nothing, and says which setting it is."""
    tree: Tree = {"a": bytes(range(256)) * 10_000}
    for name, data in tree.items():
        assert isinstance(data, bytes)
        await bucket.put(f"in/{name}", data)
    proxy.plan = readers_pay
    params = SourceParams(bucket.name, key, endpoint=proxy.endpoint, requester_pays=True)
    settings = settings_of(server, part_bytes=1 << 20)

    async with S3Client(replace(settings, requester_pays=True)) as paying:
        source = S3Source(client=paying)
        assert await brought(source, params, tmp_path / "in") == tree
        with pytest.raises(Denied, match="denies access"):
            await source.resolve(replace(params, requester_pays=False), Share())
    asked = proxy.count
    async with S3Client(settings) as client:
        with pytest.raises(Denied, match="does not pay") as caught:
            await S3Source(client=client).resolve(params, Share())

    assert "RequesterPays: true" in caught.value.hint
    assert proxy.count == asked


@pytest.mark.parametrize("server", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_a_bucket_may_want_more_said(
    encoding: str, bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """Where a bucket's owner wants each object encrypted and of a class, a result says so of each, in one request or in
    parts, and is read like any other."""
    tree: Tree = {"large": hashlib.shake_256(b"options").digest(9 << 20), "small": b"s", "folder": None}
    params = PublisherParams(
        bucket.name,
        "out",
        endpoint=proxy.endpoint,
        encoding=encoding,
        storage_class="STANDARD_IA",
        server_side_encryption="AES256",
        acl="bucket-owner-full-control",
    )
    begun = []

    def policy(request: web.Request, number: int) -> str:
        if request.method not in ("PUT", "POST") or "uploadId" in request.query:
            return ""
        begun.append(request.headers.get("x-amz-acl"))
        return "" if request.headers.get("x-amz-server-side-encryption") == "AES256" else "403"

    proxy.plan = policy
    spec = await S3Publisher(client=client).publish(plant(tree, tmp_path / "result"), params, LABEL, silent)

    key = "out.tar.gz" if encoding == "gzip" else "out/large"
    found = await bucket.raw.head_object(Bucket=bucket.name, Key=key)
    assert (found["StorageClass"], found["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
    assert begun
    assert {*begun} == {"bucket-owner-full-control"}
    result = read_params(spec.params, SourceParams, "s3")
    came = await brought(S3Source(client=client), result, tmp_path / "in")
    if encoding == "plain":
        assert came == tree
    else:
        assert list(came) == [key]


def takes_no_checksums(request: web.Request, number: int) -> str:
    """As Backblaze B2 has it."""
    names = (name.lower() for name in request.headers)
    return "unsummed" if any(name.startswith(("x-amz-checksum", "x-amz-sdk")) for name in names) else ""


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_a_store_may_know_no_checksums(
    encoding: str, bucket: Bucket, proxy: FaultProxy, server: S3Server, tmp_path: Path
) -> None:
    """A store that refuses S3's checksums is read from and published to all the same, in one request or in parts: its bytes
    are vouched for by MD5s."""
    proxy.plan = takes_no_checksums
    tree: Tree = {"large": hashlib.shake_256(b"sums").digest(9 << 20), "small": b"s", "more": b"m"}
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint, encoding=encoding)
    for name in ("publish", "single", "prefix"):
        async with S3Client(settings_of(server)) as client:
            source = S3Source(client=client)
            if name == "publish":
                folder = plant(tree, tmp_path / "result")
                spec = await S3Publisher(client=client).publish(folder, params, LABEL, silent)
                found = read_params(spec.params, SourceParams, "s3")
            elif name == "single":
                await bucket.put("in/k", b"one")
                found = SourceParams(bucket.name, "in/k", endpoint=proxy.endpoint)
            else:
                found = SourceParams(bucket.name, "in/", endpoint=proxy.endpoint)
            came = await brought(source, found, tmp_path / name)
            connection = await client.connect(proxy.endpoint)

        if name != "publish":
            assert came == {"k": b"one"}
        elif encoding == "plain":
            assert came == tree
        else:
            assert list(came) == ["out.tar.gz"]
        assert not connection.store.sums
    assert await bucket.unfinished() == []


async def test_a_part_that_is_damaged_is_noticed_without_checksums(
    bucket: Bucket, proxy: FaultProxy, server: S3Server, tmp_path: Path
) -> None:
    """Where a store takes no checksums a part that was damaged on its way is sent again: its MD5 tells."""
    damaged: list[str] = []

    def plan(request: web.Request, number: int) -> str:
        if refused := takes_no_checksums(request, number):
            return refused
        if request.method == "PUT" and not damaged:
            damaged.append(request.path_qs)
            return "smudge"
        return ""

    proxy.plan = plan
    tree: Tree = {"large": hashlib.shake_256(b"sums").digest(9 << 20)}
    async with S3Client(settings_of(server)) as client:
        params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint, encoding="plain")
        spec = await S3Publisher(client=client).publish(plant(tree, tmp_path / "r"), params, LABEL, silent)
        found = read_params(spec.params, SourceParams, "s3")
        assert await brought(S3Source(client=client), found, tmp_path / "in") == tree
    assert damaged


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_a_condition_that_was_overtaken_is_asked_again(
    encoding: str, bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """Where somebody else's request comes between a condition and the object it is for, S3 wants to be asked once more."""
    overtaken = itertools.count()
    proxy.plan = lambda request, number: (
        "overtaken" if "If-None-Match" in request.headers and not next(overtaken) else ""
    )
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint, encoding=encoding)
    folder = plant({"stdout": b"mine"}, tmp_path / "result")

    await S3Publisher(client=client).publish(folder, params, LABEL, silent)

    assert next(overtaken) > 1
