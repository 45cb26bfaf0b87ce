"""Results in S3: links for people without an account, and keys that more than one execution wants."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from aiohttp import web
from msgspec.structs import replace

from deploy.servers import S3Server
from protocol.errors import Broken, Conflict, Denied, Fault, Invalid, NotFound
from protocol.ids import ExecutionId, NodeId
from protocol.jobs import Spec
from storage.addresses import OWN_NETWORKS, read_policy
from storage.archive import unpack
from storage.contract import Label, Share, silent
from storage.params import read_params
from storage.s3 import S3Publisher, S3Settings
from storage.s3.managed import ManagedParams, ManagedPublisher
from storage.s3.presigned import PreSignedParams, PreSignedSource
from storage.s3.results import ManagedBucket, ResultSigner, Signing, managed_key
from tests.contracts.trees import Tree, plant, snapshot
from tests.storage.fault_proxy import FaultProxy
from tests.storage.s3_world import LABEL, OTHER, Bucket, serving, settings_of

TREE: Tree = {"stdout": b"hello\n", "outputs/a b+é": b"x" * 70_000, "outputs/empty": b""}
MIB = 1 << 20


@pytest.fixture
async def publisher(server: S3Server) -> AsyncIterator[S3Publisher]:
    publisher = S3Publisher(settings_of(server))
    yield publisher
    await publisher.close()


async def brought(anybody: PreSignedSource, spec: Spec, into: Path) -> Tree:
    """What comes by the links of a result."""
    params = read_params(spec.params, anybody.params, "result")
    fetched = await anybody.fetch(params, await anybody.resolve(params, Share()), into, silent)
    if spec.params.get("Objects"):
        return snapshot(fetched.path)
    (archive,) = fetched.path.iterdir()
    await unpack(archive, into.with_suffix(".tree"), silent)
    return snapshot(into.with_suffix(".tree"))


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_a_result_is_read_by_its_links_alone(
    encoding: str,
    bucket: Bucket,
    publisher: S3Publisher,
    signer: ResultSigner,
    anybody: PreSignedSource,
    tmp_path: Path,
) -> None:
    """Who has no account reads an archive by the link that Bacalhau's clients read, and a tree by a link for each object."""
    folder = plant(TREE, tmp_path / "result")
    spec = await publisher.publish(folder, bucket.to("out/{executionID}", encoding), LABEL, silent)

    shown = await signer.shown(spec, objects=True)

    assert shown.type == "s3PreSigned"
    assert {**shown.params, **spec.params} == shown.params
    if encoding == "gzip":
        source = shown.params["SourceSpec"]
        assert {name: source[name] for name in ("Bucket", "Key", "ChecksumSHA256")} == {
            name: spec.params[name] for name in ("Bucket", "Key", "ChecksumSHA256")
        }
        assert shown.params["PreSignedURL"].startswith(bucket.endpoint)
        assert not shown.params["Managed"]
    else:
        assert await signer.shown(spec) == spec
    found = await brought(anybody, shown, tmp_path / "in")
    assert {path: data for path, data in found.items() if data is not None} == TREE
    assert bucket.server.secret_key not in repr(shown)


async def test_without_an_account_a_result_stays_as_it_is(
    bucket: Bucket, publisher: S3Publisher, tmp_path: Path
) -> None:
    """A requester that cannot sign, or shall not, tells the result as it was published."""
    folder = plant(TREE, tmp_path / "result")
    spec = await publisher.publish(folder, bucket.to("out", "gzip"), LABEL, silent)
    for signing in (Signing(), Signing(disabled=True)):
        signer = ResultSigner(signing)
        assert await signer.shown(spec, objects=True) == spec
        await signer.close()


async def test_a_link_that_is_refused_says_what_to_do(
    bucket: Bucket, publisher: S3Publisher, signer: ResultSigner, anybody: PreSignedSource, tmp_path: Path
) -> None:
    """A link that has expired, or was changed, is `Denied`; asking again gives another."""
    folder = plant(TREE, tmp_path / "result")
    spec = await publisher.publish(folder, bucket.to("out", "gzip"), LABEL, silent)
    shown = await signer.shown(spec)
    broken = shown.params["PreSignedURL"].replace("X-Amz-Expires=1800", "X-Amz-Expires=604800")

    with pytest.raises(Denied) as caught:
        await brought(anybody, Spec(shown.type, {**shown.params, "PreSignedURL": broken}), tmp_path / "in")

    assert "ask for the results again" in caught.value.hint
    assert "X-Amz" not in caught.value.message


@pytest.mark.parametrize("fault", ["xml", "garbage"])
async def test_a_page_about_an_error_is_no_result(
    fault: str,
    bucket: Bucket,
    publisher: S3Publisher,
    proxy: FaultProxy,
    signer: ResultSigner,
    anybody: PreSignedSource,
    tmp_path: Path,
) -> None:
    """What answers a link with success and is no S3 brings an error, not its words as the result."""
    folder = plant({"data": b"x" * 1000}, tmp_path / "result")
    spec = await publisher.publish(folder, bucket.to("out", "gzip"), LABEL, silent)
    link = (await signer.shown(spec)).params["PreSignedURL"].replace(bucket.endpoint, proxy.endpoint)
    proxy.plan = lambda request, number: fault

    with pytest.raises(Broken, match=r"no ETag|does not say how large"):
        await brought(anybody, Spec("s3PreSigned", {"PreSignedURL": link, "Key": "k"}), tmp_path / "in")


async def test_a_link_that_ends_on_the_way_is_renewed(tmp_path: Path) -> None:
    """A result that takes longer to come than its link is good comes all the same, by newer links."""
    content = bytes(range(256)) * 3 * (MIB >> 8)
    renewed = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        wanted = request.http_range
        assert wanted.start is not None
        assert wanted.stop is not None
        if request.query["number"] == "1" and renewed.is_set():
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        if wanted.stop > 1:
            await renewed.wait()
        told = f"bytes {wanted.start}-{wanted.stop - 1}/{len(content)}"
        return web.Response(status=206, body=content[wanted], headers={"Content-Range": told, "ETag": '"1"'})

    async def renew(params: PreSignedParams) -> dict[str, str]:
        renewed.set()
        return {params.name: params.pre_signed_url.replace("number=1", "number=2")}

    async with serving(answer) as url:
        params = PreSignedParams(f"{url}/b/k?number=1&X-Amz-Expires=1", bucket="b", key="k")
        settings = S3Settings(part_bytes=MIB, small_requests=1, addresses=read_policy(OWN_NETWORKS))
        source = PreSignedSource(settings, renew)
        fetched = await source.fetch(params, await source.resolve(params, Share()), tmp_path / "in", silent)
        await source.aclose()

    assert (fetched.path / "k").read_bytes() == content


async def test_a_managed_result_is_told_by_its_link(bucket: Bucket, signer: ResultSigner) -> None:
    """What the managed publisher stored is read by a link to the requester's own bucket."""
    assert signer.signing.managed is not None
    key = managed_key(signer.signing.managed, "j-1", "e-1")
    assert key == "managed/j-1/e-1.tar.gz"
    spec = Spec("s3managed", {"JobID": "j-1", "ExecutionID": "e-1"})

    shown = await signer.shown(spec)

    assert shown.type == "s3PreSigned"
    assert shown.params["Managed"]
    assert f"/{bucket.name}/{key}?" in shown.params["PreSignedURL"]


@pytest.mark.parametrize("size", [10, 23 * MIB])
async def test_a_node_without_an_account_publishes_by_leave(
    size: int, bucket: Bucket, signer: ResultSigner, anybody: PreSignedSource, tmp_path: Path
) -> None:
    """The managed publisher stores an archive by links alone, in one request or in parts; the result names job and
    execution, is read by a link, and nothing unfinished stays."""
    data = hashlib.shake_256(b"managed").digest(size)
    folder = plant({"stdout": b"hello\n", "data": data}, tmp_path / "result")
    publisher = ManagedPublisher(signer, S3Settings(upload_part_bytes=5 * MIB))

    spec = await publisher.publish(folder, ManagedParams(), LABEL, silent)
    again = await publisher.publish(folder, ManagedParams(), LABEL, silent)
    await publisher.close()

    assert spec == again
    assert spec.type == "s3managed"
    assert (spec.params["JobID"], spec.params["ExecutionID"]) == ("j-1", "e-1")
    assert bucket.name not in repr(spec)
    assert await bucket.keys() == ["managed/j-1/e-1.tar.gz"]
    assert await bucket.unfinished() == []
    found = await brought(anybody, await signer.shown(spec), tmp_path / "in")
    assert found == {"stdout": b"hello\n", "data": data}


def many(endpoint: str, count: int) -> Spec:
    """A result of so many objects that its bucket has to be asked which they are."""
    listing = {"SHA256": "0" * 64, "Count": count, "Size": count, "ExecutionID": "e-1"}
    return Spec("s3", {"Bucket": "b", "Key": "out/", "Endpoint": endpoint, "Listing": listing})


@pytest.mark.parametrize("server", ["s3"], indirect=True)
@pytest.mark.parametrize("trickles", [False, True], ids=["mute", "trickles"])
async def test_a_store_that_does_not_answer_keeps_nobody_waiting(
    trickles: bool, bucket: Bucket, signer: ResultSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results in a store that takes connections and answers nothing, or a byte now and then, are told as they are when the
    time to sign is over; the job's other results are signed, and so are other jobs' meanwhile."""
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError), closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" if trickles else b"")
            # Whoever leaves without having read all resets the connection, and that is no end of what is read.
            while not (reader.at_eof() or writer.is_closing()):
                writer.write(b"<" if trickles else b"")
                await asyncio.sleep(0.02)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    slow = ResultSigner(Signing(endpoint=endpoint))
    stuck = many(endpoint, 30)
    good = Spec("s3", {"Bucket": bucket.name, "Key": "a.tar.gz", "Endpoint": bucket.endpoint})
    async with server:
        # What takes long the first time is done before the clock runs.
        assert (await slow.shown(good)).type == "s3PreSigned"
        await slow._lister.connect(endpoint)
        monkeypatch.setattr("storage.s3.results.SHOWN_S", 2.0)
        telling = asyncio.create_task(slow.shown_all([stuck, good, stuck, stuck], objects=True))
        asking = asyncio.create_task(asked.wait())
        await asyncio.wait([asking, telling], return_when=asyncio.FIRST_COMPLETED)
        assert asked.is_set()
        assert (await slow.shown(good)).type == "s3PreSigned"
        told = await telling
        await slow.close()

    assert [each.type for each in told] == ["s3", "s3PreSigned", "s3", "s3"]
    assert told[0] == stuck


@pytest.fixture
async def by_leave(
    proxy: FaultProxy, bucket: Bucket, signer: ResultSigner
) -> AsyncIterator[ManagedPublisher]:
    """The managed publisher, with all that it and its requester say to the store going through the proxy."""
    managed = ManagedBucket(bucket.name, "managed", endpoint=proxy.endpoint)
    grants = ResultSigner(Signing(managed=managed, endpoint=proxy.endpoint))
    settings = S3Settings(upload_part_bytes=5 * MIB, silence_s=0.5, retry_s=0.01, tries=2)
    publisher = ManagedPublisher(grants, settings)
    yield publisher
    await publisher.close()
    await grants.close()


def of_step(request: web.Request, step: str) -> bool:
    """Whether a request is that step of a managed upload."""
    match step:
        case "put":
            return request.method == "PUT" and not request.query.get("partNumber")
        case "part":
            return request.query.get("partNumber") == "2"
        case "begin":
            return request.method == "POST" and "uploads" in request.query
    return request.method == "POST" and "uploadId" in request.query


FAULTS = ("503", "500", "mute", "deaf", "hangup", "lost", "403", "204", "xml")


@pytest.mark.parametrize("server", ["s3"], indirect=True)
@pytest.mark.parametrize(
    ("step", "fault"),
    [
        *(("put", fault) for fault in FAULTS),
        *(("part", fault) for fault in FAULTS),
        *(("begin", fault) for fault in ("short", "lost", "xml", "204")),
        ("complete", "xml"),
    ],
)
async def test_a_managed_upload_that_fails_is_taken_back(
    step: str, fault: str, bucket: Bucket, proxy: FaultProxy, by_leave: ManagedPublisher, tmp_path: Path
) -> None:
    """A store that stays ill or silent ends the publishing with a clear fault, and nothing of it stays, not even what was
    stored by a request whose answer was lost."""
    size = 10 if step == "put" else 11 * MIB
    folder = plant({"data": hashlib.shake_256(b"managed").digest(size)}, tmp_path / "result")
    proxy.plan = lambda request, number: fault if of_step(request, step) else ""

    with pytest.raises(Fault, match="managed bucket"):
        await by_leave.publish(folder, ManagedParams(), LABEL, silent)

    assert await bucket.keys() == []
    assert await bucket.unfinished() == []


@pytest.mark.parametrize("server", ["s3"], indirect=True)
@pytest.mark.parametrize(
    ("step", "fault"),
    [
        *(("put", fault) for fault in ("503", "mute", "hangup", "lost", "smudge")),
        *(("part", fault) for fault in ("503", "mute", "hangup", "lost", "smudge")),
        *(("complete", fault) for fault in ("lost", "cut", "503")),
        *(("begin", fault) for fault in ("lost", "short", "503")),
    ],
)
async def test_a_managed_upload_that_is_hindered_once_is_whole(
    step: str,
    fault: str,
    bucket: Bucket,
    proxy: FaultProxy,
    by_leave: ManagedPublisher,
    signer: ResultSigner,
    anybody: PreSignedSource,
    tmp_path: Path,
) -> None:
    """What was refused, cut off or not answered is sent again; what is advertised is what lies there."""
    data = hashlib.shake_256(b"managed").digest(10 if step == "put" else 11 * MIB)
    folder = plant({"data": data}, tmp_path / "result")
    hindered = itertools.count(1)
    proxy.plan = lambda request, number: fault if of_step(request, step) and next(hindered) == 1 else ""

    spec = await by_leave.publish(folder, ManagedParams(), LABEL, silent)

    assert await bucket.unfinished() == []
    assert await brought(anybody, await signer.shown(spec), tmp_path / "in") == {"data": data}


@pytest.mark.parametrize("server", ["s3"], indirect=True)
async def test_a_prepared_bucket_is_not_waited_for(
    bucket: Bucket, signer: ResultSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a requester has prepared its managed bucket, a node's first question needs no connection to be set up."""
    await signer.prepare()

    def again(profile: str) -> None:
        raise AssertionError("the AWS configuration is read once more")

    monkeypatch.setattr("storage.s3.client._new_session", again)
    assert f"/{bucket.name}/managed/j-1/e-1.tar.gz?" in await signer.put("j-1", "e-1")


async def test_without_a_bucket_there_is_no_leave() -> None:
    """A requester without a managed bucket says so, and which setting names one."""
    signer = ResultSigner(Signing())
    await signer.prepare()
    with pytest.raises(Invalid, match="s3managed") as caught:
        await signer.put("j-1", "e-1")
    assert "Publishers.Types.S3Managed.Bucket" in caught.value.hint
    await signer.close()


# Keys that more than one execution wants.


EVERYWHERE = replace(LABEL, everywhere=True)


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
@pytest.mark.parametrize(
    ("first", "other"),
    [
        (LABEL, OTHER),
        (LABEL, replace(LABEL, execution=ExecutionId("e-2"), version=2, attempt=2)),
        (EVERYWHERE, replace(EVERYWHERE, execution=ExecutionId("e-2"), node=NodeId("n-2"), attempt=2)),
    ],
    ids=["partition", "version", "node"],
)
async def test_no_execution_overwrites_another_in_silence(
    first: Label, other: Label, encoding: str, bucket: Bucket, publisher: S3Publisher, tmp_path: Path
) -> None:
    """A key that holds another execution's result, or anything else, is a `Conflict` that says whose it is and what to do;
    what is there stays: another partition's, another version's, or another node's where a job runs on every node.
    ``Overwrite`` takes its place, and so does a later attempt at the same work."""
    folder = plant({"stdout": b"first"}, tmp_path / "result")
    await publisher.publish(folder, bucket.to("out", encoding), first, silent)
    before = {
        key: (await bucket.raw.head_object(Bucket=bucket.name, Key=key))["ETag"]
        for key in await bucket.keys()
    }

    with pytest.raises(Conflict, match="e-1"):
        await publisher.foresee(bucket.to("out", encoding), other)
    with pytest.raises(Conflict, match="e-1") as caught:
        await publisher.publish(folder, bucket.to("out", encoding), other, silent)

    assert "{executionID}" in caught.value.hint
    assert before == {
        key: (await bucket.raw.head_object(Bucket=bucket.name, Key=key))["ETag"]
        for key in await bucket.keys()
    }
    later = replace(first, execution=ExecutionId("e-3"), attempt=2)
    await publisher.foresee(bucket.to("out", encoding), later)
    await publisher.foresee(bucket.to("out", encoding, overwrite=True), other)
    await publisher.foresee(bucket.to("out/{executionID}", encoding), other)
    await publisher.publish(folder, bucket.to("out", encoding), later, silent)
    with pytest.raises(Conflict, match="e-3"):
        await publisher.publish(folder, bucket.to("out", encoding), first, silent)
    await publisher.publish(folder, bucket.to("out", encoding, overwrite=True), other, silent)
    await bucket.put("foreign.tar.gz", b"x")
    await bucket.put("foreign/x", b"x")
    with pytest.raises(Conflict, match="not a result of shoal"):
        await publisher.publish(folder, bucket.to("foreign", encoding), LABEL, silent)


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_a_bucket_that_is_not_there_is_told_beforehand(
    encoding: str, bucket: Bucket, publisher: S3Publisher
) -> None:
    """A slip in a bucket's name is found before the program runs; a store that is away may be back when it has."""
    there = bucket.to("{jobID}", encoding)

    await publisher.foresee(there, LABEL)
    with pytest.raises(NotFound, match="no such bucket"):
        await publisher.foresee(replace(there, bucket="slip"), LABEL)
    await publisher.foresee(replace(there, endpoint="http://127.0.0.1:1"), LABEL)


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_of_two_who_come_at_once_one_is_told(
    encoding: str, bucket: Bucket, publisher: S3Publisher, tmp_path: Path
) -> None:
    """Two executions that publish to one key at the same moment: at most one succeeds, and only its bytes are there."""
    one = plant({"stdout": b"one" * 9, "one": b"1"}, tmp_path / "one")
    two = plant({"stdout": b"two", "two": b"2"}, tmp_path / "two")
    params = bucket.to("out", encoding)

    told = await asyncio.gather(
        publisher.publish(one, params, LABEL, silent),
        publisher.publish(two, params, OTHER, silent),
        return_exceptions=True,
    )

    won = [number for number, each in enumerate(told) if isinstance(each, Spec)]
    assert all(isinstance(each, Conflict) for number, each in enumerate(told) if number not in won)
    assert len(won) <= 1
    if encoding == "gzip":
        assert len(won) == 1
    for key in await bucket.keys():
        found = await bucket.raw.head_object(Bucket=bucket.name, Key=key)
        assert found["Metadata"]["shoal-execution"] == ("e-1", "e-2")[won[0]]
