"""S3 on real servers: the suites, and what is S3's own."""

import asyncio
import base64
import hashlib
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from deploy.processes import free_ports
from deploy.servers import S3Server
from protocol.errors import Broken, Denied, Exhausted, Invalid, NotFound, TimedOut
from protocol.ids import ExecutionId, JobId, NodeId
from storage.contract import Label, Share, silent
from storage.params import read_params
from storage.s3 import (
    Credentials,
    Partition,
    PublisherParams,
    S3Client,
    S3Publisher,
    S3Settings,
    S3Source,
    SourceParams,
    presign,
)
from storage.s3.publisher import published_key
from tests.contracts.publisher import ServedPublisherContract
from tests.contracts.source import ServedSourceContract
from tests.contracts.trees import Link, Tree, plant, snapshot
from tests.storage.s3_world import LOOPBACK, Bucket, OddS3, new_bucket, odd_s3, settings_of

ALL = Share()
LABEL = Label(JobId("j-1"), ExecutionId("e-1"), NodeId("n-1"), at=1_700_000_000.0)
NUMBERS = itertools.count(1)
MIB = 1 << 20


@pytest.fixture
async def bucket(server: S3Server) -> AsyncIterator[Bucket]:
    async with new_bucket(server, f"bucket-{next(NUMBERS)}") as bucket:
        yield bucket


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


@pytest.fixture
async def odd() -> AsyncIterator[OddS3]:
    async with odd_s3() as odd:
        yield odd


def of(bucket: Bucket, key: str, **more: Any) -> SourceParams:
    """The params of a key in the bucket."""
    return SourceParams(bucket.name, key, endpoint=bucket.endpoint, **more)


async def brought(source: S3Source, params: SourceParams, into: Path, share: Share = ALL) -> Tree:
    """Resolve and fetch."""
    fetched = await source.fetch(params, await source.resolve(params, share), into, silent)
    return snapshot(fetched.path)


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
        return of(bucket, "in/put/")

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
        return of(bucket, "nothing/here/*"), "nothing/here/"

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
        return of(bucket, "in/put/file.csv")

    @pytest.fixture
    def missing(self, bucket: Bucket) -> tuple[SourceParams, str]:
        return of(bucket, "in/nothing.csv"), "in/nothing.csv"

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


# What an input's key may say.


async def test_a_star_at_the_end_means_what_begins_so(
    bucket: Bucket, source: S3Source, tmp_path: Path
) -> None:
    """``a/pre*`` brings the objects whose keys begin with ``a/pre``, named from the last slash on; ``*`` and an empty
    key bring all."""
    for key in ("a/pre1", "a/pre/2", "a/other", "top"):
        await bucket.put(key, key.encode())

    assert await brought(source, of(bucket, "a/pre*"), tmp_path / "1") == {
        "pre": None,
        "pre/2": b"a/pre/2",
        "pre1": b"a/pre1",
    }
    assert len(await brought(source, of(bucket, ""), tmp_path / "2")) == 6
    assert len(await brought(source, of(bucket, "*"), tmp_path / "3")) == 6


async def test_wildcards_in_a_key_choose_objects(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """``*`` and ``**`` anywhere choose among the keys, which land behind the last slash before them; a key that has signs
    of a pattern and is there means itself."""
    for key in ("in/1/a.csv", "in/2/a.csv", "in/2/b.txt", "in/2/3/a.csv", "in/[x]", "in/x"):
        await bucket.put(key, key.encode())

    assert await brought(source, of(bucket, "in/*/a.csv"), tmp_path / "1") == {
        "1": None,
        "1/a.csv": b"in/1/a.csv",
        "2": None,
        "2/a.csv": b"in/2/a.csv",
    }
    assert len((await source.resolve(of(bucket, "in/**/a.csv"), ALL)).pinned.landing.files) == 3
    assert await brought(source, of(bucket, "in/[x]"), tmp_path / "2") == {"[x]": b"in/[x]"}
    await bucket.delete("in/[x]")
    assert await brought(source, of(bucket, "in/[x]"), tmp_path / "3") == {"x": b"in/x"}
    with pytest.raises(NotFound, match="matches"):
        await source.resolve(of(bucket, "in/*/c.csv"), ALL)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("logs/2024/aces.csv", "Did you mean 'logs/2024/access.csv'?"),
        ("logs/2024/ACCESS.csv", "Did you mean 'logs/2024/access.csv'?"),
        ("lgos/2024/access.csv", "Did you mean 'logs/'?"),
        ("logs/2042/", "Did you mean 'logs/2024/'"),
        ("lgos/*/access.csv", "Did you mean 'logs/'?"),
        ("logs/*/none.csv", "There are others below it, as 'logs/2024/access.csv'"),
        ("logs/2024", "write logs/2024/ for all"),
        ("quite/other", "Keys are exact"),
    ],
)
async def test_a_slip_in_a_key_is_told_with_what_may_be_meant(
    key: str, word: str, bucket: Bucket, source: S3Source
) -> None:
    """A key, a prefix or a pattern of nothing is told with the nearest spelling of what there is, as far as there is one."""
    for each in ("logs/2024/access.csv", "logs/2024/errors.csv", "models/a.bin"):
        await bucket.put(each, b"x")

    with pytest.raises(NotFound) as caught:
        await source.resolve(of(bucket, key), ALL)

    assert word in caught.value.hint


@pytest.mark.parametrize("key", ["none/", "none", "n*/?"])
async def test_nothing_is_an_error_unless_it_is_allowed(
    key: str, bucket: Bucket, source: S3Source, tmp_path: Path
) -> None:
    """With ``AllowEmpty`` an input that matches nothing is an empty folder; a bucket that is missing stays an error."""
    with pytest.raises(NotFound):
        await source.resolve(of(bucket, key), ALL)

    assert await brought(source, of(bucket, key, allow_empty=True), tmp_path / "1") == {}
    with pytest.raises(NotFound, match="bucket"):
        await source.resolve(
            SourceParams("no-such-bucket-here", key, endpoint=bucket.endpoint, allow_empty=True), ALL
        )


async def test_filter_takes_what_matches_behind_the_prefix(
    bucket: Bucket, source: S3Source, tmp_path: Path
) -> None:
    """``Filter`` is a regular expression on the rest of the key."""
    for key in ("in/a.csv", "in/b.txt", "in/sub/c.csv"):
        await bucket.put(key, b"x")

    assert await brought(source, of(bucket, "in/", filter=r"^\w+\.csv$"), tmp_path / "1") == {"a.csv": b"x"}
    with pytest.raises(NotFound, match="Filter"):
        await source.resolve(of(bucket, "in/", filter="parquet"), ALL)


async def test_a_filter_that_would_run_for_ever_ends(
    bucket: Bucket, source: S3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern that explodes is stopped and named; the node goes on meanwhile."""
    await bucket.put("in/" + "a" * 60 + "!", b"")
    monkeypatch.setattr("storage.s3.patterns.search.__defaults__", (0.5,))

    with pytest.raises(TimedOut, match="Filter"):
        await source.resolve(of(bucket, "in/", filter="(a+)+$"), ALL)


async def test_partitions_share_the_objects_out(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """Each object is in exactly one partition, the one that Bacalhau gives it; ops jobs (one share) read all."""
    keys = [f"in/file{number}.txt" for number in range(1, 5)]
    for key in keys:
        await bucket.put(key, b"x")
    params = of(bucket, "in/", partition=Partition(type="object"))

    shares = [
        set(await brought(source, params, tmp_path / str(index), Share(index, 3))) for index in range(3)
    ]

    assert sorted(name for share in shares for name in share) == [
        f"file{number}.txt" for number in range(1, 5)
    ]
    assert len(await brought(source, params, tmp_path / "all")) == 4


async def test_partitions_by_pattern_keep_a_group_together(
    bucket: Bucket, source: S3Source, tmp_path: Path
) -> None:
    """Objects with the same groups are read by the same partition; others by the first."""
    for key in ("in/user1-a", "in/user1-b", "in/user2-a", "in/other"):
        await bucket.put(key, b"x")
    params = of(bucket, "in/", partition=Partition(type="regex", pattern=r"user(\d+)"))

    shares = [
        set(await brought(source, params, tmp_path / str(index), Share(index, 4))) for index in range(4)
    ]

    assert sum(len(share) for share in shares) == 4
    assert any({"user1-a", "user1-b"} <= share for share in shares)
    assert "other" in shares[0]


async def test_a_version_is_brought_as_it_was(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """``VersionID`` names older bytes, and the identity says which."""
    await bucket.raw.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    version = (await bucket.put("k", b"old"))["VersionId"]
    await bucket.put("k", b"new")

    params = of(bucket, "k", version_id=version)

    assert await brought(source, params, tmp_path / "1") == {"k": b"old"}
    assert await brought(source, of(bucket, "k"), tmp_path / "2") == {"k": b"new"}
    assert version in (await source.resolve(params, ALL)).identity
    with pytest.raises((NotFound, Invalid)):
        await source.resolve(of(bucket, "k", version_id="0" * len(version)), ALL)


async def test_a_checksum_is_verified(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """``ChecksumSHA256`` is of the bytes that came; others are an error, and nothing of them stays."""
    data = b"x" * 3 * MIB
    await bucket.put("k", data)
    right = base64.b64encode(hashlib.sha256(data).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"y").digest()).decode()

    assert await brought(source, of(bucket, "k", checksum_sha256=right), tmp_path / "1") == {"k": data}
    with pytest.raises(Broken, match="SHA-256"):
        await brought(source, of(bucket, "k", checksum_sha256=wrong), tmp_path / "2")
    assert not (tmp_path / "2").exists()


async def test_an_object_without_a_content_type_is_one_object(
    odd: OddS3, source: S3Source, tmp_path: Path
) -> None:
    """What the object lacks in metadata makes no prefix of it; an empty one of a folder's type is a folder."""
    odd.objects = {"k": b"one", "k/other": b"two"}

    assert await brought(source, SourceParams("odd", "k", endpoint=odd.endpoint), tmp_path / "1") == {
        "k": b"one"
    }

    odd.objects = {"dir": b"", "dir/x": b"two"}
    odd.content_type = "application/x-directory"
    assert await brought(source, SourceParams("odd", "dir", endpoint=odd.endpoint), tmp_path / "2") == {
        "x": b"two"
    }


async def test_a_key_that_is_a_folder_says_so(bucket: Bucket, source: S3Source) -> None:
    """Where the slash was forgotten, the hint gives it."""
    await bucket.put("in/a", b"x")

    with pytest.raises(NotFound) as caught:
        await source.resolve(of(bucket, "in"), ALL)

    assert "in/" in caught.value.hint


async def test_too_many_objects_are_refused(bucket: Bucket) -> None:
    """A prefix has a documented bound, and an input a size."""
    for number in range(3):
        await bucket.put(f"in/{number}", b"xx")
    async with S3Client(settings_of(bucket.server, objects=2)) as client:
        with pytest.raises(Exhausted, match="2 objects"):
            await S3Source(client=client).resolve(of(bucket, "in/"), ALL)
    async with S3Client(settings_of(bucket.server, max_bytes=5)) as client:
        with pytest.raises(Exhausted, match="6 bytes"):
            await S3Source(client=client).resolve(of(bucket, "in/"), ALL)


# Who asks.


async def test_wrong_credentials_are_said_so(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong secret and an unknown account are `Denied`, with what to do; the secret is nowhere."""
    await bucket.put("k", b"x")
    for account in (
        Credentials(bucket.server.access_key, "canary-secret"),
        Credentials("CANARYUNKNOWNACCOUNT", "canary-secret"),
    ):
        for key in ("k", "prefix/"):
            async with S3Client(S3Settings(credentials=account, addresses=LOOPBACK, retry_s=0.01)) as client:
                with pytest.raises(Denied) as caught:
                    await S3Source(client=client).resolve(of(bucket, key), ALL)
            assert caught.value.hint
            said: list[str] = [caplog.text, repr(account)]
            fault: BaseException | None = caught.value
            while fault is not None:
                said.append(str(fault))
                fault = fault.__cause__
            assert "canary-secret" not in " ".join(said)


async def test_a_missing_bucket_is_named(bucket: Bucket, source: S3Source) -> None:
    """The fault names the bucket, for an object and for a prefix."""
    for key in ("k", "k/"):
        with pytest.raises(NotFound, match="no-such-bucket-here") as caught:
            await source.resolve(SourceParams("no-such-bucket-here", key, endpoint=bucket.endpoint), ALL)
        assert caught.value.kind == "Bucket"


async def test_the_chain_of_the_node_gives_the_account(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without settings the AWS environment counts."""
    await bucket.put("k", b"x")
    for name, value in bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    async with S3Client(S3Settings(addresses=LOOPBACK)) as client:
        source = S3Source(client=client)
        assert await brought(source, of(bucket, "k"), tmp_path / "1") == {"k": b"x"}
        assert (await source.probe()).available


async def test_a_public_bucket_needs_no_account(odd: OddS3, tmp_path: Path) -> None:
    """Without an account requests are unsigned; an account that is refused is left away."""
    odd.objects = {"in/a": b"public"}
    params = SourceParams("odd", "in/", endpoint=odd.endpoint)
    async with S3Client(S3Settings(addresses=LOOPBACK)) as client:
        assert await brought(S3Source(client=client), params, tmp_path / "1") == {"a": b"public"}
        assert (await S3Source(client=client).probe()).version == "unsigned"
    assert not any(
        "Authorization" in each.headers or "X-Amz-Signature" in each.query for each in odd.requests
    )

    odd.private = True
    async with S3Client(S3Settings(credentials=Credentials("A" * 16, "s"), addresses=LOOPBACK)) as client:
        assert await brought(S3Source(client=client), params, tmp_path / "2") == {"a": b"public"}


async def test_nothing_waits_for_a_cloud_that_is_not_there(
    odd: OddS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A metadata service that does not answer holds up no probe; the first transfer waits for it, and no other."""
    asked, open_up = asyncio.Event(), asyncio.Event()
    calls = 0

    async def metadata(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        asked.set()
        await open_up.wait()
        writer.close()

    odd.objects = {"in/a": b"public"}
    params = SourceParams("odd", "in/", endpoint=odd.endpoint)
    server = await asyncio.start_server(metadata, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "60")
    async with server, S3Client(S3Settings(addresses=LOOPBACK)) as client:
        source = S3Source(client=client)
        assert (await source.probe()).available
        await asked.wait()
        assert (await source.probe()).version == ""
        assert not open_up.is_set()
        open_up.set()
        assert await brought(source, params, tmp_path / "1") == {"a": b"public"}
        before = calls
        assert await brought(source, params, tmp_path / "2") == {"a": b"public"}
        assert (await source.probe()).version == "unsigned"
        assert calls == before


async def test_a_profile_that_is_not_there_is_told() -> None:
    """A slip in the name of a profile makes the driver unavailable, and says which name."""
    async with S3Client(S3Settings(profile="nobody")) as client:
        source = S3Source(client=client)
        with pytest.raises(Denied, match="nobody"):
            await client.connect()
        offer = await source.probe()
    assert not offer.available
    assert "nobody" in offer.reason


async def test_a_bucket_in_another_region_is_found(odd: OddS3, tmp_path: Path) -> None:
    """A wrong region is corrected by what the server answers, for every request of the fetch."""
    odd.region = "eu-north-1"
    odd.objects = {"in/a": b"north", "k": b"x"}
    async with S3Client(S3Settings(credentials=Credentials("A" * 16, "s"), addresses=LOOPBACK)) as client:
        for number, (key, content) in enumerate((("in/", {"a": b"north"}), ("k", {"k": b"x"}))):
            params = SourceParams("odd", key, endpoint=odd.endpoint, region="us-west-2")
            assert await brought(S3Source(client=client), params, tmp_path / str(number)) == content


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://169.254.169.254",
        "http://2852039166",
        "http://[::ffff:169.254.169.254]",
        "http://0xA9FEA9FE:80",
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://10.1.2.3",
    ],
)
async def test_an_endpoint_may_not_lead_to_the_nodes_own_network(endpoint: str) -> None:
    """A job reads neither the machine's credentials nor its neighbours by way of an endpoint, however that is spelt."""
    async with S3Client(S3Settings(credentials=Credentials("A" * 16, "s"), connect_s=2, tries=2)) as client:
        with pytest.raises(Denied, match="does not let jobs reach"):
            await S3Source(client=client).resolve(SourceParams("b", "latest/", endpoint=endpoint), ALL)


@pytest.mark.parametrize("how", ["setting", "variable"])
async def test_the_nodes_own_endpoint_is_reached(
    odd: OddS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """An endpoint that the node's owner configured needs no further leave, be it left out of the job or named there."""
    odd.objects = {"in/a": b"near"}
    settings = S3Settings(endpoint=odd.endpoint if how == "setting" else "")
    if how == "variable":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", odd.endpoint)
    async with S3Client(settings) as client:
        for number, endpoint in enumerate(("", odd.endpoint)):
            params = SourceParams("odd", "in/", endpoint=endpoint)
            assert await brought(S3Source(client=client), params, tmp_path / str(number)) == {"a": b"near"}
        with pytest.raises(Denied):
            await S3Source(client=client).resolve(
                SourceParams("buc", "k", endpoint="http://127.0.0.1:1"), ALL
            )


async def test_a_signed_url_serves_anybody(bucket: Bucket) -> None:
    """`presign` gives a URL that brings the object without an account, and a tampered one does not."""
    await bucket.put("a key +é", b"signed")
    async with S3Client(settings_of(bucket.server)) as client, aiohttp.ClientSession() as anybody:
        url = await presign(client, of(bucket, "a key +é"), expires_s=60)
        async with anybody.get(URL(url, encoded=True)) as response:
            assert (response.status, await response.read()) == (200, b"signed")
        async with anybody.get(
            URL(url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"), encoded=True)
        ) as response:
            assert response.status == 403
        with pytest.raises(Invalid, match="prefix"):
            await presign(client, of(bucket, "a/"), expires_s=60)
    async with S3Client(S3Settings(addresses=LOOPBACK)) as nobody:
        with pytest.raises(Denied, match="no account"):
            await presign(nobody, of(bucket, "k"), expires_s=60)


# Publishing.


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
