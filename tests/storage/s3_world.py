"""What S3 tests need around the drivers: a bucket on a real server, and a server that answers what no real one would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError
from msgspec.structs import replace

from deploy.servers import S3Server
from protocol.ids import ExecutionId, JobId, NodeId
from storage.addresses import read_policy
from storage.contract import Label, Share, silent
from storage.s3 import Credentials, PublisherParams, S3Client, S3Settings, S3Source, SourceParams
from tests.contracts.trees import Tree, snapshot

ALL = Share()
LABEL = Label(JobId("j-1"), ExecutionId("e-1"), NodeId("n-1"), at=1_700_000_000.0)
OTHER = replace(LABEL, execution=ExecutionId("e-2"), partition=1)
LOOPBACK = read_policy(["loopback"])
"""Leave to reach servers on this machine, which no node has by itself."""
NO_TYPE = "X-No-Type"
"""A response with this header goes out without a content type."""


def settings_of(server: S3Server, **more: Any) -> S3Settings:
    """Settings with the server's account, impatient enough for tests."""
    account = Credentials(server.access_key, server.secret_key)
    limits = {"connect_s": 5.0, "silence_s": 10.0, "retry_s": 0.01, "tries": 3, **more}
    return S3Settings(credentials=account, addresses=LOOPBACK, **limits)


class Bucket:
    """A bucket of its own on a real server. `of` and `to` are the params of an input from it and of a result for it."""

    def __init__(self, raw: Any, server: S3Server, name: str) -> None:
        self.raw = raw
        self.server = server
        self.name = name
        self.endpoint = server.endpoint

    def of(self, key: str, **more: Any) -> SourceParams:
        """The params of a key in the bucket."""
        return SourceParams(self.name, key, endpoint=self.endpoint, **more)

    def to(self, key: str, encoding: str, **more: Any) -> PublisherParams:
        """A place in the bucket."""
        return PublisherParams(self.name, key, endpoint=self.endpoint, encoding=encoding, **more)

    async def put(self, key: str, data: bytes = b"", **more: Any) -> dict[str, Any]:
        """Make an object."""
        answer: dict[str, Any] = await self.raw.put_object(Bucket=self.name, Key=key, Body=data, **more)
        return answer

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self.raw.delete_object(Bucket=self.name, Key=key)

    async def keys(self) -> list[str]:
        """All keys, in S3's order."""
        page = await self.raw.list_objects_v2(Bucket=self.name)
        return [each["Key"] for each in page.get("Contents", ())]

    async def unfinished(self) -> list[str]:
        """The keys of uploads that were begun and not ended."""
        page = await self.raw.list_multipart_uploads(Bucket=self.name)
        return [each["Key"] for each in page.get("Uploads", ())]


@asynccontextmanager
async def new_bucket(server: S3Server, name: str) -> AsyncIterator[Bucket]:
    """A bucket that was not there before. SeaweedFS gives each some of the few volumes that it has, so it goes again (with
    all that is in it; versitygw keeps one that has anything)."""
    async with S3Client(settings_of(server)) as client:
        connection = await client.connect(server.endpoint)
        await connection.raw.create_bucket(Bucket=name)
        try:
            yield Bucket(connection.raw, server, name)
        finally:
            with suppress(ClientError, BotoCoreError):
                await connection.raw.delete_bucket(Bucket=name)


async def brought(source: S3Source, params: SourceParams, into: Path, share: Share = ALL) -> Tree:
    """Resolve and fetch."""
    fetched = await source.fetch(params, await source.resolve(params, share), into, silent)
    return snapshot(fetched.path)


class OddS3:
    """Speaks as much of S3 as a source needs, takes objects, and holds any key at all, without asking for an account.

    With a `region`, requests that were signed for another one are refused as AWS does it. With `next` each page of a listing
    says that this token brings another; `strange` is a key that every listing has besides; `headers` go with each object.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.content_type: str | None = None
        self.region = ""
        self.private = False
        self.endpoint = ""
        self.requests: list[web.Request] = []
        self.next = ""
        self.strange = ""
        self.headers: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every request."""
        self.requests.append(request)
        signed = request.headers.get("Authorization", "") or request.query.get("X-Amz-Credential", "")
        if self.private and signed:
            return self._error(403, "InvalidAccessKeyId", "We do not know this account.")
        if self.region and f"/{self.region}/s3" not in signed:
            return self._error(400, "AuthorizationHeaderMalformed", f"expecting {self.region!r}", self.region)
        if request.query.get("list-type") == "2":
            return self._list(request.query.get("prefix", ""))
        key = request.path.split("/", 2)[2]
        if request.method == "PUT":
            self.objects[key] = await request.read()
            return web.Response(headers={"ETag": '"put"'})
        if key not in self.objects:
            return self._error(404, "NoSuchKey", "The specified key does not exist.")
        data = self.objects[key]
        response = web.Response(body=data, headers={"ETag": self.etag_of(data), **self.headers})
        response.headers["Content-Length"] = str(len(data))
        if self.content_type is not None:
            response.content_type = self.content_type
        else:
            response.headers[NO_TYPE] = "1"
        return response

    def etag_of(self, data: bytes) -> str:
        """What it says of an object."""
        return f'"{abs(hash(data)):x}"'

    def _list(self, prefix: str) -> web.Response:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
            f"<ETag>{escape(self.etag_of(data))}</ETag></Contents>"
            for key, data in self.objects.items()
            if key.startswith(prefix)
        )
        if self.strange:
            found += f"<Contents><Key>{escape(self.strange)}</Key><Size>1</Size></Contents>"
        more = f"<NextContinuationToken>{self.next}</NextContinuationToken>" if self.next else ""
        truncated = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
        text = f"<ListBucketResult>{truncated}{found}</ListBucketResult>"
        return web.Response(text=text, content_type="application/xml")

    def _error(self, status: int, code: str, message: str, region: str = "") -> web.Response:
        where = f"<Region>{region}</Region>" if region else ""
        text = f"<Error><Code>{code}</Code><Message>{message}</Message>{where}</Error>"
        headers = {"x-amz-bucket-region": region} if region else {}
        return web.Response(status=status, text=text, content_type="application/xml", headers=headers)


@asynccontextmanager
async def odd_s3() -> AsyncIterator[OddS3]:
    """An `OddS3` on a free port of loopback."""
    server = OddS3()
    async with serving(server.answer) as url:
        server.endpoint = url
        yield server


@asynccontextmanager
async def serving(answer: Any) -> AsyncIterator[str]:
    """Serve all requests by `answer` on a free port of loopback; the base URL."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", answer)
    app.on_response_prepare.append(_without_type)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)


async def _without_type(request: web.Request, response: web.StreamResponse) -> None:
    if response.headers.popall(NO_TYPE, None):
        response.headers.popall("Content-Type", None)
