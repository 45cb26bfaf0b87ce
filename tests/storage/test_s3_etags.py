"""Stores that keep no checksums: what comes is compared with ETags, which are MD5s almost everywhere."""

import asyncio
import base64
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from msgspec.structs import replace

from deploy.servers import S3Server
from protocol.errors import Broken
from storage.contract import silent
from storage.s3 import S3Client, S3Source, SourceParams, verifying
from storage.s3.checksums import Checksum
from storage.threads import Stop, Stopped
from tests.contracts.trees import Tree, snapshot
from tests.storage.fault_proxy import FaultProxy, Plan
from tests.storage.s3_world import ALL, LOOPBACK, Bucket, OddS3, brought, serving, settings_of

MIB = 1 << 20
DATA = hashlib.shake_256(b"etags").digest(3 * MIB + 17)
TREE: Tree = {"large": DATA, "small": b"small", "empty": b"", "parts": DATA[:17] * (6 * MIB // 17)}


@pytest.fixture
def server(seaweedfs: S3Server) -> S3Server:
    """One that keeps checksums only where it is told to."""
    return seaweedfs


@pytest.fixture
async def source(server: S3Server) -> AsyncIterator[S3Source]:
    async with S3Client(settings_of(server, part_bytes=MIB)) as client:
        yield S3Source(client=client)


@pytest.fixture
async def params(bucket: Bucket, proxy: FaultProxy) -> SourceParams:
    """A folder of objects, one of them of two parts."""
    for name in ("large", "small", "empty"):
        data = TREE[name]
        assert isinstance(data, bytes)
        await bucket.put(f"in/{name}", data)
    whole = TREE["parts"]
    assert isinstance(whole, bytes)
    place = {"Bucket": bucket.name, "Key": "in/parts"}
    begun = await bucket.raw.create_multipart_upload(**place)
    listed = []
    for number, part in enumerate((whole[: 5 * MIB], whole[5 * MIB :]), start=1):
        sent = await bucket.raw.upload_part(**place, UploadId=begun["UploadId"], PartNumber=number, Body=part)
        listed.append({"PartNumber": number, "ETag": sent["ETag"]})
    await bucket.raw.complete_multipart_upload(
        **place, UploadId=begun["UploadId"], MultipartUpload={"Parts": listed}
    )
    return SourceParams(bucket.name, "in/", endpoint=proxy.endpoint)


def flips(name: str, times: int) -> Plan:
    """The first bodies of that object have a bit that is another."""
    seen = 0

    def plan(request: web.Request, number: int) -> str:
        nonlocal seen
        seen += request.method == "GET" and request.path.endswith(f"/in/{name}")
        return "flip" if 0 < seen <= times and request.path.endswith(name) else ""

    return plan


@pytest.mark.parametrize("name", ["large", "small", "parts"])
async def test_what_was_damaged_on_its_way_is_brought_again(
    name: str, source: S3Source, params: SourceParams, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A bit that is another on its way, of an object in one request, in ranges or of parts, costs a second request."""
    proxy.plan = flips(name, 1)

    assert await brought(source, params, tmp_path / "in") == TREE


@pytest.mark.parametrize("name", ["large", "small", "parts"])
async def test_what_is_damaged_where_it_lies_is_an_error(
    name: str, source: S3Source, params: SourceParams, proxy: FaultProxy, tmp_path: Path
) -> None:
    """What does not fit its ETag however often it is asked for is no input: the fault names the object and what to do where
    the store means something else by it, and nothing is left."""
    proxy.plan = flips(name, 10_000)

    with pytest.raises(Broken, match=f"in/{name}: other bytes came") as caught:
        await brought(source, params, tmp_path / "in")

    assert "InputSources.Types.S3.ETagsAreMD5: false" in caught.value.hint
    assert not list(tmp_path.iterdir())


async def test_a_tree_of_damaged_objects_is_not_brought_twice(
    source: S3Source, bucket: Bucket, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Where most of what comes is damaged it is told after a first look."""
    for number in range(40):
        await bucket.put(f"in/{number}", b"small")
    proxy.plan = lambda request, number: "flip" if "/in/" in request.path else ""

    with pytest.raises(Broken, match="other bytes came"):
        await brought(source, SourceParams(bucket.name, "in/", endpoint=proxy.endpoint), tmp_path / "in")

    assert sum("/in/" in path for path in proxy.paths) == 40


@pytest.mark.parametrize("why", ["setting", "checksum", "encrypted"])
async def test_etags_that_are_something_else_are_not_compared(
    why: str, odd: OddS3, server: S3Server, tmp_path: Path
) -> None:
    """Where the node's owner says so, the job names a better digest, or the store says that it encrypts with a key of
    somebody's own, an ETag that looks like an MD5 is only a name."""
    odd.objects = {"k": b"bytes"}
    odd.headers = {"ETag": f'"{"0" * 32}"'}
    if why == "encrypted":
        odd.headers["x-amz-server-side-encryption"] = "aws:kms"
    settings = replace(settings_of(server), addresses=LOOPBACK, etags_are_md5=why != "setting")
    digest = base64.b64encode(hashlib.sha256(b"bytes").digest()).decode()
    params = SourceParams(
        "odd", "k", endpoint=odd.endpoint, checksum_sha256=digest if why == "checksum" else ""
    )
    async with S3Client(settings) as client:
        source = S3Source(client=client)
        fetched = await source.fetch(params, await source.resolve(params, ALL), tmp_path / "in", silent)

    assert snapshot(fetched.path) == {"k": b"bytes"}


@pytest.mark.parametrize("name", ["small", "parts"])
async def test_a_sum_ends_with_the_fetch_that_wants_it(
    name: str,
    source: S3Source,
    bucket: Bucket,
    params: SourceParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever gives up a fetch while the MD5 of a large file is reckoned does not wait until it is."""
    loop = asyncio.get_running_loop()
    begun, stopped = asyncio.Event(), threading.Event()

    def endless(wanted: Checksum, path: Path, part_bytes: int, stop: Stop) -> str:
        loop.call_soon_threadsafe(begun.set)
        for _ in range(1000):
            try:
                stop()
            except Stopped:
                stopped.set()
                raise
            stopped.wait(0.01)
        return ""

    monkeypatch.setattr(verifying, "sum_of", endless)
    fetching = asyncio.create_task(brought(source, bucket.of(f"in/{name}"), tmp_path / "in"))
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching

    assert stopped.is_set()


class PartedS3(OddS3):
    """Objects of two parts, whose sizes are told to two who ask at the same time."""

    def __init__(self, part_bytes: int) -> None:
        super().__init__()
        self._part_bytes = part_bytes
        self._two = asyncio.Barrier(2)

    def etag_of(self, data: bytes) -> str:
        """As S3 makes it of two parts."""
        parts = data[: self._part_bytes], data[self._part_bytes :]
        digests = b"".join(hashlib.md5(part).digest() for part in parts)
        return f'"{hashlib.md5(digests).hexdigest()}-2"'

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """As an `OddS3`."""
        if "partNumber" not in request.query:
            return await super().answer(request)
        await self._two.wait()
        return web.Response(headers={"Content-Length": str(self._part_bytes)})


async def test_the_parts_of_many_objects_are_asked_for_at_once(server: S3Server, tmp_path: Path) -> None:
    """A folder of thousands of objects of parts is not looked at one object after another."""
    odd = PartedS3(part_bytes=4)
    odd.objects = {f"in/{number}": b"12345678" for number in range(6)}
    async with serving(odd.answer) as endpoint, S3Client(settings_of(server, small_requests=2)) as client:
        source = S3Source(client=client)
        async with asyncio.timeout(30):
            found = await brought(source, SourceParams("odd", "in/", endpoint=endpoint), tmp_path / "in")

    assert found == {str(number): b"12345678" for number in range(6)}
