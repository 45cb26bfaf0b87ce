"""S3 on real servers: the suites, and how results are put there."""

import hashlib
import re
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from deploy.processes import free_ports
from deploy.servers import S3Server
from protocol.errors import Invalid, NotFound
from storage import s3
from storage.contract import silent
from storage.params import read_params
from storage.s3 import (
    PublisherParams,
    S3Client,
    S3Publisher,
    S3Source,
    SourceParams,
)
from storage.s3.publisher import published_key
from tests.contracts.publisher import ServedPublisherContract
from tests.contracts.source import ServedSourceContract
from tests.contracts.trees import Link, Tree, plant
from tests.storage.s3_world import ALL, LABEL, Bucket, OddS3, brought, settings_of

MIB = 1 << 20


@pytest.fixture
async def source(server: S3Server) -> AsyncIterator[S3Source]:
    """Small parts, so that ten megabytes are many."""
    source = S3Source(settings_of(server, part_bytes=MIB))
    yield source
    await source.close()


@pytest.fixture
async def publisher(server: S3Server) -> AsyncIterator[S3Publisher]:
    """Parts as small as S3 takes them."""
    publisher = S3Publisher(settings_of(server, upload_part_bytes=5 * MIB))
    yield publisher
    await publisher.close()


class TestPrefix(ServedSourceContract):
    """All objects of a prefix."""

    @pytest.fixture
    def content(self) -> Tree:
        return {
            "a": b"1",
            "2024/01/b.csv": b"22",
            "2024/empty": b"",
            "with space & signs+%41?#": b"signs",
            "träume – 夢": b"unicode",
            "large": bytes(range(256)) * 12_000,
        }

    @pytest.fixture
    async def params(self, bucket: Bucket, content: Tree) -> SourceParams:
        for name, data in content.items():
            assert isinstance(data, bytes)
            await bucket.put(f"in/put/{name}", data)
        await bucket.put("in/puts", b"beside")
        return bucket.of("in/put/")

    @pytest.fixture
    def hostile(self, odd: OddS3) -> list[SourceParams]:
        odd.objects = {
            f"p{number}/{key}": b"x" for number, key in enumerate(("../x", "a/../../x", "..", "/x", "x\n"))
        }
        odd.objects |= {"q/a": b"x", "q/a/b": b"y", "r/../../sentinel": b"z"}
        found = [SourceParams("odd", f"p{number}/", endpoint=odd.endpoint) for number in range(5)]
        return [*found, *(SourceParams("odd", key, endpoint=odd.endpoint) for key in ("q/", "r/", "p2/.."))]

    @pytest.fixture
    def missing(self, bucket: Bucket) -> tuple[SourceParams, str]:
        return bucket.of("nothing/here/*"), "nothing/here/"

    @pytest.fixture
    def change(self, bucket: Bucket, params: SourceParams) -> Callable[[], Awaitable[SourceParams]]:
        async def change() -> SourceParams:
            await bucket.put("in/put/a", b"2")
            return params

        return change

    @pytest.fixture
    def vanish(self, bucket: Bucket) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            await bucket.delete("in/put/large")

        return vanish

    @pytest.fixture
    def away(self, source: S3Source) -> tuple[S3Source, SourceParams]:
        (port,) = free_ports(1)
        return source, SourceParams("bucket", "key", endpoint=f"http://127.0.0.1:{port}")


class TestObject(TestPrefix):
    """One object."""

    @pytest.fixture
    def content(self) -> Tree:
        return {"file.csv": bytes(range(256)) * 12_000}

    @pytest.fixture
    async def params(self, bucket: Bucket, content: Tree) -> SourceParams:
        data = content["file.csv"]
        assert isinstance(data, bytes)
        await bucket.put("in/put/file.csv", data)
        return bucket.of("in/put/file.csv")

    @pytest.fixture
    def missing(self, bucket: Bucket) -> tuple[SourceParams, str]:
        return bucket.of("in/nothing.csv"), "in/nothing.csv"

    @pytest.fixture
    def change(self, bucket: Bucket, params: SourceParams) -> Callable[[], Awaitable[SourceParams]]:
        async def change() -> SourceParams:
            await bucket.put("in/put/file.csv", b"2")
            return params

        return change

    @pytest.fixture
    def vanish(self, bucket: Bucket) -> Callable[[], Awaitable[None]]:
        async def vanish() -> None:
            await bucket.delete("in/put/file.csv")

        return vanish


class TestPlain(ServedPublisherContract):
    """A result as one object a file."""

    keeps_links = False
    keeps_executable = False

    @pytest.fixture
    def publish_params(self, bucket: Bucket) -> PublisherParams:
        return PublisherParams(bucket.name, "out/{executionID}", endpoint=bucket.endpoint, encoding="plain")

    @pytest.fixture
    def sources(self, source: S3Source) -> dict[str, S3Source]:
        return {"s3": source}

    @pytest.fixture
    async def away(self, bucket: Bucket) -> AsyncIterator[S3Publisher]:
        """Its requests go to a proxy's port where nobody is."""
        (port,) = free_ports(1)
        async with S3Client(settings_of(bucket.server)) as client:
            publisher = S3Publisher(client=client)
            connection = await client.connect(bucket.endpoint)
            nowhere = await client.connect(f"http://127.0.0.1:{port}")
            connection.raw = nowhere.raw
            yield publisher


class TestGzip(TestPlain):
    """A result as one archive."""

    archived = True
    keeps_links = True
    keeps_executable = True

    @pytest.fixture
    def publish_params(self, bucket: Bucket) -> PublisherParams:
        return PublisherParams(bucket.name, "out/{executionID}", endpoint=bucket.endpoint)


def test_the_table_names_every_module() -> None:
    """Whoever reads what `storage.s3` consists of finds each of its modules there."""
    modules = {path.stem for path in Path(s3.__file__).parent.glob("*.py")} - {"__init__"}

    assert {name for name in modules if not re.search(rf"\b{name}\b", s3.__doc__ or "")} == set()


# What an input's key may say.


def test_templates_are_filled_in() -> None:
    """The names of job, execution and node, the date and the time stand in the key."""
    params = PublisherParams(
        "b", "{jobID}/{executionID}/{nodeID}/{date}/{time}/{partition}-{attempt}-{uuid}/{other}"
    )
    job, execution, node, date, time, more, other = published_key(params, LABEL, "u").split("/")

    assert (job, execution, node, more, other) == ("j-1", "e-1", "n-1", "0-1-u", "{other}.tar.gz")
    assert (len(date), len(time)) == (8, 6)
    assert (date + time).isdecimal()


@pytest.mark.parametrize(
    ("key", "encoding", "published"),
    [("r", "", "r.tar.gz"), ("r.tar.gz", "gzip", "r.tar.gz"), ("r", "plain", "r/"), ("r/", "PLAIN", "r/")],
)
def test_keys_end_as_their_encoding_wants(key: str, encoding: str, published: str) -> None:
    """An archive ends with ``.tar.gz``, a prefix with a slash."""
    assert published_key(PublisherParams("b", key, encoding=encoding), LABEL) == published


async def test_a_large_result_goes_in_parts(
    bucket: Bucket, publisher: S3Publisher, source: S3Source, tmp_path: Path
) -> None:
    """An archive and a file of many parts come back byte for byte; no upload stays unfinished; progress only grows."""
    data = hashlib.shake_256(b"seed").digest(23 * MIB)
    folder = plant({"large": data, "small": b"s"}, tmp_path / "result")
    for encoding in ("gzip", "plain"):
        told: list[int] = []
        params = PublisherParams(bucket.name, f"out/{encoding}", endpoint=bucket.endpoint, encoding=encoding)

        spec = await publisher.publish(
            folder, params, LABEL, lambda done, total, told=told: told.append(done)
        )

        tree = await brought(source, read_params(spec.params, SourceParams, "s3"), tmp_path / encoding)
        if encoding == "plain":
            assert tree == {"large": data, "small": b"s"}
        else:
            assert set(tree) == {"gzip.tar.gz"}
            assert spec.params["ChecksumSHA256"]
        assert told == sorted(told)
        assert told[-1] > 23 * MIB
    assert await bucket.unfinished() == []


async def test_an_object_says_what_it_is(bucket: Bucket, publisher: S3Publisher, tmp_path: Path) -> None:
    """What is published has the content type of its name, so that a browser shows it; what has none is plain bytes."""
    large = hashlib.shake_256(b"image").digest(6 * MIB)
    types = {
        "page.html": "text/html",
        "data:,x.json": "application/json",
        "large.png": "image/png",
        "logs.tar.gz": "application/gzip",
        "stdout": "application/octet-stream",
    }
    folder = plant({name: large if name.startswith("large") else b"x" for name in types}, tmp_path / "result")

    await publisher.publish(folder, bucket.to("out", "plain"), LABEL, silent)
    await publisher.publish(folder, bucket.to("out", "gzip"), LABEL, silent)

    found = {
        key: (await bucket.raw.head_object(Bucket=bucket.name, Key=key))["ContentType"]
        for key in await bucket.keys()
        if not key.endswith("/")
    }
    assert found == {"out.tar.gz": "application/gzip"} | {f"out/{name}": kind for name, kind in types.items()}


async def test_links_are_refused_before_anything_is_sent(
    bucket: Bucket, publisher: S3Publisher, tmp_path: Path
) -> None:
    """A tree with a link cannot be published plain: the link is named, the way out told, and the bucket is empty."""
    folder = plant({"a": b"1", "l": Link("a")}, tmp_path / "result")
    params = PublisherParams(bucket.name, "out", endpoint=bucket.endpoint, encoding="plain")

    with pytest.raises(Invalid, match="'l'") as caught:
        await publisher.publish(folder, params, LABEL, silent)

    assert "gzip" in caught.value.hint
    assert await bucket.keys() == []


async def test_publishing_into_a_missing_bucket_is_said_so(s3: S3Server, tmp_path: Path) -> None:
    """The fault names the bucket. (SeaweedFS makes the bucket instead.)"""
    folder = plant({"a": b"1"}, tmp_path / "result")
    params = PublisherParams("no-such-bucket-here", "k", endpoint=s3.endpoint)

    async with S3Client(settings_of(s3)) as client:
        with pytest.raises(NotFound, match="no-such-bucket-here"):
            await S3Publisher(client=client).publish(folder, params, LABEL, silent)


async def test_memory_stays_bounded(
    bucket: Bucket, publisher: S3Publisher, source: S3Source, tmp_path: Path
) -> None:
    """An object of a hundred megabytes passes through with a fraction of that in memory, both ways."""
    folder = plant({}, tmp_path / "result")
    (folder / "large").write_bytes(hashlib.shake_256(b"memory").digest(MIB) * 100)
    params = PublisherParams(bucket.name, "out", endpoint=bucket.endpoint, encoding="plain")
    tracemalloc.start()
    try:
        spec = await publisher.publish(folder, params, LABEL, silent)
        sent = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        found = read_params(spec.params, SourceParams, "s3")
        await source.fetch(found, await source.resolve(found, ALL), tmp_path / "back", silent)
        fetched = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert sent < 60 * MIB
    assert fetched < 60 * MIB
    assert (tmp_path / "back" / "large").stat().st_size == 100 * MIB
