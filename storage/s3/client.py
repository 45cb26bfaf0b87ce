"""Connections to S3: an endpoint and region with an account, or none.

Knows: how aiobotocore is set up, which is imported when the first connection is opened (it takes most of a second) or a
process asks for it (`load`). Must not know: what is asked of a connection (`storage.s3.connection`), or what is read or
written.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Self

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver

from protocol.errors import Denied
from storage.lanes import Lanes
from storage.multiaddr import parse_endpoint
from storage.ranged import Limits
from storage.resolver import CheckedResolver, environment_proxies
from storage.s3.account import Account
from storage.s3.connection import Connection, Place, Roads
from storage.s3.faults import faults
from storage.s3.params import DEFAULT_REGION, S3Settings, check_endpoint
from storage.s3.renewal import Renewal
from storage.s3.signing import Credentials


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
        pays: bool = False,
    ) -> Connection:
        """The connection for an endpoint and region (empty: the node's own). Without an account it is unsigned.

        `profile` names an account of the node's AWS configuration that it lets jobs use; with `pays` the account pays for
        what is read. Raises `Invalid` for what is no endpoint or region, `Denied` if the AWS configuration is at odds with
        itself, the profile is not for jobs, or the account does not pay.
        """
        self._check_profile(profile)
        if pays and not self.settings.requester_pays:
            hint = "Its owner lets jobs have it pay: InputSources.Types.S3.RequesterPays: true."
            raise Denied("this node's account does not pay for what jobs read", hint=hint, kind="Payer")
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
                    pays,
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
            self._sessions[profile] = await self._read(profile)
        return self._sessions[profile]

    async def _read(self, profile: str) -> Any:
        """A session with the AWS configuration as it stands now."""
        return await asyncio.to_thread(_new_session, profile or self.settings.profile)

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
        signing = await self._renewal(session, place, account) if place.signed else None
        return Connection(raw, place, signing, roads)

    async def _renewal(self, session: Any, place: Place, account: Credentials | None) -> Renewal:
        """What a connection signs with: an account that was given, else the chain's."""
        if account is not None:
            from aiobotocore.credentials import AioCredentials

            given = AioCredentials(account.access_key, account.secret_key, account.session_token or None)
            return Renewal(given, None)

        async def read() -> Any:
            return await (await self._read(place.profile)).get_credentials()

        held = await session.get_credentials()
        if held is None:
            raise Denied(f"the AWS profile {place.profile!r} of this node has no credentials", kind="Profile")
        return Renewal(held, read)

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


def load() -> None:
    """Have in memory what a first connection needs. Blocks, and keeps the interpreter's lock for long: beside a loop that
    serves, a thread that does it makes the loop stand for some 100 ms."""
    import storage.s3.session  # noqa: F401 (that it is there is all that is wanted)

    _new_session("")


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
