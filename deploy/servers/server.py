"""What all servers share: how one is started on free ports, until it answers, and ended.

Knows: processes and ports. Must not know: what any server speaks.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import aiohttp

from deploy.processes import Failed, Process

LOOPBACK: Final = "127.0.0.1"
START_TRIES: Final = 3
ANSWER_S: Final = 5.0

ServerT = TypeVar("ServerT", bound="Server")


class Server:
    """A process that can be stopped, killed and started again on the same ports and data."""

    def __init__(self, start: Callable[[], Awaitable[Process]]) -> None:
        self._start = start
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The process as it runs now, or ran last."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    @property
    def started(self) -> bool:
        """Whether it was ever started; it may have ended since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """The file that holds what the server wrote."""
        return self.process.log

    async def start(self) -> None:
        """Start it (again). Raises `Failed`."""
        self._process = await self._start()

    async def stop(self) -> None:
        """End it in order. Harmless when it has ended."""
        await self.process.stop()

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        await self.process.kill()

    async def restart(self) -> None:
        """Stop it and start it again: same ports, same data, same addresses."""
        await self.stop()
        await self.start()


@asynccontextmanager
async def serving(
    make: Callable[[], ServerT], end: Callable[[ServerT], Awaitable[None]] = Server.stop
) -> AsyncIterator[ServerT]:
    """The server that `make` makes, started, and ended by `end`."""
    server = await _on_free_ports(make)
    try:
        yield server
    finally:
        await end(server)


async def _on_free_ports(make: Callable[[], ServerT]) -> ServerT:
    """Start what `make` makes; where another process took a port first, it is made again with other ports."""
    for _ in range(START_TRIES - 1):
        server = make()
        with suppress(Failed):
            await server.start()
            return server
    server = make()
    await server.start()
    return server


def starter(
    command: list[str | Path],
    *,
    name: str,
    log: Path,
    answers: Callable[[], Awaitable[bool]],
    env: dict[str, str] | None = None,
) -> Callable[[], Awaitable[Process]]:
    """A function that starts `command` and returns the process when it answers."""

    async def start() -> Process:
        return await until_ready(Process.start(command, name=name, log=log, env=env), answers)

    return start


async def until_ready(process: Process, answers: Callable[[], Awaitable[bool]]) -> Process:
    """The process when it answers; one that does not, or for which nobody waits any more, is ended."""
    try:
        await process.ready(answers)
    except BaseException:
        await process.kill()
        raise
    return process


async def answers_at(url: str, *, method: str = "GET", refusing: bool = False) -> bool:
    """Whether the answer is 200, or, if `refusing` will do, any that isn't a server's fault.

    Raises `OSError` while nobody answers.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session:
        try:
            async with session.request(method, url) as response:
                return response.status == 200 or (refusing and response.status < 500)
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error
