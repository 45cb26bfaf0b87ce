"""The one module that speaks to the Docker daemon.

Knows: aiodocker, sockets and deadlines. Must not know: executions. Connections that break become `Unavailable` with the kind
``Connection``, calls that are not answered in time with the kind ``Docker``: its calls take milliseconds, so it is ill;
refusals of the daemon stay ``DockerError`` for the callers, who know what they asked.

A daemon that has locked itself up takes connections and tells its version, and answers next to nothing else. Each such call
stays with it until it is restarted: so one that is known to hang is left with a single question, and the others wait for
the answer to that. Who asked something that may take any time, as for a container's end, is told once that question has
stayed open for as long as a daemon that is away is waited for.
"""

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from aiodocker import Docker, DockerError

from compute.engines.docker.frames import Frame, Frames
from compute.engines.docker.settings import DockerSettings
from protocol.clock import Clock
from protocol.errors import Broken, Fault, Unavailable

T = TypeVar("T")

UNIX: Final = "unix://"
NO_CONNECTION: Final = 900
"""The status by which aiodocker says that it did not get through."""
CONNECTION: Final = "Connection"
SILENT: Final = "Docker"
"""The kind of what it leaves unanswered."""
RETRY_S: Final = 0.2
PING_S: Final = 5.0
ABOUT_S: Final = 5.0
"""A daemon tells of itself in some ten milliseconds; one that has not by then hangs."""
ABOUT_AGAIN_S: Final = 600.0
"""Until then one question is left with it; a connection to another machine may be lost without a sign."""
PING: Final = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"
NO_EVENTS: Final = '{"type":["daemon"]}'
"""Of itself a daemon tells only that it has read its configuration again."""
HINT: Final = (
    "Start Docker on the node (systemctl start docker); the node's user must be able to open its socket."
)
RESTART: Final = "Docker hangs: restart it on the node (systemctl restart docker), and see its log"


class Daemon:
    """A daemon, connected to at the first call, and again after it was away."""

    def __init__(self, settings: DockerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._client: Docker | None = None
        self._connector: aiohttp.UnixConnector | None = None
        self._question: asyncio.Task[Fault | DockerError | None] | None = None
        # The question that was open when another call was not answered either.
        self._hanging: asyncio.Task[Fault | DockerError | None] | None = None
        self._asked_at = 0.0
        # The limits of calls that have none as long as it works.
        self._patient: set[asyncio.Timeout] = set()
        self.losses = 0
        """How often it went away, as far as that was noticed, and calls did not get through."""

    @property
    def log_bytes(self) -> int:
        """Of a container's output the daemon keeps at least so much."""
        return self._settings.log_bytes

    def now(self) -> float:
        """The time, in unix seconds."""
        return self._clock.now()

    async def call(
        self, what: str, request: Callable[[Docker], Awaitable[T]], *, within_s: float | None = None
    ) -> T:
        """Ask once, of a daemon that hangs not before it tells of itself. `within_s` defaults to the settings' deadline;
        with infinity the answer is awaited until `works` finds that it has hung for the settings' `reconnect_s`.

        Raises ``DockerError`` for a refusal, and `Unavailable`: of kind ``Connection`` if there is no daemon, of kind
        ``Docker`` if it does not answer in time.
        """
        limit_s = self._settings.answer_s if within_s is None else within_s
        limit = asyncio.timeout(limit_s)
        if limit_s == math.inf:
            self._patient.add(limit)
        try:
            async with limit:
                if self._hanging is not None:
                    await asyncio.wait({self._hanging})
                    self._hanging = None
                return await self._ask(what, request)
        except TimeoutError as error:
            if self._question is not None and not self._question.done():
                self._hanging = self._question
            raise _silent(what, limit_s if limit_s < math.inf else self._settings.reconnect_s) from error
        finally:
            self._patient.discard(limit)

    async def works(self) -> None:
        """Return if it tells of itself, which one that hangs does not. Raises as `call`.

        However often this is called, and given up, one question is left with it.
        """
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._about())
            self._asked_at = self._clock.elapsed()
        limit_s = min(ABOUT_S, self._settings.answer_s)
        await asyncio.wait({self._question}, timeout=limit_s)
        if not self._question.done():
            if self._clock.elapsed() - self._asked_at >= self._settings.reconnect_s:
                while self._patient:
                    self._patient.pop().reschedule(0)
            raise _silent("tell of itself", limit_s)
        if (fault := self._question.result()) is not None:
            raise fault

    async def _about(self) -> Fault | DockerError | None:
        """Ask it to tell of itself until it answers or is away; what came of it other than an answer."""
        while True:
            try:
                async with asyncio.timeout(ABOUT_AGAIN_S):
                    await self._ask("tell of itself", lambda docker: docker.system.info())
                return None
            except TimeoutError:
                continue
            except (Fault, DockerError) as error:
                return error

    async def _ask(self, what: str, request: Callable[[Docker], Awaitable[T]]) -> T:
        """Ask, with the caller's deadline. Raises as `call`, and ``TimeoutError`` at that deadline."""
        try:
            return await request(self._open())
        except TimeoutError:
            raise
        except DockerError as error:
            if error.status == NO_CONNECTION:
                raise self._lost(what, error) from error
            raise
        except (aiohttp.ClientError, OSError, ValueError, TypeError) as error:
            # Answers that were cut off show as all of these.
            raise self._lost(what, error) from error

    async def insist(
        self, what: str, request: Callable[[Docker], Awaitable[T]], *, within_s: float | None = None
    ) -> T:
        """Ask again while the daemon is away, for the settings' `reconnect_s`: for what may be asked twice."""
        while True:
            try:
                return await self.call(what, request, within_s=within_s)
            except Unavailable as lost:
                await self.until_back(lost)

    async def until_back(self, lost: Unavailable) -> None:
        """Return when the daemon answers again. Raises `lost` if that takes too long, or was no loss of connection."""
        if lost.kind != CONNECTION:
            raise lost
        until = self._clock.elapsed() + self._settings.reconnect_s
        while self._clock.elapsed() < until:
            await self._clock.sleep(RETRY_S)
            if await self.answers():
                return
        raise lost

    async def answers(self, within_s: float = PING_S) -> bool:
        """Whether it takes a new connection and answers there: a daemon that is ending goes on with those that it has."""
        host = self._host()
        try:
            async with asyncio.timeout(within_s):
                if host.startswith(UNIX):
                    return await _pinged(host.removeprefix(UNIX))
                async with Docker(host) as docker:
                    await docker.version()
                return True
        except (TimeoutError, DockerError, aiohttp.ClientError, OSError, ValueError):
            return False

    async def until_away(self) -> None:
        """Return when it is not there any more, or cannot be listened to."""
        params = {"filters": NO_EVENTS}
        with suppress(Fault, DockerError, aiohttp.ClientError, OSError):
            answer = await self.call("tell of itself", lambda docker: _endless(docker, "events", params))
            try:
                async for _ in answer.content.iter_any():
                    pass
            finally:
                answer.close()
                self.losses += 1

    async def logs(self, container: str, *, follow: bool, since: str) -> AsyncGenerator[list[Frame], None]:
        """A container's log as it comes, from `since` on (as the API has it; empty: all). Faults as with `call`."""
        params: dict[str, Any] = {"stdout": True, "stderr": True, "timestamps": True, "follow": follow}
        if since:
            params["since"] = since
        # aiodocker's own `log` decodes to text and forgets which stream it was.
        answer = await self.call(
            "give a log", lambda docker: _endless(docker, f"containers/{container}/logs", params)
        )
        frames = Frames()
        try:
            async for data in answer.content.iter_any():
                if complete := frames.feed(data):
                    yield complete
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost("give the whole log", error) from error
        finally:
            answer.close()
        if not frames.complete:
            raise self._lost("give the whole log", Broken("the last line was cut off"))

    async def pull(
        self, name: str, version: str, login: dict[str, str] | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a pull; it has no deadline of its own. Leaving it early ends it. Faults as with `call`."""
        try:
            events = self._open().images.pull(name, tag=version, auth=login, stream=True)
            async with aclosing(events) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        except DockerError as error:
            if error.status == NO_CONNECTION:
                raise self._lost("pull", error) from error
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._lost("pull", error) from error

    async def close(self) -> None:
        """Close all connections; containers run on."""
        if self._question is not None:
            self._question.cancel()
            await asyncio.wait({self._question})
        client, self._client = self._client, None
        connector, self._connector = self._connector, None
        if client is not None:
            await client.close()
        if connector is not None:
            await connector.close()

    def _open(self) -> Docker:
        if self._client is None:
            host = self._host()
            if host.startswith(UNIX):
                # No limit: each running container holds two connections, and capacity bounds the containers.
                self._connector = aiohttp.UnixConnector(host.removeprefix(UNIX), limit=0)
                self._client = Docker("unix://localhost", connector=self._connector)
            else:
                self._client = Docker(host)
        return self._client

    def _host(self) -> str:
        return self._settings.host or os.environ.get("DOCKER_HOST", "") or _usual_socket()

    def _lost(self, what: str, error: Exception) -> Unavailable:
        self.losses += 1
        refused = _refused(error)
        if refused is not None:
            # The library says again and again whom it did not reach; the system says why.
            number = refused.os_error.errno
            reason = os.strerror(number) if number else str(refused)
            message = f"Docker cannot be reached at {self._host()}: {reason}"
        else:
            reason = error.message if isinstance(error, DockerError) else str(error) or type(error).__name__
            message = f"Docker at {self._host()} did not {what}: {reason}"
        return Unavailable(message, hint=HINT, kind=CONNECTION)


def unasked(lost: Unavailable) -> bool:
    """Whether a question that was lost never left: there was nobody to put it to."""
    return lost.__cause__ is not None and _refused(lost.__cause__) is not None


def _refused(error: BaseException) -> aiohttp.ClientConnectorError | None:
    """What kept a call from reaching anybody, if that is what the library's error is about."""
    refused = error.__context__
    return refused if isinstance(refused, aiohttp.ClientConnectorError) else None


def _silent(what: str, limit_s: float) -> Unavailable:
    return Unavailable(f"Docker did not {what} within {limit_s:g} s", hint=RESTART, kind=SILENT)


async def _endless(docker: Docker, path: str, params: dict[str, Any]) -> aiohttp.ClientResponse:
    """An answer that goes on until somebody closes it."""
    return await docker._do_query(path, "GET", params=params, timeout=aiohttp.ClientTimeout())  # noqa: SLF001


async def _pinged(socket: str) -> bool:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(PING)
        return b" 200 " in await reader.readline()
    finally:
        writer.close()


def _usual_socket() -> str:
    """The first socket that is there: the system's, or that of a daemon without root; the system's if there is none."""
    places = [Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime) / "docker.sock")
    return UNIX + str(next((place for place in places if place.is_socket()), places[0]))
