"""Calls to a Kubo node (https://docs.ipfs.tech/reference/kubo/rpc).

Knows: how Kubo is asked and answers, and how a connection goes wrong. Must not know: what is fetched or published, or what
Kubo's words mean (`storage.ipfs.faults`).

Kubo tells an error before the first byte as status 500 with JSON. One that comes later stands in an HTTP trailer, which our
session does not see. So whatever is read as a stream goes over `storage.wire`, and its trailer is read (`trailers`); what is
asked for here is one JSON value or one block, which is whole or not at all.
"""

import asyncio
import contextlib
import io
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Self, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from protocol.errors import Broken, Denied, Exhausted, Fault, Invalid, TimedOut, Unavailable
from storage.ipfs.answers import Identity, Version
from storage.ipfs.cid import EMPTY_CID, same_peer
from storage.ipfs.dns import located, lookup_txt
from storage.ipfs.faults import API_HINT, fault_of, silent
from storage.ipfs.params import IpfsSettings
from storage.lanes import Lanes, Task
from storage.multiaddr import is_loopback, parse_endpoint
from storage.ranged import Crawl, Limits, open_session
from storage.route import Address, Route, trust
from storage.threads import in_thread
from storage.wire import Lost, Unreached

T = TypeVar("T")
Options = Mapping[str, str | Sequence[str]]
"""A command's options by name; one with several values is sent several times."""

ANSWER_MAX_BYTES: Final = 64 << 20
PROBE_S: Final = 5.0
AWAY_TRIES: Final = 6
FAMILIES: Final = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
NAMES_ADDED: Final = (0, 37)
"""From this version on ``add`` gives the pin that it sets a name."""
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})

_AGENT: Final = re.compile(r"kubo/(\d+)\.(\d+)\.")
_START_HINT: Final = "Start it with `ipfs daemon`, or name another node with --ipfs-connect."


class _Config(Struct, frozen=True, rename="pascal"):
    value: str | list[str] | None = None


class Away(Unavailable):
    """Nobody listens there, or the connection broke: a node that is being restarted is back in a moment."""


class Kubo:
    """One node. Faults name its endpoint; connections are opened when needed and closed by `close`."""

    def __init__(self, endpoint: str, settings: IpfsSettings | None = None) -> None:
        """Raises `Invalid` if the endpoint is neither a multiaddress nor an http URL."""
        self._named = self.endpoint = parse_endpoint(endpoint)
        self.settings = settings or IpfsSettings()
        self._session: aiohttp.ClientSession | None = None
        self._lanes: Lanes | None = None
        self._known = False
        self._gateway: str | None = None
        self.names_added = False
        """Whether ``add`` gives the pin that it sets a name; known once it is `ready`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            lanes.close()

    async def probe(self) -> str:
        """The node's version, now. Raises `Unavailable`, or `Denied` if its id is not the one the endpoint names.

        Its gateway is looked for anew as well: a node that was started again may have another, or one at last.
        """
        self._known, self._gateway = False, None
        async with asyncio.timeout(PROBE_S):
            await self.ready()
            return (await self.ask("version", Version)).version

    async def ready(self) -> None:
        """Make sure, once, that the node is there and the one that was meant. Raises as `probe`."""
        if self._known:
            return
        found = await self._found()
        if self.endpoint.peer and not same_peer(found, self.endpoint.peer):
            raise Denied(
                f"the Kubo node at {self.endpoint.url} is {found}, and {self.endpoint.given} names {self.endpoint.peer}",
                hint="Take the id that `ipfs id` prints on the node that you mean, or leave out what begins with /p2p/.",
                kind="Peer",
            )
        self._known = True

    async def _found(self) -> str:
        """Go to the first of its addresses that answers; the id of the node that is there."""
        faults: list[Fault] = []
        for endpoint in await located(self._named, lookup_txt):
            if endpoint != self.endpoint:
                await self.close()
                self.endpoint, self._gateway = endpoint, None
            try:
                found = await self.ask("id", Identity)
            except (Unavailable, TimedOut) as fault:
                faults.append(fault)
            else:
                version = _AGENT.match(found.agent)
                self.names_added = version is not None and (int(version[1]), int(version[2])) >= NAMES_ADDED
                return found.id
        raise faults[0]

    async def ask(
        self,
        command: str,
        form: type[T],
        options: Options | None = None,
        *,
        what: str = "",
        silence_s: float | None = None,
        block: bytes | None = None,
    ) -> T:
        """Call a command whose answer is one JSON value. `what` names in faults what was asked for."""
        async with self.call(command, options, what=what, silence_s=silence_s, block=block) as response:
            body = await read_bounded(response, what or command, silence_s or self.settings.answer_s)
        try:
            return msgspec.json.decode(body, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Broken(f"{what or command}: {self.endpoint.url} does not answer as Kubo does") from error

    @asynccontextmanager
    async def call(
        self,
        command: str,
        options: Options | None = None,
        *,
        what: str = "",
        silence_s: float | None = None,
        block: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Call a command, with a `block` for one that takes it; the body is the caller's to read, inside the context, where
        errors become faults."""
        silence_s = silence_s or self.settings.answer_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.settings.connect_s, sock_read=silence_s)
        asked = what or command
        try:
            async with AsyncExitStack() as stack:
                sent = None if block is None else aiohttp.FormData({"data": io.BytesIO(block)})
                asking = self._opened().post(self.url(command), params=options, data=sent, timeout=timeout)
                # A head that trickles is not silence to the session.
                async with asyncio.timeout(self.settings.connect_s + silence_s):
                    response = await stack.enter_async_context(asking)
                if response.status != 200:
                    raise self.fault_of(asked, response.status, await response.content.read(1 << 16))
                yield response
        except aiohttp.ClientConnectorError as error:
            raise self.away(what) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise self.away(what) from error
        except TimeoutError as error:
            raise silent(asked, silence_s, self.endpoint.url) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._broke(what) from error

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice, and again if the node goes away meanwhile; in the end the fault is `Away`."""
        for number in range(AWAY_TRIES - 1):
            try:
                return await work()
            except Away:
                await asyncio.sleep(self.settings.retry_s * 2.0**number)
        return await work()

    def url(self, command: str) -> str:
        """The URL of a command."""
        return f"{self.endpoint.url}/api/v0/{command}"

    async def move(
        self, gateway: str, tasks: Iterator[Task], count: int, moved: Callable[[int], None]
    ) -> None:
        """Move bulk data in threads, `count` tasks at once, to or from the gateway if it is named, else the RPC API."""
        if self._lanes is None:
            self._lanes = Lanes(self._limits())
        await self._lanes.move(tasks, await self.route(gateway), count, moved)

    async def once(
        self,
        tasks: Iterator[Task],
        what: str,
        moved: Callable[[int], None] = lambda size: None,
        count: int = 1,
        silence_s: float | None = None,
    ) -> None:
        """Do tasks of bulk data by the RPC API, `count` at once, each by a request that is not tried again. Raises the first
        fault; `Away` if the node went away, which was asked for `what`."""
        silence_s = silence_s or self.settings.silence_s
        limits = msgspec.structs.replace(self._limits(), tries=1, silence_s=silence_s)
        with contextlib.closing(Lanes(limits)) as lanes:
            try:
                route = msgspec.structs.replace(await self.route(), silence_s=silence_s)
                await lanes.move(tasks, route, count, moved)
            except Fault as fault:
                if isinstance(fault.__cause__, Unreached):
                    raise self.away(what) from fault
                if isinstance(fault.__cause__, Lost):
                    raise self._broke(what) from fault
                raise

    async def route(self, gateway: str = "") -> Route:
        """How the RPC API, or the gateway that is named, is reached just now. No proxy: Kubo is never beyond one.

        Raises `Unavailable`.
        """
        endpoint = parse_endpoint(gateway) if gateway else self.endpoint
        addresses: tuple[Address, ...] = ((socket.AF_UNIX, endpoint.socket),)
        if not endpoint.socket:
            family = FAMILIES[endpoint.family]
            try:
                async with asyncio.timeout(self.settings.connect_s):
                    found = await asyncio.get_running_loop().getaddrinfo(
                        endpoint.host, endpoint.port, family=family, type=socket.SOCK_STREAM
                    )
            except OSError as error:
                raise self.away(endpoint.host) from error
            addresses = tuple((each[0], str(each[4][0])) for each in found)
        return Route(
            host=endpoint.host,
            port=endpoint.port,
            addresses=addresses,
            address_port=endpoint.port,
            tls=await in_thread(lambda _: trust()) if endpoint.scheme == "https" else None,
            connect_s=self.settings.connect_s,
            silence_s=self.settings.silence_s,
        )

    def away(self, what: str) -> Away:
        """The fault of a node that does not listen. `what` was asked for; a command of its API is nothing to a person."""
        return Away(
            _about(what, f"no Kubo node listens at {self.endpoint.given}"),
            hint=_START_HINT,
        )

    def _broke(self, what: str) -> Away:
        hint = "" if self._known else API_HINT
        return Away(_about(what, f"the connection to Kubo at {self.endpoint.url} broke"), hint=hint)

    async def gateway(self) -> str:
        """The base URL of the node's own gateway, or an empty text if it has none that can be reached."""
        if self._gateway is None:
            self._gateway = await self._find_gateway() if self.settings.gateway else ""
        return self._gateway

    def fault_of(self, what: str, status: int, body: bytes) -> Fault:
        """What an answer that is not 200 says about `what`."""
        return fault_of(what, status, body, self.endpoint, self.settings.silence_s)

    async def _find_gateway(self) -> str:
        """Its configuration says where it listens; it counts only if it is on the node's host and answers."""
        if self.endpoint.socket:
            # These connections lead to the socket alone.
            return ""
        try:
            config = await self.ask("config", _Config, {"arg": "Addresses.Gateway"})
        except Fault:
            return ""
        for given in [config.value] if isinstance(config.value, str) else config.value or ():
            url = self._gateway_url(given)
            if url and await self._is_gateway(url):
                return url
        return ""

    def _gateway_url(self, given: str) -> str:
        try:
            listens = parse_endpoint(given)
        except Invalid:
            return ""
        host = self.endpoint.host
        if listens.host in WILDCARDS or (is_loopback(listens.host) and is_loopback(host)):
            # A name of the host would make the gateway redirect to a domain of its own for each CID.
            host = "127.0.0.1" if host.lower() == "localhost" else host
            return msgspec.structs.replace(listens, host=host).url
        return listens.url if listens.host == host else ""

    async def _is_gateway(self, url: str) -> bool:
        timeout = aiohttp.ClientTimeout(total=PROBE_S)
        try:
            async with self._opened().get(
                f"{url}/ipfs/{EMPTY_CID}", timeout=timeout, allow_redirects=False
            ) as response:
                return response.status == 200 and response.headers.get("X-Ipfs-Path") == f"/ipfs/{EMPTY_CID}"
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self.endpoint.socket:
                connector = aiohttp.UnixConnector(self.endpoint.socket, limit=0)
            else:
                connector = aiohttp.TCPConnector(limit=0, family=FAMILIES[self.endpoint.family])
            self._session = open_session(self._limits(), connector=connector)
        return self._session

    def _limits(self) -> Limits:
        return Limits(
            connect_s=self.settings.connect_s,
            silence_s=self.settings.silence_s,
            retry_s=self.settings.retry_s,
            silent_tries=1,
            part_bytes=self.settings.part_bytes,
        )


def _about(what: str, told: str) -> str:
    return f"{what}: {told}" if what else told


async def read_bounded(response: aiohttp.ClientResponse, what: str, silence_s: float) -> bytes:
    """A whole body. Raises `Exhausted` for one that is too large, and as the HTTP client for one that trickles."""
    body = bytearray()
    crawl = Crawl(silence_s)
    async for piece in response.content.iter_any():
        body += piece
        crawl.check(len(piece))
        if len(body) > ANSWER_MAX_BYTES:
            raise Exhausted(
                f"{what}: Kubo's answer is larger than {ANSWER_MAX_BYTES} bytes", hint="Use smaller folders."
            )
    return bytes(body)
