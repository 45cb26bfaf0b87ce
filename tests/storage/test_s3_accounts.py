"""Who asks S3, and where: accounts and profiles, secrets that show nowhere, regions, endpoints, links, names of hosts."""

import asyncio
import socket
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from deploy.servers import S3Server, s3_server
from protocol.errors import Denied, Fault, Invalid, Unavailable
from storage.contract import silent
from storage.params import read_params
from storage.s3 import (
    Credentials,
    PublisherParams,
    S3Client,
    S3Publisher,
    S3Settings,
    S3Source,
    SourceParams,
)
from storage.s3.presigned import PreSignedSource
from storage.s3.results import ResultSigner, Signing
from tests.contracts.trees import Tree, plant, snapshot
from tests.storage.s3_world import ALL, LABEL, LOOPBACK, Bucket, OddS3, brought, serving

TREE: Tree = {"a b": b"1", "d/empty": b"", "large": b"x" * (20 << 20)}
DOMAIN = "s3.shoal.test"


@pytest.fixture
def profiles(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's AWS configuration: the profile `data` has the account, `wrong` another secret, and there is no default."""
    path = tmp_path / "credentials"
    path.write_text(
        f"[data-1]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
        f"[data-wrong]\naws_access_key_id = {server.access_key}\naws_secret_access_key = CANARY-SECRET\n"
        f"[private]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))


def settings(bucket: Bucket) -> S3Settings:
    """A node that lets jobs use the profiles of data."""
    return S3Settings(endpoint=bucket.endpoint, profiles=("data-*",), retry_s=0.01)


async def test_a_job_names_a_profile_that_is_allowed(profiles: None, bucket: Bucket, tmp_path: Path) -> None:
    """With a profile of the node's configuration an input is read and a result published, without one the node has no
    account. The spec of the result names the profile, and so is read with the same account."""
    await bucket.put("k", b"bytes")
    async with S3Client(settings(bucket)) as client:
        source, publisher = S3Source(client=client), S3Publisher(client=client)
        params = SourceParams(bucket.name, "k", profile="data-1")

        fetched = await source.fetch(params, await source.resolve(params, ALL), tmp_path / "in", silent)
        folder = plant({"stdout": b"out"}, tmp_path / "result")
        spec = await publisher.publish(
            folder, PublisherParams(bucket.name, "out", profile="data-1"), LABEL, silent
        )

        assert snapshot(fetched.path) == {"k": b"bytes"}
        assert spec.params["Profile"] == "data-1"
        result = read_params(spec.params, SourceParams, "source s3")
        again = await source.fetch(result, await source.resolve(result, ALL), tmp_path / "again", silent)
        assert list(snapshot(again.path)) == ["out.tar.gz"]
        with pytest.raises(Denied, match="unsigned"):
            await source.resolve(SourceParams(bucket.name, "k"), ALL)


@pytest.mark.parametrize(
    ("profile", "said"), [("private", "lets jobs use"), ("data-2", "data-2"), ("data-wrong", "signature")]
)
async def test_a_profile_that_is_not_for_jobs_is_refused(
    profile: str,
    said: str,
    profiles: None,
    bucket: Bucket,
    server: S3Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A profile that is not allowed, not there, or wrong is `Denied` by name; no secret is in what is said or logged."""
    caplog.set_level("DEBUG")
    async with S3Client(settings(bucket)) as client:
        with pytest.raises(Fault, match=said) as caught:
            await S3Source(client=client).resolve(SourceParams(bucket.name, "k", profile=profile), ALL)
        told = repr(client.settings) + repr(vars(client))

    chain: BaseException | None = caught.value
    while chain is not None:
        told += f"{chain!r} {chain}"
        chain = chain.__cause__
    assert caught.value.code == "Denied"
    assert "CANARY-SECRET" not in told + caplog.text
    assert server.secret_key not in told + caplog.text


@pytest.mark.parametrize("encoding", ["gzip", "plain"])
async def test_a_result_of_a_profile_is_signed_with_it(
    encoding: str, profiles: None, bucket: Bucket, anybody: PreSignedSource, tmp_path: Path
) -> None:
    """A requester that has the profile a result was published with, and leave to use it, gives links that work; one that has
    not tells the result with the profile's name. What older clients read of a link has no field that they do not know."""
    tree: Tree = {f"{number}": b"x" for number in range(30)}
    async with S3Client(settings(bucket)) as client:
        params = PublisherParams(bucket.name, "out", profile="data-1", encoding=encoding)
        spec = await S3Publisher(client=client).publish(plant(tree, tmp_path / "r"), params, LABEL, silent)

    told = {}
    for profiles_ in (("data-*",), ("other",), ()):
        signer = ResultSigner(Signing(endpoint=bucket.endpoint, profiles=profiles_))
        told[profiles_] = await signer.shown(spec, objects=True)
        await signer.close()

    assert told["other",] == told[()] == spec
    linked = told["data-*",]
    assert linked.type == "s3PreSigned"
    assert "Profile" not in linked.params
    assert linked.params["SourceSpec"]["Profile"] == "data-1"
    found = read_params(linked.params, anybody.params, "result")
    fetched = await anybody.fetch(found, await anybody.resolve(found, ALL), tmp_path / "in", silent)
    assert len(snapshot(fetched.path)) == (1 if encoding == "gzip" else 30)


class Names(AbstractResolver):
    """Every name below our domain stands for loopback."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.add(host)
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        return


async def test_a_bucket_may_stand_in_the_hosts_name(tmp_path: Path) -> None:
    """With virtual-host addressing inputs are read, results published and links signed under ``bucket.host``."""
    async with s3_server(tmp_path / "s3", program="versitygw", virtual_domain=DOMAIN) as server:
        endpoint = f"http://{DOMAIN}:{server.endpoint.rpartition(':')[2]}"
        account = Credentials(server.access_key, server.secret_key)
        names = Names()
        given = S3Settings(
            endpoint=endpoint, addressing="virtual", credentials=account, upload_part_bytes=5 << 20
        )
        async with S3Client(given, names) as client:
            connection = await client.connect()
            await connection.raw.create_bucket(Bucket="by-host")
            source, publisher = S3Source(client=client), S3Publisher(client=client)
            folder = plant(TREE, tmp_path / "result")
            params = PublisherParams("by-host", "out", encoding="plain")

            spec = await publisher.publish(folder, params, LABEL, silent)
            found = read_params(spec.params, SourceParams, "source s3")
            fetched = await source.fetch(found, await source.resolve(found, ALL), tmp_path / "in", silent)

            assert {path: data for path, data in snapshot(fetched.path).items() if data is not None} == TREE
            assert f"by-host.{DOMAIN}" in names.asked
    signer = ResultSigner(Signing())
    signed = await signer.shown(spec)
    await signer.close()
    assert signed == spec


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
                    await S3Source(client=client).resolve(bucket.of(key), ALL)
            assert caught.value.hint
            said: list[str] = [caplog.text, repr(account)]
            fault: BaseException | None = caught.value
            while fault is not None:
                said.append(str(fault))
                fault = fault.__cause__
            assert "canary-secret" not in " ".join(said)


async def test_the_chain_of_the_node_gives_the_account(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without settings the AWS environment counts."""
    await bucket.put("k", b"x")
    for name, value in bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    async with S3Client(S3Settings(addresses=LOOPBACK)) as client:
        source = S3Source(client=client)
        assert await brought(source, bucket.of("k"), tmp_path / "1") == {"k": b"x"}
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
    ("key", "encoding", "found"),
    [
        ("{executionID}", "gzip", ["e-1.tar.gz"]),
        ("latest", "gzip", ["latest.tar.gz"]),
        ("latest", "plain", ["latest/stdout"]),
    ],
)
async def test_a_result_goes_to_a_bucket_in_another_region(
    odd: OddS3, tmp_path: Path, key: str, encoding: str, found: list[str]
) -> None:
    """A job that names no region, or a wrong one, does not lose its result: it is put where the bucket is, and its spec says
    where that is."""
    odd.region = "eu-north-1"
    folder = plant({"stdout": b"out"}, tmp_path / "result")
    params = PublisherParams("odd", key, endpoint=odd.endpoint, encoding=encoding)
    async with S3Client(S3Settings(credentials=Credentials("A" * 16, "s"), addresses=LOOPBACK)) as client:
        spec = await S3Publisher(client=client).publish(folder, params, LABEL, silent)

    assert list(odd.objects) == found
    assert spec.params["Region"] == "eu-north-1"


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


@pytest.mark.parametrize("key", ["k", "in/"])
async def test_a_server_that_is_no_s3_is_told_so(key: str) -> None:
    """Who writes the address of some other server is not told that an object is missing there."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404, text="" if request.method == "HEAD" else "404 page not found")

    async with serving(answer) as url, S3Client(S3Settings(addresses=LOOPBACK, tries=2)) as client:
        with pytest.raises(Invalid, match="does not answer as S3 does") as caught:
            await S3Source(client=client).resolve(SourceParams("b", key, endpoint=url), ALL)
        assert "Is Endpoint an S3 server's address" in caught.value.hint


@pytest.mark.parametrize("key", ["k", "in/"])
async def test_an_endpoint_without_tls_is_called_that(key: str) -> None:
    """Whoever writes https:// where the server has http:// hears so, for one object and for a prefix."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    async with serving(answer) as url, S3Client(S3Settings(addresses=LOOPBACK, tries=2)) as client:
        secure = url.replace("http://", "https://")
        with pytest.raises(Unavailable, match="does not speak TLS") as caught:
            await S3Source(client=client).resolve(SourceParams("b", key, endpoint=secure), ALL)
        assert "http://" in caught.value.hint


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


# Publishing.


@pytest.mark.parametrize(
    ("code", "says", "todo"),
    [
        ("ExpiredToken", "the account's session is over", "credential_process"),
        ("RequestTimeTooSkewed", "RequestTimeTooSkewed", "Set this machine's clock"),
    ],
)
async def test_a_refusal_for_the_clocks_sake_says_so(code: str, says: str, todo: str) -> None:
    """A session that is over and a clock that is wrong are told as what they are, also by a look at one object."""

    async def refuse(request: web.Request) -> web.Response:
        text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        return web.Response(status=403, text=text, content_type="application/xml")

    async with (
        serving(refuse) as url,
        S3Client(S3Settings(endpoint=url, credentials=Credentials("a", "b"))) as client,
    ):
        for key in ("one", "many/"):
            with pytest.raises(Denied) as caught:
                await S3Source(client=client).resolve(SourceParams("b", key), ALL)
            assert says in caught.value.message
            assert todo in caught.value.hint
