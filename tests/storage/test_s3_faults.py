"""S3 transfers that go wrong, through a proxy before a real server."""

import asyncio
import base64
import gc
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from deploy.servers import S3Server, s3_server
from protocol.errors import Broken, Denied, Fault, TimedOut, Unavailable
from storage.contract import Share, silent
from storage.long_lists import Packed
from storage.s3 import PublisherParams, S3Client, S3Publisher, S3Source, SourceParams
from storage.s3.keys import Object
from storage.s3.listing import Listing, listing_of
from storage.s3.remote_object import RemoteObject
from storage.s3.upload import whole_etag
from tests.contracts.trees import plant, snapshot
from tests.storage.fault_proxy import FaultProxy, Plan
from tests.storage.s3_world import LABEL, Bucket, new_bucket, settings_of

ALL = Share()
MIB = 1 << 20
DATA = hashlib.shake_256(b"faults").digest(3 * MIB + 17)


@pytest.fixture
def server(s3: S3Server) -> S3Server:
    """One make is enough."""
    return s3


@pytest.fixture
async def client(s3: S3Server) -> AsyncIterator[S3Client]:
    async with S3Client(settings_of(s3, part_bytes=MIB, silence_s=0.5, tries=4)) as client:
        yield client


@pytest.fixture
async def params(bucket: Bucket, proxy: FaultProxy) -> SourceParams:
    """One object of four parts, reached through the proxy."""
    await bucket.put("in/k", DATA)
    return SourceParams(bucket.name, "in/k", endpoint=proxy.endpoint)


def on_gets(fault: str, first: int = 0, last: int = 10_000) -> Plan:
    """That fault at the GETs of objects by their number."""
    seen = 0

    def plan(request: web.Request, number: int) -> str:
        nonlocal seen
        if request.method != "GET" or "list-type" in request.query:
            return ""
        seen += 1
        return fault if first < seen <= last else ""

    return plan


@pytest.mark.parametrize("fault", ["cut", "short", "stall", "mute", "500", "503"])
async def test_a_transfer_that_breaks_is_gone_on_with(
    fault: str, client: S3Client, params: SourceParams, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Cuts, silence, short bodies, 500 and 503 in the middle cost a try of one part, and the bytes are right."""
    source = S3Source(client=client)
    resolved = await source.resolve(params, ALL)
    proxy.plan = on_gets(fault, 1, 3)

    await source.fetch(params, resolved, tmp_path / "in", silent)

    assert snapshot(tmp_path / "in") == {"k": DATA}


async def test_only_what_is_missing_is_asked_for_again(
    client: S3Client, params: SourceParams, proxy: FaultProxy, tmp_path: Path
) -> None:
    """After a cut the same part goes on behind its last byte; other parts are not touched."""
    source = S3Source(client=client)
    resolved = await source.resolve(params, ALL)
    proxy.plan = on_gets("cut", 0, 1)

    await source.fetch(params, resolved, tmp_path / "in", silent)

    assert len(proxy.ranges) == 5
    starts = [int(each.removeprefix("bytes=").partition("-")[0]) for each in proxy.ranges]
    assert len([start for start in starts if start % MIB]) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("cut", Broken, "broke after"),
        ("stall", TimedOut, "no byte for"),
        ("mute", TimedOut, "no byte for"),
        ("short", Broken, "were asked for"),
        ("500", Unavailable, "InternalError"),
        ("503", Unavailable, "SlowDown"),
        ("403", Denied, "denies access"),
        ("range", Broken, "was answered where|were asked for"),
        ("whole", Broken, "status 200"),
        ("xml", Broken, "status 200"),
        ("long", Broken, "asked for"),
        ("etag", Broken, "changed"),
        ("flip", Broken, "other bytes came"),
        ("trickle", TimedOut, "no byte for"),
    ],
)
async def test_a_transfer_that_stays_broken_ends_and_leaves_nothing(
    fault: str,
    kind: type[Fault],
    said: str,
    client: S3Client,
    params: SourceParams,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """A fault that does not pass is told as what it is, naming the object; nothing is left and no signature is shown."""
    source = S3Source(client=client)
    resolved = await source.resolve(params, ALL)
    proxy.plan = on_gets(fault)

    with pytest.raises(kind, match=said) as caught:
        await source.fetch(params, resolved, tmp_path / "in", silent)

    assert params.url in caught.value.message
    assert "Signature" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


async def test_an_object_that_changes_half_way_is_an_error(
    bucket: Bucket, client: S3Client, params: SourceParams, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Another version between two parts is never a mixture."""
    source = S3Source(client=client)
    resolved = await source.resolve(params, ALL)
    proxy.plan = on_gets("stall", 1)
    task = asyncio.ensure_future(source.fetch(params, resolved, tmp_path / "in", silent))
    await proxy.stalled.wait()
    await bucket.put("in/k", DATA[::-1])
    proxy.plan = on_gets("")

    with pytest.raises(Broken, match="changed"):
        await task

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("algorithm", "parts"),
    [("", 0), ("", 3), ("CRC32C", 0), ("CRC32", 3), ("SHA1", 0), ("SHA256", 3), ("SHA256", 1)],
)
async def test_a_flipped_bit_is_noticed(
    algorithm: str, parts: int, client: S3Client, bucket: Bucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Whatever checksum S3 keeps (by itself it keeps a CRC64NVME), of the whole or of parts: right bytes pass, and one bit
    that is another is an error that names the object."""
    chosen = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    if parts:
        pieces = [hashlib.shake_256(bytes([number])).digest(5 * MIB) for number in range(parts)]
        begun = await bucket.raw.create_multipart_upload(Bucket=bucket.name, Key="k", **chosen)
        listed = []
        for number, piece in enumerate(pieces, start=1):
            place = {"Bucket": bucket.name, "Key": "k", "UploadId": begun["UploadId"], "PartNumber": number}
            sent = await bucket.raw.upload_part(**place, Body=piece, **chosen)
            kept = {name: value for name, value in sent.items() if name == f"Checksum{algorithm}"}
            listed.append({"PartNumber": number, "ETag": sent["ETag"], **kept})
        await bucket.raw.complete_multipart_upload(
            Bucket=bucket.name, Key="k", UploadId=begun["UploadId"], MultipartUpload={"Parts": listed}
        )
        data = b"".join(pieces)
    else:
        data = DATA[:MIB]
        await bucket.put("k", data, **chosen)
    source = S3Source(client=client)
    for number, key in enumerate(("k", "")):
        params = SourceParams(bucket.name, key, endpoint=proxy.endpoint)
        proxy.plan = lambda request, number: ""
        resolved = await source.resolve(params, ALL)
        await source.fetch(params, resolved, tmp_path / f"right{number}", silent)
        assert snapshot(tmp_path / f"right{number}") == {"k": data}
        proxy.plan = on_gets("flip", 0, 1)
        with pytest.raises(Broken, match="other bytes came"):
            await source.fetch(params, resolved, tmp_path / f"wrong{number}", silent)
        assert not (tmp_path / f"wrong{number}").exists()


async def test_an_object_that_was_compared_is_let_go_of(
    client: S3Client, bucket: Bucket, tmp_path: Path
) -> None:
    """However many objects come that S3 keeps a hash of, those that are whole are compared at once, and not all in memory
    until the last is there."""
    data = {f"{number:03}": b"%d" % number for number in range(100)}
    for name, each in data.items():
        await bucket.put(f"in/{name}", each, ChecksumAlgorithm="SHA256")
    source, params = S3Source(client=client), bucket.of("in/")
    alive = []

    def told(done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes == total_bytes:
            alive.append(sum(isinstance(each, RemoteObject) for each in gc.get_objects()))

    await source.fetch(params, await source.resolve(params, ALL), tmp_path / "in", told)

    assert snapshot(tmp_path / "in") == data
    assert alive
    assert max(alive) < len(data) / 2


async def test_a_cancelled_fetch_does_not_wait_for_the_silent(
    client: S3Client, params: SourceParams, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A fetch that stands still ends at once when nobody wants it any more."""
    source = S3Source(client=client)
    resolved = await source.resolve(params, ALL)
    proxy.plan = on_gets("stall")
    task = asyncio.ensure_future(source.fetch(params, resolved, tmp_path / "in", silent))
    await proxy.stalled.wait()

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert list(tmp_path.iterdir()) == []


async def test_a_listing_that_hangs_ends(client: S3Client, params: SourceParams, proxy: FaultProxy) -> None:
    """A server that accepts and says nothing ends a look-up with its address."""
    proxy.plan = lambda request, number: "mute"

    for key in ("in/k", "in/"):
        with pytest.raises(TimedOut, match="does not answer"):
            await S3Source(client=client).resolve(
                SourceParams(params.bucket, key, endpoint=proxy.endpoint), ALL
            )


# Publishing.


def on_parts(fault: str, first: int = 0, last: int = 10_000) -> Plan:
    """That fault at the PUTs by their number."""
    seen = 0

    def plan(request: web.Request, number: int) -> str:
        nonlocal seen
        if request.method != "PUT":
            return ""
        seen += 1
        return fault if first < seen <= last else ""

    return plan


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A result of three parts."""
    data = hashlib.shake_256(b"large").digest(11 * MIB)
    return plant({"large": data, "small": b"s"}, tmp_path / "result")


@pytest.fixture
async def sender(s3: S3Server) -> AsyncIterator[S3Publisher]:
    async with S3Client(settings_of(s3, upload_part_bytes=5 * MIB, silence_s=2, tries=3)) as client:
        yield S3Publisher(client=client)


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_an_upload_that_fails_is_taken_back(
    encoding: str, bucket: Bucket, proxy: FaultProxy, sender: S3Publisher, large: Path
) -> None:
    """No object and no unfinished upload stays of a result that could not be published."""
    proxy.plan = on_parts("503", 2)
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint, encoding=encoding)

    with pytest.raises(Unavailable):
        await sender.publish(large, params, LABEL, silent)

    assert await bucket.unfinished() == []
    assert await bucket.keys() == []


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_an_upload_that_is_cancelled_is_taken_back(
    encoding: str, bucket: Bucket, proxy: FaultProxy, sender: S3Publisher, large: Path
) -> None:
    """Cancelled in the middle of a part, nothing stays in the bucket."""
    proxy.plan = on_parts("mute", 2)
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint, encoding=encoding)
    task = asyncio.ensure_future(sender.publish(large, params, LABEL, silent))
    await proxy.stalled.wait()

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await bucket.unfinished() == []
    assert await bucket.keys() == []


async def test_a_tree_whose_publishing_is_cancelled_at_its_very_end_is_taken_back(
    bucket: Bucket, sender: S3Publisher, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled when all is sent and only its list is missing, nothing stays in the bucket: nobody will hear of it."""
    loop, sent, cancelled = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def told(objects: Packed[Object], execution: str) -> Listing:
        loop.call_soon_threadsafe(sent.set)
        cancelled.wait()
        return listing_of(objects, execution)

    monkeypatch.setattr("storage.s3.publisher.listing_of", told)
    task = asyncio.ensure_future(sender.publish(large, bucket.to("out", "plain"), LABEL, silent))
    await sent.wait()

    task.cancel()
    cancelled.set()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await bucket.keys() == []


async def test_a_part_that_fails_once_is_sent_again(
    bucket: Bucket, proxy: FaultProxy, sender: S3Publisher, large: Path
) -> None:
    """A 503 in the middle costs a try, and the result is whole."""
    proxy.plan = on_parts("503", 1, 2)
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint)

    spec = await sender.publish(large, params, LABEL, silent)

    found = await bucket.raw.get_object(Bucket=bucket.name, Key="out.tar.gz")
    digest = hashlib.sha256(await found["Body"].read()).digest()
    assert digest == base64.b64decode(spec.params["ChecksumSHA256"])


async def test_a_completion_whose_answer_is_lost_counts(
    bucket: Bucket, proxy: FaultProxy, sender: S3Publisher, large: Path
) -> None:
    """When S3 put the parts together and the answer did not arrive, the result is published all the same."""
    proxy.plan = lambda request, number: (
        "lost" if request.method == "POST" and "uploadId" in request.query else ""
    )
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint)

    spec = await sender.publish(large, params, LABEL, silent)

    assert spec.params["Key"] == "out.tar.gz"
    assert await bucket.keys() == ["out.tar.gz"]


def test_the_etag_of_parts() -> None:
    """An object of parts has the MD5 of their MD5s; where parts have other ETags, nothing is known."""
    one = hashlib.md5(b"one").hexdigest()

    assert whole_etag([f'"{one}"']) == hashlib.md5(bytes.fromhex(one)).hexdigest() + "-1"
    assert whole_etag(["not-md5"]) == ""


@pytest.mark.parametrize("way", ["fetch", "publish"])
async def test_a_transfer_outlives_a_restart_of_the_server(way: str, tmp_path: Path) -> None:
    """A server that is killed in the middle of a transfer and comes back costs tries: what was moved is right."""
    data = hashlib.shake_256(b"restart").digest(40 * MIB)
    async with s3_server(tmp_path / "s3") as server, new_bucket(server, "restart") as bucket:
        settings = settings_of(server, part_bytes=MIB, upload_part_bytes=5 * MIB, tries=8, retry_s=0.1)
        restarting: list[asyncio.Task[None]] = []

        async def restart() -> None:
            await server.kill()
            await asyncio.sleep(0.3)
            await server.start()

        def moved(done_bytes: int, total_bytes: int | None) -> None:
            if not restarting:
                restarting.append(asyncio.create_task(restart()))

        folder = plant({"data": data}, tmp_path / "result")
        async with S3Client(settings) as client:
            source, publisher = S3Source(client=client), S3Publisher(client=client)
            if way == "fetch":
                await bucket.put("data", data)
            else:
                params = PublisherParams(bucket.name, "out", endpoint=bucket.endpoint, encoding="plain")
                await publisher.publish(folder, params, LABEL, moved)
            wanted = SourceParams(bucket.name, "data" if way == "fetch" else "out/", endpoint=bucket.endpoint)
            resolved = await source.resolve(wanted, ALL)
            await source.fetch(wanted, resolved, tmp_path / "in", moved if way == "fetch" else silent)

        assert restarting
        await restarting[0]
        assert snapshot(tmp_path / "in") == {"data": data}
