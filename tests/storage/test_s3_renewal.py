"""Accounts and links that end while data moves: renewed, or told clearly. Servers are real; a proxy says what has ended."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiobotocore.credentials import AioCredentials
from aiohttp import web
from msgspec.structs import replace

from protocol.errors import Denied
from storage.addresses import OWN_NETWORKS, read_policy
from storage.contract import Share, silent
from storage.params import read_params
from storage.s3 import PublisherParams, S3Client, S3Publisher, S3Settings, S3Source, SourceParams
from storage.s3.managed import ManagedParams, ManagedPublisher
from storage.s3.presigned import PreSignedParams, PreSignedSource
from storage.s3.renewal import Renewal
from storage.s3.results import ManagedBucket, ResultSigner, Signing
from storage.s3.signing import Credentials, Scope, Signer
from tests.contracts.trees import plant, snapshot
from tests.storage.fault_proxy import FaultProxy
from tests.storage.s3_world import LABEL, LOOPBACK, Bucket

MIB = 1 << 20
LARGE = hashlib.shake_256(b"renewal").digest(11 * MIB)
SETTINGS = S3Settings(
    part_bytes=MIB, requests=2, small_requests=2, upload_part_bytes=5 * MIB, retry_s=0.01, addresses=LOOPBACK
)


class Session:
    """A session token in the machine's credentials file, which ends at the moment that a test names."""

    def __init__(self, file: Path, bucket: Bucket, proxy: FaultProxy) -> None:
        self._file = file
        self._proxy = proxy
        self.refused = 0
        self.over = False
        proxy.signer = Signer(
            Credentials(bucket.server.access_key, bucket.server.secret_key), Scope(bucket.server.region)
        )
        self.write("first")

    def write(self, token: str) -> None:
        """What some program does that has got a new token."""
        self._file.write_text(
            f"[default]\naws_access_key_id = A{token}\naws_secret_access_key = s\naws_session_token = {token}\n"
        )

    def ends(self, step: str, nth: int, *, renewed: bool = True) -> None:
        """From the nth request of a step on the first token is over, and another is in the file if it is `renewed`."""
        seen = 0

        def plan(request: web.Request, number: int) -> str:
            nonlocal seen
            seen += is_step(request, step)
            if seen >= nth and not self.over:
                self.over = True
                if renewed:
                    self.write("second")
            used = request.headers.get("x-amz-security-token") or request.query.get("X-Amz-Security-Token")
            if self.over and used == "first":
                self.refused += 1
                return "expired"
            return ""

        self._proxy.plan = plan


def is_step(request: web.Request, step: str) -> bool:
    """Whether a request is of that step of a transfer."""
    match step:
        case "range":
            return request.method == "GET" and "Range" in request.headers
        case "look":
            return request.method == "HEAD"
        case "list":
            return request.query.get("list-type") == "2"
        case "begin":
            return request.method == "POST" and "uploads" in request.query
        case "part":
            return "partNumber" in request.query
        case "complete":
            return request.method == "POST" and "uploadId" in request.query
        case "remove":
            return request.method == "DELETE"
    return request.method == "PUT"


@pytest.fixture
def session(bucket: Bucket, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """The account of this machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr("storage.s3.renewal.LATELY_S", -1.0)
    return Session(tmp_path / "credentials", bucket, proxy)


@pytest.fixture
async def node(session: Session) -> AsyncIterator[S3Client]:
    async with S3Client(SETTINGS) as client:
        yield client


@pytest.mark.parametrize(("step", "nth"), [("look", 1), ("list", 1), ("range", 1), ("range", 5)])
async def test_an_input_outlives_the_session_it_was_begun_with(
    step: str, nth: int, bucket: Bucket, proxy: FaultProxy, node: S3Client, session: Session, tmp_path: Path
) -> None:
    """A session token that ends between two requests of a fetch is replaced by the one that is in the credentials file by
    then, and the fetch goes on; no byte is asked for twice because of it."""
    await bucket.put("in/large", LARGE)
    source = S3Source(client=node)
    params = SourceParams(bucket.name, "in/" if step == "list" else "in/large", endpoint=proxy.endpoint)
    session.ends(step, nth)

    fetched = await source.fetch(params, await source.resolve(params, Share()), tmp_path / "in", silent)

    assert snapshot(fetched.path) == {"large": LARGE}
    assert session.refused
    assert proxy.sent_bytes < len(LARGE) + MIB // 2


@pytest.mark.parametrize(
    ("step", "nth", "encoding"),
    [("begin", 1, "gzip"), ("part", 2, "gzip"), ("complete", 1, "gzip"), ("put", 2, "plain")],
)
async def test_a_result_outlives_the_session_it_was_begun_with(
    step: str,
    nth: int,
    encoding: str,
    bucket: Bucket,
    proxy: FaultProxy,
    node: S3Client,
    session: Session,
    tmp_path: Path,
) -> None:
    """Whenever in a publishing the session token ends, what is advertised is whole, and no unfinished upload stays."""
    small = {f"{number}": b"small" for number in range(5)} if encoding == "plain" else {}
    folder = plant({"stdout": b"x", "data": LARGE, **small}, tmp_path / "result")
    publisher, source = S3Publisher(client=node), S3Source(client=node)
    params = PublisherParams(bucket.name, "out/{executionID}", endpoint=proxy.endpoint, encoding=encoding)
    session.ends(step, nth)

    spec = await publisher.publish(folder, params, LABEL, silent)

    assert session.refused
    assert await bucket.unfinished() == []
    found = read_params(spec.params, SourceParams, "source s3")
    fetched = await source.fetch(found, await source.resolve(found, Share()), tmp_path / "in", silent)
    if encoding == "plain":
        assert snapshot(fetched.path) == snapshot(folder)


@pytest.mark.parametrize("step", ["look", "list", "range"])
async def test_a_session_that_nobody_renews_is_told(
    step: str, bucket: Bucket, proxy: FaultProxy, node: S3Client, session: Session, tmp_path: Path
) -> None:
    """Where no other token is to be had the job hears that the session is over and where to renew it; nothing is kept."""
    await bucket.put("in/large", LARGE)
    source = S3Source(client=node)
    params = SourceParams(bucket.name, "in/" if step == "list" else "in/large", endpoint=proxy.endpoint)
    session.ends(step, 1, renewed=False)

    with pytest.raises(Denied, match="session is over") as caught:
        await source.fetch(params, await source.resolve(params, Share()), tmp_path / "in", silent)

    assert "Renew it" in caught.value.hint
    assert not (tmp_path / "in").exists()

    session.write("second")
    fetched = await source.fetch(params, await source.resolve(params, Share()), tmp_path / "in", silent)
    assert snapshot(fetched.path) == {"large": LARGE}


async def links_through(proxy: FaultProxy, bucket: Bucket) -> ResultSigner:
    """A requester whose store is reached through the proxy."""
    managed = ManagedBucket(bucket.name, "managed", endpoint=proxy.endpoint)
    return ResultSigner(Signing(managed=managed, endpoint=proxy.endpoint))


@pytest.mark.parametrize("renewed", [True, False])
async def test_links_that_end_with_their_signers_session_are_renewed(
    renewed: bool, bucket: Bucket, proxy: FaultProxy, node: S3Client, session: Session, tmp_path: Path
) -> None:
    """Links say how long they are good, and end sooner with the session of whoever signed them: a download goes on by newer
    ones, or says that they are refused."""
    folder = plant({"data": LARGE}, tmp_path / "result")
    params = PublisherParams(bucket.name, "out", endpoint=proxy.endpoint, encoding="plain")
    spec = await S3Publisher(client=node).publish(folder, params, LABEL, silent)
    signer = await links_through(proxy, bucket)

    async def linked() -> PreSignedParams:
        shown = await signer.shown(replace(spec), objects=True)
        found: PreSignedParams = read_params(shown.params, PreSignedParams, "result")
        return found

    async def renew(params: PreSignedParams) -> dict[str, str]:
        return (await linked()).links

    source = PreSignedSource(replace(SETTINGS, addresses=read_policy(OWN_NETWORKS)), renew)
    try:
        told = await linked()
        session.ends("range", 5, renewed=renewed)
        resolved = await source.resolve(told, Share())
        if renewed:
            fetched = await source.fetch(told, resolved, tmp_path / "in", silent)
            assert snapshot(fetched.path) == {"data": LARGE}
        else:
            with pytest.raises(Denied, match="data"):
                await source.fetch(told, resolved, tmp_path / "in", silent)
            assert not (tmp_path / "in").exists()
        assert session.refused
    finally:
        await source.aclose()
        await signer.close()


@pytest.mark.parametrize("size", [10, len(LARGE)])
async def test_leave_that_ends_before_it_is_used_is_asked_for_again(
    size: int, bucket: Bucket, proxy: FaultProxy, session: Session, tmp_path: Path
) -> None:
    """A node whose links to upload with have ended asks for new ones, and the result is whole."""
    folder = plant({"data": LARGE[:size]}, tmp_path / "result")
    grants = await links_through(proxy, bucket)
    publisher = ManagedPublisher(grants, SETTINGS)
    session.ends("put" if size == 10 else "part", 1)

    await publisher.publish(folder, ManagedParams(), LABEL, silent)

    await publisher.close()
    await grants.close()
    assert session.refused
    assert await bucket.keys() == ["managed/j-1/e-1.tar.gz"]
    assert await bucket.unfinished() == []


@pytest.mark.parametrize("token", ["first", "second"])
async def test_all_that_are_refused_at_once_have_the_account_read_together(token: str) -> None:
    """Each of many requests under way is refused when a session ends: what the account is now is not asked for by each, also
    where there is no other than the one that is over; for those that are refused while it is read, once more."""
    reads = 0
    over = Credentials("A", "s", "first")

    async def read() -> AioCredentials:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return AioCredentials("A", "s", token)

    renewal = Renewal(AioCredentials("A", "s", "first"), read)

    found = await asyncio.gather(*(renewal.after(over) for _ in range(8)))

    assert {each.session_token for each in found} == {token}
    assert reads == (2 if token == "first" else 1)
