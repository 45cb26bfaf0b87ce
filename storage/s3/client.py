"""Connections to S3, and botocore's errors as ours.

Knows: aiobotocore, which is imported when the first connection is opened (it takes most of a second). Must not know: what
is read or written. Nothing that is said here holds a secret: of an error only S3's code and message are passed on, and a
signed URL never stands in a message.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from typing import Any, Final, Self

from msgspec import Struct

from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, NotFound, TimedOut, Unavailable
from storage.multiaddr import parse_endpoint
from storage.ranged import Limits, Reader, open_session
from storage.resolver import CheckedResolver, environment_proxies
from storage.s3.account import Account
from storage.s3.keys import Object
from storage.s3.params import DEFAULT_REGION, S3Settings, SourceParams, check_endpoint

SIGNED_S: Final = 3600
REDIRECTS: Final = frozenset(
    {"301", "307", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"}
)

_NO_ACCOUNT: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "InvalidToken",
        "ExpiredToken",
        "TokenRefreshRequired",
        "InvalidSecurity",
        "XAdminUserNotFound",  # versitygw, with status 404
    }
)
_ABOUT_ALL: Final = _NO_ACCOUNT | {"NoSuchBucket", "SignatureDoesNotMatch"}
_DENIED: Final = frozenset({"AccessDenied", "Forbidden", "403", "401", "AllAccessDisabled", "AccountProblem"})
_BUSY: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted", "Busy"}
)
_ACCOUNT_HINT: Final = "Give the node an account: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."


class Place(Struct, frozen=True):
    """Where requests go. `signed` says that they carry the node's account."""

    endpoint: str
    region: str
    signed: bool


class Connection:
    """One endpoint and region with one account, or none. Its methods raise our faults, which name `endpoint`."""

    def __init__(self, raw: Any, place: Place, reader: Reader) -> None:
        self.raw = raw
        self.signed = place.signed
        self.endpoint: str = raw.meta.endpoint_url
        self._region = place.region
        self._regions: dict[str, str] = {}
        raw.meta.events.register("needs-retry.s3", self._note_region)
        self.reader = reader

    def region_of(self, bucket: str) -> str:
        """The bucket's own region, as far as S3 has told it: botocore goes there by itself, a signed URL does not."""
        return self._regions.get(bucket, self._region)

    async def head(self, bucket: str, key: str, version: str = "") -> tuple[Object, str]:
        """An object as it is now, and its content type. Raises `NotFound`, `Denied`, `Unavailable` and others."""
        wanted = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            try:
                found = await self.raw.head_object(**wanted)
            except self.raw.exceptions.ClientError as error:
                await self._ask_why(bucket, _status(error))
                if _status(error) != 400:
                    raise
                # The question's answer named the bucket's region, which an answer without a body could not.
                found = await self.raw.head_object(**wanted)
        if "ContentLength" not in found:
            raise Broken(f"s3://{bucket}/{key}: {self.endpoint} does not say how large it is")
        told = Object(key, found["ContentLength"], found.get("ETag", ""), found.get("VersionId", ""))
        return told, found.get("ContentType", "")

    async def _ask_why(self, bucket: str, status: int) -> None:
        """A look at an object that is refused has no body and no code: raise what a request with a body is told."""
        try:
            await self.raw.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except self.raw.exceptions.ClientError as better:
            # An object that is not there says nothing of its bucket; other refusals are the same for both.
            if status != 404 or _code(better) in _ABOUT_ALL:
                raise

    def _note_region(self, response: Any, request_dict: Any, **more: Any) -> None:
        """See each answer; those from the wrong region name the right one."""
        if response is None:
            return
        headers = response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or response[1].get("Error", {}).get("Region")
        bucket = request_dict.get("context", {}).get("s3_redirect", {}).get("bucket")
        if region and bucket:
            self._regions[bucket] = region

    async def list(self, bucket: str, prefix: str, limit: int) -> AsyncIterator[list[Object]]:
        """All objects whose keys begin with `prefix`, page by page. Raises `Exhausted` beyond `limit`."""
        seen = 0
        pages = self.raw.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        with faults(f"s3://{bucket}/{prefix}", self.endpoint, signed=self.signed):
            async for page in pages:
                objects = [
                    Object(each["Key"], each["Size"], each.get("ETag", ""))
                    for each in page.get("Contents", ())
                ]
                seen += len(objects)
                if seen > limit:
                    raise Exhausted(
                        f"s3://{bucket}/{prefix} has more than {limit} objects", hint="Use a longer prefix."
                    )
                yield objects

    async def has_any(self, bucket: str, prefix: str) -> bool:
        """Whether any object's key begins with `prefix`."""
        with faults(f"s3://{bucket}/{prefix}", self.endpoint, signed=self.signed):
            page = await self.raw.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return bool(page.get("Contents"))

    async def signed_url(self, bucket: str, key: str, version: str = "", expires_s: int = SIGNED_S) -> str:
        """A URL that answers a GET with the object, for so long; as it stands where there is no account."""
        wanted = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
        with faults(f"s3://{bucket}/{key}", self.endpoint, signed=self.signed):
            url: str = await self.raw.generate_presigned_url("get_object", Params=wanted, ExpiresIn=expires_s)
        return url


class S3Client:
    """The connections of one node or client, opened when needed and kept until `close`."""

    def __init__(self, settings: S3Settings | None = None) -> None:
        self.settings = settings or S3Settings()
        self._open = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._connections: dict[Place, Connection] = {}
        self._session: Any = None
        self._readers: dict[bool, Reader] = {}
        self._account = Account(self._look)

    async def connect(self, endpoint: str = "", region: str = "", *, signed: bool = True) -> Connection:
        """The connection for an endpoint and region (empty: the node's own). Without an account it is unsigned.

        Raises `Invalid` for what is no endpoint or region, `Denied` if the AWS configuration is at odds with itself.
        """
        with faults("the AWS configuration", endpoint or "AWS", signed=signed):
            signed = signed and (self.settings.credentials is not None or await self._account.there())
            async with self._lock:
                session = await self._opened()
                place = Place(
                    endpoint or self.settings.endpoint,
                    region or self.settings.region or session.get_config_variable("region") or DEFAULT_REGION,
                    signed,
                )
                if place not in self._connections:
                    self._connections[place] = await self._connected(session, place)
        return self._connections[place]

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
            self._session = None
            self._readers.clear()
            await self._open.aclose()

    async def _opened(self) -> Any:
        if self._session is None:
            self._session = await asyncio.to_thread(_new_session, self.settings.profile)
        return self._session

    async def _look(self) -> bool:
        async with self._lock:
            session = await self._opened()
        return await session.get_credentials() is not None

    async def _connected(self, session: Any, place: Place) -> Connection:
        resolver = self._resolver(session, place.endpoint)
        account = self.settings.credentials if place.signed else None
        raw = await self._open.enter_async_context(
            session.create_client(
                "s3",
                region_name=place.region,
                endpoint_url=place.endpoint or None,
                aws_access_key_id=account.access_key if account else None,
                aws_secret_access_key=account.secret_key if account else None,
                aws_session_token=(account.session_token or None) if account else None,
                config=_config(self.settings, place, resolver),
            )
        )
        own = resolver is None
        if own not in self._readers:
            limits = _limits(self.settings)
            bulk = await self._open.enter_async_context(
                open_session(limits, resolver=resolver, trust_env=True)
            )
            self._readers[own] = Reader(bulk, limits)
        return Connection(raw, place, self._readers[own])

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
    connection = await client.connect(params.endpoint, params.region)
    if not connection.signed:
        raise Denied(f"{params.url} cannot be signed: there is no account", hint=_ACCOUNT_HINT)
    return await connection.signed_url(params.bucket, params.key, params.version_id, expires_s)


def fault_of(code: str, message: str, status: int, what: str, endpoint: str, *, signed: bool) -> Fault:
    """What S3's error about `what` means for us. `code` may be a status where S3 sends no body."""
    said = f"{what}: {message[:300] or code} ({code}, at {endpoint})"
    if code == "NoSuchBucket":
        return NotFound(f"{what}: there is no such bucket at {endpoint}", kind="Bucket")
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFound(f"{what}: there is no such object at {endpoint}", kind="Object")
    if code in ("NoSuchVersion", "NoSuchUpload"):
        return NotFound(said)
    if code in _NO_ACCOUNT:
        return Denied(f"{what}: {endpoint} does not know the node's account ({code})", hint=_ACCOUNT_HINT)
    if code == "SignatureDoesNotMatch":
        return Denied(
            f"{what}: {endpoint} refuses the signature ({code})", hint="Check AWS_SECRET_ACCESS_KEY."
        )
    if code == "RequestTimeTooSkewed":
        return Denied(said, hint="Set this machine's clock.")
    if code in _DENIED or status in (401, 403):
        hint = "Let the account read and write there." if signed else _ACCOUNT_HINT
        return Denied(f"{what}: {endpoint} denies access ({code}{'' if signed else ', unsigned'})", hint=hint)
    if code in ("PreconditionFailed", "412"):
        return Broken(f"{what} was changed while it was being read", kind="Changed")
    if code in REDIRECTS or status in (301, 307):
        return Invalid(said, hint="The bucket is in another region: name it as Region.")
    if code in _BUSY or status >= 500 or status == 429:
        return Unavailable(said)
    if code in ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"):
        return Broken(said)
    return Invalid(said)


@contextmanager
def faults(what: str, endpoint: str, *, signed: bool) -> Iterator[None]:
    """Turn botocore's errors about `what` into our faults."""
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        fault = _mapped(error, what, endpoint, signed)
        if fault is None:
            raise
        raise fault from error


def _mapped(error: Exception, what: str, endpoint: str, signed: bool) -> Fault | None:
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        message = error.response.get("Error", {}).get("Message", "")
        return fault_of(_code(error), message, _status(error), what, endpoint, signed=signed)
    if isinstance(error, boto.ConnectTimeoutError | boto.EndpointConnectionError | boto.ProxyConnectionError):
        return Unavailable(
            f"{what}: {endpoint} cannot be reached", hint="Is the server running, the endpoint right?"
        )
    if isinstance(error, boto.ReadTimeoutError):
        return TimedOut(f"{what}: {endpoint} does not answer", hint="Try again later.")
    if isinstance(error, boto.SSLError):
        return Unavailable(f"{what}: {endpoint} has no trustworthy certificate", hint="Set AWS_CA_BUNDLE.")
    told = error.kwargs.get("error") if isinstance(error, boto.HTTPClientError) else None
    if isinstance(told, Fault):
        # What our resolver says of an address comes back as an error of theirs.
        return told
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError):
        return Unavailable(f"{what}: the connection to {endpoint} broke")
    if isinstance(error, boto.ParamValidationError | boto.InvalidRegionError):
        return Invalid(f"{what}: {str(error)[:300]}")
    if isinstance(error, boto.ProfileNotFound | boto.PartialCredentialsError | boto.NoCredentialsError):
        return Denied(f"{what}: {str(error)[:300]}", hint=_ACCOUNT_HINT)
    if isinstance(error, boto.CredentialRetrievalError | boto.MetadataRetrievalError):
        return Denied(f"{what}: the account cannot be read ({type(error).__name__})", hint=_ACCOUNT_HINT)
    if isinstance(error, boto.ResponseParserError):
        return Broken(
            f"{what}: {endpoint} does not answer as S3 does", hint="Is this the address of an S3 server?"
        )
    if isinstance(error, boto.BotoCoreError):
        return Unavailable(f"{what}: {type(error).__name__} at {endpoint}")
    return None


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) or str(_status(error))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


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


def _config(settings: S3Settings, place: Place, resolver: CheckedResolver | None) -> Any:
    from aiobotocore.config import AioConfig
    from botocore import UNSIGNED

    return AioConfig(
        # Without a version, signed URLs come out in version 2, which few servers take.
        signature_version="s3v4" if place.signed else UNSIGNED,
        s3={"addressing_style": "path" if place.endpoint else "auto"},
        connector_args={"resolver": resolver} if resolver else {},
        connect_timeout=settings.connect_s,
        read_timeout=settings.silence_s,
        max_pool_connections=max(settings.requests, settings.small_requests) * 2,
        retries={"mode": "standard", "total_max_attempts": max(settings.tries - 1, 1)},
        # Our own checksums are given where they are wanted; added ones break some servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
