"""S3 over TLS, with a certificate whose authority only the AWS configuration names: ``AWS_CA_BUNDLE``."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from protocol.errors import Unavailable
from storage.contract import silent
from storage.params import read_params
from storage.s3 import S3Client, S3Publisher, S3Settings, S3Source, SourceParams
from storage.s3.managed import ManagedParams, ManagedPublisher
from storage.s3.presigned import PreSignedParams, PreSignedSource
from storage.s3.results import ManagedBucket, ResultSigner, Signing
from tests.contracts.trees import Tree, plant, snapshot
from tests.storage.s3_world import ALL, LABEL, LOOPBACK, Bucket, brought

AUTHORITY: Final = Path(__file__).with_name("loopback.pem")
SETTINGS: Final = S3Settings(addresses=LOOPBACK, upload_part_bytes=5 << 20, retry_s=0.01, tries=2)
TREE: Final[Tree] = {"large": hashlib.shake_256(b"tls").digest(11 << 20), "small": b"s"}


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def secure(bucket: Bucket) -> AsyncIterator[str]:
    """The address of a server that speaks TLS and passes everything on to the bucket's."""
    behind = urlsplit(bucket.endpoint)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(behind.hostname, behind.port)
        await asyncio.gather(_pumped(reader, far_writer), _pumped(far_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(AUTHORITY)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def signer(bucket: Bucket, secure: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ResultSigner]:
    """A requester that knows its bucket under that address, and has the account."""
    for name, value in bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    signer = ResultSigner(Signing(managed=ManagedBucket(bucket.name, endpoint=secure), endpoint=secure))
    yield signer
    await signer.close()


async def test_whom_the_aws_configuration_trusts_is_trusted(
    bucket: Bucket, secure: str, signer: ResultSigner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A result is published, read with an account and by its links, and published by leave; also in parts."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(AUTHORITY))
    folder = plant(TREE, tmp_path / "result")
    async with S3Client(SETTINGS) as client:
        params = replace(bucket.to("out", "plain"), endpoint=secure)
        spec = await S3Publisher(client=client).publish(folder, params, LABEL, silent)
        found = read_params(spec.params, SourceParams, "s3")
        assert await brought(S3Source(client=client), found, tmp_path / "in") == TREE

    links = PreSignedSource(SETTINGS)
    linked = read_params((await signer.shown(spec, objects=True)).params, PreSignedParams, "result")
    fetched = await links.fetch(linked, await links.resolve(linked, ALL), tmp_path / "linked", silent)
    await links.aclose()
    assert snapshot(fetched.path) == TREE

    by_leave = ManagedPublisher(signer, SETTINGS)
    assert (await by_leave.publish(folder, ManagedParams(), LABEL, silent)).type == "s3managed"
    await by_leave.close()


async def test_a_certificate_of_nobodys_is_told_with_what_to_do(
    bucket: Bucket, secure: str, signer: ResultSigner, tmp_path: Path
) -> None:
    """Where the authority is not named, nothing is sent, and the error says where to name it."""
    links = PreSignedSource(SETTINGS)
    linked = PreSignedParams(f"{secure}/{bucket.name}/k", key="k")
    async with S3Client(SETTINGS) as client:
        for asked in (
            S3Source(client=client).resolve(SourceParams(bucket.name, "k", endpoint=secure), ALL),
            S3Source(client=client).resolve(SourceParams(bucket.name, "k/", endpoint=secure), ALL),
            links.resolve(linked, ALL),
        ):
            with pytest.raises(Unavailable, match="has no trustworthy certificate") as caught:
                await asked
            assert "AWS_CA_BUNDLE" in caught.value.hint
    await links.aclose()
