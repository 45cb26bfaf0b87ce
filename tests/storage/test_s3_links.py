"""What every source and publisher promises, asked of those whose users have no account: results by links, and by leave."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.processes import free_ports
from protocol.errors import Broken, Denied, Fault, TimedOut, Unavailable
from protocol.jobs import Spec
from storage.contract import Source, silent
from storage.s3 import S3Client, S3Settings
from storage.s3.managed import ManagedParams, ManagedPublisher
from storage.s3.presigned import PreSignedParams, PreSignedSource, SignedObject
from storage.s3.results import ManagedBucket, ResultSigner, Signing
from tests.contracts.publisher import ServedPublisherContract
from tests.contracts.source import ServedSourceContract
from tests.contracts.trees import Tree, snapshot
from tests.storage.fault_proxy import FaultProxy, Plan
from tests.storage.s3_world import ALL, LOOPBACK, Bucket, OddS3, settings_of

MIB = 1 << 20
DATA = bytes(range(256)) * (3 * MIB // 256) + b"end"


@pytest.fixture
async def source() -> AsyncIterator[PreSignedSource]:
    """Small parts, so that three megabytes are many, and little patience."""
    source = PreSignedSource(
        S3Settings(addresses=LOOPBACK, part_bytes=MIB, silence_s=0.5, retry_s=0.01, tries=3)
    )
    yield source
    await source.aclose()


async def linked(bucket: Bucket, key: str, endpoint: str = "") -> str:
    """A link to a key of the bucket, by way of the endpoint if one is named."""
    async with S3Client(settings_of(bucket.server)) as client:
        connection = await client.connect(endpoint or bucket.endpoint)
        return await connection.signed_url(bucket.name, key)


class TestLink(ServedSourceContract):
    """One object by its link."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"k.tar.gz": DATA}

    @pytest.fixture
    async def params(self, bucket: Bucket, content: Tree) -> PreSignedParams:
        await bucket.put("out/k.tar.gz", DATA)
        return PreSignedParams(await linked(bucket, "out/k.tar.gz"), bucket=bucket.name, key="out/k.tar.gz")

    @pytest.fixture
    def hostile(self, odd: OddS3) -> list[PreSignedParams]:
        keys = ("..", "a/..", "../x", "/x", "x\n", "r/../../sentinel")
        odd.objects = dict.fromkeys(("k", *keys), b"x")
        alone = [PreSignedParams(f"{odd.endpoint}/odd/k", key=key) for key in keys]
        among = [
            PreSignedParams(key="r/", objects=[SignedObject(f"r/{key}", 1, f"{odd.endpoint}/odd/k")])
            for key in keys
        ]
        return [*alone, *among]

    @pytest.fixture
    async def missing(self, bucket: Bucket) -> tuple[PreSignedParams, str]:
        return PreSignedParams(await linked(bucket, "out/nothing"), key="out/nothing"), "out/nothing"

    @pytest.fixture
    def change(self, bucket: Bucket, params: PreSignedParams) -> Callable[[], Awaitable[PreSignedParams]]:
        async def change() -> PreSignedParams:
            await bucket.put("out/k.tar.gz", b"2")
            return params

        return change

    @pytest.fixture
    def vanish(self, bucket: Bucket) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            await bucket.delete("out/k.tar.gz")

        return vanish

    @pytest.fixture
    def away(self, source: PreSignedSource) -> tuple[PreSignedSource, PreSignedParams]:
        (port,) = free_ports(1)
        return source, PreSignedParams(f"http://127.0.0.1:{port}/b/k", key="k")


async def tree_of(bucket: Bucket, content: Tree, endpoint: str = "") -> PreSignedParams:
    """A tree below ``out/`` that lies in the bucket, by links."""
    objects = []
    for name, data in content.items():
        assert isinstance(data, bytes)
        key = f"out/{name}"
        etag = (await bucket.put(key, data))["ETag"]
        objects.append(SignedObject(key, len(data), await linked(bucket, key, endpoint), etag))
    return PreSignedParams(bucket=bucket.name, key="out/", objects=objects)


class TestLinks(TestLink):
    """A tree by a link for each object."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"a/b": b"1", "empty": b"", "with space & signs+%41?#": b"signs", "large": DATA}

    @pytest.fixture
    async def params(self, bucket: Bucket, content: Tree) -> PreSignedParams:
        return await tree_of(bucket, content)

    @pytest.fixture
    async def missing(self, bucket: Bucket) -> tuple[PreSignedParams, str]:
        objects = [SignedObject("out/nothing", 1, await linked(bucket, "out/nothing"), '"1"')]
        return PreSignedParams(bucket=bucket.name, key="out/", objects=objects), "out/nothing"

    @pytest.fixture
    def change(self, bucket: Bucket, content: Tree) -> Callable[[], Awaitable[PreSignedParams]]:
        async def change() -> PreSignedParams:
            return await tree_of(bucket, {**content, "a/b": b"2"})

        return change

    @pytest.fixture
    def vanish(self, bucket: Bucket) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            await bucket.delete("out/large")

        return vanish


class TestManaged(ServedPublisherContract):
    """A result to a bucket that the node has no account of."""

    archived = True

    @pytest.fixture
    async def publisher(self, signer: ResultSigner) -> AsyncIterator[ManagedPublisher]:
        self._signer = signer
        publisher = ManagedPublisher(signer)
        yield publisher
        await publisher.close()

    @pytest.fixture
    def publish_params(self) -> ManagedParams:
        return ManagedParams()

    @pytest.fixture
    def sources(self, anybody: PreSignedSource) -> dict[str, Source[Any]]:
        return {"s3presigned": anybody}

    @pytest.fixture
    async def away(self, signer: ResultSigner) -> AsyncIterator[ManagedPublisher]:
        (port,) = free_ports(1)
        endpoint = f"http://127.0.0.1:{port}"
        grants = ResultSigner(Signing(managed=ManagedBucket("b", endpoint=endpoint), endpoint=endpoint))
        publisher = ManagedPublisher(grants, S3Settings(retry_s=0.01, tries=2))
        yield publisher
        await publisher.close()
        await grants.close()

    async def _bring(self, spec: Spec, sources: Mapping[str, Source[Any]], tmp_path: Path) -> Tree:
        """Readers are told the link."""
        return await super()._bring(await self._signer.shown(spec), sources, tmp_path)


# Transfers by links that go wrong.


def on_gets(fault: str, first: int = 0, last: int = 10_000) -> Plan:
    """That fault at the GETs by their number."""
    numbers = itertools.count(1)
    return lambda request, number: fault if first < next(numbers) <= last else ""


@pytest.fixture(params=["link", "links"])
async def reached(request: pytest.FixtureRequest, bucket: Bucket, proxy: FaultProxy) -> PreSignedParams:
    """One object of four parts by way of the proxy: alone, or as a tree."""
    if request.param == "links":
        return await tree_of(bucket, {"k": DATA}, proxy.endpoint)
    await bucket.put("out/k", DATA)
    return PreSignedParams(await linked(bucket, "out/k", proxy.endpoint), bucket=bucket.name, key="out/k")


@pytest.mark.parametrize("server", ["s3"], indirect=True)
@pytest.mark.parametrize("fault", ["cut", "short", "stall", "mute", "500", "503"])
async def test_a_link_that_breaks_off_is_gone_on_with(
    fault: str, source: PreSignedSource, reached: PreSignedParams, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Cuts, silence, short bodies, 500 and 503 in the middle cost a try of one part, and the bytes are right."""
    resolved = await source.resolve(reached, ALL)
    proxy.plan = on_gets(fault, 1, 3)

    await source.fetch(reached, resolved, tmp_path / "in", silent)

    assert snapshot(tmp_path / "in") == {"k": DATA}


@pytest.mark.parametrize("server", ["s3"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        *((fault, Broken) for fault in ("cut", "short", "range", "whole", "xml", "long", "etag", "204")),
        *((fault, TimedOut) for fault in ("stall", "mute", "trickle")),
        *((fault, Unavailable) for fault in ("500", "503")),
        ("403", Denied),
    ],
)
async def test_a_link_that_stays_broken_ends_and_leaves_nothing(
    fault: str,
    kind: type[Fault],
    source: PreSignedSource,
    reached: PreSignedParams,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """A fault that does not pass is told as what it is, naming the object; nothing is left and no signature is shown."""
    resolved = await source.resolve(reached, ALL)
    proxy.plan = on_gets(fault)

    with pytest.raises(kind) as caught:
        await source.fetch(reached, resolved, tmp_path / "in", silent)

    assert "out/k" in caught.value.message
    assert "X-Amz" not in caught.value.message
    assert list(tmp_path.iterdir()) == []
