"""What the tests of storage share."""

import itertools
from collections.abc import AsyncIterator

import pytest

from deploy.servers import S3Server
from storage.addresses import OWN_NETWORKS, read_policy
from storage.s3 import S3Settings
from storage.s3.presigned import PreSignedSource
from storage.s3.results import ManagedBucket, ResultSigner, Signing
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.s3_world import Bucket, OddS3, new_bucket, odd_s3

NUMBERS = itertools.count(1)


@pytest.fixture(params=["s3", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    """Two servers of different make."""
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def bucket(server: S3Server) -> AsyncIterator[Bucket]:
    """A bucket of its own on each server."""
    async with new_bucket(server, f"bucket-{next(NUMBERS)}") as bucket:
        yield bucket


@pytest.fixture
async def proxy(bucket: Bucket) -> AsyncIterator[FaultProxy]:
    """What stands before the bucket's server, and goes wrong as it is told."""
    async with fault_proxy(bucket.endpoint) as proxy:
        yield proxy


@pytest.fixture
async def odd() -> AsyncIterator[OddS3]:
    """A server that answers what no real one would."""
    async with odd_s3() as odd:
        yield odd


@pytest.fixture
async def signer(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ResultSigner]:
    """A requester's signer, with the account in its environment."""
    for name, value in bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    managed = ManagedBucket(bucket.name, "managed", endpoint=bucket.endpoint)
    signer = ResultSigner(Signing(managed=managed, endpoint=bucket.endpoint))
    yield signer
    await signer.close()


@pytest.fixture
async def anybody() -> AsyncIterator[PreSignedSource]:
    """Somebody who has links and no account."""
    source = PreSignedSource(S3Settings(addresses=read_policy(OWN_NETWORKS), retry_s=0.01))
    yield source
    await source.aclose()
