"""A result of one object a file is what was put there, whatever else lies, or has come to lie, below its prefix."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from deploy.servers import S3Server
from protocol.errors import Broken, Conflict, Invalid
from protocol.ids import ExecutionId
from protocol.jobs import Spec
from storage.contract import Share, silent
from storage.long_lists import Packed
from storage.params import read_params
from storage.s3 import S3Client, S3Publisher, S3Source, SourceParams
from storage.s3.claims import EXECUTION, LOOKS_AT_ONCE, metas, of_ours
from storage.s3.keys import Object
from storage.s3.listing import OBJECTS_MAX, Listing, Pin, check_listing, digest_of, listing_of
from storage.s3.pieces import Piece
from storage.s3.presigned import PreSignedSource
from storage.s3.results import ResultSigner
from tests.contracts.trees import Tree, plant, snapshot, with_folders
from tests.storage.s3_world import LABEL, OTHER, Bucket, settings_of

FEW: Tree = {"stdout": b"hello\n", "outputs/a": b"a" * 3_000, "outputs/none": None}
MANY: Tree = {f"outputs/{number:02}": f"number {number}".encode() for number in range(OBJECTS_MAX + 5)}
NUMBERS = itertools.count(1)


@pytest.fixture
async def publisher(server: S3Server) -> AsyncIterator[S3Publisher]:
    publisher = S3Publisher(settings_of(server))
    yield publisher
    await publisher.close()


@pytest.fixture
async def source(server: S3Server) -> AsyncIterator[S3Source]:
    source = S3Source(settings_of(server))
    yield source
    await source.close()


Ways = dict[str, Any]


@pytest.fixture
def ways(source: S3Source, signer: ResultSigner, anybody: PreSignedSource) -> Ways:
    """How a result is read: with the reader's own account, or by links."""

    async def own(spec: Spec, into: Path) -> Tree:
        params = read_params(spec.params, source.params, "result")
        return snapshot(
            (await source.fetch(params, await source.resolve(params, Share()), into, silent)).path
        )

    async def links(spec: Spec, into: Path) -> Tree:
        shown = await signer.shown(spec, objects=True)
        assert shown.type == "s3PreSigned"
        params = read_params(shown.params, anybody.params, "result")
        resolved = await anybody.resolve(params, Share())
        return snapshot((await anybody.fetch(params, resolved, into, silent)).path)

    return {"own": own, "links": links}


@pytest.mark.parametrize("tree", [FEW, MANY], ids=["few", "many"])
async def test_a_result_is_its_own_objects_and_no_others(
    tree: Tree, bucket: Bucket, publisher: S3Publisher, ways: Ways, tmp_path: Path
) -> None:
    """Where a result was overwritten by a smaller one, and a person has put something beside it, the newer is brought as it
    was published, with an account and by links. Of the older it is said that it is not there as it was."""
    before = plant({**tree, "old": b"old", "stdout": b"before\n"}, tmp_path / "before")
    after = plant(tree, tmp_path / "after")
    old = await publisher.publish(before, bucket.to("out", "plain"), LABEL, silent)
    await bucket.put("out/notes.txt", b"a person's")
    new = await publisher.publish(after, bucket.to("out", "plain", overwrite=True), OTHER, silent)
    assert {"out/old", "out/notes.txt"} <= set(await bucket.keys())

    for way, bring in ways.items():
        assert await bring(new, tmp_path / f"new-{way}") == with_folders(tree)
        with pytest.raises(Broken, match="e-1, is not as it was published") as caught:
            await bring(old, tmp_path / f"old-{way}")
        assert "{executionID}" in caught.value.hint


async def test_of_a_result_as_much_is_in_memory_as_is_on_its_way(
    bucket: Bucket, publisher: S3Publisher, tmp_path: Path
) -> None:
    """However many files a result has: what S3 has answered for is let go of."""
    tree: Tree = {f"{number:03}": b"x" for number in range(300)}
    alive = []

    def told(done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes == total_bytes:
            alive.append(sum(isinstance(each, Piece) for each in gc.get_objects()))

    await publisher.publish(plant(tree, tmp_path / "result"), bucket.to("out", "plain"), LABEL, told)

    assert len(await bucket.keys()) == len(tree)
    assert alive
    assert max(alive) < len(tree) / 2


async def test_whose_objects_are_is_asked_for_some_at_a_time(server: S3Server, bucket: Bucket) -> None:
    """Of a million keys so many are in memory as are asked for at once, and what is found comes in their order."""
    keys = [f"{number:02}" for number in range(LOOKS_AT_ONCE * 3)]
    for key in keys[::2]:
        await bucket.put(key, Metadata={EXECUTION: LABEL.execution})
    taken: list[str] = []
    ahead = []

    def given() -> Iterator[str]:
        for key in keys:
            taken.append(key)
            yield key

    async with S3Client(settings_of(server)) as client:
        connection = await client.connect(server.endpoint)
        async for key, _ in metas(connection, bucket.name, given()):
            ahead.append(len(taken) - keys.index(key))
        ours = await of_ours(connection, bucket.name, keys, LABEL.execution)

    assert list(ours) == keys[::2]
    assert max(ahead) <= LOOKS_AT_ONCE


@pytest.mark.parametrize("tree", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("what", ["changed", "gone"])
async def test_a_result_that_was_changed_is_an_error(
    what: str, tree: Tree, bucket: Bucket, publisher: S3Publisher, ways: Ways, tmp_path: Path
) -> None:
    """An object that has other bytes now, or is gone, is told (by name, if there are few), and nothing is brought."""
    spec = await publisher.publish(plant(tree, tmp_path / "result"), bucket.to("out", "plain"), LABEL, silent)
    key = next(f"out/{path}" for path, data in tree.items() if data)
    if what == "changed":
        await bucket.put(key, b"other")
    else:
        await bucket.delete(key)

    for way, bring in ways.items():
        with pytest.raises(Broken, match=repr(key)[1:-1] if tree is FEW else "is not as it was published"):
            await bring(spec, tmp_path / way)
        assert not (tmp_path / way).exists()


@pytest.mark.parametrize("server", ["s3"], indirect=True)
async def test_where_versions_are_kept_a_result_stays(
    bucket: Bucket, publisher: S3Publisher, ways: Ways, tmp_path: Path
) -> None:
    """In a bucket with versions a result is read as it was published after it was overwritten."""
    await bucket.raw.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    params = bucket.to("out", "plain", overwrite=True)
    old = await publisher.publish(plant({"stdout": b"old"}, tmp_path / "old"), params, LABEL, silent)
    await publisher.publish(plant({"stdout": b"new"}, tmp_path / "new"), params, OTHER, silent)

    for way, bring in ways.items():
        assert await bring(old, tmp_path / way) == {"stdout": b"old"}


async def test_a_result_among_others_is_not_cleared_away(
    bucket: Bucket, publisher: S3Publisher, tmp_path: Path
) -> None:
    """A later attempt takes the place of an earlier one's objects, and not of what somebody else has put among them."""
    folder = plant({"a": b"1", "m": b"2"}, tmp_path / "result")
    await publisher.publish(folder, bucket.to("out", "plain"), LABEL, silent)
    await bucket.put("out/notes", b"a person's")
    later = replace(LABEL, execution=ExecutionId("e-3"), attempt=2)

    with pytest.raises(Conflict, match="out/notes is there already: not a result of shoal"):
        await publisher.publish(folder, bucket.to("out", "plain"), later, silent)

    assert await bucket.keys() == ["out/a", "out/m", "out/notes"]


async def test_a_result_as_an_input_is_still_a_prefix(
    bucket: Bucket, publisher: S3Publisher, source: S3Source, tmp_path: Path
) -> None:
    """Bacalhau's fields alone mean what they mean there: all that lies below the prefix."""
    spec = await publisher.publish(plant(FEW, tmp_path / "result"), bucket.to("out", "plain"), LABEL, silent)
    await bucket.put("out/later", b"x")
    params = SourceParams(bucket.name, str(spec.params["Key"]), endpoint=bucket.endpoint)

    resolved = await source.resolve(params, Share())

    fetched = await source.fetch(params, resolved, tmp_path / "in", silent)
    assert snapshot(fetched.path) == with_folders({**FEW, "later": b"x"})


def test_a_listing_says_what_is_wrong() -> None:
    """Few objects are named; of many it is told how many there were, and how many there are."""
    objects = [Object(f"out/{number:03}", number, f'"{number}"') for number in range(5)]
    listing = listing_of(Packed(Object, objects), "e-1")
    assert [each.key for each in listing.objects] == [each.key for each in objects]
    bare = Packed(Object, (replace(each, etag=each.etag.strip('"')) for each in objects))
    check_listing("s3://b/out/", listing, bare)
    for found, told in (
        (objects[1:], "'out/000' is missing"),
        ([replace(objects[0], etag='"9"'), *objects[2:]], "'out/000' has other bytes, 'out/001' is missing"),
        ([], "'out/002' is missing and 2 more"),
        ([*objects, Object("out/x", 1)], "there is more than it had"),
    ):
        with pytest.raises(Broken, match=told):
            check_listing("s3://b/out/", listing, Packed(Object, found))

    many = [Object(f"out/{number:03}", 1, f'"{number}"') for number in range(OBJECTS_MAX + 1)]
    listing = listing_of(Packed(Object, many), "e-1")
    assert listing.objects == []
    with pytest.raises(Broken, match=r"of its 21 objects \(21 bytes\) 20 are there \(20 bytes\)"):
        check_listing("s3://b/out/", listing, Packed(Object, many[1:]))
    other = Packed(Object, [replace(many[0], etag='"x"'), *many[1:]])
    with pytest.raises(Broken, match="of its 21 objects some have other bytes"):
        check_listing("s3://b/out/", listing, other)


def test_a_listing_belongs_to_a_prefix() -> None:
    """Beside the key of one object a listing is refused."""
    listing = Listing(digest_of(Packed(Object)), 0, 0, objects=[Pin("out/a", 1, "x")])
    with pytest.raises(Invalid, match="Listing"):
        SourceParams("bucket", "out/a", listing=listing)


async def test_two_who_overwrite_at_once_are_each_told_the_truth(
    bucket: Bucket, publisher: S3Publisher, ways: Ways, tmp_path: Path
) -> None:
    """Of two results that overwrite one another at the same moment, each is brought whole or not at all."""
    trees: list[Tree] = [{f"f{number}": name * 9 for number in range(8)} for name in (b"one", b"two")]
    params = bucket.to("out", "plain", overwrite=True)
    specs = await asyncio.gather(
        *(
            publisher.publish(plant(tree, tmp_path / str(number)), params, label, silent)
            for number, (tree, label) in enumerate(zip(trees, (LABEL, OTHER), strict=True))
        )
    )

    for (tree, spec), way in itertools.product(zip(trees, specs, strict=True), ways):
        into = tmp_path / f"in-{next(NUMBERS)}"
        with suppress(Broken):
            assert await ways[way](spec, into) == tree
            continue
        assert not into.exists()
