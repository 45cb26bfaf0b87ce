"""Connections to S3: an endpoint and region with an account, or none.

Knows: aiobotocore, which is imported when the first connection is opened (it takes most of a second), and what goes past
it: bulk data (`storage.s3.bulk`). Must not know: what is read or written. A signed URL never stands in a message.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final, Self

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from msgspec import Struct

from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, Unavailable
from storage.lanes import Lanes, Task, find_route
from storage.multiaddr import parse_endpoint
from storage.ranged import Limits
from storage.resolver import CheckedResolver, environment_proxies
from storage.s3 import signing
from storage.s3.account import Account
from storage.s3.bulk import PROBE, Bulk, pages
from storage.s3.checksums import told
from storage.s3.faults import ABOUT_ALL, ACCOUNT_HINT, code_of, faults, status_of
from storage.s3.keys import Object
from storage.s3.params import DEFAULT_REGION, Credentials, S3Settings, SourceParams, check_endpoint

SIGNED_S: Final = 3600
RENEW_S: Final = 30.0
"""How often an account that grows old is asked for anew while data moves."""


class Place(Struct, frozen=True):
    """Where requests go. `signed` says that they carry the node's account."""

    endpoint: str
    region: str
    signed: bool
    profile: str = ""
    addressing: str = ""


class Found(Struct, frozen=True):
    """What is at a key: its ETag, and what was kept with it."""

    etag: str
    meta: dict[str, str]


class Roads(Struct, frozen=True):
    """What all connections of a client go over where they carry bulk data."""

    lanes: Lanes
    limits: Limits
    resolver: AbstractResolver
    check_url: Callable[[str], None]
    ca_bundle: str = ""


class Connection:
    """One endpoint and region with one account, or none. Its methods raise our faults, which name `endpoint`.

    `raw` is aiobotocore's client, `account` botocore's credentials (None: unsigned), `roads` what bulk data goes over.
    """

    def __init__(self, raw: Any, place: Place, account: Any, roads: Roads) -> None:
        self.raw = raw
        self.signed = place.signed
        self.endpoint: str = raw.meta.endpoint_url
        self._region = place.region
        self._regions: dict[str, str] = {}
        self._account = account
        self._roads = roads
        self._bulks: dict[str, Bulk] = {}
        raw.meta.events.register("needs-retry.s3", self._note_region)

    @asynccontextmanager
    async def bulk(self, bucket: str) -> AsyncIterator[Bulk]:
        """How the bucket's objects are asked for; while in here, its account is kept from growing old."""
        found = self._bulks.get(bucket)
        account = await self._signing_account()
        if found is None:
            url = await self.signed_url(bucket, PROBE)
            self._roads.check_url(url)
            found = self._bulks[bucket] = Bulk(bucket, self.endpoint, url, account)
        if found.signer is not None and account is not None:
            found.signer.account = account
        if found.signer is None or not hasattr(self._account, "refresh_needed"):
            yield found
            return
        renewing = asyncio.create_task(self._renew(found.signer))
        try:
            yield found
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def move(
        self,
        bulk: Bulk,
        tasks: Iterator[Task],
        count: int,
        moved: Callable[[int], None],
        finish_s: float = 0.0,
    ) -> None:
        """Do tasks of a bucket, `count` at once; see `Lanes.move`. Raises the first one's fault."""
        roads = self._roads
        try:
            route = await find_route(
                bulk.origin, roads.limits, roads.resolver, lambda: trust(roads.ca_bundle)
            )
        except Unavailable as fault:
            if ".amazonaws.com" in bulk.origin:
                fault.hint = "Without an Endpoint it is Amazon's S3; another server is named in the job or on the node."
            raise
        await roads.lanes.move(tasks, route, count, moved, finish_s)

    async def _signing_account(self) -> signing.Account | None:
        if self._account is None:
            return None
        with faults("the AWS configuration", self.endpoint, signed=True):
            now = await self._account.get_frozen_credentials()
        return signing.Account(now.access_key, now.secret_key, now.token or "")

    async def _renew(self, signer: signing.Signer) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with contextlib.suppress(Fault):
                signer.account = await self._signing_account() or signer.account

    def region_of(self, bucket: str) -> str:
        """The bucket's own region, as far as S3 has told it: botocore goes there by itself, a signed URL does not."""
        return self._regions.get(bucket, self._region)

    async def head(self, bucket: str, key: str, version: str = "") -> tuple[Object, str]:
        """An object as it is now, and its content type. Raises `NotFound`, `Denied`, `Unavailable` and others."""
        wanted = {"Bucket": bucket, "Key": key, "ChecksumMode": "ENABLED"}
        wanted |= {"VersionId": version} if version else {}
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            try:
                found = await self.raw.head_object(**wanted)
            except self.raw.exceptions.ClientError as error:
                await self._ask_why(bucket, status_of(error))
                if status_of(error) != 400:
                    raise
                # The question's answer named the bucket's region, which an answer without a body could not.
                found = await self.raw.head_object(**wanted)
        if "ContentLength" not in found:
            raise Broken(f"s3://{bucket}/{key}: {self.endpoint} does not say how large it is")
        etag, told_version = found.get("ETag", ""), found.get("VersionId", "")
        looked = Object(key, found["ContentLength"], etag, told_version, told(found))
        return looked, found.get("ContentType", "")

    async def part_bytes(self, bucket: str, found: Object, version: str = "") -> int:
        """How large the first part is that an object was put together of; 0 if the store does not say."""
        wanted = {"Bucket": bucket, "Key": found.key, "PartNumber": 1, "IfMatch": found.etag}
        wanted |= {"VersionId": version} if version else {}
        with faults(f"s3://{bucket}/{found.key}", self.endpoint, signed=self.signed):
            told_part = await self.raw.head_object(**wanted)
        return int(told_part.get("ContentLength", 0))

    async def look(self, bucket: str, key: str) -> Found | None:
        """What is at a key just now, or None. Raises `Denied`, `Unavailable` and others."""
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            try:
                found = await self.raw.head_object(Bucket=bucket, Key=key)
            except self.raw.exceptions.ClientError as error:
                await self._ask_why(bucket, status_of(error))
                if status_of(error) == 404:
                    return None
                raise
        return Found(found.get("ETag", ""), found.get("Metadata") or {})

    async def _ask_why(self, bucket: str, status: int) -> None:
        """A look at an object that is refused has no body and no code: raise what a request with a body is told."""
        try:
            await self.raw.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except self.raw.exceptions.ClientError as better:
            # An object that is not there says nothing of its bucket; other refusals are the same for both.
            if status != 404 or code_of(better) in ABOUT_ALL:
                raise

    def _note_region(self, response: Any, request_dict: Any, **more: Any) -> None:
        """See each answer; those from the wrong region name the right one."""
        if response is None:
            return
        headers = response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or response[1].get("Error", {}).get("Region")
        bucket = request_dict.get("context", {}).get("s3_redirect", {}).get("bucket")
        if region and bucket and self._regions.get(bucket) != region:
            self._regions[bucket] = region
            self._bulks.pop(bucket, None)

    async def objects(self, bucket: str, prefix: str, limit: int) -> list[Object]:
        """All objects whose keys begin with `prefix`. Raises `Exhausted` beyond `limit`, and what S3 says: `Invalid` of
        kind ``Region`` if the bucket is in another."""
        found: list[list[Object]] = []

        def within() -> Iterator[Task]:
            for page in pages(bulk, prefix, found):
                if sum(len(each) for each in found) > limit:
                    break
                yield page

        async with self.bulk(bucket) as bulk:
            await self.move(bulk, within(), 1, lambda _: None)
        objects = [each for page in found for each in page]
        if len(objects) > limit:
            raise Exhausted(
                f"s3://{bucket}/{prefix} has more than {limit} objects", hint="Use a longer prefix."
            )
        return objects

    async def has_any(self, bucket: str, prefix: str) -> bool:
        """Whether any object's key begins with `prefix`."""
        with faults(f"s3://{bucket}/{prefix}", self.endpoint, signed=self.signed):
            page = await self.raw.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        # A server that keeps keys otherwise than they are written lists others.
        return any(each["Key"].startswith(prefix) for each in page.get("Contents") or ())

    async def signed_url(self, bucket: str, key: str, version: str = "", expires_s: int = SIGNED_S) -> str:
        """A URL that answers a GET with the object, for so long; as it stands where there is no account."""
        wanted = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            url: str = await self.raw.generate_presigned_url("get_object", Params=wanted, ExpiresIn=expires_s)
        return url


class S3Client:
    """The connections of one node or client, opened when needed and kept until `close`."""

    def __init__(self, settings: S3Settings | None = None, resolver: AbstractResolver | None = None) -> None:
        """`resolver` says what the names of the node's own endpoints stand for; None leaves it to the system."""
        self.settings = settings or S3Settings()
        self._names = resolver
        self._open = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._connections: dict[Place, Connection] = {}
        self._sessions: dict[str, Any] = {}
        self._lanes = Lanes(_limits(self.settings))
        self._account = Account(self._look)

    async def connect(
        self,
        endpoint: str = "",
        region: str = "",
        *,
        signed: bool = True,
        profile: str = "",
        addressing: str = "",
    ) -> Connection:
        """The connection for an endpoint and region (empty: the node's own). Without an account it is unsigned.

        `profile` names an account of the node's AWS configuration that it lets jobs use. Raises `Invalid` for what is no
        endpoint or region, `Denied` if the AWS configuration is at odds with itself, or the profile is not for jobs.
        """
        self._check_profile(profile)
        with faults("the AWS configuration", endpoint or "AWS", signed=signed):
            if signed and not profile:
                signed = self.settings.credentials is not None or await self._account.there()
            async with self._lock:
                session = await self._opened(profile)
                place = Place(
                    endpoint or self.settings.endpoint,
                    region or self.settings.region or session.get_config_variable("region") or DEFAULT_REGION,
                    signed,
                    profile,
                    addressing or self.settings.addressing,
                )
                if place not in self._connections:
                    self._connections[place] = await self._connected(session, place)
        return self._connections[place]

    def _check_profile(self, profile: str) -> None:
        if profile and not any(fnmatchcase(profile, each) for each in self.settings.profiles):
            hint = "Its owner allows it by name: InputSources.Types.S3.AllowedProfiles."
            raise Denied(
                f"the AWS profile {profile!r} is not one that this node lets jobs use",
                hint=hint,
                kind="Profile",
            )

    def has_account(self) -> bool | None:
        """Whether the node has an account, at once; None while nobody knows yet. Raises as `connect`."""
        if self.settings.credentials is not None:
            return True
        with faults("the AWS configuration", "AWS", signed=True):
            return self._account.known()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of all connections."""
        await self._account.close()
        async with self._lock:
            self._connections.clear()
            self._sessions.clear()
            self._lanes.close()
            await self._open.aclose()

    async def _opened(self, profile: str = "") -> Any:
        if profile not in self._sessions:
            named = profile or self.settings.profile
            self._sessions[profile] = await asyncio.to_thread(_new_session, named)
        return self._sessions[profile]

    async def _look(self) -> bool:
        async with self._lock:
            session = await self._opened()
        return await session.get_credentials() is not None

    async def _connected(self, session: Any, place: Place) -> Connection:
        checked = self._resolver(session, place.endpoint)
        resolver = checked or self._names
        check_url = checked.check_url if checked else _anywhere
        account = self.settings.credentials if place.signed and not place.profile else None
        raw = await self._open.enter_async_context(
            session.create_client(
                "s3",
                region_name=place.region,
                endpoint_url=place.endpoint or None,
                aws_access_key_id=account.access_key if account else None,
                aws_secret_access_key=account.secret_key if account else None,
                aws_session_token=(account.session_token or None) if account else None,
                config=_config(self.settings, place, resolver, check_url),
            )
        )
        roads = Roads(
            lanes=self._lanes,
            limits=_limits(self.settings),
            resolver=resolver or ThreadedResolver(),
            check_url=check_url,
            ca_bundle=session.get_config_variable("ca_bundle") or "",
        )
        signing = await self._credentials(session, account) if place.signed else None
        if place.signed and signing is None:
            raise Denied(f"the AWS profile {place.profile!r} of this node has no credentials", kind="Profile")
        return Connection(raw, place, signing, roads)

    async def _credentials(self, session: Any, account: Credentials | None) -> Any:
        if account is None:
            return await session.get_credentials()
        from aiobotocore.credentials import AioCredentials

        return AioCredentials(account.access_key, account.secret_key, account.session_token or None)

    def _resolver(self, session: Any, endpoint: str) -> CheckedResolver | None:
        """What keeps an endpoint that a job names within the policy; None for the node's own. Raises `Denied`."""
        if endpoint in ("", self.settings.endpoint):
            return None
        check_endpoint(endpoint)
        own = (self.settings.endpoint, _configured_endpoint(session), *environment_proxies())
        policy = self.settings.addresses.trusting(own)
        named = parse_endpoint(endpoint)
        policy.check_host(named.host, named.port)
        return CheckedResolver(policy)


async def presign(client: S3Client, params: SourceParams, expires_s: int) -> str:
    """A URL with which anybody can read one object for `expires_s` seconds (at most seven days, says S3).

    Raises `Denied` where there is no account to sign with, `Invalid` for a prefix.
    """
    if params.is_prefix:
        raise Invalid(f"{params.url} is a prefix: only one object can be signed")
    connection = await client.connect(
        params.endpoint, params.region, profile=params.profile, addressing=params.addressing_style
    )
    if not connection.signed:
        raise Denied(f"{params.url} cannot be signed: there is no account", hint=ACCOUNT_HINT)
    return await connection.signed_url(params.bucket, params.key, params.version_id, expires_s)


def _limits(settings: S3Settings) -> Limits:
    return Limits(
        connect_s=settings.connect_s,
        silence_s=settings.silence_s,
        retry_s=settings.retry_s,
        tries=settings.tries,
        part_bytes=settings.part_bytes,
    )


def _new_session(profile: str) -> Any:
    """A session with S3's description loaded; reads some megabytes, so it runs in a thread."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=profile or None)
    session.register_component("data_loader", _descriptions())
    return session


@cache
def trust(ca_bundle: str) -> ssl.SSLContext:
    """The certificates that are trusted; reads a file or two."""
    return ssl.create_default_context(cafile=ca_bundle or None)


@cache
def _descriptions() -> Any:
    """botocore's descriptions of services, read once a process."""
    from botocore.loaders import Loader

    loader = Loader()
    for kind in ("service-2", "paginators-1", "endpoint-rule-set-1"):
        loader.load_service_model("s3", kind)
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    return loader


def _configured_endpoint(session: Any) -> str:
    """The endpoint that the AWS configuration names for S3 (``AWS_ENDPOINT_URL_S3``, a profile's), empty for none."""
    from botocore.configprovider import ConfiguredEndpointProvider

    found = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3").provide()
    return found or ""


def _anywhere(url: str) -> None:
    """The node's own endpoint may lead anywhere."""


def _config(
    settings: S3Settings, place: Place, resolver: AbstractResolver | None, check_url: Callable[[str], None]
) -> Any:
    from aiobotocore.config import AioConfig
    from botocore import UNSIGNED

    from storage.s3.session import session_within

    return AioConfig(
        http_session_cls=session_within(settings.call_s, check_url),
        # Without a version, signed URLs come out in version 2, which few servers take.
        signature_version="s3v4" if place.signed else UNSIGNED,
        s3={"addressing_style": place.addressing.lower() or ("path" if place.endpoint else "auto")},
        connector_args={"resolver": resolver} if resolver else {},
        connect_timeout=settings.connect_s,
        read_timeout=settings.silence_s,
        max_pool_connections=max(settings.requests, settings.small_requests) * 2,
        retries={"mode": "standard", "total_max_attempts": max(settings.tries - 1, 1)},
        # Our own checksums are given where they are wanted; added ones break some servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
