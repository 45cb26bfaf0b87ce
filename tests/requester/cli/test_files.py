"""``ls`` and ``cat``: single files of results, without the rest of them."""

import hashlib
import json
from pathlib import Path
from uuid import uuid4

import pytest

from compute.provenance import Manifests
from deploy.servers import Kubo, S3Server
from protocol.ids import ExecutionId
from protocol.jobs import Spec
from protocol.messages import FileWritten
from protocol.states import ExecutionState
from requester.cli.app import main
from storage.archive import pieces
from storage.s3.connection import Connection
from storage.s3.results import ResultSigner, Signing
from tests.conftest import Background
from tests.contracts.trees import Link, Tree, plant, snapshot, with_folders
from tests.requester.cli.conftest import Finished, Shelf, Shoal, archive_of, written
from tests.requester.cli.test_get import made_bucket, published
from tests.requester.twin import Twin

FILES = {"stdout": "hello\n", "outputs__a": "A" * 50_000, "outputs__b__c": "C"}


@pytest.mark.parametrize("told", [True, False])
def test_ls_lists_files(shoal: Shoal, finished: Finished, shelf: Shelf, told: bool) -> None:
    """Sizes, digests and paths; where the record has them all, nothing is asked of the node."""
    execution = finished.publish(0, archive_of(**FILES), written=written(**FILES) if told else None)
    finished.close()

    ran = shoal("ls", "words", "-o", "json")

    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [(each["Path"], each["Size"]) for each in found] == [
        ("outputs/a", 50_000),
        ("outputs/b/c", 1),
        ("stdout", 6),
    ] or not told
    assert {each["Path"] for each in found} == {"stdout", "outputs/a", "outputs/b/c"}
    assert {each["ExecutionID"] for each in found} == {execution}
    assert shelf.asked == (0 if told else 1)


@pytest.mark.parametrize("told", [True, False])
def test_ls_lists_links_and_empty_folders(
    shoal: Shoal, finished: Finished, folder: Path, background: Background, shelf: Shelf, told: bool
) -> None:
    """A link with where it leads, an empty folder with a slash; `cat` of a link says where it leads."""
    tree: Tree = {"stdout": b"hello\n", "outputs/newest": Link("a"), "outputs/a": b"A", "outputs/none": None}
    plant(tree, folder / "result")
    record = Manifests(folder / "manifests", 60).record(ExecutionId("e-1"), folder / "result", lambda: None)
    finished.publish(0, b"".join(pieces(folder / "result")), written=record if told else None)
    finished.close()

    ran = shoal("ls", "words", "--hide-header")

    assert ran.code == 0, ran.err
    assert [line.split()[-1] for line in ran.out.splitlines()] == [
        "outputs/a",
        "a",
        "outputs/none/",
        "stdout",
    ]
    assert "outputs/newest -> a" in ran.out
    found = json.loads(shoal("ls", "words", "outputs", "-o", "json").out)
    kinds = {each["Path"]: (each["Type"], each.get("Target")) for each in found}
    assert kinds == {
        "outputs/a": ("file", None),
        "outputs/newest": ("link", "a"),
        "outputs/none": ("folder", None),
    }
    assert shelf.asked == (0 if told else 2)
    refused = shoal("cat", "words", "outputs/newest")
    assert (refused.code != 0, refused.out) == (True, "")
    assert not told or "is a link to 'a'" in refused.err


def test_a_long_list_comes_from_the_node_that_keeps_it(
    shoal: Shoal, finished: Finished, twin: Twin, folder: Path, shelf: Shelf
) -> None:
    """Of a result of more files than its record names, `ls` knows all sizes and digests without a look at it, and `cat`
    checks the one it prints, and knows a folder from a file that is not there."""
    tree: Tree = {f"outputs/{number:02}": f"number {number}\n".encode() for number in range(30)}
    plant(tree, folder / "result")
    record = Manifests(folder / "manifests", 60).record(ExecutionId("e-1"), folder / "result", lambda: None)
    execution = finished.publish(0, b"".join(pieces(folder / "result")), written=record)
    assert len(record.files) < len(tree)
    twin.lists[execution] = [
        FileWritten(path, len(data), hashlib.sha256(data).hexdigest())
        for path, data in tree.items()
        if isinstance(data, bytes)
    ]
    finished.close()

    found = json.loads(shoal("ls", "words", "-o", "json").out)

    assert {each["Path"]: each["SHA256"] for each in found} == {
        each.path: each.sha256 for each in twin.lists[execution]
    }
    assert shelf.asked == 0
    assert "'outputs' is a folder" in shoal("cat", "words", "outputs").err
    printed = shoal("cat", "words", "outputs/29")
    assert (printed.code, printed.out, printed.err) == (0, "number 29\n", "")
    twin.lists[execution][29] = FileWritten("outputs/29", 10, "0" * 64)
    assert "has the SHA-256" in shoal("cat", "words", "outputs/29").err


def test_ls_of_a_folder(shoal: Shoal, finished: Finished) -> None:
    """A path picks a folder or a file; one that is not there is told."""
    finished.publish(0, archive_of(**FILES), written=written(**FILES))
    finished.close()

    ran = shoal("job", "ls", "words", "outputs/b", "--hide-header")

    assert ran.out.split() == ["1", hashlib.sha256(b"C").hexdigest()[:12], "outputs/b/c"]
    assert shoal("ls", "words", "nothing").code != 0


@pytest.mark.parametrize("told", [True, False])
def test_cat_prints_one_file_of_each_execution(shoal: Shoal, finished: Finished, told: bool) -> None:
    """In the order of executions, byte for byte; ``--execution-id`` picks one."""
    last = ""
    for partition, text in enumerate(("one\n", "two\n")):
        files = {"stdout": text, "outputs__x": "x"}
        last = finished.publish(partition, archive_of(**files), written=written(**files) if told else None)
    finished.close()

    both = shoal("cat", "words", "stdout")
    assert both.out == "one\ntwo\n"
    assert [line.partition(", ")[0] for line in both.err.splitlines()] == [
        "==> stdout of partition 0",
        "==> stdout of partition 1",
    ]
    assert shoal("job", "cat", "words", "/stdout", "-e", last).out == "two\n"


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("outputs", "is a folder"),
        ("stdou", "Did you mean stdout?"),
        ("../stdout", "What there is: shoal ls"),
        ("zzz", "shoal ls words"),
        ("../x", "upwards"),
    ],
)
def test_cat_of_what_is_not_a_file(shoal: Shoal, finished: Finished, path: str, word: str) -> None:
    """A folder, a slip, something else: told with what to do, and nothing is printed."""
    finished.publish(0, archive_of(**FILES), written=written(**FILES))
    finished.close()

    ran = shoal("cat", "words", path)

    assert (ran.code != 0, ran.out) == (True, "")
    assert word in ran.err


def test_cat_stops_where_the_file_ends(shoal: Shoal, finished: Finished) -> None:
    """What lies behind the wanted file is not needed: an archive that is cut there is good enough."""
    import random

    noise = random.Random(1).randbytes(300_000).hex()
    whole = archive_of(first="F" * 1000, second=noise)
    finished.publish(0, whole[: len(whole) // 2])
    finished.close()

    first = shoal("cat", "words", "first")
    assert (first.code, first.out) == (0, "F" * 1000)
    assert "nothing vouches" in first.err
    cut = shoal("cat", "words", "second")
    assert cut.code != 0
    assert "cut short" in cut.err


def test_cat_tells_other_bytes_than_those_written(shoal: Shoal, finished: Finished) -> None:
    """The digest in the record is compared, wherever the bytes come from."""
    finished.publish(0, archive_of(stdout="forged\n"), written=written(stdout="hello\n"))
    finished.close()

    ran = shoal("cat", "words", "stdout")

    assert ran.code != 0
    assert "has the SHA-256" in ran.err


def test_cat_goes_through_the_requester_where_the_node_is_away(
    shoal: Shoal, finished: Finished, twin: Twin, shelf: Shelf
) -> None:
    """A file of a result on a node that cannot be reached from here is printed all the same."""
    shelf.url = "http://127.0.0.1:1"
    execution = finished.publish(0, None)
    twin.archives[execution] = archive_of(**FILES)
    finished.close()

    assert shoal("cat", "words", "outputs/b/c").out == "C"


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
def test_cat_of_a_bucket(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    folder: Path,
    s3: S3Server,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    """One object of a plain result, or the one file out of the archive."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"cat-{uuid4().hex[:12]}"
    (folder / "result" / "outputs").mkdir(parents=True)
    (folder / "result" / "outputs" / "f").write_text("kept\n")
    background.run(made_bucket(s3, bucket))
    params = {"Bucket": bucket, "Key": "out/{executionID}", "Endpoint": s3.endpoint, "Encoding": encoding}
    spec = background.run(published(folder / "result", "s3", params))
    execution = background.run(twin.assign(finished.job))
    background.run(twin.report(execution, ExecutionState.COMPLETED, result=spec))
    finished.close()

    ran = shoal("cat", "words", "outputs/f")

    assert (ran.code, ran.out) == (0, "kept\n"), ran.err
    assert shoal("cat", "words", "outputs/g").code != 0


def test_cat_of_ipfs(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    folder: Path,
    kubo: Kubo,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One file by its path below the CID, from the Kubo that is named, or else the one that `ipfs` itself would use."""
    monkeypatch.setenv("BACALHAU_NODE_IPFS_CONNECT", kubo.multiaddr)
    (folder / "result" / "outputs").mkdir(parents=True)
    (folder / "result" / "outputs" / "f").write_text("kept\n")
    spec = background.run(published(folder / "result", "ipfs", {}, kubo.multiaddr))
    execution = background.run(twin.assign(finished.job))
    background.run(twin.report(execution, ExecutionState.COMPLETED, result=spec))
    finished.close()

    assert shoal("cat", "words", "outputs/f").out == "kept\n"
    assert shoal("cat", "words", "outputs/g").code != 0
    monkeypatch.delenv("BACALHAU_NODE_IPFS_CONNECT")
    assert shoal("cat", "words", "outputs/f", "--ipfs-connect", kubo.multiaddr).out == "kept\n"
    # As `ipfs` finds its daemon.
    monkeypatch.setenv("IPFS_PATH", str(folder / "repository"))
    (folder / "repository").mkdir()
    (folder / "repository" / "api").write_text(f"{kubo.multiaddr}\n")
    assert shoal("cat", "words", "outputs/f").out == "kept\n"


def test_output_that_has_no_room_is_told(
    shoal: Shoal, finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that the shell writes what we print to may be on a full disk: that is said, not shown as a crash."""
    finished.publish(0, archive_of(**FILES), written=written(**FILES))
    finished.close()
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        code = main(["ls", "words"])

    assert code == 1
    assert "No space left" in capsys.readouterr().err


MANY: Tree = {
    **{f"outputs/{number:02}": f"number {number}\n".encode() for number in range(25)},
    "outputs/large": b"large" * 100_000,
    "outputs/none": None,
    "stdout": b"hello\n",
}


@pytest.mark.parametrize("store", ["account", "links", "kubo", "gateway"])
def test_a_large_result_is_looked_into_where_it_lies(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    folder: Path,
    request: pytest.FixtureRequest,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
) -> None:
    """A result of more files than its record names is listed from its store, whole, and each file can be printed; of an
    object that has been changed since nothing is."""
    way: list[str] = []
    tree, bucket = MANY, f"ls-{uuid4().hex[:12]}"
    s3 = request.getfixturevalue("s3") if store in ("account", "links") else None
    if s3 is not None:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        background.run(made_bucket(s3, bucket))
        params = {"Bucket": bucket, "Key": "out", "Endpoint": s3.endpoint, "Encoding": "plain"}
        spec = background.run(published(plant(tree, folder / "result"), "s3", params))
        if store == "links":
            spec = background.run(signed(spec, s3))
    else:
        kubo = request.getfixturevalue("kubo")
        tree = {**MANY, "outputs/newest": Link("24")}
        spec = background.run(published(plant(tree, folder / "result"), "ipfs", {}, kubo.multiaddr))
        way = ["-c", f"Node.IPFS.Connect={kubo.multiaddr}"]
        if store == "gateway":
            way = ["-c", f"ResultDownloaders.Types.IPFS.Gateways={kubo.gateway_url}"]
    record = Manifests(folder / "manifests", 60).record(ExecutionId("e-1"), folder / "result", lambda: None)
    execution = background.run(twin.assign(finished.job))
    background.run(twin.report(execution, ExecutionState.COMPLETED, result=spec, written=record))
    finished.close()

    ran = shoal("ls", "words", *way, "-o", "json")

    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [(each["Path"], each["Size"]) for each in found if each["Type"] == "file"] == [
        (path, len(data)) for path, data in sorted(tree.items()) if isinstance(data, bytes)
    ]
    assert [each["Path"] for each in found if each["Type"] == "folder"] == ["outputs/none"]
    assert [each["Target"] for each in found if each["Type"] == "link"] == (["24"] if s3 is None else [])
    assert {each["Path"]: each["SHA256"] for each in found if each["SHA256"]} == {
        each.path: each.sha256 for each in record.files
    }
    with monkeypatch.context() as unlisted:
        # For one file of a hundred thousand no bucket is listed.
        unlisted.setattr(Connection, "objects", None)
        assert shoal("cat", "words", "outputs/24", *way).out == "number 24\n"
        assert shoal("cat", "words", "outputs/25", *way).code != 0
    ran = shoal("get", "words", "--output-dir", "whole", *way)
    assert ran.code == 0, ran.err
    assert snapshot(folder / "whole") == with_folders(tree)
    if s3 is not None:
        background.run(put(s3, bucket, "out/outputs/24", b"other\n"))
        ran = shoal("cat", "words", "outputs/24")
        assert (ran.code != 0, ran.out) == (True, "")
        assert "is not as it was published" in ran.err
        ran = shoal("get", "words", "--output-dir", "none")
        assert ran.code != 0
        assert ran.err.count("is not as it was published") == 1


async def signed(spec: Spec, s3: S3Server) -> Spec:
    """As a requester with an account tells it."""
    signer = ResultSigner(Signing(endpoint=s3.endpoint))
    shown = await signer.shown(spec, objects=True)
    await signer.close()
    return shown


async def put(s3: S3Server, bucket: str, key: str, data: bytes) -> None:
    """Somebody changes an object."""
    from aiobotocore.session import get_session

    async with get_session().create_client("s3", endpoint_url=s3.endpoint, region_name=s3.region) as client:
        await client.put_object(Bucket=bucket, Key=key, Body=data)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("count", [3, 25])
def test_objects_that_were_brought_back_are_the_result(
    shoal: Shoal,
    finished: Finished,
    twin: Twin,
    background: Background,
    s3: S3Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    links: bool,
) -> None:
    """Objects of a result that were written anew, with other ETags and none of what shoal notes beside them, are taken for
    it, and each can be printed, if their bytes are the same as the record's; if one byte is another, nothing is kept or
    printed and it is told as changed."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"back-{uuid4().hex[:12]}"
    tree: Tree = {f"outputs/{number:02}": f"number {number}\n".encode() for number in range(count)}
    plant(tree, folder / "result")
    background.run(made_bucket(s3, bucket))
    params = {"Bucket": bucket, "Key": "out", "Endpoint": s3.endpoint, "Encoding": "plain"}
    spec = background.run(published(folder / "result", "s3", params))
    for path, data in tree.items():
        assert isinstance(data, bytes)
        background.run(rewritten(s3, bucket, f"out/{path}", data))
    if links:
        spec = background.run(signed(spec, s3))
    record = Manifests(folder / "manifests", 60).record(ExecutionId("e-1"), folder / "result", lambda: None)
    execution = background.run(twin.assign(finished.job))
    background.run(twin.report(execution, ExecutionState.COMPLETED, result=spec, written=record))
    finished.close()

    ran = shoal("get", "words")

    assert ran.code == 0, ran.err
    assert snapshot(folder / "job-words") == with_folders(tree)
    assert shoal("cat", "words", "outputs/02").out == "number 2\n"
    background.run(rewritten(s3, bucket, "out/outputs/02", b"number X\n"))
    ran = shoal("cat", "words", "outputs/02")
    assert (ran.code != 0, ran.out) == (True, "")
    assert "is not as it was published" in ran.err
    ran = shoal("get", "words", "--output-dir", "again")
    assert ran.code != 0
    assert ran.err.count("is not as it was published") == 1
    assert not (folder / "again").exists()


async def rewritten(s3: S3Server, bucket: str, key: str, data: bytes) -> None:
    """The object is put there once more by somebody else, in a way that gives it another ETag: in parts (one)."""
    from aiobotocore.session import get_session

    at = {"Bucket": bucket, "Key": key}
    async with get_session().create_client("s3", endpoint_url=s3.endpoint, region_name=s3.region) as client:
        upload = (await client.create_multipart_upload(**at))["UploadId"]
        part = await client.upload_part(**at, UploadId=upload, PartNumber=1, Body=data)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        await client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload=parts)
