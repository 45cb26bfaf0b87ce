"""Who asks S3, and under which address: profiles that a job names, secrets that show nowhere, hosts that name buckets."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from deploy.servers import S3Server, s3_server
from protocol.errors import Denied, Fault
from protocol.ids import ExecutionId, JobId, NodeId
from storage.contract import Label, Share, silent
from storage.params import read_params
from storage.s3 import Credentials, PublisherParams, S3Client, S3Publisher, S3Settings, S3Source, SourceParams
from storage.s3.results import ResultSigner, Signing
from tests.contracts.trees import Tree, plant, snapshot
from tests.storage.s3_world import Bucket, new_bucket

ALL = Share()
LABEL = Label(JobId("j-1"), ExecutionId("e-1"), NodeId("n-1"), at=1_700_000_000.0)
TREE: Tree = {"a b": b"1", "d/empty": b"", "large": b"x" * (20 << 20)}
DOMAIN = "s3.shoal.test"


@pytest.fixture
async def bucket(s3: S3Server, request: pytest.FixtureRequest) -> AsyncIterator[Bucket]:
    async with new_bucket(s3, f"accounts-{abs(hash(request.node.name)) % 10**9}") as bucket:
        await bucket.put("k", b"bytes")
        yield bucket


@pytest.fixture
def profiles(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's AWS configuration: the profile `data` has the account, `wrong` another secret, and there is no default."""
    path = tmp_path / "credentials"
    path.write_text(
        f"[data-1]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
        f"[data-wrong]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = CANARY-SECRET\n"
        f"[private]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))


def settings(bucket: Bucket) -> S3Settings:
    """A node that lets jobs use the profiles of data."""
    return S3Settings(endpoint=bucket.endpoint, profiles=("data-*",), retry_s=0.01)


async def test_a_job_names_a_profile_that_is_allowed(profiles: None, bucket: Bucket, tmp_path: Path) -> None:
    """With a profile of the node's configuration an input is read and a result published, without one the node has no
    account; the spec of the result names no profile."""
    async with S3Client(settings(bucket)) as client:
        source, publisher = S3Source(client=client), S3Publisher(client=client)
        params = SourceParams(bucket.name, "k", profile="data-1")

        fetched = await source.fetch(params, await source.resolve(params, ALL), tmp_path / "in", silent)
        folder = plant({"stdout": b"out"}, tmp_path / "result")
        spec = await publisher.publish(
            folder, PublisherParams(bucket.name, "out", profile="data-1"), LABEL, silent
        )

        assert snapshot(fetched.path) == {"k": b"bytes"}
        assert "data-1" not in repr(spec)
        with pytest.raises(Denied, match="unsigned"):
            await source.resolve(SourceParams(bucket.name, "k"), ALL)


@pytest.mark.parametrize(
    ("profile", "said"), [("private", "lets jobs use"), ("data-2", "data-2"), ("data-wrong", "signature")]
)
async def test_a_profile_that_is_not_for_jobs_is_refused(
    profile: str, said: str, profiles: None, bucket: Bucket, s3: S3Server, caplog: pytest.LogCaptureFixture
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
    assert s3.secret_key not in told + caplog.text


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
