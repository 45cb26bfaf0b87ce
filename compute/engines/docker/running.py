"""A container that was started.

Knows: how to follow, await, stop and remove one container, through breaks in the connection. Must not know: how it was
configured. Nothing runs in the background: whoever waits, asks.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

from aiodocker import Docker, DockerError

from compute.engines.contract import Chunk, Exit, Running
from compute.engines.docker.daemon import CONNECTION, HINT, Daemon
from compute.engines.docker.faults import IN_DOUBT, LOST, ended_by_daemon, exit_of
from compute.engines.docker.frames import Pace, Place
from compute.engines.docker.gateway import Gateway
from compute.engines.docker.restarts import lives_on, restarted_since, saw_end
from compute.engines.docker.volumes import Volumes
from protocol.errors import Failure, NotFound, Unavailable
from protocol.questions import STDERR

SETTLE_S: Final = 1.0
"""How long after the end of its log a container may take to have ended, before the log is taken up again."""
STOP_MARGIN_S: Final = 30.0
SOON_S: Final = 1.0
"""A daemon that takes longer to answer may be one that is only just coming back."""
KILLED: Final = 137
MISSED: Final = b"\n[Docker was away when the program ended: the last of what it wrote may be missing]\n"
"""The daemon reads what a container writes; what nobody has read when it ends is thrown away."""
OUTRUN: Final = (
    "\n[the program wrote more than the {} MiB that Docker's log keeps, faster than it was read: some of it may be missing; "
    "the node's owner may have more kept: Engines.Types.Docker.LogMaxBytes]\n"
)
GONE: Final = Failure(
    "Unavailable.Container",
    "the container was removed before its end was seen",
    hint="Nothing but the node should remove its containers.",
    retryable=True,
)


class DockerRunning:
    """One container, by its id. `had_ended`: so it was found, and nobody of this process has seen how, or it cannot be
    told whether it ever began. `gateway` is its way out, if it has one."""

    def __init__(
        self,
        daemon: Daemon,
        volumes: Volumes,
        container: str,
        *,
        had_ended: bool = False,
        gateway: Gateway | None = None,
    ) -> None:
        self._daemon = daemon
        self._volumes = volumes
        self._container = container
        self._had_ended = had_ended
        self._gateway = gateway
        self._seen = False
        self._exit: Exit | None = None
        self._lost = False
        self._missed = False
        self._asking = asyncio.Lock()

    async def output(self) -> AsyncIterator[Chunk]:
        """The container's log, followed while it runs.

        A followed log ends alike when the program has ended, when the connection is cut and when the daemon goes away: so
        once the container has ended its log is read to the end again, from shortly before what was seen last. If the daemon
        was away just then, or the program may have outrun its log, a last line on standard error says what that may have
        cost.
        """
        place, pace = Place(), Pace(self._daemon.log_bytes)
        while True:
            over = self._exit is not None
            try:
                async with aclosing(
                    self._daemon.logs(self._container, follow=not over, since=place.resume())
                ) as log:
                    async for frames in log:
                        for chunk in place.fresh(frames):
                            pace.see(chunk, self._daemon.now())
                            yield chunk
            except DockerError as error:
                raise self._log_fault(error) from error
            except Unavailable as lost:
                await self._daemon.until_back(lost)
                continue
            if over:
                if self._missed:
                    yield Chunk(STDERR, self._daemon.now(), MISSED)
                if pace.outrun:
                    text = OUTRUN.format(self._daemon.log_bytes >> 20)
                    yield Chunk(STDERR, self._daemon.now(), text.encode())
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await self.wait()

    async def wait(self) -> Exit:
        """Its end, asked for once. Raises `Unavailable` when the daemon stays away too long; it may be asked again."""
        async with self._asking:
            if self._exit is None:
                self._exit = await self._end()
        return self._exit

    async def disk_bytes(self) -> int:
        """The container's own layer: all that it wrote outside its mounts."""
        try:
            found = await self._daemon.call(
                "measure a container", lambda docker: self._handle(docker).show(size="1")
            )
        except DockerError as error:
            raise Unavailable(f"Docker cannot measure the container ({error.message})") from error
        return int(found.get("SizeRw") or 0)

    async def stop(self, grace_s: float) -> None:
        """The image's stop signal (SIGTERM), then SIGKILL after the grace, in whole seconds."""
        grace = math.ceil(grace_s)
        try:
            await self._daemon.insist(
                "stop a container",
                lambda docker: self._handle(docker).stop(t=grace),
                within_s=grace + STOP_MARGIN_S,
            )
        except DockerError as error:
            if error.status != 404:
                raise Unavailable(f"Docker cannot stop the container ({error.message})") from error
        await self.wait()

    async def remove(self) -> None:
        """Remove the container, its log and its unnamed volumes; one that runs is killed."""
        await remove(self._daemon, self._volumes, self._container)
        if self._gateway is not None:
            await self._gateway.sweep()

    async def _end(self) -> Exit:
        if self._had_ended and await self._in_doubt():
            return Exit(LOST, IN_DOUBT)
        try:
            code, watched = await self._told()
            # Only a bad or doubtful end needs an explanation, and only a good one is in a hurry.
            return Exit(0) if code == 0 and watched else await self._explained(code, watched=watched)
        except DockerError as error:
            if error.status == 404:
                return Exit(KILLED, GONE)
            raise Unavailable(f"Docker cannot tell of the container's end ({error.message})") from error

    async def _told(self) -> tuple[int, bool]:
        """The exit code, and whether the daemon was there all the time: one that is ending tells of what it ends itself."""
        watched = not self._had_ended
        while True:
            try:
                code = await self._daemon.call("tell of a container's end", self._code, within_s=math.inf)
                return code, watched and await self._daemon.answers(SOON_S)
            except Unavailable as lost:
                watched, self._lost = False, True
                await self._daemon.until_back(lost)

    async def _explained(self, code: int, *, watched: bool) -> Exit:
        if not watched:
            await self._daemon.until_back(Unavailable("Docker is ending", hint=HINT, kind=CONNECTION))
        found = await inspect(self._daemon, self._container)
        if found is not None and (self._had_ended or self._lost):
            self._seen = await saw_end(self._daemon, found["Id"], found["State"])
            self._missed = not self._seen
        by_daemon = found is not None and await self._ended_by_daemon(code, found, watched=watched)
        return exit_of(code, found, by_daemon=by_daemon)

    async def _in_doubt(self) -> bool:
        found = await inspect(self._daemon, self._container)
        return found is not None and never_started(found)

    async def _ended_by_daemon(self, code: int, found: dict[str, Any], *, watched: bool) -> bool:
        if self._seen and await lives_on(self._daemon):
            return False
        if await restarted_since(self._daemon, found["State"]["StartedAt"], unknown=not watched):
            return ended_by_daemon(code, watched=watched, live_restore=await lives_on(self._daemon))
        # Where other containers went on, no sign of a restart is left: that it was away has to do.
        return not watched and code == LOST and await lives_on(self._daemon)

    async def _code(self, docker: Docker) -> int:
        answer = await self._handle(docker).wait()
        return int(answer["StatusCode"])

    def _log_fault(self, error: DockerError) -> NotFound | Unavailable:
        if error.status == 404:
            return NotFound("the container was removed, and its output with it", kind="Container")
        return Unavailable(f"Docker cannot give the container's log ({error.message})")

    def _handle(self, docker: Docker) -> Any:
        return docker.containers.container(self._container)


def never_started(found: dict[str, Any]) -> bool:
    """Whether that is what the daemon says of a container."""
    return bool(found["State"]["Status"] == "created")


async def inspect(daemon: Daemon, container: str) -> dict[str, Any] | None:
    """What the daemon knows of a container, by id or name; None if it is not there."""
    try:
        handle = await daemon.insist("look up a container", lambda docker: docker.containers.get(container))
    except DockerError as error:
        if error.status == 404:
            return None
        raise Unavailable(f"Docker cannot look up a container ({error.message})") from error
    found: dict[str, Any] = handle._container  # noqa: SLF001 - there is no other way to what it has just read
    return found


async def remove(daemon: Daemon, volumes: Volumes, container: str) -> None:
    """Remove a container by id or name, whatever its state, and its volumes, also if the daemon was away meanwhile.

    Harmless if it is not there or already on its way out.
    """
    try:
        await daemon.insist(
            "remove a container",
            lambda docker: docker.containers.container(container).delete(force=True, v=True),
        )
    except DockerError as error:
        if error.status == 409:
            await _gone(daemon, container)
        elif error.status == 404:
            await volumes.sweep()
        else:
            raise Unavailable(f"Docker cannot remove the container ({error.message})") from error
    await volumes.sweep_after_loss()


async def _gone(daemon: Daemon, container: str) -> None:
    """Somebody else is removing it: return when that is done."""
    with suppress(DockerError):
        await daemon.insist(
            "remove a container",
            lambda docker: docker.containers.container(container).wait(condition="removed"),
        )


if TYPE_CHECKING:

    def _fits(running: DockerRunning) -> Running:
        return running
