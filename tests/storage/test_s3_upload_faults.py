"""Uploads and listings that go wrong, through a proxy before a real server: equal bytes or an error, nothing left over."""

import asyncio
import base64
import hashlib
import itertools
import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from botocore.parsers import ResponseParserError

from deploy.servers import S3Server
from protocol.errors import Broken, Denied, Fault, Invalid, TimedOut, Unavailable
from storage.addresses import read_policy
from storage.contents import contents_of
from storage.contract import Share, silent
from storage.s3 import (
    Credentials,
    PublisherParams,
    S3Client,
    S3Publisher,
    S3Settings,
    S3Source,
    SourceParams,
)
from storage.s3.bulk import read_page
from storage.s3.faults import faults
from tests.contracts.trees import Tree, plant, snapshot
from tests.storage.fault_proxy import FaultProxy, Plan
from tests.storage.s3_world import LABEL, Bucket, OddS3, serving, settings_of

MIB = 1 << 20
DATA = hashlib.shake_256(b"upload").digest(6 * MIB)
KEY = "out/e-1.tar.gz"


@pytest.fixture
def server(s3: S3Server) -> S3Server:
    """One make is enough."""
    return s3


@pytest.fixture
async def client(s3: S3Server) -> AsyncIterator[S3Client]:
    """One that tries a part three times, and a call twice."""
    settings = settings_of(s3, upload_part_bytes=5 * MIB, silence_s=0.6, call_s=1.5, tries=3)
    async with S3Client(settings) as client:
        yield client


def of_objects(request: web.Request) -> bool:
    return request.method == "PUT" and not request.query


def of_parts(request: web.Request) -> bool:
    return request.method == "PUT" and "partNumber" in request.query


def of_beginnings(request: web.Request) -> bool:
    return request.method == "POST" and "uploads" in request.query


def of_completion(request: web.Request) -> bool:
    return request.method == "POST" and "uploadId" in request.query


def of_listings(request: web.Request) -> bool:
    return request.method == "GET" and "list-type" in request.query


STEPS = {
    "object": of_objects,
    "begin": of_beginnings,
    "part": of_parts,
    "completion": of_completion,
    "listing": of_listings,
}


def on(step: str, fault: str, first: int = 0, last: int = 10_000) -> Plan:
    """That fault at the requests of a step, by their number."""
    numbers = itertools.count(1)

    def plan(request: web.Request, number: int) -> str:
        return fault if STEPS[step](request) and first < next(numbers) <= last else ""

    return plan


def result(tmp_path: Path, step: str) -> Path:
    """A result whose archive is an upload of two parts, or one request."""
    return plant({"data": b"small" if step == "object" else DATA}, tmp_path / "result")


@pytest.mark.parametrize(
    ("step", "fault", "last"),
    [
        *(("part", fault, 1) for fault in ("hangup", "deaf", "mute", "500", "503", "smudge")),
        ("object", "smudge", 1),
        ("part", "sip", 100),
        ("object", "lost", 1),
        ("begin", "lost", 1),
        ("completion", "503", 1),
        *(("completion", fault, 100) for fault in ("cut", "held", "trickle")),
    ],
)
async def test_an_upload_that_gets_through_is_whole(
    step: str, fault: str, last: int, bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """A part that is cut, damaged, taken slowly, hung up on or refused once is sent again; a completion whose answer is cut,
    stalls, trickles or never comes is found to have succeeded. What is advertised is what lies there, and no upload is left.
    """
    proxy.plan = on(step, fault, last=last)
    params = PublisherParams(bucket.name, "out/{executionID}", endpoint=proxy.endpoint)

    spec = await S3Publisher(client=client).publish(result(tmp_path, step), params, LABEL, silent)

    found = await bucket.raw.get_object(Bucket=bucket.name, Key=spec.params["Key"])
    digest = hashlib.sha256(await found["Body"].read()).digest()
    assert digest == base64.b64decode(spec.params["ChecksumSHA256"])
    assert await bucket.keys() == [KEY]
    assert await bucket.unfinished() == []


@pytest.mark.parametrize(
    ("step", "fault", "kind"),
    [
        ("object", "lost", Broken),
        ("object", "xml", Broken),
        ("object", "204", Broken),
        ("begin", "lost", Unavailable),
        ("begin", "short", Unavailable),
        ("begin", "204", Broken),
        ("part", "hangup", Broken),
        ("part", "deaf", TimedOut),
        ("part", "500", Unavailable),
        ("part", "smudge", Broken),
        ("object", "smudge", Broken),
        ("part", "garbage", Broken),
        ("completion", "503", Unavailable),
        ("completion", "204", Broken),
        ("completion", "mute", TimedOut),
        ("completion", "xml", Unavailable),
        ("completion", "garbage", Unavailable),
        ("completion", "drip", TimedOut),
    ],
)
async def test_an_upload_that_does_not_get_through_leaves_nothing(
    step: str,
    fault: str,
    kind: type[Fault],
    bucket: Bucket,
    proxy: FaultProxy,
    client: S3Client,
    tmp_path: Path,
) -> None:
    """A fault that does not pass is told as what it is, naming the object; no object and no unfinished upload stays."""
    proxy.plan = on(step, fault)
    params = PublisherParams(bucket.name, "out/{executionID}", endpoint=proxy.endpoint)

    with pytest.raises(kind) as caught:
        await S3Publisher(client=client).publish(result(tmp_path, step), params, LABEL, silent)

    assert f"s3://{bucket.name}/{KEY}" in caught.value.message
    assert await bucket.keys() == []
    assert await bucket.unfinished() == []


@pytest.mark.parametrize(
    ("fault", "last", "kind"),
    [
        *((fault, 1, None) for fault in ("cut", "stall", "500")),
        *((fault, 1, Broken) for fault in ("short", "garbage", "xml")),
        ("trickle", 100, TimedOut),
        ("cut", 100, Broken),
    ],
)
async def test_a_listing_that_goes_wrong_is_whole_or_an_error(
    fault: str,
    last: int,
    kind: type[Fault] | None,
    bucket: Bucket,
    proxy: FaultProxy,
    client: S3Client,
    tmp_path: Path,
) -> None:
    """Never are some of a prefix's objects taken for all: what broke off is asked for again, what is no listing of S3's, or
    does not get better, is an error that names the prefix."""
    tree: Tree = {f"{number}": b"%d" % number for number in range(4)}
    for key, data in tree.items():
        assert isinstance(data, bytes)
        await bucket.put(f"in/{key}", data)
    source = S3Source(client=client)
    params = SourceParams(bucket.name, "in/", endpoint=proxy.endpoint)
    proxy.plan = on("listing", fault, last=last)

    if kind is not None:
        with pytest.raises(kind, match=f"s3://{bucket.name}/in/"):
            await source.resolve(params, Share())
    else:
        fetched = await source.fetch(params, await source.resolve(params, Share()), tmp_path / "in", silent)
        assert snapshot(fetched.path) == tree


async def test_a_listing_without_end_ends(odd: OddS3, client: S3Client) -> None:
    """A server that always names another page, or lists what was not asked for, is an error and not a job for ever."""
    params = SourceParams("odd", "in/", endpoint=odd.endpoint)
    odd.next = "again"
    with pytest.raises(Broken, match="has no end"):
        await S3Source(client=client).resolve(params, Share())

    odd.next = ""
    odd.strange = "elsewhere/x"
    with pytest.raises(Broken, match="'elsewhere/x', which was not asked for"):
        await S3Source(client=client).resolve(params, Share())


class Endless:
    """A server whose answers have no end. It counts what it could get rid of."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.sent_bytes = 0
        self.ended = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every request; an answer to HEAD has no body."""
        if request.method == "HEAD":
            return web.Response(status=404)
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        piece = b"<Contents><Key>out/more</Key><Size>1</Size></Contents>" * 1000
        try:
            await response.write(b"<ListBucketResult>")
            while True:
                await response.write(piece)
                self.sent_bytes += len(piece)
        except (ConnectionError, asyncio.CancelledError):
            self.ended.set()
        return response


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_end_is_not_kept(status: int, client: S3Client) -> None:
    """A listing or an error that goes on for ever is an error after a few megabytes, and its connection is closed."""
    endless = Endless(status)
    async with serving(endless.answer) as url:
        connection = await client.connect(url)
        tracemalloc.start()
        try:
            with pytest.raises(Broken, match=r"answers .* with more than"):
                await connection.has_any("odd", "out/")
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        async with asyncio.timeout(10):
            await endless.ended.wait()
    assert peak_bytes < 32 * MIB


@pytest.mark.parametrize("size", ["-1", "", "1 KiB"])
def test_a_listing_with_a_size_that_is_none_is_none(size: str) -> None:
    """An object whose size cannot be is never one that is left out in silence."""
    contents = f"<Contents><Key>in/k</Key><Size>{size}</Size></Contents>"
    with pytest.raises(ValueError, match=r"invalid literal|less than no"):
        read_page(f"<ListBucketResult>{contents}</ListBucketResult>".encode())


async def test_a_redirect_leads_nowhere(client: S3Client, odd: OddS3) -> None:
    """An S3 server that sends a node elsewhere is not followed: the address there was never judged."""

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"{odd.endpoint}{request.path}")

    async with serving(elsewhere) as url:
        connection = await client.connect(url)
        for ask in (connection.has_any, connection.head):
            with pytest.raises(Invalid, match="redirects") as caught:
                await ask("odd", "in/")
            assert "Endpoint" in caught.value.hint
    assert odd.requests == []


@pytest.mark.parametrize("key", ["k", "in/"])
async def test_a_bucket_cannot_make_an_address_of_a_name(key: str, odd: OddS3) -> None:
    """Where the bucket's name stands in the host, what both make together is judged, not the endpoint alone."""
    port = odd.endpoint.rpartition(":")[2]
    account = Credentials("A" * 16, "s")
    settings = S3Settings(credentials=account, addresses=read_policy(["0.0.0.0/8"]), retry_s=0.01, tries=1)
    params = SourceParams("127.0", key, endpoint=f"http://0.1:{port}", addressing_style="virtual")
    result = PublisherParams("127.0", key, endpoint=params.endpoint, addressing_style="virtual")
    async with S3Client(settings) as client:
        with pytest.raises(Denied, match=r"127.0.0.1 is this machine itself"):
            await S3Source(client=client).resolve(params, Share())
        with pytest.raises(Denied, match=r"127.0.0.1 is this machine itself"):
            await S3Publisher(client=client).publish(Path(__file__).parent, result, LABEL, silent)
    assert odd.requests == []


def test_what_botocore_cannot_read_is_told() -> None:
    """An answer that is none of S3's is named with its address; what nobody foresaw stays what it is."""
    with (
        pytest.raises(Broken, match="http://odd does not answer as S3 does"),
        faults("s3://b/k", "http://odd", signed=True),
    ):
        raise ResponseParserError
    with pytest.raises(ZeroDivisionError), faults("s3://b/k", "http://odd", signed=True):
        raise ZeroDivisionError


@pytest.mark.parametrize("fault", ["204", "xml"])
async def test_a_success_that_is_none_of_s3s_is_no_object(
    fault: str, bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """A look that is answered as S3 never does is an error, whoever looks: not an object without a version, and not somebody
    else's result in the way of ours."""
    await bucket.put("k", b"x" * 44)
    proxy.plan = lambda request, number: fault if request.method == "HEAD" else ""
    source, publisher = S3Source(client=client), S3Publisher(client=client)
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint)

    with pytest.raises(Broken, match=r"how S3 does|as S3 does|does not say how large"):
        await source.resolve(SourceParams(bucket.name, "k", endpoint=proxy.endpoint), Share())
    if fault == "204":
        with pytest.raises(Broken, match="how S3 does"):
            await publisher.publish(plant({"a": b"1"}, tmp_path / "result"), params, LABEL, silent)
        assert await bucket.keys() == ["k"]


@pytest.mark.parametrize("end", ["fault", "cancelled"])
async def test_who_fails_to_put_what_is_there_takes_nothing_away(
    end: str, bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """Of two who put the same under a key by its content, one fails or gives up: what the other has put there stays."""
    tree: Tree = {"a": b"1", "b": b"2", "large": DATA, "middling": DATA[: 2 * MIB]}
    folder = plant(tree, tmp_path / "result")
    publisher = S3Publisher(client=client, contents=contents_of(folder))
    to = PublisherParams(bucket.name, "sha256-1", endpoint=proxy.endpoint, encoding="plain", overwrite=True)
    await publisher.publish(folder, to, LABEL, silent)
    proxy.plan = on("part", "mute" if end == "cancelled" else "403")

    publishing = asyncio.ensure_future(publisher.publish(folder, to, LABEL, silent))
    if end == "cancelled":
        await proxy.stalled.wait()
        publishing.cancel()
    with pytest.raises(asyncio.CancelledError if end == "cancelled" else Denied):
        await publishing

    source = S3Source(client=client)
    params = SourceParams(bucket.name, "sha256-1/", endpoint=bucket.endpoint)
    fetched = await source.fetch(params, await source.resolve(params, Share()), tmp_path / "in", silent)
    assert snapshot(fetched.path) == tree
    assert await bucket.unfinished() == []


@pytest.mark.parametrize("name", ["a", "middling", "large"])
async def test_what_is_not_what_its_key_says_is_never_there(
    name: str, bucket: Bucket, client: S3Client, tmp_path: Path
) -> None:
    """A file that has other bytes by the time it is sent than its digest was taken of is no object at any time, whether it
    goes in one request or in parts: of these the last is not sent, and the upload is taken back."""
    tree: Tree = {"a": b"1", "large": DATA, "middling": DATA[: 2 * MIB]}
    folder = plant(tree, tmp_path / "result")
    publisher = S3Publisher(client=client, contents=contents_of(folder))
    with (folder / name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")

    with pytest.raises(Broken, match=f"'{name}' changed while"):
        await publisher.publish(folder, bucket.to("sha256-1", "plain", overwrite=True), LABEL, silent)

    assert f"sha256-1/{name}" not in await bucket.keys()
    assert await bucket.unfinished() == []


@pytest.mark.parametrize("fault", ["short", "lost", "204"])
async def test_a_tree_whose_uploads_beginning_is_not_told_leaves_nothing(
    fault: str, bucket: Bucket, proxy: FaultProxy, client: S3Client, tmp_path: Path
) -> None:
    """An upload of one of a tree's files that was begun, and of which nobody knows the id, is taken back as well."""
    proxy.plan = on("begin", fault)
    params = PublisherParams(bucket.name, "out/{executionID}", endpoint=proxy.endpoint, encoding="plain")

    with pytest.raises(Fault):
        await S3Publisher(client=client).publish(result(tmp_path, "part"), params, LABEL, silent)

    assert await bucket.keys() == []
    assert await bucket.unfinished() == []
