"""Keys that are no good names of files, on two real servers: each is a defined result or a clear error."""

import re
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Final

import pytest
from botocore.exceptions import ClientError

from deploy.programs import find
from deploy.servers import S3Server
from protocol.errors import Broken, Invalid, NotFound
from storage.archive import unpack
from storage.contract import Share, silent
from storage.params import read_params
from storage.s3 import PublisherParams, S3Client, S3Publisher, S3Source, SourceParams
from tests.contracts.trees import Link, Run, Tree, plant, snapshot
from tests.storage.s3_world import LABEL, Bucket, settings_of

ALL = Share()
LONG: Final = "/".join(["n" * 250, "m" * 200, "m" * 200, "m" * 200, "e" * 168])
"""With ``k/`` before it these are 1,024 bytes."""
DATA: Final = b"bytes"
REFUSED: Final = {"versitygw": {"k/.."}, "weed": {"k/a/../b", "k/.."}}
"""What each server does not take at all."""
KEPT: Final = {
    "versitygw": {"k/a/../b": "k/b", "k/a//b": "k/a/b", "/k/b": "k/b"},
    "weed": {"k/a//b": "k/a/b", "/k/b": "k/b"},
}
"""What each server keeps under another key than it was given, and says nothing of it."""
ODD: Final = ("k/a/../b", "k/..", "k/a//b", "/k/b")


@pytest.fixture
async def client(server: S3Server) -> AsyncIterator[S3Client]:
    async with S3Client(settings_of(server)) as client:
        yield client


@pytest.fixture
def make(request: pytest.FixtureRequest) -> str:
    """Which program the server is."""
    first = request.node.callspec.params["server"] == "s3"
    return "versitygw" if first and find("versitygw") else "weed"


async def brought(client: S3Client, params: SourceParams, into: Path) -> Tree:
    """Resolve and fetch."""
    source = S3Source(client=client)
    fetched = await source.fetch(params, await source.resolve(params, ALL), into, silent)
    return snapshot(fetched.path)


@pytest.mark.parametrize(
    ("keys", "tree"),
    [
        (["k/folder/", "k/b"], {"folder": None, "b": b"bytes"}),
        (["k/line\nbreak"], {"line\nbreak": DATA}),
        ([f"k/{LONG}"], {LONG: DATA}),
        (["k/Case", "k/case"], {"Case": b"1", "case": b"2"}),
        (["k/\u00e9", "k/e\u0301"], {"\u00e9": b"composed", "e\u0301": b"decomposed"}),
        (["k/ a b ", "k/+%2F%", "k/*?[x]"], {" a b ": b"1", "+%2F%": b"2", "*?[x]": b"3"}),
        (["k/\u2028\u202e", "k/\t\x7f"], {"\u2028\u202e": b"1", "\t\x7f": b"2"}),
    ],
    ids=["marker", "newline", "1024-bytes", "case", "unicode", "signs", "control"],
)
async def test_an_odd_key_that_a_disk_can_hold_is_held(
    keys: list[str], tree: Tree, bucket: Bucket, client: S3Client, tmp_path: Path
) -> None:
    """Each object lies where its key says, with its own bytes: asked for by its prefix, and alone."""
    for key, data in zip(keys, tree.values(), strict=True):
        assert not isinstance(data, (Link, Run))
        await bucket.put(key, data or b"")

    assert await brought(client, bucket.of("k/"), tmp_path / "all") == with_folders(tree)
    for number, (key, data) in enumerate(zip(keys, tree.values(), strict=True)):
        if data is not None:
            alone = await brought(client, bucket.of(key), tmp_path / str(number))
            assert alone == {key.rpartition("/")[2]: data}


def with_folders(tree: Tree) -> Tree:
    """The tree with the folders that its files lie in."""
    above = {str(folder) for path in tree for folder in PurePosixPath(path).parents}
    return {**dict.fromkeys(above - {"."}), **tree}


@pytest.mark.parametrize("key", ODD)
async def test_an_odd_key_is_brought_as_the_server_keeps_it(
    key: str, make: str, bucket: Bucket, client: S3Client, tmp_path: Path
) -> None:
    """A key that says ``..`` or ``//`` or begins with a slash: the object comes under the name that the server lists it by,
    or an error says what is wrong; nothing comes under another name, and nothing outside."""
    if key in REFUSED[make]:
        with pytest.raises(ClientError):
            await bucket.put(key, DATA)
        assert await bucket.keys() == []
        return
    await bucket.put(key, DATA)
    kept = KEPT[make][key]
    assert await bucket.keys() == [kept]

    assert await brought(client, bucket.of(key), tmp_path / "one") == {"b": DATA}
    assert (await brought(client, bucket.of("k/"), tmp_path / "all"))[kept[2:]] == DATA
    # The keys as they were put, which the server has forgotten: none is found, or the server's answer is refused.
    with pytest.raises((NotFound, Broken), match=r"begins with|not asked for"):
        await brought(client, bucket.of(key[: key.rindex("/") + 1] + "*"), tmp_path / "odd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "one"]


@pytest.mark.parametrize("where", ["Key", "file", "folder"])
async def test_a_backslash_is_kept_or_told(
    where: str, make: str, bucket: Bucket, client: S3Client, tmp_path: Path
) -> None:
    """SeaweedFS takes a backslash in a key for a slash, so that one of a program's files might take another's place: a
    result with such a name is refused there before any of it is sent, and is whole on a server that keeps the name."""
    more: dict[str, Tree] = {"Key": {}, "file": {"a\\b": b"2"}, "folder": {"c\\d": None}}
    tree: Tree = {"a/b": b"1", **more[where]}
    folder = plant(tree, tmp_path / "result")
    params = bucket.to("k\\out" if where == "Key" else "out", "plain", overwrite=True)

    publishing = S3Publisher(client=client).publish(folder, params, LABEL, silent)
    if make == "weed":
        with pytest.raises(Invalid, match="keeps this key under another one") as caught:
            await publishing
        assert await bucket.keys() == []
        assert ("gzip" in caught.value.hint) is (where != "Key")
    else:
        spec = await publishing
        found = read_params(spec.params, SourceParams, "source s3")
        assert await brought(client, found, tmp_path / "in") == with_folders(tree)


@pytest.mark.parametrize("key", ["k [1]/a", "a/k*/?/[x]", "*/f"])
async def test_an_object_lies_under_the_last_part_of_its_key_whatever_signs_are_in_it(
    key: str, bucket: Bucket, client: S3Client, tmp_path: Path
) -> None:
    """A key that is exactly that of an object means it, and it lies where the object of any other key would."""
    await bucket.put(key, DATA)

    assert await brought(client, bucket.of(key), tmp_path / "in") == {key.rpartition("/")[2]: DATA}


@pytest.mark.parametrize("key", ["k [1]/out*", "what?/{partition}", "a*b/c"])
@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_signs_of_a_pattern_in_a_results_key_mean_themselves(
    key: str, encoding: str, bucket: Bucket, client: S3Client, tmp_path: Path
) -> None:
    """A result whose key has what would be a wildcard in an input's is brought as it was written, from its own objects
    alone, and lies where any other would."""
    await bucket.put("k 1/outer/a", b"another's")
    tree: Tree = {"a": b"1", "d/b": b"2"}
    params = bucket.to(key, encoding, overwrite=True)

    spec = await S3Publisher(client=client).publish(plant(tree, tmp_path / "result"), params, LABEL, silent)

    found = await brought(client, read_params(spec.params, SourceParams, "source s3"), tmp_path / "in")
    if encoding == "gzip":
        (archive,) = (tmp_path / "in").iterdir()
        await unpack(archive, tmp_path / "out", silent)
        found = snapshot(tmp_path / "out")
    assert found == with_folders(tree)


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
@pytest.mark.parametrize("key", ["k/a/../b", "k/a//b", "/k/b", "a\nb/K"])
async def test_a_result_is_where_its_spec_says_or_nowhere(
    key: str, encoding: str, bucket: Bucket, client: S3Client, tmp_path: Path
) -> None:
    """Publishing under an odd key: the spec brings the whole result again and the objects have the keys that it names, or an
    error names the key and nothing is in the bucket. What lay where the server would have put it is as it was."""
    await bucket.put("k/b.tar.gz", b"another's")
    await bucket.put("k/b/a", b"another's")
    tree: Tree = {"a": b"1", "A": b"2", "d/line\nbreak": b"3"}
    params = PublisherParams(bucket.name, key, endpoint=bucket.endpoint, encoding=encoding, overwrite=True)
    folder = plant(tree, tmp_path / "result")
    before = sorted(await bucket.keys())

    publishing = S3Publisher(client=client).publish(folder, params, LABEL, silent)
    if key in ODD:
        with pytest.raises(Invalid, match=re.escape(f"/{key}")):
            await publishing
        assert sorted(await bucket.keys()) == before
    else:
        spec = await publishing
        published = [each for each in await bucket.keys() if each not in before]
        assert published
        assert all(each.startswith(spec.params["Key"]) for each in published)
        found = await brought(client, read_params(spec.params, SourceParams, "source s3"), tmp_path / "in")
        if encoding == "gzip":
            await unpack(next((tmp_path / "in").iterdir()), tmp_path / "out", silent)
            found = snapshot(tmp_path / "out")
        assert found == with_folders(tree)
    for each in before:
        assert (
            await (await bucket.raw.get_object(Bucket=bucket.name, Key=each))["Body"].read() == b"another's"
        )
    assert await bucket.unfinished() == []
