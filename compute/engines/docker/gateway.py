"""The way out of containers that may reach named domains alone (``Network.Type: HTTP``).

Knows: a network of the node's own that leads nowhere, the proxy on this machine's end of it, and which container asks, by
its address there. Must not know: what requests look like (`proxied`), or how a container is made.

Who asks is looked up for each connection, among the containers that are on the network just now: so there is nothing to
remember, and a process that starts anew answers the containers that it finds.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from aiodocker import Docker, DockerError

from compute.engines.docker.config import DOMAINS_LABEL, NODE_LABEL, gateway_name
from compute.engines.docker.daemon import Daemon
from compute.engines.docker.proxied import HEAD_END, Asked, read_asked, refusal
from compute.engines.domains import named
from protocol.errors import Denied, Fault, Invalid, Unavailable
from protocol.ids import NodeId
from protocol.spelling import some_of
from storage.addresses import AddressPolicy
from storage.resolver import CheckedResolver

PORT_LABEL: Final = "shoal.port"
CONNECTIONS_MAX: Final = 512
DOMAINS_SHOWN: Final = 10
HEAD_MAX_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 64 * 1024
HEAD_S: Final = 30.0
CONNECT_S: Final = 30.0
IDLE_S: Final = 900.0
"""A connection on which nobody has said anything for so long is closed."""

log = structlog.get_logger("compute.gateway")


class Gateway:
    """The network and proxy of one node. Both are made when a container wants them, and go with the last that did."""

    def __init__(self, daemon: Daemon, node: NodeId, policy: AddressPolicy) -> None:
        self._daemon = daemon
        self._node = node
        self.name = gateway_name(node)
        self._resolver = CheckedResolver(policy)
        self._policy = policy
        self._lock = asyncio.Lock()
        self._starting = 0
        self._at: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[str]:
        """The proxy's URL. The network stays there while somebody is within, and then for as long as a container is on it.

        Raises `Unavailable`, also where the daemon's networks do not end on this machine.
        """
        async with self._lock:
            at = await self._ready()
            self._starting += 1
        try:
            yield "http://{}:{}".format(*at)
        finally:
            self._starting -= 1

    async def sweep(self) -> None:
        """Remove the network if no container is on it. Raises `Unavailable`."""
        async with self._lock:
            if self._starting:
                return
            try:
                await self._daemon.insist("remove a network", self._remove)
            except DockerError as error:
                # 403: a container is on it.
                if error.status == 403:
                    return
                if error.status != 404:
                    raise Unavailable(f"Docker cannot remove a network ({error.message})") from error
            await self._shut()

    async def close(self) -> None:
        """Answer nobody any more; containers and their network stay."""
        async with self._lock:
            await self._shut()

    async def _ready(self) -> tuple[str, int]:
        try:
            found = await self._daemon.insist("make a network", self._found)
        except DockerError as error:
            raise Unavailable(f"Docker cannot make a network ({error.message})") from error
        at = found["IPAM"]["Config"][0]["Gateway"], int(found["Labels"][PORT_LABEL])
        if self._server is None or self._at != at:
            await self._shut()
            try:
                self._server = await asyncio.start_server(self._serve, *at, limit=HEAD_MAX_BYTES)
            except OSError as error:
                raise Unavailable(
                    f"this node cannot listen at {at[0]}:{at[1]} for programs of Network.Type HTTP: {error.strerror}",
                    hint="Does the node run on the machine of its Docker daemon, outside of any container?",
                ) from error
            self._at = at
        return at

    async def _found(self, docker: Any) -> Any:
        """The network, made if it was not there."""
        with suppress(DockerError):
            return await (await docker.networks.get(self.name)).show()
        config = {
            "Name": self.name,
            "Driver": "bridge",
            # It leads nowhere, and not from one container to another.
            "Internal": True,
            "Options": {"com.docker.network.bridge.enable_icc": "false"},
            "Labels": {NODE_LABEL: self._node, PORT_LABEL: str(_free_port())},
        }
        return await (await docker.networks.create(config)).show()

    async def _remove(self, docker: Any) -> None:
        await (await docker.networks.get(self.name)).delete()

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server, self._at = None, None
        for each in self._open:
            each.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) > CONNECTIONS_MAX:
                said = f"more than {CONNECTIONS_MAX} connections are open"
                writer.write(refusal(503, "Service Unavailable", f"shoal: {said}"))
            else:
                await self._through(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            # One of the two has gone, or has said nothing for too long, or this node ends.
            pass
        except Exception:
            log.exception("proxy failed")
        finally:
            self._open.discard(task)
            writer.close()

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_S):
                asked = read_asked(await reader.readuntil(HEAD_END))
            far_reader, far_writer = await self._connected(asked, writer.get_extra_info("peername")[0])
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            writer.write(
                refusal(431, "Request Header Fields Too Large", "shoal: the request's head is too long")
            )
            return
        except Fault as fault:
            hint = f"\n{fault.hint}" if fault.hint else ""
            writer.write(refusal(*_STATUS.get(type(fault), _BAD_GATEWAY), f"shoal: {fault.message}{hint}"))
            return
        try:
            if asked.head:
                far_writer.write(asked.head)
            else:
                writer.write(b"HTTP/1.1 200 Connection established" + HEAD_END)
            async with asyncio.timeout(IDLE_S) as limit:
                await asyncio.gather(_pour(reader, far_writer, limit), _pour(far_reader, writer, limit))
        finally:
            far_writer.close()

    async def _connected(
        self, asked: Asked, address: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to what is asked for. Raises `Denied`, and `Unavailable` for a host that is not there."""
        domains = await self._domains_of(address)
        if not named(asked.host, domains):
            raise Denied(
                f"{asked.host} is not among the Network.Domains of this job",
                hint=f"They are: {some_of(domains, DOMAINS_SHOWN) or 'none'}.",
            )
        self._policy.check_host(asked.host, asked.port)
        try:
            async with asyncio.timeout(CONNECT_S):
                found = await self._resolver.resolve(asked.host, asked.port, socket.AF_UNSPEC)
                for number, each in enumerate(found, 1):
                    try:
                        return await asyncio.open_connection(each["host"], asked.port, limit=PIECE_BYTES)
                    except OSError:
                        if number == len(found):
                            raise
        except TimeoutError as error:
            raise Unavailable(f"{asked.host}:{asked.port} did not answer within {CONNECT_S:g} s") from error
        except OSError as error:
            raise Unavailable(
                f"{asked.host}:{asked.port} cannot be reached: {error.strerror or error}"
            ) from error
        raise Unavailable(f"{asked.host} has no address")

    async def _domains_of(self, address: str) -> list[str]:
        """The domains of the container that has this address on the network."""

        async def labels(docker: Docker) -> Any:
            # A list of containers tells of a program only some time after it began.
            found = await (await docker.networks.get(self.name)).show()
            for container, each in found["Containers"].items():
                if each["IPv4Address"].partition("/")[0] == address:
                    return (await docker.containers.get(container))["Config"]["Labels"]
            return {}

        try:
            found = await self._daemon.call("look up who asks", labels)
        except DockerError as error:
            raise Unavailable(f"Docker cannot look up who asks ({error.message})") from error
        return list(json.loads(found.get(DOMAINS_LABEL, "[]")))


_BAD_GATEWAY: Final = (502, "Bad Gateway")
_STATUS: Final[dict[type[Fault], tuple[int, str]]] = {
    Invalid: (400, "Bad Request"),
    Denied: (403, "Forbidden"),
}


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: asyncio.Timeout) -> None:
    """All that comes on one side to the other, its end included."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(PIECE_BYTES):
        limit.reschedule(loop.time() + IDLE_S)
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _free_port() -> int:
    """A port on which nobody listens at any address."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
