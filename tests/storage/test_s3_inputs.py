"""Which objects an input from S3 means, on real servers: keys, wildcards, filters, partitions, versions, checksums."""

import base64
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.servers import S3Server
from protocol.errors import Broken, Exhausted, NotFound
from storage.contract import Share
from storage.mismatch import KIND as MISMATCH
from storage.s3 import Partition, S3Client, S3Source, SourceParams, patterns, selection
from storage.s3 import source as s3_source
from storage.s3.partitions import index_of
from tests.storage.s3_world import ALL, Bucket, OddS3, brought, settings_of


@pytest.fixture
async def source(server: S3Server) -> AsyncIterator[S3Source]:
    source = S3Source(settings_of(server, part_bytes=1 << 20))
    yield source
    await source.close()


async def test_a_star_at_the_end_means_what_begins_so(
    bucket: Bucket, source: S3Source, tmp_path: Path
) -> None:
    """``a/pre*`` brings the objects whose keys begin with ``a/pre``, named from the last slash on; ``*`` and an empty
    key bring all."""
    for key in ("a/pre1", "a/pre/2", "a/other", "top"):
        await bucket.put(key, key.encode())

    assert await brought(source, bucket.of("a/pre*"), tmp_path / "1") == {
        "pre": None,
        "pre/2": b"a/pre/2",
        "pre1": b"a/pre1",
    }
    assert len(await brought(source, bucket.of(""), tmp_path / "2")) == 6
    assert len(await brought(source, bucket.of("*"), tmp_path / "3")) == 6


async def test_wildcards_in_a_key_choose_objects(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """``*`` and ``**`` anywhere choose among the keys, which land behind the last slash before them; a key that has signs
    of a pattern and is there means itself."""
    for key in ("in/1/a.csv", "in/2/a.csv", "in/2/b.txt", "in/2/3/a.csv", "in/[x]", "in/x"):
        await bucket.put(key, key.encode())

    assert await brought(source, bucket.of("in/*/a.csv"), tmp_path / "1") == {
        "1": None,
        "1/a.csv": b"in/1/a.csv",
        "2": None,
        "2/a.csv": b"in/2/a.csv",
    }
    assert len((await source.resolve(bucket.of("in/**/a.csv"), ALL)).pinned.landing.files) == 3
    assert await brought(source, bucket.of("in/[x]"), tmp_path / "2") == {"[x]": b"in/[x]"}
    await bucket.delete("in/[x]")
    assert await brought(source, bucket.of("in/[x]"), tmp_path / "3") == {"x": b"in/x"}
    with pytest.raises(NotFound, match="matches"):
        await source.resolve(bucket.of("in/*/c.csv"), ALL)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("logs/2024/aces.csv", "Did you mean 'logs/2024/access.csv'?"),
        ("logs/2024/ACCESS.csv", "Did you mean 'logs/2024/access.csv'?"),
        ("lgos/2024/access.csv", "Did you mean 'logs/'?"),
        ("/logs/2024/aces.csv", "Did you mean 'logs/2024/access.csv'?"),
        ("logs//2024/aces.csv", "Did you mean 'logs/2024/access.csv'?"),
        ("logs/2042/", "Did you mean 'logs/2024/'"),
        ("lgos/*/access.csv", "Did you mean 'logs/'?"),
        ("l*.csv", "A * stays in a folder, and ** does not: 'l**.csv' finds some."),
        ("logs/20[!3]4*cess.csv", "'logs/20[!3]4**cess.csv' finds some."),
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
        await source.resolve(bucket.of(key), ALL)

    assert word in caught.value.hint


@pytest.mark.parametrize("key", ["none/", "none", "n*/?"])
async def test_nothing_is_an_error_unless_it_is_allowed(
    key: str, bucket: Bucket, source: S3Source, tmp_path: Path
) -> None:
    """With ``AllowEmpty`` an input that matches nothing is an empty folder; a bucket that is missing stays an error."""
    with pytest.raises(NotFound):
        await source.resolve(bucket.of(key), ALL)

    assert await brought(source, bucket.of(key, allow_empty=True), tmp_path / "1") == {}
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

    assert await brought(source, bucket.of("in/", filter=r"^\w+\.csv$"), tmp_path / "1") == {"a.csv": b"x"}
    with pytest.raises(NotFound, match="Filter"):
        await source.resolve(bucket.of("in/", filter="parquet"), ALL)


async def test_a_filter_that_explodes_elsewhere_does_not(bucket: Bucket, source: S3Source) -> None:
    """Repetitions inside repetitions take no longer than others, and find what they mean."""
    await bucket.put("in/" + "a" * 60 + "!", b"")

    assert (await source.resolve(bucket.of("in/", filter="(a+)+!$"), ALL)).size_bytes == 0
    with pytest.raises(NotFound, match="Filter"):
        await source.resolve(bucket.of("in/", filter="(a+)+$"), ALL)


async def test_partitions_share_the_objects_out(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """Each object is in exactly one partition, the one that Bacalhau gives it; ops jobs (one share) read all."""
    keys = [f"in/file{number}.txt" for number in range(1, 5)]
    for key in keys:
        await bucket.put(key, b"x")
    params = bucket.of("in/", partition=Partition(type="object"))

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
    params = bucket.of("in/", partition=Partition(type="regex", pattern=r"user(\d+)"))

    shares = [
        set(await brought(source, params, tmp_path / str(index), Share(index, 4))) for index in range(4)
    ]

    assert sum(len(share) for share in shares) == 4
    assert any({"user1-a", "user1-b"} <= share for share in shares)
    assert "other" in shares[0]


async def test_a_listing_is_sorted_out_beside_the_loop(
    odd: OddS3, source: S3Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done for each of a hundred thousand keys holds up nothing else that its node does."""
    asked: list[bool] = []

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*given: Any) -> Any:
            asked.append(threading.current_thread() is threading.main_thread())
            return work(*given)

        return watch

    odd.objects = {f"in/{number}": b"x" for number in range(9)}
    monkeypatch.setattr(selection, "index_of", watched(index_of))
    monkeypatch.setattr(patterns, "compiled", watched(patterns.compiled))
    for name in ("_identity", "check_size", "landing"):
        monkeypatch.setattr(s3_source, name, watched(getattr(s3_source, name)))

    for partition in (Partition("object"), Partition("regex", r"\d")):
        params = SourceParams("odd", "in/", endpoint=odd.endpoint, filter=r"\d", partition=partition)
        found = [(await source.resolve(params, Share(index, 3))).size_bytes or 0 for index in range(3)]
        assert sum(found) == 9

    by_pattern = 3 + 6
    assert len(asked) == 2 * 3 * (9 + 3) + by_pattern
    assert not any(asked)


async def test_a_version_is_brought_as_it_was(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """``VersionID`` names older bytes, and the identity says which."""
    await bucket.raw.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    version = (await bucket.put("k", b"old"))["VersionId"]
    await bucket.put("k", b"new")

    params = bucket.of("k", version_id=version)

    assert await brought(source, params, tmp_path / "1") == {"k": b"old"}
    assert await brought(source, bucket.of("k"), tmp_path / "2") == {"k": b"new"}
    assert version in (await source.resolve(params, ALL)).identity
    for wrong in ("0" * len(version), "nonsense"):
        with pytest.raises(NotFound, match=f"/k: it has no version '{wrong}'") as caught:
            await source.resolve(bucket.of("k", version_id=wrong), ALL)
        assert "list-object-versions" in caught.value.hint


async def test_a_version_where_none_are_kept_is_not_there(bucket: Bucket, source: S3Source) -> None:
    """In a bucket without versions what lies there now is never taken for a version that was named."""
    await bucket.put("k", b"now")

    with pytest.raises(NotFound, match=r"it has no version '0{32}'"):
        await source.resolve(bucket.of("k", version_id="0" * 32), ALL)


async def test_a_checksum_is_verified(bucket: Bucket, source: S3Source, tmp_path: Path) -> None:
    """``ChecksumSHA256`` is of the bytes that came; others are an error with both, and nothing of them stays. It is of
    one object: what a pattern finds has none."""
    data = b"x" * 3_000_000
    await bucket.put("k", data)
    right = base64.b64encode(hashlib.sha256(data).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"y").digest()).decode()

    assert await brought(source, bucket.of("k", checksum_sha256=right), tmp_path / "1") == {"k": data}
    said = re.escape(f"has the SHA-256 {right}, and ChecksumSHA256 says {wrong}")
    with pytest.raises(Broken, match=said) as caught:
        await brought(source, bucket.of("k", checksum_sha256=wrong), tmp_path / "2")
    assert caught.value.kind == MISMATCH
    assert not (tmp_path / "2").exists()
    with pytest.raises(NotFound):
        await source.resolve(bucket.of("?", checksum_sha256=right), ALL)


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
        await source.resolve(bucket.of("in"), ALL)

    assert "in/" in caught.value.hint


async def test_too_many_objects_are_refused(bucket: Bucket) -> None:
    """A prefix has a documented bound, and an input a size."""
    for number in range(3):
        await bucket.put(f"in/{number}", b"xx")
    async with S3Client(settings_of(bucket.server, objects=2)) as client:
        with pytest.raises(Exhausted, match="2 objects"):
            await S3Source(client=client).resolve(bucket.of("in/"), ALL)
    async with S3Client(settings_of(bucket.server, max_bytes=5)) as client:
        with pytest.raises(Exhausted, match="6 bytes"):
            await S3Source(client=client).resolve(bucket.of("in/"), ALL)


# Who asks.


async def test_a_missing_bucket_is_named(bucket: Bucket, source: S3Source) -> None:
    """The fault names the bucket, for an object and for a prefix."""
    for key in ("k", "k/"):
        with pytest.raises(NotFound, match="no-such-bucket-here") as caught:
            await source.resolve(SourceParams("no-such-bucket-here", key, endpoint=bucket.endpoint), ALL)
        assert caught.value.kind == "Bucket"
